"""Shares of memory that follow what is asked for: the arithmetic, and an owner's memory that is divided by it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embcache.config import Warm
from embcache.errors import TooLarge
from embcache.host.arena import Arena
from embcache.host.tables import NoRoomError
from embcache.owner import payoffs
from embcache.owner.gains import KEPT, STEP, WORTH, Payoff, by_gain, missed, next_step, settled
from embcache.owner.memory import Memory
from embcache.owner.payoffs import Payoffs
from embcache.owner.shares import FILLED, Want, shares
from embcache.spec import TableSpec
from tests.owner import support
from tests.owner.stores import WatchedStore
from tests.owner.support import WAIT, OwnerThread, catalogue, fill, read, rows_of, some_ids
from tests.owner.versioning import fill_version, switch

CAPACITY = 8 << 20
ROW = 256
MANY = 40_000  # rows: more than fit


def falling(total: float, *missed_at: float) -> Payoff:
    """Misses at steps of 10 bytes."""
    return Payoff(np.arange(len(missed_at) + 1, dtype=np.float64) * 10, np.array([total, *missed_at], np.float64))


convex = st.lists(st.integers(0, 100), min_size=4, max_size=4).map(
    lambda falls: falling(
        float(sum(falls)), *(float(sum(falls) - each) for each in itertools.accumulate(sorted(falls, reverse=True)))
    )
)


@given(curves=st.lists(convex, min_size=1, max_size=3), capacity=st.integers(4, 140))
def test_no_other_division_misses_less(curves: list[Payoff], capacity: int) -> None:
    wants = {version: Want(40, 0) for version in range(len(curves))}
    known = dict(enumerate(curves))
    best = by_gain(wants, known, capacity)
    room = int(capacity * FILLED)
    assert sum(best.values()) <= room
    assert all(0 <= share <= 40 for share in best.values())
    kept = {version: int(share * KEPT) for version, share in shares(wants, capacity).items()}
    for division in itertools.product(range(0, 41, 10), repeat=len(curves)):
        sizes = {version: max(size, kept[version]) for version, size in enumerate(division)}
        if sum(sizes.values()) <= room:
            assert missed(best, known) <= missed(sizes, known) + 1e-6


@given(
    pairs=st.dictionaries(st.integers(0, 5), st.tuples(st.integers(0, 50), st.integers(0, 300)), min_size=1),
    goals=st.dictionaries(st.integers(0, 5), st.integers(0, 400)),
    more=st.integers(0, 1000),
    curve=convex,
)
def test_what_is_given_stays_within_the_capacity_and_nobody_goes_without(
    pairs: dict[int, tuple[int, int]], goals: dict[int, int], more: int, curve: Payoff
) -> None:
    wants = {version: Want(least + further, least) for version, (least, further) in pairs.items()}
    capacity = int(sum(want.least for want in wants.values()) / FILLED) + 1 + more
    for given_bytes in (
        by_gain(wants, dict.fromkeys(list(wants)[::2], curve), capacity),
        settled(wants, goals, capacity),
    ):
        assert given_bytes.keys() == wants.keys()
        assert all(want.least <= given_bytes[v] <= want.most for v, want in wants.items())
        assert sum(given_bytes.values()) <= capacity


def test_a_division_changes_by_steps_and_only_where_that_is_worth_it() -> None:
    wants = {1: Want(1000, 1), 2: Want(1000, 1), 3: Want(1000, 1)}
    steep = Payoff(np.array([0.0, 1000.0]), np.array([1000.0, 0.0]))
    flat = Payoff(np.array([0.0, 1000.0]), np.array([10.0, 0.0]))
    sizes = {1: 300, 2: 300, 3: 300}
    goals = next_step(sizes, wants, {1: steep, 2: flat, 3: flat}, 930)
    assert goals is not None
    assert goals[2] == goals[3] == int(300 / STEP)
    assert 300 < goals[1] <= 300 * STEP
    assert sum(goals.values()) <= 930 * FILLED
    assert next_step(sizes, wants, {1: steep, 2: steep, 3: steep}, 930) is None
    nearly = Payoff(np.array([0.0, 1000.0]), np.array([1000.0, 1000.0 * (1 - WORTH)]))
    assert next_step(sizes, wants, {1: nearly, 2: flat, 3: flat}, 930) is None


def test_without_goals_shares_are_fair() -> None:
    wants = {1: Want(100, 1), 2: Want(5000, 1), 3: Want(7000, 1)}
    assert settled(wants, {}, 4000) == shares(wants, 4000)


# --- an owner's memory -------------------------------------------------------------------------------------------


@pytest.fixture
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def new_memory(rows: Mapping[int, int], fixed: Mapping[int, int] | None = None) -> Memory:
    memory = Memory(Arena.create(CAPACITY), huge_pages=False)
    if fixed is not None:
        memory.fixed = fixed.get
    memory.fill({version: (ROW, count) for version, count in rows.items()})
    return memory


def sizes_of(memory: Memory) -> dict[int, int]:
    return {held.version: held.table.region.size for held in memory.tables}


def ask(memory: Memory, version: int, ids: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> None:
    """As readers and cold reads do: what is there is hit, the others are put in."""
    region = memory.region(version)
    assert region is not None
    _, found = region.read(ids)
    assert region.curve is not None
    region.curve.missed(ids[found])  # a hit is an access like another
    region.insert(ids[~found], np.zeros((int((~found).sum()), ROW), np.uint8))


async def divided(memory: Memory) -> None:
    watching = asyncio.create_task(memory.watch())
    await memory.settled()
    watching.cancel()


def looked(memory: Memory, looks: Payoffs, loop: asyncio.Runner, times: int = 12) -> int:
    """Version 1 is asked for all over, version 2 for few ids; -> how often rows were moved."""
    random, moved = np.random.default_rng(1), 0
    looks.look()
    for _ in range(times):
        for _ in range(20):
            ask(memory, 1, np.unique(random.integers(0, MANY, 2000).astype(np.uint64)))
            ask(memory, 2, np.unique(random.integers(0, 500, 200).astype(np.uint64)))
        if looks.look():
            moved += 1
            loop.run(divided(memory))
        memory.check()
        assert sum(sizes_of(memory).values()) <= CAPACITY
    return moved


def test_memory_goes_where_it_pays_and_then_stays(loop: asyncio.Runner) -> None:
    memory = new_memory({1: MANY, 2: MANY})
    before = sizes_of(memory)
    looks = Payoffs(memory, move=True)
    moved = looked(memory, looks, loop)
    after = sizes_of(memory)
    assert 1 <= moved <= 6
    assert after[1] > 1.5 * before[1]
    assert after[2] < 0.5 * before[2]
    assert looked(memory, looks, loop, times=3) == 0
    assert sizes_of(memory) == after
    told = looks.told(1)
    assert told is not None
    assert told["bytes"] == after[1]
    assert 1 >= told["now"] > told["if_doubled"] >= 0
    assert [part for _, part in told["curve"]] == sorted((part for _, part in told["curve"]), reverse=True)


def test_shares_stay_equal_if_that_is_asked(loop: asyncio.Runner) -> None:
    memory = new_memory({1: MANY, 2: MANY})
    looks = Payoffs(memory, move=False)
    before = sizes_of(memory)
    assert looked(memory, looks, loop, times=3) == 0
    assert sizes_of(memory) == before
    assert looks.told(1) is not None


def test_a_fixed_share_is_had_and_kept(loop: asyncio.Runner) -> None:
    fixed = {2: 3 << 20}
    memory = new_memory({1: MANY, 2: MANY, 3: MANY}, fixed)
    assert sizes_of(memory)[2] == pytest.approx(3 << 20, rel=0.01)
    looked(memory, Payoffs(memory, move=True), loop, times=6)
    assert sizes_of(memory)[2] == pytest.approx(3 << 20, rel=0.01)
    memory.expect(2, 10 * MANY)
    memory.add(4, ROW, MANY)
    loop.run(divided(memory))
    assert sizes_of(memory)[2] == pytest.approx(3 << 20, rel=0.01)
    assert sum(sizes_of(memory).values()) <= CAPACITY


def test_a_share_becomes_fixed_when_its_version_goes_live(loop: asyncio.Runner) -> None:
    fixed: dict[int, int] = {}
    memory = new_memory({1: MANY, 2: MANY}, fixed)
    fixed[2] = 1 << 20
    memory.expect(2, MANY)
    loop.run(divided(memory))
    assert sizes_of(memory)[2] == pytest.approx(1 << 20, rel=0.01)
    del fixed[2]
    memory.want(2, MANY)
    loop.run(divided(memory))
    assert sizes_of(memory)[2] > 3 << 20


def test_a_new_version_takes_over_what_is_known_of_the_one_before(loop: asyncio.Runner) -> None:
    memory = new_memory({1: MANY, 2: MANY})
    looks = Payoffs(memory, move=True)
    looked(memory, looks, loop)
    before = sizes_of(memory)
    memory.add(3, ROW, MANY, replaced=1)
    memory.remove(1)
    loop.run(divided(memory))
    assert sizes_of(memory)[3] == pytest.approx(before[1], rel=0.05)
    assert sizes_of(memory)[2] == pytest.approx(before[2], rel=0.05)
    assert looks.told(3) is not None
    assert looks.told(1) is None


def test_a_version_that_finds_no_place_leaves_nothing_behind(
    loop: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = new_memory({1: MANY, 2: MANY})
    looks = Payoffs(memory, move=True)
    looked(memory, looks, loop, times=2)

    def no_room(*_: object) -> None:
        raise NoRoomError("the arena is full")

    with monkeypatch.context() as patched:
        patched.setattr(memory.tables, "add", no_room)
        with pytest.raises(TooLarge, match="the arena is full"):
            memory.add(3, ROW, MANY, replaced=1)
    assert memory.curves.keys() == memory.wants.keys() == {1, 2}
    assert looked(memory, looks, loop, times=2) >= 0


def test_nothing_is_followed_while_all_rows_fit(loop: asyncio.Runner) -> None:
    memory = new_memory({1: MANY, 2: MANY})
    looks = Payoffs(memory, move=True)
    looked(memory, looks, loop)
    memory.remove(2)
    memory.want(1, 1000)
    looks.look()
    assert memory.curves == {}
    assert looks.told(1) is None
    region = memory.region(1)
    assert region is not None
    assert region.curve is None
    memory.add(5, ROW, 1000)
    loop.run(divided(memory))
    memory.check()


async def test_an_owner_looks_for_as_long_as_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payoffs, "EVERY_S", 0.001)
    memory = new_memory({1: MANY, 2: MANY})
    looks = Payoffs(memory, move=True)
    told = iter([True])
    original = memory.follow

    def follow() -> None:
        if next(told, False):
            raise ValueError("once")
        original()

    monkeypatch.setattr(memory, "follow", follow)
    watching = asyncio.create_task(looks.watch())
    async with asyncio.timeout(30):
        while not memory.curves:
            await asyncio.sleep(0.001)
    watching.cancel()


# --- an owner ----------------------------------------------------------------------------------------------------


def test_a_declared_share_is_that_of_the_live_version_through_imports_and_switches(
    tmp_path: Path, store: WatchedStore
) -> None:
    ids, share = some_ids(2 * support.CAPACITY // ROW), 1 << 20
    settings = Warm(capacity=support.CAPACITY, fixed=("wide=1MiB",))
    wide, other = (TableSpec(name=name, dim=64) for name in ("wide", "other"))
    with OwnerThread(store, tmp_path, [wide, other], warm=settings) as owner:
        link = owner.link()

        def size(number: int) -> int:
            held = owner.owner.parts.memory.tables.get(number)
            return 0 if held is None else held.table.region.size

        def is_fixed(table: str) -> bool:
            number = catalogue(link)[table].number
            return owner.when(lambda: 0.98 * share < size(number) <= share)

        for table in ("wide", "other"):
            fill(link, table, ids, rows_of(ids, ROW))
        assert is_fixed("wide"), "the import's version has it"
        large = catalogue(link)["other"].number
        assert owner.when(lambda: size(large) > 0.9 * (FILLED * support.CAPACITY - share))
        fill_version(link, "blue", ids, rows_of(ids, ROW), "wide")
        before = catalogue(link)["wide"].number
        switch(link, wide="blue")
        assert catalogue(link)["wide"].number != before
        assert is_fixed("wide"), "the version that went live has it"
        assert owner.when(lambda: size(before) < share)


def test_misses_are_told_of_tables_that_want_memory(tmp_path: Path, store: WatchedStore) -> None:
    ids = some_ids(2 * support.CAPACITY // ROW)
    with OwnerThread(store, tmp_path, [TableSpec(name="wide", dim=64)]) as owner:
        link = owner.link()
        fill(link, "wide", ids, rows_of(ids, ROW))
        live = catalogue(link)["wide"]

        async def look() -> bool:
            return owner.owner._payoffs.look()

        def misses() -> Any:
            [table] = link.call("stats").result(WAIT).meta["tables"]
            return table["misses"]

        assert misses() is None
        owner.run(look())
        for _ in range(2):
            read(link, live, ids)  # all of them are missed, whether they are in memory or not
        told = misses()
        assert told["accesses"] == 2 * ids.size
        assert told["curve"][0] == [0, pytest.approx(1, abs=0.1)]
        assert told["curve"][-1][1] == pytest.approx(0.5, abs=0.1)
        assert told["now"] == pytest.approx(1, abs=0.1)
        assert told["now"] >= told["if_doubled"] > 0.4
