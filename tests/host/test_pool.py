"""Pooling against the oracle, also of bags of which some were pooled elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embcache.host.convert import decode_rows, encode_rows
from embcache.host.memory import address_of
from embcache.host.pool import MEAN, SUM, pool_bags
from embcache.host.rows import BF16, F16, F32, Q8
from embcache.host.segment import COLD, FAILED, HOT, LATE, MISSING, NEAR, WARM
from tests.naive import Naive, NaiveTable

NAMES = ["f32", "f16", "bf16", "q8"]
DIM = 21  # vectors, and what is left over
LENGTHS = np.array([3, 0, 1, 7, 5, 0, 2, 4, 1, 6], np.uint32)
IDS = np.random.default_rng(6).permutation(int(LENGTHS.sum())).astype(np.uint64)
STATUS = np.resize(np.array([HOT, MISSING, WARM, COLD, LATE, NEAR, WARM, FAILED], np.uint8), IDS.size)
ROWS = np.random.default_rng(7).standard_normal((IDS.size, DIM)).astype(np.float32)
WEIGHTS = np.random.default_rng(8).standard_normal(IDS.size).astype(np.float32)


def pooled_by_the_oracle(stored: int, wire: int, options: dict[str, Any]) -> NDArray[np.float32]:
    """Rows [b, dim] as they come off the wire."""
    there = np.isin(STATUS, [HOT, WARM, COLD, NEAR])
    table = NaiveTable(DIM, NAMES[stored])
    table.load(IDS[there].tolist(), ROWS[there])
    naive = Naive()
    naive.tables["t"] = table
    bags = np.split(IDS, np.cumsum(LENGTHS)[:-1])
    return naive.lookup_bags("t", [bag.tolist() for bag in bags], options, NAMES[wire])


def pooled(stored: int, wire: int, pooling: int, weights_at: int, done_at: int) -> NDArray[np.float32]:
    """The same by the kernel; rows that it does not write are -1, in any form."""
    encoded, _ = encode_rows(ROWS, stored)
    untouched, _ = encode_rows(np.full((LENGTHS.size, DIM), -1, np.float32), wire)
    out = np.ascontiguousarray(untouched[:, 8:]) if wire == Q8 else untouched
    scale, bias = np.zeros(LENGTHS.size, np.float32), np.full(LENGTHS.size, -1, np.float32)
    rows, status = address_of(encoded), address_of(STATUS)
    places = (address_of(out), address_of(scale), address_of(bias), done_at)
    pool_bags(stored, DIM, rows, status, LENGTHS, weights_at, pooling, wire, *places)
    if wire == Q8:
        out = np.concatenate([scale[:, None].view(np.uint8), bias[:, None].view(np.uint8), out], axis=1)
    return decode_rows(out, wire, DIM)


@pytest.mark.parametrize("stored", [F32, F16, BF16, Q8])
@pytest.mark.parametrize("wire", [F32, F16, BF16, Q8])
@pytest.mark.parametrize("done", [None, [], [0], [3, 4, 9], [1, 2, 5, 6, 7], list(range(LENGTHS.size))])
@pytest.mark.parametrize("way", ["sum", "mean", "weighted"])
def test_bags_are_pooled_but_for_those_that_were(stored: int, wire: int, done: list[int] | None, way: str) -> None:
    marks = np.zeros(LENGTHS.size, np.uint8)
    if done:
        marks[done] = np.resize([1, 255, 64], len(done))
    weighted = way == "weighted"
    weights_at, done_at = address_of(WEIGHTS) if weighted else 0, 0 if done is None else address_of(marks)
    found = pooled(stored, wire, MEAN if way == "mean" else SUM, weights_at, done_at)
    options = {"pooling": "mean" if way == "mean" else "sum", "weights": WEIGHTS.tolist() if weighted else None}
    wanted = pooled_by_the_oracle(stored, wire, options)
    wanted[marks != 0] = -1
    np.testing.assert_array_equal(found, wanted)
