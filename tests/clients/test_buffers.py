"""Receive buffers come back when the last array that looks into them dies, and never before."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from embcache_client.buffers import ALIGNMENT, IDLE_BYTES, LARGEST, SMALLEST, BufferPool


def address(array: NDArray[np.uint8]) -> int:
    return int(array.ctypes.data)


@pytest.mark.parametrize("count", [0, 1, SMALLEST, SMALLEST + 1, 5_000_000, LARGEST, LARGEST + 1])
def test_a_buffer_is_writable_aligned_and_as_long_as_asked(count: int) -> None:
    buffer = BufferPool().take(count)
    assert buffer.shape == (count,)
    assert address(buffer) % ALIGNMENT == 0
    buffer[:] = 1


def test_a_dead_buffer_is_used_again() -> None:
    pool = BufferPool()
    first = pool.take(10_000)
    where = address(first)
    del first
    assert pool.idle_bytes == 16384
    assert address(pool.take(9_000)) == where


def test_a_buffer_under_any_view_is_not_used_again() -> None:
    pool = BufferPool()
    buffer = pool.take(10_000)
    where = address(buffer)
    rows = np.ndarray((10, 4), "<f4", buffer.data[64:224])
    view = rows[2:4].T.view(np.uint32)[None]
    memory = buffer.data[5:6]
    del buffer, rows
    assert address(pool.take(10_000)) != where
    del view
    assert address(pool.take(10_000)) != where
    memory.release()
    del memory
    assert where in {address(array) for array in [pool.take(10_000) for _ in range(3)]}


def test_a_buffer_in_a_cycle_comes_back_when_it_is_collected() -> None:
    pool = BufferPool()
    cycle: list[object] = [pool.take(10_000)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert pool.idle_bytes == 16384


def test_idle_memory_is_bounded() -> None:
    pool = BufferPool()
    held = [pool.take(4 << 20) for _ in range(20)]
    del held
    assert pool.idle_bytes == IDLE_BYTES
    huge = pool.take(LARGEST + 1)
    del huge
    assert pool.idle_bytes == IDLE_BYTES


def test_threads_never_share_a_buffer() -> None:
    pool = BufferPool()
    mixed: list[int] = []

    def work(mark: int) -> None:
        for count in range(3000):
            buffer = pool.take(4096 if count % 2 else 8192)
            buffer[:] = mark
            kept = buffer[100:200]
            del buffer
            if not (kept == mark).all():
                mixed.append(mark)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mixed == []


def test_a_buffer_outlives_its_pool() -> None:
    buffer = BufferPool().take(100)
    buffer[:] = 3
    gc.collect()
    assert buffer.sum() == 300
