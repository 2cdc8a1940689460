"""Figures of rows of 32 bytes."""

from __future__ import annotations

from tests.gpucheck.check import GIB, Check, Lines
from tests.gpucheck.filled import Filled
from tests.gpucheck.hits import measure_hits, sets_of_ids


def run(check: Check) -> Lines:
    filled = Filled(check, 4 * 8, check.of(16 * GIB, 1 << 18))
    yield from measure_hits(check, filled, sets_of_ids(check, filled), "hits-8")
