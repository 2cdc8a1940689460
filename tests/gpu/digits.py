"""Rows for bags: the sum of a bag's rows says which writing of each of them went into it.

A row is one digit of a number in base 8: its writing, 1 or 2, times a weight of at most 3. The number stands in every
tenth element, so that rows of other digits, and of other numbers in the elements between, add up beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embcache.host.rows import F32
from tests.gpu.asker import Bags
from tests.gpu.forms import Bytes, Form, Ids

BASE, DIGITS, GROUPS = 8, 5, 10
CARRIERS = DIGITS * GROUPS  # ids below this have a digit each


class Digits(Form):
    """Rows f32 or f16 [dim] of ids that have a digit; those of others are halves, which no sum may hold."""

    def encoded(self, ids: Ids, writing: int) -> Bytes:
        carries = ids[:, None] < CARRIERS
        group, power = ids // DIGITS % GROUPS, BASE ** (ids % DIGITS)
        of_group = group[:, None] == np.arange(self.dim, dtype=np.uint64) % GROUPS
        digits = np.where(of_group, writing * power[:, None], 0)
        values = np.where(carries, digits, 0.5).astype(np.float32 if self.stored == F32 else np.float16)
        return np.ascontiguousarray(values).view(np.uint8)


def bags_of(count: int, weighted: bool) -> Bags:
    """Bags of so many ids, which is at least 45: one is longer than a warp, one is empty."""
    lengths = np.array([37, 0, 1, count - 43, 5], np.uint32)
    return Bags(lengths, weights=1 + np.arange(count, dtype=np.float32) % 3 if weighted else None)


def summed(
    total: NDArray[np.float32], ids: Ids, weights: NDArray[np.floating], writings: Sequence[int], torn: int
) -> NDArray[np.int64]:
    """i64 [n]: which of these writings of the ids' rows have this weighted sum; all `torn` where none have."""
    seen = np.zeros(ids.size, np.int64)
    wanted = np.zeros(total.size)
    for place, (feature, weight) in enumerate(zip(ids.tolist(), weights.tolist(), strict=True)):
        group, power = feature // DIGITS % GROUPS, BASE ** (feature % DIGITS)
        seen[place] = int(total[group]) // power % BASE // int(weight)
        wanted[group::GROUPS] += seen[place] * power * weight
    sound = bool((wanted == total).all() and np.isin(seen, writings).all())
    return seen if sound else np.full(ids.size, torn)
