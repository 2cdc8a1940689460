"""Looking for some of a query's ids only, those that another tier has left, and taking what another tier has found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embcache.host import probe
from embcache.host.arena import Arena
from embcache.host.jit import JIT_ENABLED
from embcache.host.memory import address_of
from embcache.host.segment import COLD, HOT, LEFT, MISSING, WARM
from embcache.host.tables import Held, HostTables
from tests.host.reader import Asked, Reader, entries_of, slots_of
from tests.host.test_table import random_ids, rows_of

EE = 0xEE


class Filled:
    """A table so full that many rows stand in their second sets, with absent marks, and a dict of what is in it."""

    def __init__(self, tables: HostTables, version: int, row_bytes: int) -> None:
        self.version = version
        self.row_bytes = row_bytes
        self.held: Held = tables.add(version, row_bytes, 1 << 15)
        ids = random_ids(max(60, self.held.table.region.slots * 19 // 20), seed=version)
        self.inside, self.marked, self.unknown = ids[5:], ids[:2], ids[2:5] + np.uint64(1)
        self.held.table.insert(self.inside, rows_of(self.inside, row_bytes, salt=version))
        self.held.table.mark_absent(self.marked)
        _, there = self.held.table.read(self.inside)
        self.inside = self.inside[there]

    def ask(self, random: np.random.Generator, count: int, share: float) -> Asked:
        """A query of `count` ids of all kinds, some more than once; it lists a share of its places, in any order."""
        others = np.concatenate([self.marked, self.unknown])
        ids = np.where(random.random(count) < 0.6, random.choice(self.inside, count), random.choice(others, count))
        listed = random.permutation(count)[: int(count * share)]
        return Asked(self.held.entry, self.held.version, self.row_bytes, ids, listed)

    def assert_answered(self, asked: Asked, listed: NDArray[np.integer[Any]]) -> None:
        """That of the places listed those are left whose ids nobody knows, and the others have rows; no place else."""
        known = np.isin(asked.ids[listed], self.inside)
        absent = np.isin(asked.ids[listed], self.marked)
        np.testing.assert_array_equal(asked.left, listed[~known & ~absent])
        found, gone = listed[known], listed[absent]
        np.testing.assert_array_equal(asked.rows[found], rows_of(asked.ids[found], self.row_bytes, salt=self.version))
        assert (asked.status[found] == WARM).all()
        assert (asked.rows[gone] == asked.default).all()
        assert (asked.status[gone] == MISSING).all()
        others = np.setdiff1d(np.arange(asked.ids.size), listed)
        assert (asked.rows[others] == EE).all()
        assert (asked.status[others] == EE).all()


def new_tables() -> HostTables:
    return HostTables(Arena.create(1 << 22))


@pytest.mark.parametrize("row_bytes", [12, 64, 128, 256, 512])
def test_only_the_ids_that_are_listed_are_looked_for(row_bytes: int) -> None:
    tables, random = new_tables(), np.random.default_rng(row_bytes)
    filled = Filled(tables, 3, row_bytes)
    reader = Reader(tables.arena)
    for count, share in ((1, 1.0), (7, 0.5), (40, 0.9), (150, 0.0), (150, 0.3), (150, 1.0)):
        asked = filled.ask(random, count, share)
        listed = asked.left.copy()
        left = reader.probe_listed([asked])
        filled.assert_answered(asked, listed)
        assert left == asked.left.size


def test_all_segments_of_a_lookup_are_looked_through_but_those_with_nothing_left() -> None:
    tables, random = new_tables(), np.random.default_rng(1)
    filled = [Filled(tables, version, row_bytes) for version, row_bytes in ((1, 64), (2, 256), (5, 20))]
    asked = [each.ask(random, 90, share) for each, share in zip(filled, (0.4, 0.0, 1.0), strict=True)]
    asked[1].segment[:LEFT] = -1 << 40  # whoever reads memory by this ends
    listed = [each.left.copy() for each in asked]
    left = Reader(tables.arena).probe_listed(asked)
    for index in (0, 2):
        filled[index].assert_answered(asked[index], listed[index])
    assert (asked[1].segment == [-1 << 40] * 9 + [0, 0]).all()
    assert left == sum(each.left.size for each in asked) > 0


def test_nothing_at_all_is_no_work() -> None:
    assert Reader(new_tables().arena).probe_listed([]) == 0


def test_a_version_that_is_gone_leaves_the_list_as_it_was() -> None:
    tables, random = new_tables(), np.random.default_rng(2)
    filled = Filled(tables, 1, 64)
    asked = filled.ask(random, 60, 0.5)
    listed = asked.left.copy()
    tables.remove(1)
    again = Filled(tables, 2, 64)
    assert again.held.entry == filled.held.entry
    assert Reader(tables.arena).probe_listed([asked]) == listed.size
    np.testing.assert_array_equal(asked.left, listed)
    assert (asked.status == EE).all()


def test_hits_are_reported_as_used() -> None:
    tables = new_tables()
    filled = Filled(tables, 1, 64)
    ids = filled.inside[:50]
    reader = Reader(tables.arena)
    reader.probe_listed([Asked(filled.held.entry, 1, 64, ids, np.arange(0, 50, 2))])
    told = reader.ring.drain()
    assert (entries_of(told) == filled.held.entry).all()
    assert np.unique(slots_of(told)).size == 25


def test_what_another_tier_has_found_is_taken_and_the_others_are_left() -> None:
    random = np.random.default_rng(3)
    for row_bytes in (4, 24, 64, 136):
        for share in (0.0, 0.5, 1.0):
            ids = random_ids(120)
            listed = random.permutation(ids.size)[: int(ids.size * 0.8)].astype(np.int32)
            asked = Asked(0, 1, row_bytes, ids, listed)
            rows = rows_of(ids[listed], row_bytes)
            found = (random.random(listed.size) < share).astype(np.uint8) * np.uint8(3)
            left = probe.settle_found(asked.segment, address_of(rows), found, HOT)
            taken = listed[found != 0]
            assert left == listed.size - taken.size
            np.testing.assert_array_equal(asked.left, listed[found == 0])
            np.testing.assert_array_equal(asked.rows[taken], rows[found != 0])
            assert (asked.status[taken] == HOT).all()
            others = np.setdiff1d(np.arange(ids.size), taken)
            assert (asked.rows[others] == EE).all()
            assert (asked.status[others] == EE).all()


@pytest.mark.parametrize("hot_first", [True, False])
def test_tiers_one_after_the_other_answer_every_id(hot_first: bool) -> None:
    tables, random = new_tables(), np.random.default_rng(4)
    filled = Filled(tables, 1, 64)
    reader = Reader(tables.arena)
    asked = filled.ask(random, 150, 1.0)
    in_hot = np.isin(asked.ids, random.choice(np.unique(asked.ids), 60, replace=False))

    def ask_hot() -> None:
        listed = asked.left
        rows = rows_of(asked.ids[listed], 64, salt=1)
        probe.settle_found(asked.segment, address_of(rows), in_hot[listed].astype(np.uint8), HOT)

    steps: list[Callable[[], object]] = [ask_hot, lambda: reader.probe_listed([asked])]
    for step in steps if hot_first else reversed(steps):
        step()
    cold = rows_of(asked.ids[asked.left], 64, salt=1)
    probe.settle_misses(asked.segment, address_of(cold), np.ones(asked.left.size, np.uint8))
    in_warm, marked = np.isin(asked.ids, filled.inside), np.isin(asked.ids, filled.marked)
    by_host = np.where(in_warm, WARM, np.where(marked, MISSING, COLD))
    wanted = np.where(in_hot & (hot_first | (by_host == COLD)), HOT, by_host)
    np.testing.assert_array_equal(asked.status, wanted)
    has_row = wanted != MISSING
    np.testing.assert_array_equal(asked.rows[has_row], rows_of(asked.ids[has_row], 64, salt=1))
    assert (asked.rows[~has_row] == asked.default).all()


@contextmanager
def between_sweep_and_proof(
    monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None], turn: int = 2
) -> Iterator[None]:
    """Have something happen after so many sweeps through listed ids, in kernels that run as plain Python."""
    sweep = vars(probe)["sweep_listed"]
    turns = []

    def swept(*arguments: Any) -> Any:
        left = sweep(*arguments)
        turns.append(left)
        if len(turns) == turn:
            happens()
        return left

    with monkeypatch.context() as patched:
        patched.setattr(probe, "sweep_listed", swept)
        yield
    assert len(turns) >= turn


@pytest.mark.skipif(JIT_ENABLED, reason="steps into a kernel: test_without_jit.py runs it")
def test_a_region_that_is_replaced_meanwhile_is_looked_through_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    tables, random = new_tables(), np.random.default_rng(5)
    filled = Filled(tables, 1, 64)
    asked = filled.ask(random, 80, 0.7)
    listed = asked.left.copy()

    def replace() -> None:
        with tables.resizing(1, 1 << 16) as (old, new):
            new.take_over(old, 0, old.region.sets)
        tables.arena.bytes[filled.held.table.region.begin :][: 1 << 15] = 0

    with between_sweep_and_proof(monkeypatch, replace):
        left = Reader(tables.arena).probe_listed([asked])
    filled.marked = filled.marked[:0]  # marks do not come along
    assert 0 < left == np.count_nonzero(~np.isin(asked.ids[listed], filled.inside))
    asked.left.sort()
    now = tables.get(1)
    assert now is not None
    _, there = now.table.read(filled.inside)
    assert there.all()
    filled.assert_answered(asked, np.sort(listed))


@pytest.mark.skipif(JIT_ENABLED, reason="steps into a kernel: test_without_jit.py runs it")
def test_a_region_that_another_version_takes_meanwhile_leaves_the_list_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    tables, random = new_tables(), np.random.default_rng(6)
    filled = Filled(tables, 1, 64)
    asked = filled.ask(random, 80, 0.7)
    listed = asked.left.copy()

    def drop() -> None:
        tables.remove(1)
        assert tables.add(2, 64, 1 << 15).entry == filled.held.entry

    with between_sweep_and_proof(monkeypatch, drop):
        assert Reader(tables.arena).probe_listed([asked]) == listed.size
    np.testing.assert_array_equal(np.sort(asked.left), np.sort(listed))
    others = np.setdiff1d(np.arange(asked.ids.size), listed)
    assert (asked.status[others] == EE).all()
