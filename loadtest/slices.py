"""Two sides measured in turn, in short slices, so that a busy machine slows both alike.

Knows nothing of what is measured: a side is a function that does a slice of work and returns a figure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from loadtest.latency import Latencies

T = TypeVar("T")
Side = Callable[[], float]

DEFAULT_ROUNDS = 60
BUDGET_S = 30.0
"""A pair stops after this long, whatever the rounds; starting its parts is not counted."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The slices of one side."""

    slices: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.slices))

    @property
    def quartiles(self) -> tuple[float, float]:
        low, high = np.percentile(self.slices, (25, 75))
        return float(low), float(high)


def alternate(
    ours: Side,
    theirs: Side | None,
    rounds: int,
    budget_s: float = BUDGET_S,
    before: Callable[[], object] = lambda: None,
) -> tuple[Figures, Figures]:
    """Measure both sides for `rounds` slices each, in turn, changing who goes first with every round.

    One slice of each is thrown away first. Ends early once `budget_s` has passed, after three rounds at least. A side
    that is None has no slices. `before` is called before every round, the one thrown away included.
    """
    our_slices: list[float] = []
    their_slices: list[float] = []
    turns = [(ours, our_slices)]
    if theirs is not None:
        turns.append((theirs, their_slices))
    before()
    for side, _ in turns:
        side()
    end = time.perf_counter() + budget_s
    for done in range(rounds):
        if done >= 3 and time.perf_counter() > end:
            break
        before()
        for side, slices in turns:
            slices.append(side())
        turns.reverse()
    return Figures(tuple(our_slices)), Figures(tuple(their_slices))


def rate(operation: Callable[[T], object], inputs: Sequence[T], items: int) -> float:
    """Items a second over one call for each input, where a call works on `items` of them."""
    began = time.perf_counter()
    for value in inputs:
        operation(value)
    return items * len(inputs) / (time.perf_counter() - began)


def rate_side(operation: Callable[[T], object], make_input: Callable[[], T], calls: int, items: int) -> Side:
    """A side whose slices make `calls` inputs, then measure millions of items a second over one call for each."""
    return lambda: rate(operation, [make_input() for _ in range(calls)], items) / 1e6


def percentile_us(operation: Callable[[T], object], inputs: Iterable[T], percentile: float) -> float:
    """A percentile of the time of a call in microseconds, one call for each input."""
    latencies = Latencies()
    for value in inputs:
        began = time.perf_counter_ns()
        operation(value)
        latencies.record(time.perf_counter_ns() - began)
    return latencies.percentile_ms(percentile) * 1000


def p50_us(operation: Callable[[T], object], inputs: Iterable[T]) -> float:
    """The median of that."""
    return percentile_us(operation, inputs, 50)
