"""The kernel that checks the arena, reads its position and probes in one: -1 rather than trust an old catalogue."""

from __future__ import annotations

import numpy as np
import pytest

from embcache.host import probe
from embcache.host.arena import Arena
from embcache.host.memory import address_of
from embcache.host.ring import MASK, private_ring
from embcache.host.segment import WARM
from embcache.host.tables import HostTables
from tests.host.reader import Asked
from tests.host.test_table import random_ids, rows_of


class Filled:
    def __init__(self) -> None:
        self.arena = Arena.create(1 << 20)
        self.tables = HostTables(self.arena)
        held = self.tables.add(7, 24, 1 << 15)
        self.ids = random_ids(40, seed=1)
        held.table.insert(self.ids, rows_of(self.ids, 24))
        self.asked = Asked(held.entry, held.version, 24, self.ids)
        self.position = np.full(8, 0xEE, np.uint8)
        self._ring = private_ring()

    def probe(self, generation: int) -> int:
        segments = self.asked.segment.reshape(1, -1)
        place = address_of(self.position)
        return probe.probe_now(self.arena.address, segments, self._ring.address, MASK, np.uint64(0), generation, place)


@pytest.fixture
def filled() -> Filled:
    return Filled()


@pytest.mark.parametrize("position", [0, 1, 2**40 + 3, 2**64 - 1])
def test_it_answers_with_the_position_as_it_was_before(filled: Filled, position: int) -> None:
    filled.arena.publish_position(position)
    assert filled.probe(filled.arena.generation) == 0
    assert filled.position.tobytes() == position.to_bytes(8, "big")
    np.testing.assert_array_equal(filled.asked.rows, rows_of(filled.ids, 24))
    assert (filled.asked.status == WARM).all()


def test_a_catalogue_of_another_generation_is_not_answered_by(filled: Filled) -> None:
    known = filled.arena.generation
    filled.arena.publish_generation(known + 1)
    assert filled.probe(known) == -1
    assert filled.probe(known + 1) == 0


def test_a_dead_arena_answers_nothing(filled: Filled) -> None:
    filled.arena.kill()
    assert filled.probe(filled.arena.generation) == -1
    assert (filled.asked.rows == 0xEE).all()
    assert (filled.position == 0xEE).all()


def test_what_is_not_there_is_left(filled: Filled) -> None:
    filled.asked.ids[3] += np.uint64(1)
    assert filled.probe(filled.arena.generation) == 1
    assert filled.asked.left.tolist() == [3]
