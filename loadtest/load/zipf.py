"""Draws from a Zipf distribution over any number of ranks, without a table of them.

Rejection inversion: W. Hörmann and G. Derflinger, "Rejection-inversion to generate variates from monotone discrete
distributions", ACM TOMACS 6 (1996). Here with arrays instead of single draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from loadtest.workloads import U64s

F64s = NDArray[np.float64]
Scalar = TypeVar("Scalar", bound=np.generic)

BLOCK = 16_384
"""Draws made at once: enough to hide NumPy's overhead, and done within a millisecond or two."""


class Zipf:
    """Ranks 0 to count - 1, rank k with a probability in proportion to (k + 1) ** -alpha; alpha 0 is uniform."""

    def __init__(self, count: int, alpha: float) -> None:
        """ValueError for no ranks, or an alpha below 0."""
        if count < 1 or not 0 <= alpha < math.inf:
            raise ValueError(f"Zipf needs at least one rank and an alpha of 0 or more, not {count} and {alpha}")
        self._count, self._alpha = count, alpha
        one, two, last = np.float64(1.5), np.float64(2.5), np.float64(count + 0.5)
        self._low, self._high = self._integral(last), self._integral(one) - 1.0
        self._sure = 2.0 - self._inverse(self._integral(two) - 2.0**-alpha)

    def draw(self, rng: np.random.Generator, size: int) -> U64s:
        """u64 [size] ranks."""
        ranks = np.empty(size, np.uint64)
        left = np.arange(size)
        while len(left):
            under = self._low + rng.random(len(left)) * (self._high - self._low)
            at = self._inverse(under)
            near = np.clip(np.floor(at + 0.5), 1, self._count)
            taken = (near - at <= self._sure) | (under >= self._integral(near + 0.5) - near**-self._alpha)
            ranks[left[taken]] = near[taken].astype(np.uint64) - np.uint64(1)
            left = left[~taken]
        return ranks

    def _integral(self, at: Any) -> Any:
        """The integral of x ** -alpha from 1 to `at`."""
        log = np.log(at)
        return log if self._alpha == 1 else np.expm1((1 - self._alpha) * log) / (1 - self._alpha)

    def _inverse(self, area: Any) -> Any:
        """Where that integral is `area`."""
        if self._alpha == 1:
            return np.exp(area)
        inside = np.maximum((1 - self._alpha) * area, np.nextafter(-1.0, 0.0))
        return np.exp(np.log1p(inside) / (1 - self._alpha))


class Drawn:
    """Hands out draws in pieces of any size and makes them in blocks."""

    def __init__(self, draw: Callable[[int], U64s]) -> None:
        self._draw = draw
        self._block = draw(0)
        self._at = 0

    def take(self, size: int) -> U64s:
        """The next `size` draws: a view, which stays as it is."""
        if self._at + size > len(self._block):
            rest = self._block[self._at :]
            self._block = np.concatenate([rest, self._draw(max(BLOCK, size - len(rest)))])
            self._at = 0
        self._at += size
        return self._block[self._at - size : self._at]


class Scatter:
    """A permutation of the places 0 to count - 1, so that ranks that are near one another lie apart.

    place = (a * rank + b) mod count, with an a that shares no factor with count, near the golden section of it.
    """

    def __init__(self, count: int, seed: int) -> None:
        """ValueError for more than 2^32 places, whose products no u64 holds."""
        if not 1 <= count <= 1 << 32:
            raise ValueError(f"{count} places; 1 to 2^32 can be scattered")
        self._count = np.uint64(count)
        rng = np.random.default_rng([seed, count])
        self._offset = np.uint64(rng.integers(count))
        factor = max(round(count * (0.6 + 0.05 * rng.random())), 1)
        while math.gcd(factor, count) != 1:
            factor += 1
        self._factor = np.uint64(factor)

    def places(self, ranks: U64s) -> U64s:
        """u64 [n] places of ranks u64 [n], all below count."""
        return (ranks * self._factor + self._offset) % self._count
