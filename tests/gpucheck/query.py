"""A DLRM-v2 query: 270 samples of MLPerf's multi-hot Criteo data, over 26 tables, most of it hot and the rest warm.

The hot tier is asked first, and host memory for what that lacks, as in embcache/lookup.py.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from embcache.host import probe
from embcache.host.arena import Arena
from embcache.host.memory import address_of
from embcache.host.ring import MASK, private_ring
from embcache.host.segment import COUNT, HOT, LEFT, SEGMENT_COLUMNS, WARM
from embcache.host.tables import HostTables, region_bytes
from embcache.hot.question import Wish
from loadtest.gpu import measured
from tests.gpucheck.asking import Asking, wish_for
from tests.gpucheck.check import Check, Lines, proving
from tests.gpucheck.filled import WRITING, Filled
from tests.gpucheck.writing import DeviceWriter

Ids = NDArray[np.uint64]

IDS_A_SAMPLE = (3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1)  # of each table
SAMPLES = 270
HOT_SHARE = 0.95
_FIRST_VERSION = 100
_QUERIES = 16


def measure(check: Check, filled: Filled) -> Lines:
    """The figure "query"."""
    samples = check.of(SAMPLES, 6)
    counts = [samples * ids for ids in IDS_A_SAMPLE]
    hot = _Hot(check, filled, check.of(1 << 16, 100))
    warm = _Warm(filled.row_bytes, check.of(1 << 14, 100))
    results = check.device.pinned(sum(counts) * (filled.row_bytes + 1))
    choose = np.random.default_rng(3)
    queries = [_query(choose, counts, hot, warm) for _ in range(check.of(_QUERIES, 2))]
    asked = [_Asked(query, filled.row_bytes, results, warm) for query in queries]
    asking = Asking(check, filled, asked[0].wishes)
    took = []
    for k in range(check.of(400, 4)):
        each = asked[k % len(asked)]
        began = time.perf_counter()
        each.left = asking.ask(each.wishes, each.segments)
        warm.probe(each.segments)
        took.append(time.perf_counter() - began)
        if k < len(asked):
            each.prove()
    p50, p99 = np.percentile(took[len(took) // 10 :], [50, 99])
    copied = _copied(check, results[: sum(counts) * filled.row_bytes])
    more = {"ms": float(p50) * 1e3, "p99_ms": float(p99) * 1e3, "copy_ms": copied * 1e3, "ids": sum(counts)}
    yield measured("query", float(p50) / copied) | more | {"warm_ids": asked[0].left}


def _copied(check: Check, results: NDArray[np.uint8]) -> float:
    """Seconds that as many bytes take from the device to the same pinned memory."""
    source, stream = check.device.allocate(results.size), check.device.stream()
    check.threads("make_ids", stream, results.size // 8, (source.address, 0, results.size // 8))

    def turn(_: int) -> None:
        check.device.copy(address_of(results), source.address, results.size, stream)

    return float(np.median(check.seconds(stream, turn, 4, check.of(15, 2))))


class _Hot:
    """`ids`: of each of the tables, some that the device holds."""

    def __init__(self, check: Check, filled: Filled, count: int) -> None:
        writer = DeviceWriter(check, filled.table, filled.row_bytes, count)
        ids, rows = check.device.allocate(8 * count), check.device.allocate(filled.row_bytes * count)
        put = []
        for table in range(len(IDS_A_SAMPLE)):
            filled.new_ids(count, ids.address, writer)
            writer.make(ids.address, count, WRITING, rows.address)
            writer.claim(_FIRST_VERSION + table, ids.address, count, in_use=True)
            writer.write(_FIRST_VERSION + table, ids.address, count, rows.address, fresh=True)
            put.append(check.get(ids.address, count, np.uint64, writer.stream))
        held = check.device.pinned(count * (filled.row_bytes + 1))  # rows, which nobody looks at, and statuses
        status = held[count * filled.row_bytes :]
        segments = np.empty((1, SEGMENT_COLUMNS), np.int64)
        self.ids: list[Ids] = []
        for table, there in enumerate(put):  # later ones may have pushed some out
            wish = wish_for(_FIRST_VERSION + table, filled.row_bytes, there, address_of(held), address_of(status))
            status[:] = 0
            Asking(check, filled, [wish]).ask([wish], segments)
            self.ids.append(there[status == HOT])


class _Warm:
    """An arena with tables of the same versions. `ids`: of each, some that the device does not hold."""

    def __init__(self, row_bytes: int, count: int) -> None:
        region = region_bytes(row_bytes, count)
        self._tables = HostTables(Arena.create(2 * len(IDS_A_SAMPLE) * region + (64 << 20)))
        self._ring = private_ring()
        self._default = np.zeros(row_bytes, np.uint8)
        self.ids: list[Ids] = []
        self.columns = []
        for table in range(len(IDS_A_SAMPLE)):
            version = _FIRST_VERSION + table
            held = self._tables.add(version, row_bytes, region)
            ids = (np.arange(count, dtype=np.uint64) + np.uint64(1 << 40)) * np.uint64(0xD6E8FEB86659FD93)
            held.table.insert(ids, proving(ids, WRITING, row_bytes))
            self.ids.append(ids)
            self.columns.append((held.entry, version, row_bytes, address_of(self._default)))
        self._tables.huge.wait()

    def probe(self, segments: NDArray[np.int64]) -> None:
        left = probe.probe_listed(self._tables.arena.address, segments, self._ring.address, MASK, np.uint64(0))
        assert left == 0, f"{left} ids were missed that are warm"


def _query(choose: np.random.Generator, counts: list[int], hot: _Hot, warm: _Warm) -> list[Ids]:
    """Ids of each table, in random order."""
    query = []
    for count, here, there in zip(counts, hot.ids, warm.ids, strict=True):
        from_warm = choose.random(count) >= HOT_SHARE
        query.append(np.where(from_warm, choose.choice(there, count), choose.choice(here, count)))
    return query


class _Asked:
    """A query with where its results go: all rows, then all statuses, as in a reply."""

    def __init__(self, query: list[Ids], row_bytes: int, results: NDArray[np.uint8], warm: _Warm) -> None:
        self._query, self._row_bytes, self._results = query, row_bytes, results
        self.left = 0
        self.wishes: list[Wish] = []
        self.segments = np.zeros((len(query), SEGMENT_COLUMNS), np.int64)
        total, at = sum(ids.size for ids in query), 0
        for table, ids in enumerate(query):
            out = address_of(results) + at * row_bytes
            status = address_of(results) + total * row_bytes + at
            self.wishes.append(wish_for(_FIRST_VERSION + table, row_bytes, ids, out, status))
            self.segments[table, :COUNT] = warm.columns[table]
            self.segments[table, COUNT:LEFT] = (ids.size, address_of(ids), out, status, 0)
            at += ids.size

    def prove(self) -> None:
        """All rows are those of their ids, and came from where they are held."""
        ids = np.concatenate(self._query)
        rows = self._results[: ids.size * self._row_bytes].reshape(ids.size, self._row_bytes)
        status = self._results[ids.size * self._row_bytes :]
        assert (rows == proving(ids, WRITING, self._row_bytes)).all(), "rows of other ids came back"
        assert int((status == WARM).sum()) == self.left
        assert int((status == HOT).sum()) == ids.size - self.left
