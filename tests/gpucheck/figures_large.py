"""Figures of rows of 512 bytes in a table of 100 GiB."""

from __future__ import annotations

from tests.gpucheck.check import GIB, Check, Lines, Skipped
from tests.gpucheck.filled import Filled
from tests.gpucheck.hits import measure_hits, sets_of_ids

_BESIDE = 9 * GIB  # what is listed of the table, rows on their way in, and results


def run(check: Check) -> Lines:
    capacity = check.of(100 * GIB, 2 << 20)
    free = check.device.free_bytes
    if not check.small and free < capacity + _BESIDE:
        raise Skipped(f"a table of 100 GiB needs {(capacity + _BESIDE) / GIB:.0f} GiB, and {free / GIB:.0f} are free")
    filled = Filled(check, 4 * 128, capacity)
    yield from measure_hits(check, filled, sets_of_ids(check, filled), "hits-128-large", share=True)
