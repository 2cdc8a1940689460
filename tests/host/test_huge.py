"""Huge pages: what is asked for comes, nothing changes for who reads meanwhile, and what goes is given back."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from embcache.host.arena import Arena
from embcache.host.memory import COLLAPSE, HUGE_PAGE, advise, map_shared, new_memfd
from embcache.host.segment import WARM
from embcache.host.tables import HostTables, region_bytes
from tests.host.reader import Reader
from tests.host.test_table import random_ids, rows_of

MIB = 1 << 20


def _system_has_huge_pages() -> bool:
    fd = new_memfd("huge?", HUGE_PAGE)
    pages = map_shared(fd, writable=True)
    os.close(fd)
    pages[0] = 1
    try:
        advise(pages, COLLAPSE)
    except OSError:
        return False
    return True


pytestmark = pytest.mark.skipif(not _system_has_huge_pages(), reason="this system gives shared memory no huge pages")


def _mapped_huge(arena: Arena) -> int:
    """Bytes that the system says this process maps of the arena by huge pages."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        field = line.split()
        if not field[0].endswith(":"):
            begin = int(field[0].split("-")[0], 16)
            ours = arena.address <= begin < arena.address + arena.bytes.size
        elif ours and field[0] == "ShmemPmdMapped:":
            total += int(field[1]) << 10
    return total


def _allocated(arena: Arena) -> int:
    return os.fstat(arena.fd).st_blocks * 512


def test_a_large_region_moves_to_huge_pages_and_keeps_its_rows() -> None:
    tables = HostTables(Arena.create(64 * MIB))
    ids = random_ids(30_000)
    held = tables.add(1, 256, region_bytes(256, ids.size))
    rows = rows_of(ids, 256)
    reader = Reader(tables.arena)
    for start in range(0, ids.size, 1000):  # while pages move
        some = slice(start, start + 1000)
        held.table.insert(ids[some], rows[some])
        found, status, left = reader.lookup(held, ids[: some.stop])
        assert not left.size
        assert (status == WARM).all()
        np.testing.assert_array_equal(found, rows[: some.stop])
    tables.huge.wait()
    pieces = held.table.region.size // HUGE_PAGE
    assert tables.huge.bytes == pieces * HUGE_PAGE == _mapped_huge(tables.arena)
    np.testing.assert_array_equal(reader.lookup(held, ids)[0], rows)


def test_what_a_dropped_region_took_goes_back_to_the_system() -> None:
    tables = HostTables(Arena.create(64 * MIB))
    before = _allocated(tables.arena)
    tables.add(1, 256, 32 * MIB)
    tables.remove(1)
    tables.huge.wait()
    assert tables.huge.bytes == 0
    tables.add(2, 256, 32 * MIB)
    tables.huge.wait()
    assert tables.huge.bytes > 28 * MIB
    tables.remove(2)
    assert tables.huge.bytes == 0
    assert _allocated(tables.arena) <= before + MIB


def test_no_more_than_the_capacity_is_moved_and_the_rest_when_there_is_room() -> None:
    tables = HostTables(Arena.create(32 * MIB))
    tables.add(1, 256, 20 * MIB)
    tables.add(2, 256, 20 * MIB)
    tables.huge.wait()
    assert tables.huge.bytes == 32 * MIB
    tables.remove(1)
    tables.huge.wait()
    second = tables.get(2)
    assert second is not None
    assert tables.huge.bytes == second.table.region.size // HUGE_PAGE * HUGE_PAGE


def test_nothing_is_moved_for_who_does_not_want_it() -> None:
    tables = HostTables(Arena.create(32 * MIB), huge_pages=False)
    tables.add(1, 256, 20 * MIB)
    tables.huge.wait()
    assert tables.huge.bytes == _mapped_huge(tables.arena) == 0
    assert _allocated(tables.arena) < MIB


def test_small_regions_fill_the_space_that_large_ones_leave() -> None:
    tables = HostTables(Arena.create(32 * MIB))
    large = [tables.add(version, 256, 5 * MIB).table.region for version in (1, 2)]
    small = tables.add(3, 256, MIB).table.region
    assert all(region.begin % HUGE_PAGE == 0 for region in large)
    assert small.begin < max(region.begin for region in large)
