"""`make gpu-check`: whether the hot tier is right on this machine's GPU, and how fast. JSON lines to --out.

Needs CuPy, NumPy and Numba, and nothing of the service. `--device emulated --small` goes through the same stages on the
CPU, where the figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from embcache.errors import ConfigError
from embcache.gpu.device import Device, Stream
from embcache.gpu.launcher import Launcher, Ticket
from embcache.gpu.layout import COPY, TILE, form_of
from embcache.gpu.table import STAGE_IDS, Change, GpuTable
from embcache.hot.opening import open_device
from tests.gpu.reader import GpuReader
from tests.host.proving import ROW_BYTES, broken, proving_rows

Figures = dict[str, Any]
VERSION = 7
_MIX = np.uint64(0x9E3779B97F4A7C15)


def ids_of(count: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Distinct ids."""
    return np.arange(1, count + 1, dtype=np.uint64) * _MIX


def a_table(device: Device, capacity: int, row_bytes: int, wait: bool = True) -> tuple[GpuTable, Launcher]:
    """A table for rows of one width. wait: whether changes wait for lookups, which they must."""
    launcher = Launcher(device)

    def no_wait(stream: Stream) -> None:
        pass

    table = GpuTable(device, capacity, launcher.hold_back if wait else no_wait)
    table.divide({row_bytes: capacity // (row_bytes + 64)})
    launcher.start(table.pools_address)
    return table, launcher


def smoke(device: Device, small: bool) -> Iterator[Figures]:
    """Rows come back as they went in, or are reported as gone."""
    for row_bytes in (4, 12, 64, 72, 256, 512):
        table, launcher = a_table(device, 4 << 20, row_bytes)
        ids = ids_of(2_000 if small else 60_000)
        rows = np.random.default_rng(row_bytes).integers(0, 256, (ids.size, row_bytes), dtype=np.uint8)
        gone = table.insert(VERSION, ids, rows).ids
        got, found = GpuReader(device, launcher, table).lookup(VERSION, row_bytes, ids)
        assert (got[found] == rows[found]).all()
        assert set(ids[~found].tolist()) == set(gone.tolist())
        assert table.check() == int(found.sum())
        yield {"row_bytes": row_bytes, "held": int(found.sum()), "gone": int(gone.size)}


def stress(device: Device, small: bool) -> Iterator[Figures]:
    """No lookup sees a torn row, another id's, or one older than what was invalidated before it began."""
    seconds = 2.0 if small else 20.0
    table, launcher = a_table(device, 2 << 20, ROW_BYTES)
    ids = ids_of(500 if small else 4_000)
    table.insert(VERSION, ids, proving_rows(ids, 0))
    least, stop, failures, seen = [0], threading.Event(), [], [0]

    def read() -> None:
        reader = GpuReader(device, launcher, table)
        while not stop.is_set():
            published = least[0]
            rows, found = reader.lookup(VERSION, ROW_BYTES, ids)
            here, there = np.ascontiguousarray(rows[found]), ids[found]
            seen[0] += there.size
            if broken(there, here).size or (here.view(np.uint64)[:, 0] < published).any():
                failures.append("torn, foreign or old")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in readers:
        thread.start()
    end, writing = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        writing += 1
        change = Change(VERSION, ROW_BYTES, ids, proving_rows(ids, writing))
        table.apply([change], partial(least.__setitem__, 0, writing))
    stop.set()
    for thread in readers:
        thread.join()
    assert not failures
    assert seen[0] > 0
    yield {"writings": writing, "rows_seen": seen[0]}


def figures(device: Device, small: bool) -> Iterator[Figures]:
    """All hits, ids and rows in device memory; inserts and updates from pinned memory, as the writer stages them."""
    count, capacity = (2_048, 4 << 20) if small else (1 << 20, 16 << 30)
    yield {"figure": "device copy", "bytes_per_s": _copy_rate(device, 1 << 20 if small else 4 << 30)}
    for dim in (128, 64, 8):
        row_bytes = 4 * dim
        table, launcher = a_table(device, capacity, row_bytes)
        held = ids_of(count)
        began = time.perf_counter()
        for begin in range(0, count, STAGE_IDS):
            part = held[begin : begin + STAGE_IDS]
            table.insert(VERSION, part, np.zeros((part.size, row_bytes), np.uint8))
        inserted_s = time.perf_counter() - began
        rate = _hit_rate(device, launcher, table, held, row_bytes, 3 if small else 50)
        yield {"figure": f"all hits, f32 x {dim}", "ids_per_s": rate, "bytes_per_id": 2 * row_bytes + 72}
        yield {"figure": f"insert from the host, f32 x {dim}", "rows_per_s": count / inserted_s}


def _copy_rate(device: Device, nbytes: int) -> float:
    """Bytes read and written in a second."""
    source, target = device.allocate(nbytes // 2), device.allocate(nbytes // 2)
    stream, event = device.stream(), device.event()
    began = 0.0
    for turn in range(6):
        if turn == 1:
            began = time.perf_counter()
        device.copy(target.address, source.address, nbytes // 2, stream)
        device.record(event, stream)
        assert device.wait(event, 60)
    return 5 * nbytes / (time.perf_counter() - began)


def _hit_rate(
    device: Device, launcher: Launcher, table: GpuTable, held: np.ndarray[Any, Any], row_bytes: int, rounds: int
) -> float:
    """Ids found and gathered in a second, over the whole of a lookup but for the cutting of its tiles."""
    count, pool = held.size, table.pool_of(row_bytes)
    assert pool is not None
    asked, out = device.allocate(8 * count), device.allocate(row_bytes * count)
    status, misses = device.allocate(count), device.allocate(4 * count)
    staged = device.pinned(8 * count)
    staged.view(np.uint64)[:] = np.random.default_rng(1).permutation(held)
    stream, event = device.stream(), device.event()
    device.copy(asked.address, staged.ctypes.data, 8 * count, stream)
    device.record(event, stream)
    assert device.wait(event, 60)
    first = np.arange(0, count, 256)
    tiles = np.zeros(first.size, TILE)
    for name, base, step in (("ids", asked, 8), ("out", out, row_bytes), ("status", status, 1), ("misses", misses, 4)):
        tiles[name] = np.uint64(base.address) + first * step
    tiles["count"], tiles["first"] = np.minimum(256, count - first), first
    tiles["version"], tiles["pool"], tiles["row_bytes"] = VERSION, pool.index, row_bytes
    tiles["form"] = form_of(0, 0, COPY)
    took = []
    for _ in range(rounds + 1):
        ticket = Ticket(tiles, 0, None)
        began = time.perf_counter()
        assert launcher.submit(ticket)
        launcher.wait(ticket)
        took.append(time.perf_counter() - began)
        assert int(ticket.missed.sum()) == table.counts.evicted
    return count / float(np.median(took[1:]))


STAGES: dict[str, Callable[[Device, bool], Iterator[Figures]]] = {"smoke": smoke, "stress": stress, "figures": figures}


def main() -> int:
    parser = argparse.ArgumentParser("gpu-check", description=__doc__)
    parser.add_argument("--device", default="0", help='a CUDA device number, or "emulated"')
    parser.add_argument("--only", action="append", choices=STAGES, help="a stage; may be given again")
    parser.add_argument("--small", action="store_true", help="sizes for the emulated device")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="folder for the JSON lines")
    parser.add_argument("--commit", default="", help="what was checked, noted with the figures")
    arguments = parser.parse_args()
    wanted = arguments.device
    try:
        device = open_device("emulated" if wanted == "emulated" else int(wanted))
    except ConfigError as error:
        sys.exit(f"gpu-check: {error}")
    assert not isinstance(device, str)
    arguments.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    with (arguments.out / "gpu-check.jsonl").open("a") as lines:
        for stage in arguments.only or STAGES:
            began = time.monotonic()
            told: list[Figures] = []
            try:
                told += STAGES[stage](device, arguments.small)
                outcome = "passed"
            except Exception as error:
                outcome, failed = f"FAILED: {error!r}", 1
            for figure in [*told, {"outcome": outcome, "seconds": round(time.monotonic() - began, 2)}]:
                line = {"stage": stage, "device": device.name, "commit": arguments.commit, **figure}
                print(json.dumps(line), file=lines)
                print(json.dumps(line), flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
