"""No reader process ever sees a torn row, or a row of another id, while the owner writes, evicts, resizes and drops."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from embcache.host.arena import Arena
from embcache.host.memory import map_shared
from embcache.host.ring import new_ring
from embcache.host.tables import HostTables
from tests.host.proving import MODULUS, ROW_BYTES, proving_rows

ROOT = Path(__file__).parents[2]
IDS = 112  # few, so that readers and writer meet


@contextmanager
def readers(
    tables: HostTables, entry: int, version: int, count: int, reader: str = "torn_reader"
) -> Iterator[list[subprocess.Popen[str]]]:
    fd = tables.arena.readonly_fd()
    command = [sys.executable, "-m", f"tests.host.{reader}", str(fd), str(entry), str(version), str(IDS)]
    processes = [
        subprocess.Popen(command, pass_fds=[fd], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def finish(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        out, _ = process.communicate("stop\n", timeout=30)
        assert process.returncode == 0, out
        assert int(out) > 0


def test_rows_that_are_written_over_and_over_are_never_torn() -> None:
    tables = HostTables(Arena.create(1 << 24))
    held = tables.add(3, ROW_BYTES, 1)  # the least there is: half of the ids fit, the rest push each other out
    ids = np.arange(IDS, dtype=np.uint64)
    writings = [proving_rows(ids, writing) for writing in range(1, 33)]
    with readers(tables, held.entry, held.version, 2) as processes:
        for turn in range(30_000):
            held.table.insert(ids, writings[turn % len(writings)])
        finish(processes)
    held.table.check()


def test_bags_and_converted_rows_are_made_of_whole_rows_while_these_are_written_over() -> None:
    tables = HostTables(Arena.create(1 << 24))
    held = tables.add(3, ROW_BYTES, 1)  # the least there is: half of the ids fit, the rest push each other out
    ids = np.arange(IDS, dtype=np.uint64)
    values = ids.astype(np.float32)[:, None] + np.float32(MODULUS) * np.arange(15, dtype=np.float32)[:, None, None]
    writings = [np.repeat(each, ROW_BYTES // 4, axis=1).view(np.uint8) for each in values]
    with readers(tables, held.entry, held.version, 2, "torn_former") as processes:
        for turn in range(30_000):
            held.table.insert(ids, writings[turn % len(writings)])
        finish(processes)
    held.table.check()


def test_a_region_that_is_replaced_or_dropped_is_never_read_as_another() -> None:
    tables = HostTables(Arena.create(1 << 24))
    held = tables.add(3, ROW_BYTES, 1)
    ids = np.arange(IDS, dtype=np.uint64)
    ours, foreign = proving_rows(ids, 1), np.full((IDS, ROW_BYTES), 0xEE, np.uint8)
    with readers(tables, held.entry, held.version, 2) as processes:
        for turn in range(4000):
            tables.remove(3)
            other = tables.add(4, ROW_BYTES, 1)  # in the same place, by the same entry
            assert (other.entry, other.table.region.begin) == (held.entry, held.table.region.begin)
            other.table.insert(ids, foreign)
            tables.remove(4)
            tables.add(3, ROW_BYTES, 1).table.insert(ids, ours)
            if turn % 8 == 0:
                with tables.resizing(3, (1 + turn % 5) << 16) as (old, new):
                    new.take_over(old, 0, old.region.sets)
        finish(processes)


def test_nobody_can_take_shared_memory_away_under_its_readers() -> None:
    arena = Arena.create(1 << 20)
    with pytest.raises(PermissionError):
        os.ftruncate(arena.fd, 0)
    readonly = arena.readonly_fd()
    with pytest.raises(PermissionError):
        map_shared(readonly, writable=True)
    os.close(readonly)
    fd = new_ring()
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    os.close(fd)
