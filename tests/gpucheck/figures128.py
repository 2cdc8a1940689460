"""Figures of rows of 512 bytes: lookups that find all, and a recommender's query over many tables."""

from __future__ import annotations

from tests.gpucheck import query
from tests.gpucheck.check import GIB, Check, Lines
from tests.gpucheck.filled import Filled
from tests.gpucheck.hits import measure_hits, sets_of_ids


def run(check: Check) -> Lines:
    filled = Filled(check, 4 * 128, check.of(16 * GIB, 2 << 20))
    yield from measure_hits(check, filled, sets_of_ids(check, filled), "hits-128", share=True)
    yield from query.measure(check, filled)
