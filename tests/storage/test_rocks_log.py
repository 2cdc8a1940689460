"""The update log: what was appended is read back in order, survives what it should, and nothing half-done shows."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from rocksdict import WriteBatch

from embcache_storage.gate import Gate
from embcache_storage.log import Trimmed, UpdateLog
from embcache_storage.rocks import RocksStore
from embcache_storage.rocks_log import FAMILY, PIECE_BYTES, RocksLog
from embcache_storage.store import StoreClosed, StoreCorrupt, StoreFull
from tests.storage.support import run_until

FOR_EVER = 1 << 60


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RocksStore]:
    opened = RocksStore(tmp_path / "data")
    yield opened
    opened.close()


def payload(position: int, size: int) -> bytes:
    return (b"%d." % position * (size // 2 + 1))[:size]


def contents(log: UpdateLog, after: int = 0, limit: int = FOR_EVER) -> dict[int, bytes]:
    return {entry.position: entry.payload for entry in log.read(after, limit)}


def test_it_is_an_update_log(store: RocksStore) -> None:
    seam: UpdateLog = store.log
    assert (seam.first, seam.last, seam.nbytes, seam.read(0, 100)) == (1, 0, 0, [])


def test_entries_of_all_sizes_come_back_in_order_also_after_a_restart(store: RocksStore) -> None:
    sizes = [0, 1, 7, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES, 5]
    wanted = {position: payload(position, size) for position, size in enumerate(sizes, 1)}
    assert store.log.append([wanted[1], memoryview(wanted[2])]) == 2
    assert store.log.append([bytearray(wanted[position]) for position in range(3, 9)]) == 8
    for again in (False, True):
        if again:
            store.close()
            store = RocksStore(store.path)
        assert contents(store.log) == wanted
        assert (store.log.first, store.log.last, store.log.nbytes) == (1, 8, sum(sizes))
    assert store.log.append([b"next"]) == 9
    store.close()


def test_a_reader_takes_what_fits_and_one_entry_at_least(store: RocksStore) -> None:
    store.log.append([payload(position, 100) for position in range(1, 11)])
    assert list(contents(store.log, after=3, limit=350)) == [4, 5, 6]
    assert list(contents(store.log, after=3, limit=0)) == [4]
    assert contents(store.log, after=10) == {}


def test_what_is_synced_survives_a_kill_and_so_does_what_is_not(tmp_path: Path) -> None:
    script = """
from embcache_storage.rocks import RocksStore
from tests.storage.test_rocks_log import payload
log = RocksStore(path).log
log.append([payload(1, 10), payload(2, 2_000_000)])
log.sync()
log.append([payload(3, 10)])
print("appended", flush=True)
input()
"""
    run_until("appended", script, tmp_path / "data")
    store = RocksStore(tmp_path / "data")
    assert contents(store.log) == {1: payload(1, 10), 2: payload(2, 2_000_000), 3: payload(3, 10)}
    store.close()


def test_power_loss_takes_nothing_that_was_synced_and_leaves_no_half_entry(tmp_path: Path) -> None:
    """What power loss leaves: the write-ahead log cut anywhere behind the last sync."""
    script = """
from pathlib import Path
from embcache_storage.rocks import RocksStore
from tests.storage.test_rocks_log import payload
log = RocksStore(path).log
log.append([payload(1, 100), payload(2, 700_000)])
log.sync()
size = sum(file.stat().st_size for file in Path(path).glob("*.log"))
for position in range(3, 7):
    log.append([payload(position, 30 if position < 6 else 1_200_000)])
Path(path, "synced").write_text(str(size))
print("appended", flush=True)
input()
"""
    origin = tmp_path / "origin"
    run_until("appended", script, origin)
    synced = int((origin / "synced").read_text())
    [log] = [file for file in origin.glob("*.log") if file.stat().st_size]
    size = log.stat().st_size
    seen = set()
    small = range(synced, synced + 400, 37)  # the three small entries, and the first piece of the large one
    for cut in (*small, *range(synced + 400, size, (size - synced) // 8), size - 1, size):
        path = shutil.copytree(origin, tmp_path / "cut")
        os.truncate(path / log.name, cut)
        store = RocksStore(path)
        held = contents(store.log)
        assert list(held) == list(range(1, store.log.last + 1))
        assert held == {p: payload(p, {1: 100, 2: 700_000, 6: 1_200_000}.get(p, 30)) for p in held}
        seen.add(store.log.last)
        assert store.log.append([b"goes on"]) == store.log.last == len(held) + 1
        assert contents(store.log)[len(held) + 1] == b"goes on"
        store.close()
        shutil.rmtree(path)
    assert seen == {2, 3, 4, 5, 6}


def test_what_was_not_acknowledged_is_taken_back_and_its_position_given_again(store: RocksStore) -> None:
    store.log.append([b"kept"])
    store.log.append([payload(2, 2 * PIECE_BYTES), b"three"])
    store.log.retract(1)
    assert (contents(store.log), store.log.last, store.log.nbytes) == ({1: b"kept"}, 1, 4)
    assert store.log.append([b"new"]) == 2
    store.log.retract(0)
    assert (store.log.first, store.log.last, store.log.nbytes) == (1, 0, 0)
    assert store.log.append([b"first"]) == 1
    assert contents(store.log) == {1: b"first"}


def test_a_full_disk_in_the_middle_of_an_append_leaves_nothing_of_it(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "data")
    database: Any = store._database
    family = database.get_column_family(FAMILY)
    failing = _Failing(database)
    log = RocksLog(failing, family, Gate(lambda: StoreClosed("")))
    log.append([b"one"])
    failing.write_later = 2
    with pytest.raises(StoreFull, match="append"):
        log.append([b"two", payload(3, 4 * PIECE_BYTES)])
    assert (contents(log), log.last) == ({1: b"one"}, 1)
    assert log.append([b"two again"]) == 2
    assert contents(log) == {1: b"one", 2: b"two again"}
    del log, family, failing, database
    store.close()


class _Failing:
    """A database whose n-th write from now fails."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.write_later = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def write(self, batch: Any) -> None:
        self.write_later -= 1
        if self.write_later == 0:
            raise Exception("IO error: No space left on device: While appending to file")
        self._database.write(batch)


def test_old_entries_go_by_size_and_age_but_not_before_their_reader(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "data")
    now = [1000.0]
    family = store._database.get_column_family(FAMILY)
    log = RocksLog(store._database, family, Gate(lambda: StoreClosed("")), lambda: now[0])
    for position in range(1, 11):
        log.append([payload(position, 100)])
        now[0] += 10
    log.trim(upto=10, keep_bytes=10_000, keep_since=0)
    assert log.first == 1
    log.trim(upto=10, keep_bytes=750, keep_since=0)
    assert (log.first, log.nbytes) == (4, 700)
    log.trim(upto=10, keep_bytes=10_000, keep_since=1045)
    assert log.first == 6
    log.trim(upto=7, keep_bytes=0, keep_since=0)
    assert (log.first, log.last) == (8, 10)
    assert list(contents(log, after=7)) == [8, 9, 10]
    with pytest.raises(Trimmed, match="begins at position 8; what follows 6 is gone"):
        log.read(6, 100)
    log.trim(upto=99, keep_bytes=0, keep_since=0)
    assert (log.first, log.last, log.nbytes, log.read(10, 100)) == (11, 10, 0, [])
    log.close()
    del log, family
    store.close()
    store = RocksStore(tmp_path / "data")
    assert (store.log.first, store.log.last, store.log.nbytes) == (11, 10, 0)
    assert store.log.append([b"goes on"]) == 11
    assert (contents(store.log, after=10), store.log.nbytes) == ({11: b"goes on"}, 7)
    store.close()


def test_a_damaged_entry_is_named_and_the_others_are_read(store: RocksStore) -> None:
    store.log.append([payload(position, 100) for position in range(1, 4)])
    batch: Any = WriteBatch(raw_mode=True)
    handle = store._database.get_column_family_handle(FAMILY)
    key = (2).to_bytes(8, "big") + bytes(4)
    cell = bytearray(store._database.get_column_family(FAMILY)[key])
    cell[-1] ^= 1
    batch.put(key, bytes(cell), handle)
    store._database.write(batch)
    assert contents(store.log, limit=150) == {1: payload(1, 100)}
    with pytest.raises(StoreCorrupt, match="position 2 is damaged"):
        store.log.read(1, 100)
    assert contents(store.log, after=2) == {3: payload(3, 100)}


def test_a_closed_store_has_a_closed_log(store: RocksStore) -> None:
    store.close()
    for call in (lambda: store.log.append([b"x"]), store.log.sync, lambda: store.log.read(0, 1)):
        with pytest.raises(StoreClosed):
            call()


class Model(RuleBasedStateMachine):
    """The log against a plain dict, through any order of calls and reopenings."""

    @initialize()
    def open(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="embcache-"))
        self.store = RocksStore(self.path)
        self.held: dict[int, bytes] = {}
        self.last = 0
        self.synced = 0

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.path)

    @rule(sizes=st.lists(st.sampled_from([0, 1, 50, PIECE_BYTES, PIECE_BYTES + 9]), min_size=1, max_size=4))
    def append(self, sizes: list[int]) -> None:
        payloads = [payload(self.last + 1 + place, size) for place, size in enumerate(sizes)]
        assert self.store.log.append(payloads) == self.last + len(sizes)
        for entry in payloads:
            self.last += 1
            self.held[self.last] = entry

    @rule()
    def sync(self) -> None:
        self.store.log.sync()
        self.synced = self.last

    @rule()
    def retract(self) -> None:
        self.store.log.retract(self.synced)
        self.held = {position: entry for position, entry in self.held.items() if position <= self.synced}
        self.last = self.synced

    @rule(share=st.floats(0, 1), keep=st.integers(0, 3 * PIECE_BYTES))
    def trim(self, share: float, keep: int) -> None:
        upto = int(share * self.synced)
        self.store.log.trim(upto, keep, time.time() - 1000)
        size = 0
        for position in sorted(self.held, reverse=True):
            size += len(self.held[position])
            if size > keep and position <= upto:
                del self.held[position]

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = RocksStore(self.path)
        self.synced = self.last

    @invariant()
    def reads_what_was_appended(self) -> None:
        log = self.store.log
        assert log.last == self.last
        assert log.nbytes == sum(map(len, self.held.values()))
        assert contents(log, log.first - 1) == self.held


TestModel = Model.TestCase
TestModel.settings = settings(
    max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
