"""What happened when, in a bounded number of intervals: a long run has longer intervals and not more of them."""

from __future__ import annotations

from collections.abc import Iterator

from loadtest.load.tally import SERIES_DIGITS, Tally

MAX_INTERVALS = 240


class Series:
    """Tallies of intervals of `interval_s`, from the first arrival on.

    Once there would be more than MAX_INTERVALS of them, neighbours are put together and each lasts twice as long: with
    histograms, so that percentiles of the longer ones are exact.
    """

    def __init__(self, step_s: float, most: int = MAX_INTERVALS) -> None:
        """step_s: the length of the intervals in which generators count."""
        self._step_s, self._most = step_s, most
        self._steps = 1  # of an interval
        self._tallies: dict[int, Tally] = {}

    @property
    def interval_s(self) -> float:
        return self._step_s * self._steps

    def add(self, step: int, tally: Tally) -> None:
        """Count what a generator counted in its interval number `step`."""
        while step // self._steps >= self._most:
            self._double()
        self._at(step // self._steps).add(tally)

    def __iter__(self) -> Iterator[tuple[float, Tally]]:
        """(seconds from the first arrival to the interval's beginning, its tally), those without requests included."""
        for number in range(max(self._tallies, default=-1) + 1):
            yield number * self.interval_s, self._tallies.get(number) or Tally(SERIES_DIGITS)

    def _at(self, number: int) -> Tally:
        tally = self._tallies.get(number)
        if tally is None:
            tally = self._tallies[number] = Tally(SERIES_DIGITS)
        return tally

    def _double(self) -> None:
        before, self._tallies = self._tallies, {}
        self._steps *= 2
        for number, tally in before.items():
            self._at(number // 2).add(tally)
