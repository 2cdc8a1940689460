"""`python -m embcache.host.warm`: compile every kernel of this room once, so that later starts find them on disk."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from embcache.host import convert, express, probe
from embcache.host.arena import Arena
from embcache.host.curve import Curve
from embcache.host.expiring import add_expiring, take_current
from embcache.host.jit import READERS, WRITER, are_compiled, compiling, note_compiled
from embcache.host.memory import address_of
from embcache.host.pool import SUM, pool_bags
from embcache.host.rehearsing import rehearse
from embcache.host.ring import MASK, private_ring
from embcache.host.rows import F32, add_rows, convert_rows, fill_uniform
from embcache.host.segment import COUNT, HOT, LEFT, SEGMENT_COLUMNS
from embcache.host.tables import HostTables
from embcache.host.waiting import await_word
from embcache.spec import EXPIRY_BYTES

_IDS = np.arange(4, dtype=np.uint64)
_DIM = 2


def warm_readers() -> None:
    """Load, or compile, what a lookup needs: in every process that answers some, before it says that it is ready."""
    _warm(READERS, {"probe": _warm_probe, "forms": _warm_forms, "rows": _warm_rows})


def warm_writer() -> None:
    """The same for the owner."""
    _warm(WRITER, {"writer": _warm_writer})


def _warm(name: str, groups: dict[str, Callable[[], None]]) -> None:
    """Several processes that start at once, such as fronts, each compile what no other is at, and load the rest."""
    left = dict(groups)
    if not are_compiled(name):
        for wait in (False, True):
            for group, warm in list(left.items()):
                with compiling(group, wait=wait) as may_compile:
                    if may_compile:
                        warm()
                        del left[group]
    for warm in left.values():
        warm()
    note_compiled(name)


def _warm_probe() -> None:
    tables, version = _small_table()
    segments = _probe(tables)
    probe.settle_misses(segments[0], 0, np.zeros(0, np.uint8))
    probe.settle_found(segments[0], 0, np.zeros(0, np.uint8), HOT)
    word = np.zeros(1, np.uint32)
    await_word(address_of(word), 0, 0)
    tables.remove(version)


def _warm_forms() -> None:
    express.address()


def _warm_rows() -> None:
    status, out = np.zeros(_IDS.size, np.uint8), np.zeros((_IDS.size, _DIM), np.float32)
    encoded, _ = convert.encode_rows(np.zeros((_IDS.size, _DIM), np.float32), F32)
    convert.decode_rows(encoded, F32, _DIM)
    rows, target = address_of(encoded), address_of(out)
    convert_rows(F32, F32, _DIM, rows, _IDS.size, target, 0, 0, address_of(status), 0)
    fill_uniform(_IDS, np.zeros(1, np.int64), np.float32(1), F32, _DIM, rows)
    lengths = np.array([_IDS.size], np.uint32)
    pool_bags(F32, _DIM, rows, address_of(status), lengths, 0, SUM, F32, target, 0, 0, 0)
    expiring = np.zeros((_IDS.size, 4 * _DIM + EXPIRY_BYTES), np.uint8)
    rows = address_of(expiring)
    take_current(rows, _IDS.size, expiring.shape[1], address_of(status), 0, address_of(out), rows)


def _warm_writer() -> None:
    tables, version = _small_table()
    held = tables.get(version)
    assert held is not None
    held.table.insert(_IDS, np.zeros((_IDS.size, 4 * _DIM), np.uint8))
    held.table.restore(_IDS, np.zeros((_IDS.size, 4 * _DIM), np.uint8), 0)
    held.table.replace(_IDS, np.zeros((_IDS.size, 4 * _DIM), np.uint8))
    held.table.read(_IDS)
    held.table.mark_absent(_IDS)
    held.table.curve = Curve(_IDS.size)
    held.table.insert(_IDS, np.zeros((_IDS.size, 4 * _DIM), np.uint8))
    held.table.count_use(np.zeros(1, np.uint64))
    held.table.set_use(_IDS, np.zeros(_IDS.size, np.uint8))
    held.table.delete(_IDS)
    rows, times = np.zeros((_IDS.size, _DIM), np.float32), np.zeros(_IDS.size, np.uint64)
    ops, places = np.zeros(_IDS.size, np.uint8), np.zeros(_IDS.size, np.int64)
    rehearse(rows, times, ops, rows, places, ops, rows, times, times, times, np.zeros(_IDS.size))
    add_rows(rows, places, rows)
    add_expiring(rows, times, places, rows, times, times, times, rows)
    with tables.resizing(version, 1 << 16) as (old, new):
        new.take_over(old, 0, old.region.sets)
    held.table.check()


def _small_table() -> tuple[HostTables, int]:
    tables = HostTables(Arena.create(1 << 16))
    return tables, tables.add(1, 4 * _DIM, 1 << 14).version


def _probe(tables: HostTables) -> NDArray[np.int64]:
    out, status, misses = np.zeros(16 * _DIM, np.uint8), np.zeros(8, np.uint8), np.zeros(8, np.int32)
    segments = np.zeros((1, SEGMENT_COLUMNS), np.int64)
    segments[0, :COUNT] = (0, 1, 4 * _DIM, address_of(out))
    segments[0, COUNT:LEFT] = (*(_IDS.size, address_of(_IDS), address_of(out), address_of(status), address_of(misses)),)
    ring = private_ring()  # the kernel takes its address
    probe.probe(tables.arena.address, segments, ring.address, MASK, np.uint64(0))
    probe.probe_now(tables.arena.address, segments, ring.address, MASK, np.uint64(0), 0, address_of(out))
    segments[0, LEFT] = 0
    return segments


if __name__ == "__main__":
    began = time.perf_counter()
    warm_readers()
    warm_writer()
    print(f"kernels ready in {time.perf_counter() - began:.1f} s")
