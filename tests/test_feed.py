"""The reader's side of a feed of changed rows, up to whole processes that are stopped and killed."""

from __future__ import annotations

import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embcache import EmbeddingCache
from embcache import feed as feed_module
from embcache.attachment import Attachment
from embcache.config import Cold, Settings, Warm
from embcache.errors import DeadlineExceeded, NotReady
from embcache.feed import Feed, FeedLost
from embcache.owner import feeds
from embcache.owner.process import OwnerProcess
from embcache.spec import TableSpec
from embcache.updatecalls import Change
from tests.host.reader import Reader
from tests.owner.stores import WatchedStore
from tests.owner.support import ITEM, WAIT, OwnerThread

ROOT = Path(__file__).parent.parent
HALF = TableSpec(name="half", dim=3, dtype="f16", add=True)  # rows of 6 bytes, of 12 on disk
IDS = np.arange(1, 41, dtype=np.uint64)


def encoded(values: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.ascontiguousarray(values, np.float32).view(np.uint8)


@pytest.fixture
def owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnerThread]:
    """An owner that waits for ever: a slow machine is no slow reader."""
    monkeypatch.setattr(feeds, "ACK_S", 3600.0)
    store = WatchedStore(tmp_path / "rocksdb")
    with OwnerThread(store, tmp_path, [ITEM, HALF]) as owner:
        yield owner
    store.close()


@pytest.fixture
def cache(owner: OwnerThread) -> Iterator[EmbeddingCache]:
    with EmbeddingCache.attach(owner.folder) as cache:
        yield cache


@contextmanager
def attached(folder: Path) -> Iterator[Attachment]:
    attachment = Attachment.connect(folder, WAIT)
    try:
        yield attachment
    finally:
        attachment.close()


class Trainer:
    """Pushes batches one after the other."""

    def __init__(self, cache: EmbeddingCache) -> None:
        self._cache = cache
        opened = cache.open_producer("trainer")
        self._epoch, self._seq = opened.epoch, opened.last_seq

    def push(self, *changes: Change, within_s: float | None = None) -> int:
        """-> the batch's position; with `within_s` once it is applied."""
        self._seq += 1
        pushed = self._cache.update("trainer", self._epoch, self._seq, changes, applied_within_s=within_s)
        assert within_s is None or pushed.applied >= pushed.position
        return pushed.position

    def assign(self, ids: Any, value: float, within_s: float | None = None) -> int:
        """Rows of `item` that hold one value."""
        return self.push(Change("item", "assign", ids, encoded(np.full((len(ids), 4), value))), within_s=within_s)


def test_bundles_are_views_of_what_was_received(owner: OwnerThread, cache: EmbeddingCache) -> None:
    trainer = Trainer(cache)
    with attached(owner.folder) as attachment:
        item, half = (attachment.views.live[name].number for name in ("item", "half"))
        feed = Feed.open(attachment)
        assert feed.valid
        asked = feed.next(0)
        values = np.arange(9, dtype=np.float32).reshape(3, 3)
        trainer.push(
            Change("half", "assign", IDS[:3], encoded(values)),
            Change("item", "delete", IDS[[0, 1, 0]]),
            Change("item", "assign", IDS[[4, 5, 4]], encoded(np.arange(12).reshape(3, 4))),
        )
        changes: list[Any] = []
        number = 0
        while not {(half, 3), (item, 2)} <= {(version, len(ids)) for version, ids, _ in changes} or len(changes) < 3:
            bundle = asked.result(WAIT)
            number += 1
            assert bundle.number == number
            changes += bundle.changes
            memory = {id(array.base) for _, *arrays in bundle.changes for array in arrays if array is not None}
            assert memory, "they own nothing"
            asked = feed.next(number)
        (version, ids, rows), gone, assigned = changes
        assert (version, ids.tolist(), rows.dtype, rows.shape) == (half, IDS[:3].tolist(), np.uint8, (3, 6))
        np.testing.assert_array_equal(rows.view(np.float16), values)
        assert (gone.version, sorted(gone.ids.tolist()), gone.rows) == (item, IDS[:2].tolist(), None)
        assert (assigned.version, assigned.ids.tolist()) == (item, IDS[[5, 4]].tolist())
        assert assigned.rows.view(np.float32).tolist() == [[4, 5, 6, 7], [8, 9, 10, 11]]
        assert all(ids.flags.aligned and not ids.flags.owndata for _, ids, _ in changes)
        assert not rows.flags.owndata


def test_a_lookup_waits_for_its_position_until_the_feed_has_acknowledged_it(
    owner: OwnerThread, cache: EmbeddingCache
) -> None:
    trainer = Trainer(cache)
    trainer.assign(IDS, 1, within_s=WAIT)
    with attached(owner.folder) as attachment:
        feed = Feed.open(attachment)
        position = trainer.assign(IDS, 2)
        with pytest.raises(DeadlineExceeded, match="was not applied"):
            cache.lookup({"item": IDS}, min_position=position, deadline_ms=50)
        bundle = feed.next(0).result(WAIT)
        with pytest.raises(DeadlineExceeded, match="was not applied"):
            cache.lookup({"item": IDS}, min_position=position, deadline_ms=50)
        assert cache.position < position
        asked = feed.next(bundle.number)
        found = cache.lookup({"item": IDS}, min_position=position)
        assert found.position == position
        assert (found["item"].rows == 2).all()
        assert feed.valid
        assert not asked.done()


def test_a_feed_is_lost_with_its_link_its_successor_and_its_owner(owner: OwnerThread) -> None:
    with attached(owner.folder) as attachment:
        first = Feed.open(attachment)
        asked = first.next(0)
        second = Feed.open(attachment)
        with pytest.raises(FeedLost, match="another one was opened"):
            asked.result(WAIT)
        assert [first.valid, second.valid] == [False, True]
        closing = second.next(0)
        second.close()
        with pytest.raises(FeedLost, match="closed by its reader"):
            closing.result(WAIT)
        assert not second.valid
        cancelled = Feed.open(attachment)
        cancelled.next(0).cancel()
        assert cancelled.valid, "nothing was missed yet"
        twice = [cancelled.next(0), cancelled.next(0)]
        for each in twice:
            with pytest.raises(FeedLost, match="twice at once"):
                each.result(WAIT)
        assert not cancelled.valid
        last = Feed.open(attachment)
        waiting = last.next(0)
        owner.run(owner.owner.stop(WAIT))
        with pytest.raises(FeedLost, match=r"the owner (stops|is stopping)"):
            waiting.result(WAIT)
        assert not last.valid
    assert not last.valid
    with pytest.raises(FeedLost, match="closed"):
        last.next(0).result(WAIT)
    with pytest.raises(FeedLost, match="closed"):
        Feed.open(attachment)
    assert issubclass(FeedLost, NotReady)


def test_a_bundle_that_nobody_took_is_missed(owner: OwnerThread, cache: EmbeddingCache) -> None:
    trainer = Trainer(cache)
    with attached(owner.folder) as attachment:
        feed = Feed.open(attachment)
        feed.next(0).cancel()
        position = trainer.assign(IDS, 1)
        assert owner.when(lambda: not feed.valid)
        feed.close()
        cache.lookup({"item": IDS}, min_position=position)


def test_a_bundle_that_cannot_be_read_loses_the_feed(
    owner: OwnerThread, cache: EmbeddingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(cache)
    with attached(owner.folder) as attachment:
        feed = Feed.open(attachment)
        monkeypatch.setattr(feed_module, "padded", lambda nbytes: 1 << 40)
        trainer.push(Change("item", "assign", IDS, encoded(np.ones((40, 4)))), Change("half", "delete", IDS))
        with pytest.raises(FeedLost):
            feed.next(0).result(WAIT)
        assert not feed.valid
        feed.close()


# --- whole processes ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = Path(tmp_path_factory.mktemp("feed"), "data")
    return Settings(warm=Warm(capacity=8 << 20), cold=Cold(path=folder), table=(ITEM,))


@pytest.fixture
def running(settings: Settings) -> Iterator[OwnerProcess]:
    with OwnerProcess.start(settings) as owner:
        yield owner


@contextmanager
def reader(folder: Path, manner: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.feed_reader", str(folder), manner]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def seen(process: subprocess.Popen[str], when: str = "now") -> dict[str, Any]:
    """What a reader process sees."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{when}\n")
    process.stdin.flush()
    told: dict[str, Any] = json.loads(process.stdout.readline())
    return told


def updates(cache: EmbeddingCache) -> dict[str, Any]:
    told: dict[str, Any] = cache.stats()["updates"]
    return told


def test_a_stopped_reader_holds_positions_up_once_and_finds_its_feed_lost(
    settings: Settings, running: OwnerProcess
) -> None:
    folder = settings.cold.path
    with (
        EmbeddingCache.attach(folder) as cache,
        reader(folder, "follows") as stopped,
        reader(folder, "follows") as well,
    ):
        trainer = Trainer(cache)
        before = trainer.assign(IDS, 1, within_s=WAIT)
        assert seen(stopped) == {"position": before, "valid": True, "word": True, "taken": 1, "lost": ""}
        stopped.send_signal(signal.SIGSTOP)
        position = trainer.assign(IDS, 2, within_s=WAIT)
        assert updates(cache)["feeds_revoked"] == 1
        assert updates(cache)["feeds"] == 1
        after = trainer.assign(IDS, 3, within_s=WAIT)
        assert seen(well) == {"position": after, "valid": True, "word": True, "taken": 3, "lost": ""}
        stopped.send_signal(signal.SIGCONT)
        now = seen(stopped, "until lost")
        assert (now["position"], now["valid"], now["word"]) == (after, False, False)
        assert "did not acknowledge changed rows" in now["lost"]
        assert after > position > before


def test_a_killed_reader_is_no_reader(settings: Settings, running: OwnerProcess) -> None:
    folder = settings.cold.path
    with EmbeddingCache.attach(folder) as cache, reader(folder, "ignores") as dies, reader(folder, "follows") as lives:
        trainer = Trainer(cache)
        trainer.assign(IDS, 1)
        assert updates(cache)["feeds"] == 2
        dies.kill()
        after = trainer.assign(IDS, 2, within_s=WAIT)
        assert updates(cache)["feeds"] == 1
        assert updates(cache)["feeds_revoked"] == 0
        now = seen(lives)
        assert (now["position"], now["valid"]) == (after, True)


def test_a_feed_ends_with_a_killed_owner(settings: Settings, running: OwnerProcess) -> None:
    with attached(settings.cold.path) as attachment:
        feed = Feed.open(attachment)
        waiting = feed.next(0)
        os.kill(running.pid, signal.SIGKILL)
        with pytest.raises(FeedLost):
            waiting.result(WAIT)
        assert not feed.valid
        with pytest.raises(FeedLost):
            Feed.open(attachment)


class KeptRows:
    """A reader's own rows, one value each, followed as a GPU's would be: invalidated, acknowledged, taken anew."""

    def __init__(self, attachment: Attachment) -> None:
        self.attachment = attachment
        self.values: dict[int, float] = {}
        self.feed = Feed.open(attachment)
        self.taken = 0
        self.refills = 0
        self._reader = Reader(attachment.arena)
        self._random = random.Random(3)

    def follow(self, stop: threading.Event) -> None:
        asked = self.feed.next(0)
        while not stop.is_set():
            try:
                bundle = asked.result(0.05)
            except TimeoutError:
                self._take(IDS)
                continue
            except FeedLost:
                self.values = {}
                self.feed = Feed.open(self.attachment)
                asked = self.feed.next(0)
                continue
            self.taken += 1
            ids = np.concatenate([change.ids for change in bundle.changes])
            time.sleep(self._random.choice([0, 0, 0.0005, 0.002]))
            if self.taken == 100:  # a hang
                until = time.monotonic() + WAIT
                while self.feed.valid and time.monotonic() < until:
                    time.sleep(0.01)
            for feature_id in ids.tolist():
                self.values.pop(feature_id, None)
            asked = self.feed.next(bundle.number)
            self._take(ids)

    def _take(self, ids: Any) -> None:
        """From the arena alone."""
        view = self.attachment.views.live["item"]
        entry = int(view.columns[0])
        wanted = np.ascontiguousarray(self._random.sample(ids.tolist(), len(ids) // 2), np.uint64)
        rows, _, left = self._reader.lookup_region(entry, view.number, 16, wanted)
        there = np.setdiff1d(np.arange(wanted.size), left)
        self.refills += there.size
        for place in there.tolist():
            self.values[int(wanted[place])] = float(rows[place].view(np.float32)[0])


def test_rows_that_a_reader_keeps_are_never_older_than_the_position_that_it_read(
    settings: Settings, running: OwnerProcess
) -> None:
    """A trainer assigns all rows again and again, the number of the batch; lookups compare them with the position."""
    with EmbeddingCache.attach(settings.cold.path) as cache, attached(settings.cold.path) as attachment:
        trainer = Trainer(cache)
        base = trainer.assign(IDS, 1, within_s=WAIT) - 1
        cache.lookup({"item": IDS})  # so that they are in the arena
        kept = KeptRows(attachment)
        stop = threading.Event()
        problems: queue.SimpleQueue[tuple[int, float]] = queue.SimpleQueue()
        hits = [0, 0]

        def look(number: int) -> None:
            rng = random.Random(number)
            while not stop.is_set():
                position = attachment.arena.position
                if not kept.feed.valid:
                    continue
                value = kept.values.get(rng.randint(1, len(IDS)))
                if value is not None:
                    hits[number] += 1
                    if value < position - base:
                        problems.put((position - base, value))

        threads = [threading.Thread(target=kept.follow, args=(stop,))]
        threads += [threading.Thread(target=look, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        try:
            for value in range(2, 600):
                trainer.assign(IDS, value, within_s=None if value % 50 else WAIT)
            last = trainer.assign(IDS, 600, within_s=WAIT)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert problems.empty(), problems.get()
        assert attachment.arena.position == last == base + 600
        assert min(*hits, kept.refills) > 1000
        assert updates(cache)["feeds_revoked"] >= 1
        assert kept.taken > 150
