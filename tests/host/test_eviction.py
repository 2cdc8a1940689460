"""Which rows stay: HostTable against a plain model of the same queues, and what is noted of rows on their ways."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from embcache.host.arena import Arena
from embcache.host.eviction import MAIN, MOST_HITS
from embcache.host.layout import WAYS
from embcache.host.ring import WORDS
from embcache.host.segment import WARM
from embcache.host.sweep import SAMPLE
from embcache.host.tables import Held, HostTables, region_bytes
from embcache.host.writer import MOVE_BELOW
from tests.host.reader import Reader, is_sampled, slots_of

GHOSTS = 21
MASK = 2**64 - 1


def hash_of(identifier: int) -> int:
    h = identifier
    h = (h ^ (h >> 33)) * 0xFF51AFD7ED558CCD & MASK
    h = (h ^ (h >> 33)) * 0xC4CEB9FE1A85EC53 & MASK
    return h ^ (h >> 33)


@dataclass
class Row:
    """A row of the model: which queue it is of, how often it was hit, when it came."""

    identifier: int
    main: bool
    hits: int
    came: int


@dataclass
class Model:
    """The policy in plain Python, for a table of less than 1,024 slots that moves no row aside."""

    sets: int
    ways: list[list[Row | None]] = field(default_factory=list)
    ghosts: list[list[int | None]] = field(default_factory=list)
    came: int = 0

    def __post_init__(self) -> None:
        self.ways = [[None] * WAYS for _ in range(self.sets)]
        self.ghosts = [[None] * GHOSTS for _ in range(self.sets)]
        self.oldest_ghost = [0] * self.sets

    def sets_of(self, identifier: int) -> tuple[int, int]:
        h = hash_of(identifier)
        second = h * 0x9E3779B97F4A7C15 & MASK
        return ((h >> 32) * self.sets) >> 32, ((second >> 32) * self.sets) >> 32

    def rows(self) -> list[Row]:
        return [row for ways in self.ways for row in ways if row is not None]

    def hit(self, identifiers: set[int]) -> None:
        for row in self.rows():
            if row.identifier in identifiers:
                row.hits = min(row.hits + 1, int(MOST_HITS))

    def insert(self, identifier: int) -> None:
        if identifier in {row.identifier for row in self.rows()}:
            return
        first, second = self.sets_of(identifier)
        print_of = hash_of(identifier) & 0xFFFF | 1
        again = print_of in self.ghosts[first]
        self.ghosts[first] = [None if ghost == print_of else ghost for ghost in self.ghosts[first]]
        index, way = self.free(first, second) or self.evict(first, second)
        self.came += 1
        self.ways[index][way] = Row(identifier, again, 0, self.came)

    def free(self, *sets: int) -> tuple[int, int] | None:
        return next(((index, way) for index in sets for way in range(WAYS) if self.ways[index][way] is None), None)

    def evict(self, *sets: int) -> tuple[int, int]:
        while True:
            here = [(index, way, row) for index in sets for way in range(WAYS) if (row := self.ways[index][way])]
            small = [each for each in here if not each[2].main]
            main = [each for each in here if each[2].main]
            too_many = sum(not row.main for row in self.rows()) > self.sets * WAYS // 10
            index, way, row = min(small if small and (too_many or not main) else main, key=lambda each: each[2].came)
            if not row.main and row.hits >= 2:
                row.main, row.hits, row.came = True, 0, self.came
            elif row.main and row.hits:
                row.hits, row.came = row.hits - 1, self.came
            else:
                self.remember(row.identifier)
                self.ways[index][way] = None
                return index, way

    def remember(self, identifier: int) -> None:
        first, _ = self.sets_of(identifier)
        self.ghosts[first][self.oldest_ghost[first]] = hash_of(identifier) & 0xFFFF | 1
        self.oldest_ghost[first] = (self.oldest_ghost[first] + 1) % GHOSTS


def new_table(slots: int) -> tuple[HostTables, Held]:
    tables = HostTables(Arena.create(1 << 22))
    return tables, tables.add(1, 8, region_bytes(8, int(slots * 0.8)))


def rows_of(ids: NDArray[np.uint64]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(ids).view(np.uint8).reshape(-1, 8)


def use_by_id(held: Held) -> dict[int, int]:
    ids, use = held.table.held(0, held.table.region.sets)
    return dict(zip(ids.tolist(), use.tolist(), strict=True))


@pytest.mark.parametrize("seed", [1, 2])
def test_the_rows_that_stay_are_those_of_the_model(seed: int) -> None:
    tables, held = new_table(200)
    assert held.table.region.slots < 1024
    held.table._counters[MOVE_BELOW] = 0
    model, reader = Model(held.table.region.sets), Reader(tables.arena)
    random = np.random.default_rng(seed)
    drawn = (random.zipf(1.2, 8000) % 3000).astype(np.uint64)
    drawn[5000:] += np.uint64(500)  # others are in use now
    for asked in drawn.reshape(-1, 10):
        ids = np.unique(asked)
        rows, status, left = reader.lookup(held, ids)
        held.table.count_use(reader.ring.drain())
        model.hit(set(ids[status == WARM].tolist()))
        np.testing.assert_array_equal(rows[status == WARM], rows_of(ids)[status == WARM])
        held.table.insert(ids[left], rows_of(ids[left]))
        for identifier in ids[left].tolist():
            model.insert(identifier)
        if random.random() < 0.02:  # as updates do
            gone = ids[:2]
            held.table.delete(gone)
            model.ways = [
                [None if row is None or row.identifier in gone.tolist() else row for row in ways] for ways in model.ways
            ]
        expected = {row.identifier: int(MAIN) * row.main + row.hits for row in model.rows()}
        assert use_by_id(held) == expected
    held.table.check()
    assert held.table.stats().evicted > 1000


@pytest.mark.parametrize("factor", [0.4, 2.5])
def test_what_is_noted_of_rows_goes_with_them_to_another_region(factor: float) -> None:
    tables, held = new_table(3000)
    slots = held.table.region.slots
    random = np.random.default_rng(3)
    for _ in range(40):
        ids = np.unique((random.zipf(1.2, 1000) % (3 * slots)).astype(np.uint64))
        held.table.insert(ids, rows_of(ids))
        held.table.count_use(random.integers(0, slots, 300, np.uint64))
    held.table.check()
    before = use_by_id(held)
    assert set(before.values()) >= {0, 1, 2, 4, 5}
    with tables.resizing(1, int(held.table.region.size * factor)) as (old, new):
        for first_set in range(0, old.region.sets, 50):
            new.take_over(old, first_set, 50)
    moved = tables.get(1)
    assert moved is not None
    moved.table.check()
    after = use_by_id(moved)
    if factor > 1:
        assert after == before
    else:  # those in use stay rather than the others
        assert set(after) <= set(before)
        kept = np.array([identifier in after for identifier in before])
        use = np.array(list(before.values()))
        assert kept[use > MAIN].mean() > 1.5 * kept[use == MAIN].mean()


def test_an_id_that_left_a_short_while_ago_comes_back_to_stay() -> None:
    _, held = new_table(500)
    slots = held.table.region.slots
    ids = np.arange(2 * slots, dtype=np.uint64)
    held.table.insert(ids, rows_of(ids))
    gone = np.setdiff1d(ids, np.array(list(use_by_id(held)), np.uint64))
    assert gone.size > slots // 2
    held.table.insert(gone[-50:], rows_of(gone[-50:]))
    never = np.arange(10**6, 10**6 + 50, dtype=np.uint64)
    held.table.insert(never, rows_of(never))
    use = use_by_id(held)
    assert all(use[identifier] == MAIN for identifier in gone[-50:].tolist() if identifier in use)
    assert all(use[identifier] == 0 for identifier in never.tolist() if identifier in use)


def test_rows_are_in_use_as_they_are_said_to_be() -> None:
    _, held = new_table(500)
    ids = np.arange(400, dtype=np.uint64)
    held.table.insert(ids, rows_of(ids))
    use = (np.arange(500) % 8).astype(np.uint8)
    held.table.set_use(np.arange(500, dtype=np.uint64), use)
    assert use_by_id(held) == dict(enumerate(use[:400].tolist()))
    held.table.check()
    held.table.set_use(ids, np.zeros(400, np.uint8))
    assert not any(use_by_id(held).values())
    held.table.check()


def test_the_audit_finds_a_small_queue_that_is_miscounted_and_use_of_empty_ways() -> None:
    _, held = new_table(500)
    held.table._noted[0, 0] = MAIN
    with pytest.raises(AssertionError, match="1 use noted for empty ways"):
        held.table.check()
    held.table._noted[0, 0] = 0
    held.table.insert(np.arange(9, dtype=np.uint64), rows_of(np.arange(9, dtype=np.uint64)))
    held.table._noted[np.nonzero(held.table._noted.any(axis=1))[0], :7] |= MAIN
    with pytest.raises(AssertionError, match="counted in the small queue"):
        held.table.check()


def test_readers_tell_all_hits_while_the_owner_hears_them_and_few_when_it_does_not() -> None:
    tables, held = new_table(5000)
    ids = np.arange(2048, dtype=np.uint64)
    held.table.insert(ids, rows_of(ids))
    reader = Reader(tables.arena)
    for _ in range(3):
        reader.lookup(held, ids)
    told = reader.ring.drain()
    assert told.size == 3 * ids.size
    assert (np.unique(slots_of(told), return_counts=True)[1] == 3).all()
    assert not is_sampled(told).any()
    calls = 3 * WORDS // ids.size
    for tick in range(calls):
        reader.lookup(held, ids, tick)
    told = reader.ring.drain()
    assert 0 <= told.size - WORDS // 2 + ids.size < ids.size + calls * ids.size // SAMPLE
    assert told.size + (SAMPLE - 1) * is_sampled(told).sum() == pytest.approx(calls * ids.size, rel=0.01)
    reader.lookup(held, ids)
    assert reader.ring.drain().size == ids.size  # it has heard them, so all count again
