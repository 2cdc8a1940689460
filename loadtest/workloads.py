"""Who asks for what: reuse distributions, access traces, lookup sizes and made-up rows.

Pure functions of their arguments (a seeded generator where chance is needed); no files, no network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

U64s = NDArray[np.uint64]
I64s = NDArray[np.int64]
F32s = NDArray[np.float32]

MEAN_REUSE = 12.6
"""Accesses for each distinct id in a synthetic trace.

The published bands leave it open between 7 and 28 (the middle band's mean must lie inside the band). At 12.6 the
middle band falls off as fast as the published shares do from one band to the next: as x^-1.33.
"""

QUERY_SAMPLES = (100, 700, 270.0)
"""Fewest, most and mean samples of a query, as MLPerf Inference's DLRM-v2 asks them."""


class ReuseBand(NamedTuple):
    """The ids accessed `fewest` to `most` times: their share of the distinct ids, and of all accesses."""

    fewest: int
    most: int | None
    id_share: float
    access_share: float


PUBLISHED_REUSE = (
    ReuseBand(1, 16, 0.886, 0.262),
    ReuseBand(17, 64, 0.096, 0.219),
    ReuseBand(65, None, 0.018, 0.519),
)
"""Reuse within a batch of a production recommender (facebookresearch/dlrm_datasets, 2022).

Published are: ids used more than 16 times are 11.4% of the ids and 73.8% of the accesses; more than 64 times, 1.8% and
51.9%. The bands are the differences.
"""


@dataclass(frozen=True, slots=True)
class Lookups:
    """A sequence of lookups of one table: lookup i asks for `ids[starts[i]:starts[i + 1]]`.

    ids: u64[n], in order of access; starts: i64[lookups + 1], ascending from 0 to n.
    """

    ids: U64s
    starts: I64s

    @classmethod
    def of_lengths(cls, ids: U64s, lengths: NDArray[np.integer]) -> Lookups:
        """Lookups of the given lengths, in order. ValueError where the lengths do not sum to the number of ids."""
        starts = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
        if starts[-1] != len(ids):
            raise ValueError(f"lengths sum to {starts[-1]}, but there are {len(ids)} ids")
        return cls(ids, starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __iter__(self) -> Iterator[tuple[U64s, slice]]:
        """The ids of each lookup, and where they stand in `ids`."""
        for start, end in zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True):
            yield self.ids[start:end], slice(start, end)


def power_law(count: int, fewest: int, most: int, mean: float) -> I64s:
    """`count` integers in fewest..most that follow a power law with this mean, descending: i64[count].

    They are the law's quantiles, not draws from it, so that a small sample keeps the mean too. The exponent is found by
    bisection; a mean at the edge of what the bounds allow gives the edge.
    """
    values = np.arange(fewest, most + 1, dtype=np.float64)
    quantiles = (np.arange(count) + 0.5) / count

    def sample(exponent: float) -> I64s:
        weights = (values / fewest) ** -exponent
        cumulative = np.cumsum(weights)
        places: I64s = np.searchsorted(cumulative, quantiles * cumulative[-1])
        return places + fewest

    steep, flat = 8.0, -8.0
    for _ in range(60):
        middle = (steep + flat) / 2
        if sample(middle).mean() < mean:
            steep = middle
        else:
            flat = middle
    return sample((steep + flat) / 2)[::-1]


def reuse_counts(distinct: int, bands: tuple[ReuseBand, ...] = PUBLISHED_REUSE, mean: float = MEAN_REUSE) -> I64s:
    """How often each of `distinct` ids is accessed, hottest first: i64[distinct].

    Within a band the counts follow a power law. The hottest id takes about 1% of the accesses at most.
    """
    ceiling = max(int(distinct * mean / 100), 1024)
    bounds = np.rint(np.cumsum([0.0] + [band.id_share for band in bands]) * distinct).astype(int)
    counts = [
        power_law(ids, band.fewest, band.most or ceiling, mean * band.access_share / band.id_share)
        for band, ids in zip(bands, np.diff(bounds).tolist(), strict=True)
        if ids
    ]
    return np.concatenate(counts[::-1])


def trace_of(ids: U64s, counts: I64s, rng: np.random.Generator) -> U64s:
    """An access trace in which ids[i] stands counts[i] times, in random order: u64[counts.sum()].

    Every access is independent of those before it: the published figures say how often ids return, not when.
    """
    trace = np.repeat(ids, counts)
    rng.shuffle(trace)
    return trace


def with_unknown(trace: U64s, known: U64s, share: float, rng: np.random.Generator) -> U64s:
    """The trace with about `share` of its accesses replaced by ids outside `known` (ascending): u64[len(trace)]."""
    changed = trace.copy()
    places = np.flatnonzero(rng.random(len(trace)) < share)
    strangers = rng.integers(0, 2**64, len(places), dtype=np.uint64)
    found = np.searchsorted(known, strangers).clip(max=len(known) - 1)
    fresh = known[found] != strangers
    changed[places[fresh]] = strangers[fresh]
    return changed


def query_lookups(trace: U64s, rng: np.random.Generator) -> Lookups:
    """The trace cut into lookups of 100 to 700 ids, 270 in the mean: one id for each sample of a query."""
    fewest, most, mean = QUERY_SAMPLES
    queries = max(round(len(trace) / mean), 1)
    lengths = power_law(queries, fewest, most, mean)
    rng.shuffle(lengths)
    ends = np.minimum(np.cumsum(lengths), len(trace))
    ends[-1] = len(trace)
    return Lookups(trace, np.unique(np.concatenate(([0], ends))))


def even_lookups(trace: U64s, size: int) -> Lookups:
    """The trace cut into lookups of `size` ids; the last one takes what is left."""
    return Lookups(trace, np.append(np.arange(0, len(trace), size, dtype=np.int64), len(trace)))


def random_ids(count: int, rng: np.random.Generator) -> U64s:
    """`count` distinct ids out of all 2^64, ascending: u64[count]."""
    ids = np.unique(rng.integers(0, 2**64, count + count // 1000 + 8, dtype=np.uint64))
    return np.sort(rng.choice(ids, count, replace=False))


def rows_from_ids(ids: U64s, dim: int) -> F32s:
    """Made-up rows, a function of the id alone, uniform in [-1, 1): f32[len(ids), dim].

    A multiply-xorshift mix (the finaliser of MurmurHash3) of the id and the column; not the formula of default rows.
    """
    columns = np.arange(1, dim + 1, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03)
    rows = np.empty((len(ids), dim), np.float32)
    for start in range(0, len(ids), 8192):
        mixed = ids[start : start + 8192, None] ^ columns
        for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53)):
            mixed ^= mixed >> np.uint64(shift)
            mixed *= np.uint64(factor)
        mixed ^= mixed >> np.uint64(33)
        rows[start : start + 8192] = (mixed >> np.uint64(40)).astype(np.float32) * np.float32(2**-23) - np.float32(1)
    return rows
