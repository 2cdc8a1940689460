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
from embcache.host.curve import Curve
from embcache.host.tables import FILL, NoRoomError, bytes_within
from embcache.owner import payoffs
from embcache.owner.gains import KEPT, STEP, WORTH, Payoff, by_gain, missed, next_step, settled
from embcache.owner.memory import Memory
from embcache.owner.payoffs import Payoffs
from embcache.owner.shares import FILLED, Want, moves, shares
from embcache.spec import TableSpec
from tests.host.test_curve import missed_by_lru
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


scattered = st.lists(st.integers(0, 100), min_size=4, max_size=4).map(
    lambda falls: falling(float(sum(falls)), *(float(sum(falls) - each) for each in itertools.accumulate(falls)))
)


def convex_below(curve: Payoff, nbytes: float) -> float:
    """The curve taken convex from below, by its meaning: the lowest of all chords over a point."""
    chords = [
        one + (other - one) * (nbytes - begin) / (end - begin)
        for (begin, one), (end, other) in itertools.product(zip(curve.nbytes, curve.missed, strict=True), repeat=2)
        if begin <= nbytes <= end and begin < end
    ]
    return float(min(chords))


def from_there_on(curve: Payoff, begin: int) -> Payoff:
    """A curve without what is below a share that its table keeps."""
    beyond = curve.nbytes > begin
    return Payoff(np.append(begin, curve.nbytes[beyond]), np.append(curve.at(begin), curve.missed[beyond]))


@given(curves=st.lists(scattered, min_size=1, max_size=3), capacity=st.integers(4, 140))
def test_curves_that_are_not_convex_are_divided_by_as_if_they_were(curves: list[Payoff], capacity: int) -> None:
    """So that memory goes to a table which gains nothing by a little of it, and much by more."""
    wants = {version: Want(40, 0) for version in range(len(curves))}
    best = by_gain(wants, dict(enumerate(curves)), capacity)
    room = int(capacity * FILLED)
    kept = {version: int(share * KEPT) for version, share in shares(wants, capacity).items()}

    left = [from_there_on(curve, kept[version]) for version, curve in enumerate(curves)]

    def total(sizes: Mapping[int, int]) -> float:
        return sum(convex_below(curve, sizes[version]) for version, curve in enumerate(left))

    for division in itertools.product(range(0, 41, 10), repeat=len(curves)):
        sizes = {version: max(size, kept[version]) for version, size in enumerate(division)}
        if sum(sizes.values()) <= room:
            assert total(best) <= total(sizes) + 1e-6


@given(curves=st.lists(scattered, min_size=2, max_size=3), data=st.data())
def test_steps_stay_within_bounds_and_come_to_an_end(curves: list[Payoff], data: st.DataObject) -> None:
    known = {version: Payoff(curve.nbytes * 1000, curve.missed) for version, curve in enumerate(curves)}
    wants, capacity = {version: Want(40_000, 100) for version in known}, 50_000
    sizes = {version: data.draw(st.integers(100, int(capacity * FILLED) // len(known))) for version in known}
    for _ in range(60):
        goals = next_step(sizes, wants, known, capacity)
        if goals is None:
            break
        best = by_gain(wants, known, capacity)
        assert missed(best, known) <= (1 - WORTH) * missed(sizes, known) + 1e-6
        assert sum(goals.values()) <= capacity * FILLED
        for version, goal in goals.items():
            assert sizes[version] / STEP - 1 <= goal <= sizes[version] * STEP
            assert min(sizes[version], best[version]) - 1 <= goal <= max(sizes[version], best[version])
        sizes = goals
    else:
        raise AssertionError("shares are changed for ever")


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


def test_what_is_told_is_what_lru_caches_of_so_many_rows_miss(loop: asyncio.Runner) -> None:
    memory = new_memory(dict.fromkeys(range(1, 25), MANY))
    looks, region = Payoffs(memory, move=False), memory.region(1)
    looks.look()
    assert region is not None
    assert looks.told(1) is None, "nothing was asked for"
    region.curve = memory.curves[1] = Curve(2000, most=1)
    ids = (np.random.default_rng(2).zipf(1.05, 40_000) % 4000).astype(np.uint64)
    region.curve.missed(ids)
    told = looks.told(1)
    assert told is not None
    assert told["accesses"] == ids.size
    assert told["bytes"] == region.region.size
    assert told["bytes"] < 1500 * ROW
    curve = np.array(told["curve"])
    assert 20 <= len(curve) <= 24
    assert (np.diff(curve[:, 0]) > 0).all()
    assert (np.diff(curve[:, 1]) <= 0).all()
    assert tuple(curve[0]) == (0, 1)
    assert curve[-1, 1] == pytest.approx(np.unique(ids).size / ids.size, rel=0.1)
    for nbytes, part in [*told["curve"][1:], (told["bytes"], told["now"]), (2 * told["bytes"], told["if_doubled"])]:
        rows = round(nbytes * region.region.slots * FILL / region.region.size)  # that find a place in so many bytes
        if rows <= 4000:  # as many as a curve of all ids can tell
            assert part == pytest.approx(missed_by_lru(ids, rows).size / ids.size, abs=0.01)


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


def test_a_fixed_share_is_had_where_there_is_room_for_more(loop: asyncio.Runner) -> None:
    fixed: dict[int, int] = {}
    memory = new_memory({1: 10_000, 2: 3000, 3: 3000}, fixed)
    before = sizes_of(memory)
    fixed |= {1: 1 << 20, 2: before[2] * 11 // 10}
    assert sum(before.values()) < CAPACITY * FILLED
    for version in before:
        memory.expect(version, 10_000)
    loop.run(divided(memory))
    assert sizes_of(memory) == {v: bytes_within(ROW, nbytes) for v, nbytes in fixed.items()} | {3: before[3]}
    memory.add(4, ROW, 0)
    loop.run(divided(memory))
    assert not moves(sizes_of(memory), memory._shares(memory.wants), CAPACITY, exact={1, 2}), "it stays as it is"


def test_a_fixed_share_fills_and_stays_fixed(loop: asyncio.Runner) -> None:
    fixed: dict[int, int] = {}
    memory = new_memory({1: 0}, fixed)
    fixed[1] = 1 << 19
    for _ in range(3):
        region, ids = memory.region(1), some_ids(10_000)
        assert region is not None
        region.insert(ids, np.zeros((ids.size, ROW), np.uint8))
        memory.expect(1, ids.size)
        assert memory.wants[1].is_fixed
        loop.run(divided(memory))
        assert sizes_of(memory)[1] == bytes_within(ROW, 1 << 19)


def test_a_version_that_is_to_go_live_has_the_fixed_share_before(loop: asyncio.Runner) -> None:
    fixed = {1: 2 << 20}
    memory = new_memory({1: 20_000, 2: 0}, fixed)
    memory.want(2, 20_000, before=1)
    loop.run(divided(memory))
    assert sizes_of(memory) == dict.fromkeys((1, 2), bytes_within(ROW, 2 << 20))


def test_a_fixed_share_that_has_no_room_twice_is_had_after_the_switch(loop: asyncio.Runner) -> None:
    fixed = {1: 5 << 20}
    memory = new_memory({1: 40_000, 2: 0}, fixed)
    memory.want(2, 40_000, before=1)
    loop.run(divided(memory))
    assert not memory.wants[2].is_fixed
    assert sizes_of(memory)[1] == bytes_within(ROW, 5 << 20)
    fixed[2] = fixed.pop(1)
    for version, rows in ((2, 40_000), (1, 0)):
        memory.want(version, rows)
    loop.run(divided(memory))
    assert sizes_of(memory)[2] == bytes_within(ROW, 5 << 20)
    assert sum(sizes_of(memory).values()) <= CAPACITY


def test_a_version_of_wide_rows_that_nobody_fixed_grows(loop: asyncio.Runner) -> None:
    wide = 64 << 10  # of which the smallest region takes more than an empty version wants
    memory = Memory(Arena.create(CAPACITY), huge_pages=False)
    memory.add(1, wide, 0)
    region, ids = memory.region(1), some_ids(50)
    assert region is not None
    region.insert(ids, np.zeros((ids.size, wide), np.uint8))
    memory.expect(1, ids.size)
    loop.run(divided(memory))
    assert sizes_of(memory)[1] > region.region.size


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
    ids, share = some_ids(2 * support.CAPACITY // ROW), 2 << 20
    settings = Warm(capacity=support.CAPACITY, fixed=("wide=2MiB",))
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


def test_a_table_that_an_import_makes_has_its_fixed_share_from_the_first(tmp_path: Path, store: WatchedStore) -> None:
    ids = some_ids(6000)  # that all fit
    settings = Warm(capacity=support.CAPACITY, fixed=("wide=512KiB",))
    with OwnerThread(store, tmp_path, warm=settings) as owner:
        link, spec = owner.link(), TableSpec(name="wide", dim=64)
        fill(link, "wide", ids, rows_of(ids, ROW), spec)
        memory, number = owner.owner.parts.memory, catalogue(link)["wide"].number
        assert sizes_of(memory)[number] == bytes_within(ROW, 512 << 10)
        assert memory.wants[number].is_fixed


def test_a_table_whose_fixed_share_has_no_room_is_refused(tmp_path: Path, store: WatchedStore) -> None:
    settings = Warm(capacity=support.CAPACITY, fixed=(f"wide={support.CAPACITY}",))
    with OwnerThread(store, tmp_path, [TableSpec(name="other", dim=64)], warm=settings) as owner:
        link = owner.link()
        with pytest.raises(TooLarge, match=r"of them as warm\.fixed has it, and has .*: raise warm\.capacity"):
            link.call("create", {"spec": TableSpec(name="wide", dim=64).to_json()}).result(WAIT)
        assert catalogue(link).keys() == {"other"}


def test_settings_that_name_a_table_which_is_not_there_are_warned_of(
    tmp_path: Path, store: WatchedStore, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Warm(capacity=support.CAPACITY, fixed=("wied=1MiB", "wide=1MiB"))
    with OwnerThread(store, tmp_path, [TableSpec(name="wide", dim=64)], warm=settings) as owner:
        assert [each.getMessage() for each in caplog.records if "warm.fixed" in each.getMessage()] == [
            "warm.fixed names table 'wied', which is not there (the nearest name is 'wide'); "
            "it counts once that is created"
        ]
        ids, link = some_ids(2 * support.CAPACITY // ROW), owner.link()
        fill(link, "wide", ids, rows_of(ids, ROW))
        link.call("create", {"spec": TableSpec(name="wied", dim=64).to_json()}).result(WAIT)
        made = catalogue(link)["wied"].number
        memory = owner.owner.parts.memory
        assert owner.when(lambda: memory.fixed(made) == 1 << 20 and memory.wants[made].is_fixed)


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
