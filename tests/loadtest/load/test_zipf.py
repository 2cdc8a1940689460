"""Draws of ids: as often as the law says, in pieces that lose nothing, over all places once."""

from __future__ import annotations

import numpy as np
import pytest

from loadtest.load.zipf import BLOCK, Drawn, Scatter, Zipf


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.99, 1.0, 1.3, 3.0])
@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_ranks_come_as_often_as_the_law_says(count: int, alpha: float) -> None:
    drawn = Zipf(count, alpha).draw(np.random.default_rng(3), 200_000)
    weights = np.arange(1, count + 1) ** -alpha
    expected = 200_000 * weights / weights.sum()
    counts = np.bincount(drawn.astype(np.int64), minlength=count)
    assert len(counts) == count
    # Five standard deviations of each count, which is binomial.
    assert np.all(np.abs(counts - expected) <= 5 * np.sqrt(expected) + 5)


def test_many_ranks_need_no_table() -> None:
    count, alpha = 1 << 40, 0.9
    drawn = Zipf(count, alpha).draw(np.random.default_rng(4), 400_000)
    assert int(drawn.max()) < count
    # The harmonic number of so many ranks by Euler and Maclaurin: the first rank's share is one over it.
    harmonic = (count ** (1 - alpha)) / (1 - alpha) + 0.5 * count**-alpha - 9.43011401940225
    first = np.count_nonzero(drawn == 0)
    assert first == pytest.approx(400_000 / harmonic, abs=5 * np.sqrt(400_000 / harmonic))


@pytest.mark.parametrize(("count", "alpha"), [(0, 1.0), (5, -0.1), (5, float("nan")), (5, float("inf"))])
def test_no_law_of_nothing(count: int, alpha: float) -> None:
    with pytest.raises(ValueError, match="at least one rank and an alpha of 0 or more"):
        Zipf(count, alpha)


def test_pieces_are_the_draws_in_order() -> None:
    rng = np.random.default_rng(5)
    made: list[np.ndarray] = []

    def draw(size: int) -> np.ndarray:
        made.append(rng.integers(0, 2**64, size, dtype=np.uint64))
        return made[-1]

    drawn = Drawn(draw)
    pieces = [drawn.take(size).copy() for size in (1, BLOCK - 1, 3, 0, 2 * BLOCK, 5)]
    taken = np.concatenate(pieces)
    np.testing.assert_array_equal(taken, np.concatenate(made)[: len(taken)])


@pytest.mark.parametrize("count", [1, 2, 3, 10, 1000, 65_536])
def test_scattering_keeps_each_place_once(count: int) -> None:
    ranks = np.arange(count, dtype=np.uint64)
    for seed in range(5):
        places = Scatter(count, seed).places(ranks)
        np.testing.assert_array_equal(np.sort(places), ranks)


def test_scattered_ranks_lie_apart() -> None:
    places = np.sort(Scatter(1_000_000, 1).places(np.arange(100, dtype=np.uint64)))
    assert np.diff(places).min() > 1000


def test_scattering_of_the_largest_count_does_not_overflow() -> None:
    count = 1 << 32
    scatter = Scatter(count, 7)
    ranks = np.array([0, 1, count - 1], np.uint64)
    offset, factor = int(scatter.places(ranks[:1])[0]), int(scatter._factor)
    assert scatter.places(ranks).tolist() == [(factor * int(rank) + offset) % count for rank in ranks]
    with pytest.raises(ValueError, match="can be scattered"):
        Scatter(count + 1, 7)
