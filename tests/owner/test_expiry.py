"""Rows that expire, at the owner: by the time at which they were accepted, and swept by entries of the log that judge
each row again. Time stands still but for what a test lets pass."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import msgpack
import numpy as np
import pytest

from embcache.config import Updates
from embcache.errors import Conflict, MalformedRequest
from embcache.host import expiry
from embcache.host.segment import WARM
from embcache.owner import applier, sweeper
from embcache.owner.entries import from_payload, to_payload
from embcache.owner.updates import Batch, Sweep, sweep_of
from embcache.spec import TableSpec
from embcache_client.updates import ADD, ASSIGN, DELETE
from tests.naive import Naive, NaiveTable
from tests.owner.stores import WatchedStore
from tests.owner.support import WAIT, Ids, OwnerThread, catalogue, fill, read, some_ids, versions
from tests.owner.test_crashes import Snapshots
from tests.owner.test_updates import Pusher, floats, rows
from tests.owner.versioning import fill_version, stage, switch

IDS = some_ids(60)
DEFAULT: Any = {"constant": [1.0, 2.0, 3.0, 4.0]}
SPEC = TableSpec.parse({"name": "item", "dim": 4, "default": DEFAULT, "ttl_s": 100})
Told: TypeAlias = tuple[str, Ids, Any, int | None]  # op, ids, rows, ttl_s


class Clock:
    """What all of this process take for the time, in ms."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(expiry, "now_ms", clock)
    return clock


@pytest.fixture
def owner(tmp_path: Path, store: WatchedStore, clock: Clock) -> Iterator[OwnerThread]:
    with OwnerThread(store, tmp_path, [SPEC]) as owner:
        yield owner


class Both:
    """An owner and the oracle, told the same."""

    def __init__(self, owner: OwnerThread, clock: Clock) -> None:
        self.owner, self.clock = owner, clock
        self.naive = Naive()
        self.naive.tables["item"] = NaiveTable(4, default=DEFAULT, add=True, ttl_s=100)
        self.naive.now = clock.now
        self.pusher = Pusher(owner)

    def push(self, *told: Told) -> int:
        """Push a batch, apply it, and tell the oracle."""
        position = self.begin(*told)
        self.owner.run(self.owner.owner.parts.intake.wait_applied(position, WAIT))
        return position

    def begin(self, *told: Told) -> int:
        batch = self.pusher.batch(*(("item", op, ids, values) for op, ids, values, _ in told))
        changes = [
            dataclasses.replace(change, ttl_s=ttl_s) for change, (*_, ttl_s) in zip(batch.changes, told, strict=True)
        ]
        receipt = self.pusher.send(dataclasses.replace(batch, changes=tuple(changes))).result(WAIT)
        for op, ids, values, ttl_s in told:
            given = np.zeros((len(ids), 4), np.float32) if values is None else values
            self.naive.tables["item"].change(op, ids.tolist(), given, ttl_s, self.naive.now)
        return receipt.position

    def later(self, ms: int) -> None:
        self.clock.now += ms
        self.naive.pass_time(ms)

    def sweep(self) -> int:
        """-> how many rows it removed."""
        before = self.owner.owner.parts.intake.applier.rows_swept
        self.owner.run(self.owner.owner._sweeper.sweep())
        return self.owner.owner.parts.intake.applier.rows_swept - before

    def check(self) -> None:
        """What is read, with what has expired left out, is what the oracle has."""
        state, found = served(self.owner, IDS, self.clock)
        wanted, held = self.naive.lookup("item", IDS.tolist())
        assert state.tolist() == held
        np.testing.assert_array_equal(found[state], wanted[held])

    def on_disk(self, store: WatchedStore) -> list[int]:
        number = catalogue(self.owner.link())["item"].number
        ids, _ = store.scan(number, SPEC.cold_row_bytes, 0, 1000)
        found: list[int] = ids.tolist()
        return found


@pytest.fixture
def told(owner: OwnerThread, clock: Clock) -> Both:
    return Both(owner, clock)


def served(owner: OwnerThread, ids: Ids, clock: Clock, label: str | None = None) -> tuple[Any, Any]:
    """(Which ids have a row that has not expired, their f32 values), as the owner answers."""
    link = owner.link()
    live = catalogue(link)["item"] if label is None else versions(link)["item", label]
    state, found = read(link, live, ids)
    values = np.ascontiguousarray(found[:, :-8]).view(np.float32)
    return (state == 1) & ~expiry.are_over(expiry.expiries_of(found), clock.now), values


def test_a_row_takes_eight_bytes_more_where_it_may_expire() -> None:
    plain = SPEC.model_copy(update={"ttl_s": None})
    assert (SPEC.row_bytes, SPEC.cold_row_bytes) == (plain.row_bytes + 8, plain.cold_row_bytes + 8)
    assert SPEC.expires
    assert SPEC.model_copy(update={"ttl_s": 0}).expires
    assert not plain.expires
    assert TableSpec.parse({"name": "item", "dim": 4}) == TableSpec.parse({"name": "item", "dim": 4, "ttl_s": None})
    for wrong in (-1, 1 << 32, 1.5, "1", True):
        with pytest.raises(MalformedRequest, match="ttl_s"):
            TableSpec.parse({"name": "item", "dim": 4, "ttl_s": wrong})


def test_batches_and_sweeps_in_the_log_are_what_they_were(told: Both, clock: Clock) -> None:
    batch = told.pusher.batch(("item", ADD, IDS[:2], floats(IDS[:2])), ("item", DELETE, IDS[:1], None))
    changes = (dataclasses.replace(batch.changes[0], ttl_s=7), batch.changes[1])
    again = from_payload(to_payload(dataclasses.replace(batch, changes=changes, at=clock.now)))
    assert isinstance(again, Batch)
    assert (again.at, [change.ttl_s for change in again.changes]) == (clock.now, [7, None])
    swept = from_payload(to_payload(sweep_of(3, IDS, clock.now)))
    assert isinstance(swept, Sweep)
    assert (swept.at, swept.changes[0].version, swept.changes[0].op) == (clock.now, 3, "expire")
    np.testing.assert_array_equal(swept.changes[0].ids, IDS)


def test_a_batch_that_was_logged_before_rows_could_expire_is_read() -> None:
    head = {"producer": "p", "epoch": 1, "seq": 2, "mark": b"", "digest": b"d", "changes": [[3, DELETE, 0, 1, 0]]}
    packed = msgpack.packb(head)
    start = -(-(4 + len(packed)) // 8) * 8
    payload = (len(packed).to_bytes(4, "little") + packed).ljust(start, b"\0") + IDS[:1].tobytes()
    batch = from_payload(payload)
    assert isinstance(batch, Batch)
    assert (batch.at, batch.seq, batch.changes[0].ttl_s, batch.changes[0].ids.tolist()) == (
        0,
        2,
        None,
        IDS[:1].tolist(),
    )


def test_a_row_that_expires_between_changes_applied_together_begins_anew(told: Both, store: WatchedStore) -> None:
    told.push((ASSIGN, IDS[:4], floats(IDS[:4]), 200))
    held, gate = threading.Event(), threading.Event()

    def hold(call: str) -> None:
        if call == "commit":
            held.set()
            assert gate.wait(WAIT)

    store.before = hold
    told.begin((ASSIGN, IDS[10:11], floats(IDS[10:11]), None))
    assert held.wait(WAIT), "the applier is busy until both of the next are there"
    told.begin((ADD, IDS[:3], floats(IDS[:3]), 1))
    told.later(5_000)
    last = told.begin((ADD, IDS[1:4], floats(IDS[1:4]), None))
    gate.set()
    told.owner.run(told.owner.owner.parts.intake.wait_applied(last, WAIT))
    told.check()


@pytest.mark.parametrize("piece", [1, 7, 1024])
def test_rows_expire_as_the_oracle_has_it(told: Both, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(applier, "PIECE_ROWS", piece)
    random = np.random.default_rng(piece)
    for turn in range(30):
        batches = []
        for _ in range(3):  # mostly applied together, accepted at times of their own
            ids = random.choice(IDS, 20)
            op = (ASSIGN, ADD, ADD, DELETE)[random.integers(4)]
            values = None if op == DELETE else floats(ids, turn)
            ttl_s = None if op == DELETE else (None, None, 0, 1, 30, 200)[random.integers(6)]
            batches.append(told.begin((op, ids, values, ttl_s), (ADD, ids[:3], floats(ids[:3], turn), None)))
            told.later(int(random.integers(0, 40_000)))
        told.owner.run(told.owner.owner.parts.intake.wait_applied(batches[-1], WAIT))
        told.check()
        if turn % 3 == 0:
            told.sweep()
            told.check()


def test_an_add_keeps_the_rows_own_time_and_an_assign_sets_it_anew(told: Both) -> None:
    told.push((ASSIGN, IDS, floats(IDS), None))
    told.later(60_000)
    told.push((ADD, IDS[:10], floats(IDS[:10], 1), None), (ASSIGN, IDS[10:20], floats(IDS[10:20], 2), None))
    told.push((ADD, IDS[20:30], floats(IDS[20:30], 3), 1000), (ADD, IDS[30:40], floats(IDS[30:40], 4), 0))
    told.later(39_999)
    assert len(told.naive.tables["item"].rows) == len(IDS)
    told.check()
    told.later(1)
    assert set(told.naive.tables["item"].rows) == set(IDS[10:40].tolist())
    told.check()
    told.push((ADD, IDS, floats(IDS, 5), None))  # onto the default row where the row was over
    told.check()
    told.later(200_000)
    assert set(told.naive.tables["item"].rows) == set(IDS[20:40].tolist())
    told.check()
    told.later(10**12)
    assert set(told.naive.tables["item"].rows) == set(IDS[30:40].tolist())
    told.check()


def test_a_batch_is_judged_by_when_it_was_accepted_however_late_it_is_applied(
    tmp_path: Path, told: Both, store: WatchedStore, clock: Clock
) -> None:
    told.push((ASSIGN, IDS, floats(IDS), None))
    told.later(99_000)
    held = Snapshots(store, tmp_path / "copies")
    with held:
        told.push((ADD, IDS[:30], floats(IDS[:30], 1), None))  # in time: the rows are as they were, and the sums
    told.later(50_000)
    before = next(folder for call, folder in held.folders() if call == "commit")
    again = WatchedStore(before / "rocksdb")
    with OwnerThread(again, before, [SPEC]) as owner:  # the add is applied only now, after what it added to is over
        link = owner.link()
        _, found = read(link, catalogue(link)["item"], IDS[:30])
        values = np.ascontiguousarray(found[:, :-8]).view(np.float32)
        np.testing.assert_array_equal(values, floats(IDS)[:30] + floats(IDS[:30], 1))
        assert expiry.are_over(expiry.expiries_of(found), clock.now).all()
    again.close()


def test_a_sweep_removes_what_has_expired_and_nothing_else(told: Both, store: WatchedStore) -> None:
    told.push((ASSIGN, IDS, floats(IDS), None))
    told.push((ASSIGN, IDS[:20], floats(IDS[:20], 1), 500), (ASSIGN, IDS[20:25], floats(IDS[20:25], 1), 0))
    served(told.owner, IDS, told.clock)  # now all are in memory
    assert told.sweep() == 0
    told.later(100_000)
    number = catalogue(told.owner.link())["item"].number
    assert told.sweep() == len(IDS) - 25
    assert told.on_disk(store) == IDS[:25].tolist()
    warm = told.owner.warm(number, IDS)[1] == WARM
    assert warm.tolist() == [True] * 25 + [False] * (len(IDS) - 25)
    told.check()
    told.later(400_000)
    assert told.sweep() == 20
    told.check()


def test_a_row_that_is_written_again_before_its_sweep_is_applied_stays(told: Both, store: WatchedStore) -> None:
    told.push((ASSIGN, IDS, floats(IDS), None))
    told.later(100_000)
    number = catalogue(told.owner.link())["item"].number
    seen = sweep_of(number, IDS, told.clock.now)  # as the sweeper saw it
    told.push((ASSIGN, IDS[:10], floats(IDS[:10], 1), None), (ADD, IDS[10:20], floats(IDS[10:20], 2), None))
    intake = told.owner.owner.parts.intake
    position = told.owner.run(intake.committer.sweep(seen))
    told.owner.run(intake.wait_applied(position, WAIT))
    assert told.on_disk(store) == IDS[:20].tolist()
    told.check()


def test_a_version_is_looked_through_only_when_something_may_have_expired(
    told: Both, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans: list[int] = []
    scan = store.scan

    def counted(version: int, row_bytes: int, start: int, limit: int) -> Any:
        scans.append(start)
        return scan(version, row_bytes, start, limit)

    monkeypatch.setattr(store, "scan", counted)
    monkeypatch.setattr(sweeper, "PIECE_ROWS", 16)
    told.sweep()  # nothing is known of what lay there before
    assert scans == [0]
    told.push((ASSIGN, IDS, floats(IDS), None))
    told.later(99_999)
    told.sweep()
    assert scans == [0]
    told.later(1)
    assert told.sweep() == len(IDS)
    assert scans[1:] == [0, *(int(first) + 1 for first in IDS[15::16])]
    told.push((ASSIGN, IDS, floats(IDS), 5), (ASSIGN, IDS[:9], floats(IDS[:9]), 50))
    told.later(5000)
    assert told.sweep() == len(IDS) - 9
    looked = len(scans)
    told.later(44_000)
    told.sweep()
    assert len(scans) == looked, "what the last pass left is not over yet"
    told.later(1000)
    assert told.sweep() == 9


def test_a_sweep_passes_damaged_rows_over_and_leaves_them(told: Both, store: WatchedStore) -> None:
    told.push((ASSIGN, IDS, floats(IDS), None))
    number = catalogue(told.owner.link())["item"].number
    store.damage(number, int(IDS[3]))
    told.later(100_000)
    assert told.sweep() == len(IDS) - 4, "of its piece what comes before it is passed over, too"
    seen = sweep_of(number, IDS, told.clock.now)
    intake = told.owner.owner.parts.intake
    told.owner.run(intake.wait_applied(told.owner.run(intake.committer.sweep(seen)), WAIT))
    state, _ = read(told.owner.link(), catalogue(told.owner.link())["item"], IDS)
    assert state.tolist() == [2 if place == 3 else 0 for place in range(len(IDS))]


def test_a_crash_in_a_sweep_leaves_no_live_row_out_and_the_next_one_ends_it(
    tmp_path: Path, told: Both, store: WatchedStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "PIECE_ROWS", 16)
    monkeypatch.setattr(applier, "PIECE_ROWS", 5)
    told.push((ASSIGN, IDS, floats(IDS), None))
    told.push((ASSIGN, IDS[:20], floats(IDS[:20], 1), 500))
    told.later(100_000)
    snapshots = Snapshots(store, tmp_path / "copies")
    with snapshots:
        told.sweep()
    assert snapshots.calls.count("commit") >= 8
    for _, folder in snapshots.folders():
        again = WatchedStore(folder / "rocksdb")
        with OwnerThread(again, folder, [SPEC]) as owner:
            state, values = served(owner, IDS, clock)
            assert state.tolist() == [True] * 20 + [False] * (len(IDS) - 20)
            np.testing.assert_array_equal(values[:20], floats(IDS[:20], 1))
            owner.run(owner.owner._sweeper.sweep())
            ids, _ = again.scan(catalogue(owner.link())["item"].number, SPEC.cold_row_bytes, 0, 1000)
            assert ids.tolist() == IDS[:20].tolist()
        again.close()


def test_imported_rows_expire_from_when_they_came(told: Both, clock: Clock) -> None:
    link = told.owner.link()
    fill(link, "item", IDS, rows(floats(IDS)))
    told.naive.tables["item"].load(IDS.tolist(), floats(IDS), clock.now)
    told.check()
    told.later(99_999)
    told.check()
    told.later(1)
    assert not told.naive.tables["item"].rows
    told.check()
    assert told.sweep() == len(IDS)


def test_a_table_of_rows_for_ever_gets_another_version_and_only_that_one_follows(
    tmp_path: Path, store: WatchedStore, clock: Clock
) -> None:
    plain = SPEC.model_copy(update={"ttl_s": None})
    with OwnerThread(store, tmp_path, [plain]) as owner:
        link = owner.link()
        stage(link, "next", follow=True, ttl_s=100)
        fill_version(link, "next", IDS[:30], rows(floats(IDS[:30])))
        pusher = Pusher(owner)
        batch = pusher.batch(("item", ASSIGN, IDS[20:], floats(IDS[20:], 1)))
        numbers = {label: version.number for (_, label), version in versions(link).items()}
        followed = dataclasses.replace(batch.changes[0], followers=(numbers["next"],))
        receipt = pusher.send(dataclasses.replace(batch, changes=(followed,))).result(WAIT)
        owner.run(owner.owner.parts.intake.wait_applied(receipt.position, WAIT))
        with pytest.raises(Conflict, match="rows of the live version expire, and its rows cannot"):
            switch(link, follow=True, item="next")
        switch(link, item="next")
        state, values = served(owner, IDS, clock)
        assert state.all()
        np.testing.assert_array_equal(values, np.concatenate((floats(IDS[:30])[:20], floats(IDS[20:], 1))))
        clock.now += 100_000
        assert not served(owner, IDS, clock)[0].any()
        with pytest.raises(Conflict, match="cannot follow"):
            stage(link, "other", follow=True, ttl_s=None)


def test_a_change_with_a_ttl_needs_a_table_whose_rows_expire(tmp_path: Path, store: WatchedStore, clock: Clock) -> None:
    with OwnerThread(store, tmp_path, [SPEC.model_copy(update={"ttl_s": None})]) as owner:
        link = owner.link()
        link.call("open_producer", {"producer": "p"}).result(WAIT)
        asked = {"producer": "p", "epoch": 1, "seq": 1, "mark": b""}
        payload: list[Any] = [IDS[:1], rows(floats(IDS[:1]))]
        for ttl_s, words in ((5, r"changes\[0\].ttl_s: rows of table 'item' cannot expire"), (-1, "maybe a ttl_s")):
            with pytest.raises(MalformedRequest, match=words):
                link.call("update", {**asked, "changes": [["item", ASSIGN, 0, 1, 16, ttl_s]]}, payload).result(WAIT)


def test_another_ttl_makes_another_batch(told: Both) -> None:
    link = told.owner.link()
    link.call("open_producer", {"producer": "p"}).result(WAIT)
    asked = {"producer": "p", "epoch": 1, "seq": 1, "mark": b""}
    payload: list[Any] = [IDS[:1], rows(floats(IDS[:1]))]

    def send(*ttl_s: int | None) -> Any:
        changes = [["item", ASSIGN, 0, 1, 16, *ttl_s]]
        return link.call("update", {**asked, "changes": changes}, payload).result(WAIT).meta

    assert not send(5)["duplicate"]
    assert send(5)["duplicate"]
    for other in ((6,), (None,), ()):
        with pytest.raises(Conflict):
            send(*other)


def test_the_sweeper_sweeps_by_itself(tmp_path: Path, store: WatchedStore, clock: Clock) -> None:
    with OwnerThread(store, tmp_path, [SPEC], updates=Updates(sweep_every_s=0.01)) as owner:
        told = Both(owner, clock)
        told.push((ASSIGN, IDS, floats(IDS), None))
        told.later(100_000)
        assert owner.when(lambda: owner.owner.parts.intake.applier.rows_swept == len(IDS))
        told.check()
