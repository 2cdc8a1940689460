"""Reply buffers: lent once at a time, bounded, used again, and given back to the system."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from embcache.errors import Overloaded, TooLarge
from embcache.service.buffers import SMALLEST, Buffer, BufferPool

MIB = 1 << 20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_a_buffer_comes_back_as_it_was() -> None:
    pool = BufferPool(MIB)
    first = pool.take(1000)
    first.array[:] = 7
    pool.give(first)
    assert pool.take(1001) is first
    assert first.view[0] == 7


def test_buffers_are_large_enough_and_aligned() -> None:
    pool = BufferPool(64 * MIB)
    for size in (1, SMALLEST, SMALLEST + 1, MIB - 1, MIB, MIB + 1):
        buffer = pool.take(size)
        assert size <= buffer.capacity <= max(SMALLEST, 2 * size)
        assert buffer.array.ctypes.data % 64 == 0
        assert len(buffer.view) == buffer.capacity


def test_no_more_is_lent_than_the_limit() -> None:
    pool = BufferPool(MIB)
    lent = [pool.take(MIB // 2), pool.take(MIB // 2)]
    with pytest.raises(Overloaded, match=r"hold 1048576 bytes .* try again") as caught:
        pool.take(1)
    assert caught.value.detail["retry_after_ms"] > 0
    pool.give(lent.pop())
    pool.take(1)


def test_a_reply_larger_than_the_pool_says_so() -> None:
    with pytest.raises(TooLarge, match=r"1048577 bytes, more than server.reply_pool \(1048576\).*split"):
        BufferPool(MIB).take(MIB + 1)


def test_kept_buffers_make_room_for_another_size() -> None:
    pool = BufferPool(MIB)
    small = [pool.take(SMALLEST) for _ in range(16)]
    for buffer in small:
        pool.give(buffer)
    pool.take(MIB)
    assert pool.kept == 0


def test_trimming_gives_back_what_lay_unused() -> None:
    pool = BufferPool(256 * MIB)
    before = resident()
    lent = [pool.take(32 * MIB) for _ in range(4)]
    for buffer in lent:
        buffer.array[:] = 1
        pool.give(buffer)
    del lent, buffer
    assert resident() > before + 100 * MIB
    pool.trim()  # they were in use since the trim before
    assert pool.kept == 128 * MIB
    pool.give(pool.take(32 * MIB))
    pool.trim()
    assert pool.kept == 32 * MIB
    pool.trim()
    gc.collect()
    assert pool.kept == 0
    assert resident() < before + 16 * MIB


class Pool(RuleBasedStateMachine):
    """Any order of borrowing and returning: no buffer is lent twice, and the sums are right."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BufferPool(MIB)
        self.lent: list[Buffer] = []

    @rule(size=st.integers(1, MIB))
    def take(self, size: int) -> None:
        try:
            buffer = self.pool.take(size)
        except Overloaded:
            assert sum(held.capacity for held in self.lent) + size + SMALLEST > MIB // 2
            return
        assert all(buffer is not held for held in self.lent)
        self.lent.append(buffer)

    @rule(data=st.data())
    def return_one(self, data: st.DataObject) -> None:
        if self.lent:
            buffer = self.lent.pop(data.draw(st.integers(0, len(self.lent) - 1)))
            data.draw(st.sampled_from((self.pool.give, self.pool.drop)))(buffer)

    @rule()
    def trim(self) -> None:
        self.pool.trim()

    @invariant()
    def sums_are_right(self) -> None:
        assert self.pool.lent == sum(held.capacity for held in self.lent)
        assert 0 <= self.pool.kept <= MIB - self.pool.lent


TestPool = Pool.TestCase
