"""Plays a dataset's lookups, one after the other, and holds every row that comes back against its source.

Takes the lookup as a function, so that it knows neither client nor service.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embcache_client.results import MISSING, STATUS_NAMES, TableRows
from loadtest.datasets import Dataset
from loadtest.latency import Latencies
from loadtest.workloads import U64s

PROGRESS_S = 0.25
LookUp = Callable[[U64s], TableRows]


class RowsDiffer(RuntimeError):
    """Rows came back that are not those of their source."""


@dataclass(slots=True)
class Replayed:
    """What a replay saw. Latencies are of the lookups alone, checking not included.

    tiers: ids by status, i64[7]. wrong: rows that differ from their source in any bit, or that should be there and are
    not, or the reverse; `first_wrong` says where the first was.
    """

    table: str
    lookups: int = 0
    ids: int = 0
    wrong: int = 0
    first_wrong: str = ""
    latencies: Latencies = field(default_factory=Latencies)
    tiers: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(STATUS_NAMES), np.int64))

    @property
    def ids_per_s(self) -> float:
        """Ids over the time spent in lookups, one at a time."""
        return self.ids / self.latencies.total_s if self.latencies.total_s else 0.0

    def share(self, tier: str) -> float:
        """The part of the ids that this tier answered."""
        return float(self.tiers[STATUS_NAMES.index(tier)]) / max(self.ids, 1)


def replay(
    dataset: Dataset, look_up: LookUp, limit_s: float, progress: Callable[[int], object] | None = None
) -> Replayed:
    """Play the dataset's lookups in order until they end or `limit_s` has passed.

    progress: called with the number of lookups done, now and then and at the end.
    """
    seen = Replayed(dataset.table)
    now = told = time.perf_counter()
    end = now + limit_s
    for ids, _ in dataset.lookups:
        with seen.latencies.timed():
            answer = look_up(ids)
        _check(dataset, ids, answer, seen)
        seen.lookups += 1
        seen.ids += len(ids)
        seen.tiers += np.bincount(answer.status, minlength=len(STATUS_NAMES))
        now = time.perf_counter()
        if progress is not None and now - told > PROGRESS_S:
            progress(seen.lookups)
            told = now
        if now > end:
            break
    if progress is not None:
        progress(seen.lookups)
    return seen


def _check(dataset: Dataset, ids: U64s, answer: TableRows, seen: Replayed) -> None:
    """Rows must equal the source bit for bit; ids that the source lacks must come back missing, as zeros."""
    if answer.raw.shape != (len(ids), dataset.dim) or answer.raw.dtype != dataset.rows.dtype:
        raise ValueError(f"asked {len(ids)} x {dataset.dim} {dataset.rows.dtype}, got {answer!r}")
    places, known = dataset.places_of(ids)
    expected = _bits(dataset.rows)[places]
    expected[~known] = 0
    right = (expected == _bits(answer.raw)).all(axis=1) & np.where(known, answer.found, answer.status == MISSING)
    if right.all():
        return
    wrong = np.flatnonzero(~right)
    if not seen.wrong:
        first = wrong[0]
        status = STATUS_NAMES[answer.status[first]]
        seen.first_wrong = f"lookup {seen.lookups}, id {ids[first]}, status {status}"
    seen.wrong += len(wrong)


def _bits(rows: NDArray[Any]) -> NDArray[Any]:
    return rows.view(np.uint16 if rows.dtype.itemsize == 2 else np.uint32)
