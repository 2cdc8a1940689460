"""A random player of lookups, updates, imports, rows that expire and are swept, batches that are set aside, released or
dropped, versions that are staged, followed, switched and dropped, evictions, snapshots and restores, crashes and
reopenings, against the oracle."""

from __future__ import annotations

import copy
import os
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from embcache import EmbeddingCache, snapshotcalls, updatecalls
from embcache.config import Settings
from embcache.errors import Conflict, EmbcacheError, Fenced, NotReady, SequenceGap, UnknownTable
from embcache.owner import snapshots
from embcache.pending import Pending
from embcache.updatecalls import Change, Pushed
from embcache_client.results import COLD, MISSING, WARM
from tests.clock import StoppedClock
from tests.naive import Naive, NaiveProducer, NaiveTable, rounded

NAMES = ["a", "b", "c"]
DTYPES = ["f32", "f16", "bf16", "q8"]
LABELS = ["x", "y"]
TTLS = [None, 0, 40, 600]  # of tables, in seconds
LIMITS = [None, 7.0, 30.0]  # of the norms of their rows
DEFAULTS: list[Any] = ["zeros", {"uniform": 0.5}]
WORLD = np.unique(np.random.default_rng(7).integers(0, 2**64, 900, dtype=np.uint64))  # far more than are kept warm
PRODUCERS = ["trainer-0", "trainer-1"]
WIRE: dict[str, Any] = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
WAIT = 20.0
seeds = st.integers(0, 2**32 - 1)
producers = st.sampled_from(PRODUCERS)


@dataclass
class Sent:
    """A batch, and what the oracle is told of it."""

    producer: str
    epoch: int
    seq: int
    mark: bytes
    changes: list[Change]
    told: list[tuple[str, str, list[int], Any, int | None]]


class Hierarchy(RuleBasedStateMachine):
    """The cache under test has a warm tier that holds a fraction of the rows, so that eviction is always at work."""

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        config = self.folder / "config.toml"
        config.write_text(
            '[warm]\ncapacity = "128KiB"\n[cold]\npath = "data"\n[updates]\nsweep_every_s = 0.1\n'  # all the time
        )
        self.clock = StoppedClock(self.folder / "now").__enter__()
        self.settings = Settings.load(config)
        self.cache = EmbeddingCache.open(self.settings)
        self.naive = Naive()
        self.naive.now = self.clock.now
        self.position = 0  # of what was acknowledged last
        self.last: dict[str, Sent] = {}
        self.restarts = 0  # bounded, since each takes a second or two
        self.snapshot: tuple[Naive, dict[str, Sent], int] | None = None  # and what was so when it was taken
        self.restored = False
        for number, dtype in enumerate(["f32", "f16"]):
            self.fill(NAMES[number], 4 + number, dtype, 3 * number)

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            try:
                self.look_everywhere()
            finally:
                self.cache.close()
                self.clock.__exit__(None, None, None)
                shutil.rmtree(self.folder)

    def settle(self) -> None:
        """Until lookups see all that was acknowledged."""
        updatecalls.wait_applied(self.cache.attached(), self.position, WAIT).result()

    def look_everywhere(self) -> None:
        """Every row of every table, first from whichever tier has it, then most of them from memory."""
        self.settle()
        for name, table in self.naive.tables.items():
            self.check(name, WORLD, table.dtype)
            self.check(name, WORLD[-100:], table.dtype)
        for (name, label), version in self.naive.others.items():
            self.check(name, WORLD, version.dtype, label)
        assert self.set_aside().keys() == self.naive.aside.keys()

    def check(self, name: str, ids: Any, wire: str, version: str | None = None) -> None:
        found = self.cache.lookup({name: ids}, dtype=wire, version=version)
        assert found.position >= self.position
        assert found[name].version == (version or self.naive.labels[name])
        wanted, there = self.naive.lookup(name, ids.tolist(), wire, version)
        np.testing.assert_array_equal(found[name].rows, wanted)
        tiers = np.where(np.isin(found[name].status, [WARM, COLD]), 1, found[name].status)
        assert tiers.tolist() == [1 if row else MISSING for row in there]

    @rule(name=st.sampled_from(NAMES), dim=st.integers(1, 33), dtype=st.sampled_from(DTYPES), seed=seeds)
    def fill(self, name: str, dim: int, dtype: str, seed: int) -> None:
        random = np.random.default_rng(seed)
        add = dtype == "f32" or seed % 3 == 0
        ttl_s, limit = TTLS[seed % 7 % 4], LIMITS[seed % 11 % 3]
        spec = {"name": name, "dim": dim, "dtype": dtype, "default": DEFAULTS[seed % 2], "add": add, "ttl_s": ttl_s}
        spec["max_norm"] = limit
        table = self.naive.tables.get(name)
        if table is not None:  # a new version of the same table
            dim, spec = table.dim, None  # type: ignore[assignment]
        label, ids, rows = self.imported(name, spec, dim, random, seed)
        if table is None:
            table = NaiveTable(dim, dtype, DEFAULTS[seed % 2], add, ttl_s=ttl_s, max_norm=limit)
        self.naive.labels[name] = label
        self.naive.tables[name] = copy.copy(table)  # what is set aside is of the one before
        self.naive.tables[name].load(ids.tolist(), rows, self.naive.now)

    def imported(
        self, name: str, spec: Any, dim: int, random: np.random.Generator, seed: int, version: str | None = None
    ) -> tuple[str, Any, Any]:
        """The label of a version that is filled while producers push, and what with: ids and rows."""
        ids = WORLD[random.random(WORLD.size) < random.random()]
        rows = random.standard_normal((ids.size, dim), dtype=np.float32)
        with self.cache.importing(name, spec, version) as filling:
            for begin in range(0, ids.size, 250):
                filling.write(ids[begin : begin + 250], rows[begin : begin + 250])
            self.train(seed)
        return filling.version, ids, rows

    @precondition(lambda self: self.naive.tables)
    @rule(wire=st.sampled_from(DTYPES), count=st.integers(0, 300), seed=seeds, data=st.data())
    def look_up(self, wire: str, count: int, seed: int, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.naive.tables)))
        hot = WORLD[: 1 + seed % WORLD.size]  # often the same ids again
        self.train(seed)
        self.settle()
        self.check(name, np.random.default_rng(seed).choice(hot, count), wire)

    @precondition(lambda self: self.naive.tables)
    @rule(pooling=st.sampled_from(["sum", "mean"]), seed=seeds, data=st.data())
    def look_up_bags(self, pooling: str, seed: int, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.naive.tables)))
        random = np.random.default_rng(seed)
        lengths = random.integers(0, 9, 12)
        ids = random.choice(WORLD, int(lengths.sum()))
        self.settle()
        answer = self.cache.lookup_bags({name: (ids, lengths)}, pooling=pooling)[name]
        bags = np.split(ids, np.cumsum(lengths)[:-1])
        np.testing.assert_array_equal(answer.rows, self.naive.lookup_bags(name, bags, {"pooling": pooling}))

    @precondition(lambda self: len(self.naive.tables) > 1)
    @rule(data=st.data(), seed=seeds)
    def drop(self, data: st.DataObject, seed: int) -> None:
        self.train(seed)
        name = data.draw(st.sampled_from(sorted(self.naive.tables)))
        self.cache.drop_table(name)
        self.naive.drop(name)

    # --- versions ------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.naive.tables)
    @rule(label=st.sampled_from(LABELS), follow=st.booleans(), seed=seeds, data=st.data())
    def stage(self, label: str, follow: bool, seed: int, data: st.DataObject) -> None:
        self.train(seed)
        name = data.draw(st.sampled_from(sorted(self.naive.tables)))
        live, dtype = self.naive.tables[name], DTYPES[seed % 4]
        add = dtype == "f32" or seed % 3 == 0
        spec = {"dtype": dtype, "default": DEFAULTS[seed % 2], "add": add, "ttl_s": TTLS[seed % 5 % 4]}
        spec["max_norm"] = LIMITS[seed % 11 % 3]
        version = NaiveTable(
            live.dim, dtype, DEFAULTS[seed % 2], add, follow, TTLS[seed % 5 % 4], LIMITS[seed % 11 % 3]
        )
        taken = label == self.naive.labels[name] or (name, label) in self.naive.others
        if taken or not can_follow(live, version):
            with np.testing.assert_raises(Conflict):
                self.cache.stage(name, label, spec, follow=follow)
        else:
            self.cache.stage(name, label, spec, follow=follow)
            self.naive.others[name, label] = version

    @precondition(lambda self: self.naive.others)
    @rule(seed=seeds, data=st.data())
    def fill_version(self, seed: int, data: st.DataObject) -> None:
        name, label = data.draw(st.sampled_from(sorted(self.naive.others)))
        version, random = self.naive.others[name, label], np.random.default_rng(seed)
        if self.states()[name, label] == "retired":
            with np.testing.assert_raises(Conflict):
                self.cache.importing(name, None, label)
            return
        _, ids, rows = self.imported(name, None, version.dim, random, seed, label)
        version = self.naive.others[name, label] = copy.copy(version)
        version.load(ids.tolist(), rows, self.naive.now)

    @precondition(lambda self: self.naive.others)
    @rule(follow=st.sampled_from([None, True, False]), warm=st.booleans(), seed=seeds, data=st.data())
    def switch(self, follow: bool | None, warm: bool, seed: int, data: st.DataObject) -> None:
        """Some tables at once, while updates are on their way."""
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.naive.others)), min_size=1))
        targets = dict(chosen)
        self.train(seed)
        if all(self.may_switch(name, label, follow) for name, label in targets.items()):
            self.cache.switch(targets, follow=follow, warm_s=WAIT if warm else 0.0)
            self.naive.switch(targets, follow)
        else:
            with np.testing.assert_raises(Conflict):
                self.cache.switch(targets, follow=follow, warm_s=WAIT)
        self.train(seed + 1)
        self.settle()
        for name in targets:
            self.check(name, WORLD[:200], self.naive.tables[name].dtype)

    def may_switch(self, name: str, label: str, follow: bool | None) -> bool:
        """Whether those that follow can take what the new live version takes."""
        live, after = self.naive.tables[name], self.naive.others[name, label]
        keeps = live.follow if follow is None else follow
        others = [other for (table, at), other in self.naive.others.items() if table == name and at != label]
        return all(can_follow(after, other) for other in others) and not (keeps and narrower(live, after))

    @precondition(lambda self: self.naive.others)
    @rule(seed=seeds, data=st.data())
    def drop_version(self, seed: int, data: st.DataObject) -> None:
        self.train(seed)
        name, label = data.draw(st.sampled_from(sorted(self.naive.others)))
        with np.testing.assert_raises(Conflict):
            self.cache.drop_version(name, self.naive.labels[name])
        self.cache.drop_version(name, label)
        del self.naive.others[name, label]

    def states(self) -> dict[tuple[str, str], str]:
        return {(entry["table"], entry["label"]): entry["state"] for entry in self.cache.stats()["tables"]}

    @precondition(lambda self: self.restarts < 2)
    @rule(seed=seeds)
    def reopen(self, seed: int) -> None:
        self.train(seed)
        self.restarts += 1
        self.cache.close()
        self.cache = EmbeddingCache.open(self.settings)
        self.check_restarted()

    @precondition(lambda self: self.naive.tables)
    @rule(data=st.data())
    def scan(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.naive.tables)))
        self.settle()
        start: int | None = 0
        ids: list[int] = []
        while start is not None:
            page = self.cache.scan_rows(name, start, 199)
            ids += page.ids.tolist()
            start = page.next
        assert ids == sorted(self.naive.tables[name].rows)

    # --- snapshots -----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.snapshot is None)
    @rule(seed=seeds)
    def take_snapshot(self, seed: int) -> None:
        """While what was pushed is being applied. One, since each takes a second or two."""
        self.train(seed)
        link = self.cache.attached().link
        taken = snapshotcalls.begin(link, str(self.folder / "snapshot")).result()
        end = time.monotonic() + WAIT
        while (told := snapshotcalls.state(link, taken).result())["state"] == "running":
            assert time.monotonic() < end
            time.sleep(0.01)
        assert told["state"] == "done", told
        self.snapshot = copy.deepcopy((self.naive, self.last, self.position))

    @precondition(lambda self: self.snapshot is not None and self.restarts < 2)
    @rule(seed=seeds)
    def restore(self, seed: int) -> None:
        """All is as it was when the snapshot was taken, but for the time, which has passed."""
        assert self.snapshot is not None
        self.train(seed)
        self.restarts += 1
        history = self.cache.attached().views.history
        self.cache.close()
        snapshots.restore(self.settings.cold, {"source": str(self.folder / "snapshot")}, lambda *_: None)
        self.naive, self.last, self.position = copy.deepcopy(self.snapshot)
        self.naive.pass_time(self.clock.now - self.naive.now)
        self.restored = True
        self.cache = EmbeddingCache.open(self.settings)
        assert self.cache.attached().views.history != history
        self.check_restarted()

    # --- time ----------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 39, 40, 300, 100_000]), seed=seeds)
    def pass_time(self, seconds: int, seed: int) -> None:
        """What was pushed before was accepted before, applied or not."""
        self.train(seed)
        self.clock.now += 1000 * seconds
        self.naive.pass_time(1000 * seconds)

    # --- updates -------------------------------------------------------------------------------------------------

    @rule(producer=producers)
    def open_producer(self, producer: str) -> None:
        opened = self.cache.open_producer(producer)
        state = self.naive.open(producer)
        if self.restored:  # epochs of a new history are above all that anybody may have been given
            assert opened.epoch >= state.epoch
            state.epoch = opened.epoch
        assert told(opened) == told(state)
        self.position = max(self.position, opened.position)

    @rule(seed=seeds)
    def train(self, seed: int) -> None:
        """Producers push, none waiting for an answer. Most other steps begin with it too: updates never pause."""
        random = np.random.default_rng(seed)
        counts = {producer: int(random.integers(4)) for producer in PRODUCERS if self.naive.tables}
        sent = [self.batch(producer, seed, ahead) for producer, count in counts.items() for ahead in range(count)]
        pending = [self.send(batch) for batch in sent]
        answered = sorted(
            zip([push.result() for push in pending], sent, strict=True), key=lambda pair: pair[0].position
        )
        for pushed, batch in answered:
            self.accepted(batch, pushed)

    @precondition(lambda self: self.naive.tables)
    @rule(producer=producers, seed=seeds)
    def push_and_look(self, producer: str, seed: int) -> None:
        """What was waited for is there, without asking for a position."""
        sent = self.batch(producer, seed)
        pushed = self.send(sent, WAIT).result()
        assert pushed.applied >= pushed.position
        self.accepted(sent, pushed)
        for name, _, ids, *_ in sent.told:
            self.check(name, np.array(ids, np.uint64), "f32")

    def set_aside(self) -> dict[tuple[str, int], int]:
        """The positions of batches that are set aside, by producer and seq."""
        batches = self.cache.quarantine(0, 1000)["batches"]
        return {(batch["producer"], batch["seq"]): batch["position"] for batch in batches}

    @precondition(lambda self: self.naive.aside)
    @rule(release=st.booleans(), seed=seeds, data=st.data())
    def decide(self, release: bool, seed: int, data: st.DataObject) -> None:
        """Release what is set aside, or drop it, while updates are on their way that change the same rows."""
        self.settle()
        positions, chosen = self.set_aside(), data.draw(st.sampled_from(sorted(self.naive.aside)))
        self.train(seed)
        if release:
            told = self.cache.release(positions[chosen])
            assert (told["rows"], told["skipped"]) == self.naive.release(chosen)
            self.position = max(self.position, told["position"])
        else:
            self.cache.drop_quarantined(positions[chosen])
            del self.naive.aside[chosen]

    @rule(producer=producers)
    def push_again(self, producer: str) -> None:
        """By a producer that heard no answer, or was opened anew since; whatever became of its tables."""
        sent = self.last.get(producer)
        if sent is not None:
            sent.epoch = self.naive.producers[producer].epoch
            assert self.send(sent).result().duplicate

    @precondition(lambda self: self.naive.tables)
    @rule(producer=producers, wrong=st.sampled_from([Fenced, SequenceGap, Conflict, UnknownTable]), seed=seeds)
    def push_what_is_refused(self, producer: str, wrong: type[EmbcacheError], seed: int) -> None:
        sent = self.batch(producer, seed)
        if wrong is Fenced:
            sent.epoch -= 1
        elif wrong is SequenceGap:
            sent.seq += 1
        elif wrong is Conflict:
            sent.seq -= 1
            sent.mark += b", but another"
        else:
            sent.changes.append(Change("nowhere", "delete", WORLD[:1]))
        if sent.seq:
            with np.testing.assert_raises(wrong):
                self.send(sent).result()

    @precondition(lambda self: self.naive.tables and self.restarts < 2)
    @rule(producer=producers, in_flight=st.integers(1, 5), seed=seeds)
    def crash(self, producer: str, in_flight: int, seed: int) -> None:
        """The owner is killed while batches are on their way: whatever was not answered counts whole or not at all."""
        self.train(seed)
        self.restarts += 1
        batches = [self.batch(producer, seed, ahead) for ahead in range(in_flight)]
        pid = self.cache.stats()["owner"]["pid"]
        pending = [self.send(sent) for sent in batches]
        os.kill(pid, signal.SIGKILL)
        answers = [answer_of(push) for push in pending]
        for _ in range(100):
            try:
                state = updatecalls.show_producer(self.cache.attached(), producer).result()
                break
            except NotReady:  # it is not noticed yet that the owner is dead
                continue
        for sent, answer in zip(batches, answers, strict=True):
            assert answer is None or sent.seq <= state.last_seq
            if sent.seq <= state.last_seq:
                self.accepted(sent, answer)
        self.check_restarted()

    def batch(self, producer: str, seed: int, ahead: int = 0) -> Sent:
        """The next batch of a producer, or the one after so many others: changes of several tables, ids repeated."""
        if producer not in self.naive.producers:
            self.open_producer(producer)
        state = self.naive.producers[producer]
        random = np.random.default_rng([seed, ahead])
        mark = b"mark %d" % random.integers(1000)
        sent = Sent(producer, state.epoch, state.last_seq + 1 + ahead, mark, [], [])
        for _ in range(random.integers(1, 5)):
            name = random.choice(sorted(self.naive.tables))
            self._add_change(sent, str(name), random)
        return sent

    def _add_change(self, sent: Sent, name: str, random: np.random.Generator) -> None:
        table = self.naive.tables[name]
        op = random.choice(["assign", "delete", "add", "add"] if table.cold == "f32" else ["assign", "delete"])
        wire = str(random.choice(sorted(WIRE)))
        count = random.choice([0, 1, 50, 200, 3000])  # the last is more than the owner applies at once
        ids = random.choice(WORLD[: random.integers(1, WORLD.size)], count)
        rows = rounded(random.standard_normal((ids.size, table.dim), dtype=np.float32), wire)
        encoded = None if op == "delete" else np.ascontiguousarray(rows.astype(WIRE[wire])).view(np.uint8)
        ttl_s = None if table.ttl_s is None or op == "delete" else [None, 0, 10, 500][random.integers(4)]
        sent.changes.append(Change(name, op, ids, encoded, wire, ttl_s))
        sent.told.append((name, op, ids.tolist(), rows, ttl_s))

    def send(self, sent: Sent, applied_within_s: float | None = None) -> Pending[Pushed]:
        return updatecalls.push(
            *(self.cache.attached(), sent.producer, sent.epoch, sent.seq, sent.changes, sent.mark, applied_within_s)
        )

    def accepted(self, sent: Sent, pushed: Pushed | None) -> None:
        """The batch counts, whether its answer came or not."""
        self.naive.push(sent.producer, sent.mark, sent.told, (sent.producer, sent.seq))
        assert self.naive.producers[sent.producer].last_seq == sent.seq
        self.last[sent.producer] = sent
        if pushed is not None:
            assert not pushed.duplicate
            assert pushed.position > self.position
            self.position = pushed.position

    def check_restarted(self) -> None:
        """All tables and producers are there, and every row."""
        live = {(name, label) for name, label in self.naive.labels.items()}
        there = self.states()
        assert {key for key, state in there.items() if state == "live"} == live
        assert there.keys() == live | self.naive.others.keys()
        assert self.cache.position >= self.position
        for name, known in self.naive.producers.items():
            assert told(updatecalls.show_producer(self.cache.attached(), name).result()) == told(known)
            self.push_again(name)
        self.look_everywhere()


def narrower(version: NaiveTable, live: NaiveTable) -> bool:
    """Whether it cannot take an `add` that the live one takes, or its rows cannot expire as that one's do."""
    never = version.ttl_s is None and live.ttl_s is not None
    return never or (live.cold == "f32" and version.cold != "f32")


def can_follow(live: NaiveTable, version: NaiveTable) -> bool:
    """Whether it need not, or can."""
    return not version.follow or not narrower(version, live)


def told(producer: updatecalls.Producer | NaiveProducer) -> tuple[int, int, bytes]:
    return producer.epoch, producer.last_seq, producer.mark


def answer_of(push: Pending[Pushed]) -> Pushed | None:
    """None where the owner died before it answered."""
    try:
        return push.result()
    except NotReady:
        return None


TestHierarchy = Hierarchy.TestCase
TestHierarchy.settings = settings(
    max_examples=4,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
