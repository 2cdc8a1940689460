"""Workload generators: does a trace have the reuse, the sizes and the strangers that it says?"""

from __future__ import annotations

import numpy as np
import pytest

from loadtest.workloads import (
    Lookups,
    even_lookups,
    power_law,
    query_lookups,
    random_ids,
    reuse_counts,
    rows_from_ids,
    trace_of,
    with_unknown,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize("distinct", [10_000, 100_000])
def test_trace_has_the_published_reuse(distinct: int, rng: np.random.Generator) -> None:
    ids = random_ids(distinct, rng)
    trace = trace_of(ids, reuse_counts(distinct), rng)
    _, counts = np.unique(trace, return_counts=True)
    over16, over64 = counts > 16, counts > 64
    assert over16.mean() == pytest.approx(0.114, abs=0.002)
    assert counts[over16].sum() / len(trace) == pytest.approx(0.738, abs=0.005)
    assert over64.mean() == pytest.approx(0.018, abs=0.001)
    assert counts[over64].sum() / len(trace) == pytest.approx(0.519, abs=0.005)
    assert np.max(counts) <= max(0.0105 * len(trace), 1024)


def test_trace_keeps_every_id_and_mixes_them(rng: np.random.Generator) -> None:
    ids = random_ids(5_000, rng)
    counts = reuse_counts(5_000)
    trace = trace_of(ids, counts, rng)
    seen, times = np.unique(trace, return_counts=True)
    np.testing.assert_array_equal(seen, ids)
    np.testing.assert_array_equal(times, counts)
    hottest = np.flatnonzero(trace == ids[0])
    assert hottest.mean() / len(trace) == pytest.approx(0.5, abs=0.05)


def test_counts_come_hottest_first() -> None:
    counts = reuse_counts(20_000)
    assert len(counts) == 20_000
    assert np.all(np.diff(counts) <= 0)


@pytest.mark.parametrize(("fewest", "most", "mean"), [(1, 16, 3.7), (100, 700, 270.0), (65, 12_600, 363.0)])
def test_power_law_keeps_bounds_and_mean(fewest: int, most: int, mean: float) -> None:
    values = power_law(2_000, fewest, most, mean)
    assert np.min(values) >= fewest
    assert np.max(values) <= most
    assert values.mean() == pytest.approx(mean, rel=0.01)


def test_query_lookups_have_mlperf_sizes(rng: np.random.Generator) -> None:
    trace = rng.integers(0, 1000, 540_000, dtype=np.uint64)
    lookups = query_lookups(trace, rng)
    sizes = np.diff(lookups.starts)
    assert sizes[:-2].min() >= 100
    assert sizes[:-2].max() <= 700
    assert sizes.mean() == pytest.approx(270, rel=0.02)
    assert sizes[:-2].min() < 105
    assert sizes[:-2].max() > 690
    assert sizes[: len(sizes) // 2].mean() == pytest.approx(270, rel=0.1)
    np.testing.assert_array_equal(np.concatenate([ids for ids, _ in lookups]), trace)


@pytest.mark.parametrize("length", [0, 1, 9, 10, 11])
def test_even_lookups_cover_the_trace(length: int) -> None:
    trace = np.arange(length, dtype=np.uint64)
    pieces = [ids for ids, _ in even_lookups(trace, 5)]
    assert all(0 < len(piece) <= 5 for piece in pieces)
    assert np.concatenate([*pieces, np.empty(0, np.uint64)]).tolist() == trace.tolist()


def test_lookups_of_lengths_refuse_a_wrong_sum() -> None:
    ids = np.arange(5, dtype=np.uint64)
    assert [piece.tolist() for piece, _ in Lookups.of_lengths(ids, np.array([2, 0, 3]))] == [[0, 1], [], [2, 3, 4]]
    with pytest.raises(ValueError, match="lengths sum to 4, but there are 5 ids"):
        Lookups.of_lengths(ids, np.array([1, 3]))


def test_unknown_ids_are_unknown_and_as_many_as_asked(rng: np.random.Generator) -> None:
    known = random_ids(1_000, rng)
    trace = rng.choice(known, 50_000)
    changed = with_unknown(trace, known, 0.02, rng)
    strange = ~np.isin(changed, known)
    assert strange.mean() == pytest.approx(0.02, abs=0.005)
    np.testing.assert_array_equal(changed[~strange], trace[~strange])


def test_random_ids_are_distinct_and_ascending(rng: np.random.Generator) -> None:
    ids = random_ids(10_000, rng)
    assert len(ids) == 10_000
    assert np.all(ids[1:] > ids[:-1])
    assert ids[0] < 2**60
    assert ids[-1] > 2**63


def test_made_up_rows_depend_on_the_id_alone() -> None:
    ids = np.array([0, 1, 2**64 - 1, 12345], np.uint64)
    rows = rows_from_ids(ids, 16)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows_from_ids(ids[::-1].copy(), 16)[::-1], rows)
    assert len(np.unique(rows, axis=0)) == 4
    many = rows_from_ids(np.arange(20_000, dtype=np.uint64), 8)
    assert np.min(many) >= -1
    assert np.max(many) < 1
    assert abs(many.mean()) < 0.01
    assert many.std() == pytest.approx(3**-0.5, rel=0.01)
