"""How the hot tier's memory is divided: pools within it, apart from each other, first what each needs."""

from __future__ import annotations

import numpy as np
import pytest

from embcache.gpu.layout import SECTOR, SET_BYTES, WAYS, stride_of
from embcache.gpu.pools import MAX_POOLS, as_array, divide, shares

START = 7 << 20  # where the memory lies, at a multiple of 256 as devices allocate it


@pytest.mark.parametrize("seed", range(30))
def test_pools_lie_within_the_memory_and_apart(seed: int) -> None:
    choose = np.random.default_rng(seed)
    capacity = int(choose.integers(1, 1 << int(choose.integers(4, 27))))
    widths = choose.integers(1, 2000, int(choose.integers(1, 12))).tolist()
    rows = {int(width): int(choose.integers(0, 100_000)) for width in widths}
    pools = divide(START, capacity, rows)
    assert set(pools) <= {stride_of(width) for width in rows}
    taken = []
    for stride, pool in pools.items():
        assert pool.stride == stride
        assert pool.set_count > 0
        assert pool.sets % 64 == pool.rows % SECTOR == 0
        taken += [(pool.sets, pool.set_count * SET_BYTES), (pool.rows, pool.ways * stride)]
    end = START
    for begin, nbytes in sorted(taken):
        assert begin >= end
        end = begin + nbytes
    assert end <= START + capacity
    described = as_array(pools)
    assert described.size == MAX_POOLS
    for pool in pools.values():
        told = described[pool.index]
        assert (told["sets"], told["rows"], told["set_count"], told["stride"]) == (
            *(pool.sets, pool.rows, pool.set_count, pool.stride),
        )


def test_small_tables_have_room_for_all_their_rows_and_large_ones_share_the_rest() -> None:
    capacity = 64 << 20
    pools = divide(START, capacity, {40: 1000, 64: 500, 256: 10**9, 512: 10**9})
    assert pools[64].ways >= 1500  # both narrow tables
    assert pools[256].nbytes == pytest.approx(pools[512].nbytes, rel=0.01)
    assert sum(pool.nbytes for pool in pools.values()) > 0.99 * capacity


def test_what_nobody_needs_is_given_to_all() -> None:
    capacity = 64 << 20
    given = shares({64: 100, 256: 100}, capacity)
    assert sum(given.values()) == pytest.approx(capacity, abs=2)
    assert min(given.values()) > capacity // 3


def test_memory_that_is_too_small_for_a_set_makes_no_pool() -> None:
    assert divide(START, SET_BYTES + WAYS * 64, {64: 10}) == {}
    assert list(divide(START, SET_BYTES + WAYS * 64 + 512, {64: 10})) == [64]
    assert divide(START, 1 << 20, {}) == {}
