"""What all readers tell is counted together, and nothing of it is lost or counted twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from embcache.host.ring import new_ring
from embcache.owner.memory import Memory
from embcache.owner.rings import Rings


class Counting:
    """Notes what is counted in it, call by call."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.broken = False

    def count_use(self, words: NDArray[np.uint64]) -> None:
        if self.broken:
            raise ValueError("cannot count")
        self.calls.append(words.tolist())


@pytest.fixture
def fds() -> Iterator[list[int]]:
    fds = [new_ring() for _ in range(3)]
    yield fds
    for fd in fds:
        os.close(fd)


def write(fd: int, head: int, *words: int) -> None:
    """As a reader does that has written nothing else."""
    os.pwrite(fd, np.array(words, np.uint64).tobytes(), 64)
    os.pwrite(fd, np.uint64(head).tobytes(), 0)


def test_all_rings_are_heard_in_one_count(fds: list[int]) -> None:
    memory = Counting()
    rings = Rings(cast(Memory, memory))
    first, _, third = (rings.add(fd) for fd in fds)
    assert not rings.drain()
    write(fds[0], 2, 7, 8)
    write(fds[2], 1, 2**63 + 9)
    assert rings.drain()
    assert [sorted(call) for call in memory.calls] == [[7, 8, 2**63 + 9]]
    assert not rings.drain()
    write(fds[2], 3, 0, 5, 6)
    rings.remove(third)
    rings.remove(third)
    assert memory.calls[1:] == [[5, 6]], "what it last told still counts, once"
    rings.remove(first)
    assert memory.calls[2:] in ([], [[]])


def test_what_cannot_be_counted_is_lost_and_nothing_else(fds: list[int], caplog: Any) -> None:
    memory = Counting()
    rings = Rings(cast(Memory, memory))
    rings.add(fds[0])
    memory.broken = True
    write(fds[0], 1, 7)
    assert rings.drain()
    assert "could not be counted" in caplog.text
    memory.broken = False
    write(fds[0], 2, 7, 8)
    assert rings.drain()
    assert memory.calls == [[8]]
