"""Figures of rows of 256 bytes: lookups that find all, small ones, those beside a writer, and changes of rows."""

from __future__ import annotations

import numpy as np

from embcache.gpu.device import Memory
from embcache.gpu.layout import PUSHED_OUT
from loadtest.gpu import measured
from tests.gpucheck import beside, few
from tests.gpucheck.check import GIB, VERSION, Check, Line, Lines, rate, spread
from tests.gpucheck.direct import Direct
from tests.gpucheck.filled import WRITING, Filled
from tests.gpucheck.hits import ids_a_launch, measure_hits, sets_of_ids
from tests.gpucheck.writing import DeviceWriter

ROW_BYTES = 4 * 64


def run(check: Check) -> Lines:
    filled = Filled(check, ROW_BYTES, check.of(16 * GIB, 1 << 20))
    sets = sets_of_ids(check, filled)
    yield from measure_hits(check, filled, sets, "hits-64")
    yield from few.measure(check, filled, sets)
    yield from beside.measure(check, filled, sets)
    yield _updated(check, filled, sets)
    yield _inserted(check, filled, len(sets))
    filled.table.check()


def _updated(check: Check, filled: Filled, sets: list[Memory]) -> Line:
    """Rows of ids that are held, written anew. Afterwards, lookups find the new ones."""
    count, writing = ids_a_launch(check), WRITING + 1
    writer = DeviceWriter(check, filled.table, ROW_BYTES, count)
    rows = [check.device.allocate(ROW_BYTES * count) for _ in sets]
    for ids, made in zip(sets, rows, strict=True):
        writer.make(ids.address, count, writing, made.address)

    def turn(k: int) -> None:
        ids, made = sets[k % len(sets)].address, rows[k % len(sets)].address
        writer.invalidate(VERSION, ids, count)
        writer.write(VERSION, ids, count, made, fresh=False)

    seconds = check.seconds(writer.stream, turn, len(sets), check.of(9, 2))
    Direct(check, filled, sets, count).prove(check.device.stream(), writing)
    return measured("update", rate(count, seconds) / 1e9) | spread(seconds)


def _inserted(check: Check, filled: Filled, batches: int) -> Line:
    """Rows of ids that were never there, into a table that is full. What they push out is told."""
    count = ids_a_launch(check)
    writer = DeviceWriter(check, filled.table, ROW_BYTES, count)
    ids = [check.device.allocate(8 * count) for _ in range(batches)]
    rows = [check.device.allocate(ROW_BYTES * count) for _ in range(batches)]
    seconds = []
    for _ in range(check.of(10, 3)):
        for made, put in zip(ids, rows, strict=True):
            filled.new_ids(count, made.address, writer)
            writer.make(made.address, count, WRITING, put.address)
        with check.timing(writer.stream) as took:
            for made, put in zip(ids, rows, strict=True):
                writer.claim(VERSION, made.address, count)
                writer.write(VERSION, made.address, count, put.address, fresh=True)
        seconds.append(took() / batches)
    said = check.get(writer.said, 4 * count, np.uint32, writer.stream).reshape(count, 4)[:, 3]
    evicted = float((said == PUSHED_OUT).mean())
    assert evicted > 0.5, f"the table was not full: {evicted:.2f} of the rows pushed one out"
    return measured("insert", rate(count, seconds[1:]) / 1e9) | spread(seconds[1:]) | {"evicted_a_row": evicted}
