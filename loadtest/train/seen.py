"""What a run saw: each step's errors, when they were made, and how long the update before it took to be visible."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from loadtest.latency import Latencies
from loadtest.train.ratings import F64s, Ratings
from loadtest.train.steps import Phase, Step


class StepSeen(NamedTuple):
    """at_s: when it was predicted, from the beginning on. visible_ms: of the update before it; None of the first."""

    at_s: float
    ratings: int
    squares: float
    visible_ms: float | None


class PhaseSeen:
    """What came of a phase so far. visible: from a push until the other process had its rows."""

    def __init__(self, phase: Phase, began_s: float) -> None:
        self.phase, self.began_s = phase, began_s
        self.steps: list[StepSeen] = []
        self.visible = Latencies()
        self.ratings, self._squares = 0, 0.0

    @property
    def rmse(self) -> float | None:
        """Of the ratings predicted so far; None where there are none."""
        return math.sqrt(self._squares / self.ratings) if self.ratings else None

    @property
    def seconds(self) -> float:
        """Until its last prediction."""
        return self.steps[-1].at_s - self.began_s if self.steps else 0.0

    def add(self, at_s: float, errors: F64s, visible_ns: int | None) -> None:
        """A step was predicted, with these errors."""
        squares = float(errors @ errors)
        visible_ms = None if visible_ns is None else visible_ns / 1e6
        self.steps.append(StepSeen(at_s, len(errors), squares, visible_ms))
        self.ratings += len(errors)
        self._squares += squares
        if visible_ns is not None:
            self.visible.record(visible_ns)


class Seen:
    """All phases that began, in order. predictions: f64, of the last tenth in the order of time, NaN where none is."""

    def __init__(self, ratings: Ratings) -> None:
        self._ratings = ratings
        self.phases: list[PhaseSeen] = []
        self.predictions: F64s = np.full(len(ratings) - ratings.first, np.nan)
        self.interrupted = False
        self._began_ns: int | None = None

    @property
    def last(self) -> PhaseSeen | None:
        """The last tenth, once it began."""
        return self.phases[-1] if self.phases and self.phases[-1].phase.is_last else None

    @property
    def any(self) -> bool:
        """Whether anything was predicted."""
        return any(phase.steps for phase in self.phases)

    def begin(self, phase: Phase, now_ns: int) -> None:
        self._began_ns = now_ns if self._began_ns is None else self._began_ns
        self.phases.append(PhaseSeen(phase, self._since(now_ns)))

    def add(self, step: Step, predictions: F64s, looked_ns: int, pushed_ns: int | None) -> None:
        """A step was predicted from rows looked up at looked_ns; the update before it was pushed at pushed_ns."""
        errors = self._ratings.rating[step.ratings] - predictions
        if self.phases[-1].phase.is_last:
            self.predictions[step.ratings - self._ratings.first] = predictions
        self.phases[-1].add(self._since(looked_ns), errors, None if pushed_ns is None else looked_ns - pushed_ns)

    def errors(self, predictions: F64s) -> F64s:
        """Of predictions of the last tenth, f64 [n], those alone for which the service gave one."""
        known = ~np.isnan(self.predictions)
        return (self._ratings.rating[self._ratings.first :] - predictions)[known]

    def _since(self, now_ns: int) -> float:
        return (now_ns - (self._began_ns or now_ns)) / 1e9
