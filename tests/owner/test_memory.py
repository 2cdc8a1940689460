"""The arena divided among versions: shares, moves under lookups, and use that readers report."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embcache.errors import TooLarge
from embcache.host.arena import Arena
from embcache.host.ring import UseRing
from embcache.host.segment import WARM
from embcache.host.tables import least_bytes
from embcache.local.link import Link
from embcache.owner import memory, tables
from embcache.owner.shares import FILLED, Want, moves, shares
from embcache.spec import TableSpec
from embcache_client.updates import ASSIGN
from tests.host.reader import Reader
from tests.owner.stores import WatchedStore
from tests.owner.support import CAPACITY, ITEM, WAIT, Live, OwnerThread, catalogue, fill, read, rows_of, some_ids
from tests.owner.test_updates import Pusher

WIDE = TableSpec(name="wide", dim=64)
OTHER = TableSpec(name="other", dim=64)
# About as many rows of 256 bytes as fill the arena.
MANY = some_ids(CAPACITY // 256, seed=3)


@given(wants=st.dictionaries(st.integers(1, 50), st.integers(1, 1 << 40)), capacity=st.integers(0, 1 << 40))
def test_shares_are_fair(wants: dict[int, int], capacity: int) -> None:
    given_bytes = shares({v: Want(most, 0) for v, most in wants.items()}, capacity)
    poured = int(capacity * FILLED)
    assert given_bytes.keys() == wants.keys()
    assert all(0 <= given_bytes[v] <= wants[v] for v in wants)
    assert sum(given_bytes.values()) <= poured
    if sum(wants.values()) <= poured:
        assert given_bytes == wants
    elif wants:
        assert sum(given_bytes.values()) > poured - len(wants), "nothing lies idle while somebody wants more"
        short = [given_bytes[v] for v in wants if given_bytes[v] < wants[v]]
        assert min(short) >= max(given_bytes.values()) - len(wants), (
            "who gets less than it wants gets no less than others"
        )


@given(
    pairs=st.dictionaries(st.integers(1, 20), st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1),
    more=st.integers(0, 3000),
)
def test_everyone_gets_the_least_that_it_can_do_with(pairs: dict[int, tuple[int, int]], more: int) -> None:
    wants = {v: Want(least + further, least) for v, (least, further) in pairs.items()}
    capacity = sum(want.least for want in wants.values()) + more
    given_bytes = shares(wants, capacity)
    assert all(want.least <= given_bytes[v] <= want.most for v, want in wants.items())
    assert sum(given_bytes.values()) <= capacity


def test_wide_tables_stay_within_the_capacity_or_are_refused(tmp_path: Path, store: WatchedStore) -> None:
    with OwnerThread(store, tmp_path) as owner:
        link = owner.link()
        room = CAPACITY // least_bytes(4 * 16384)
        specs = [TableSpec(name=f"wide{number}", dim=16384).to_json() for number in range(room + 1)]
        for spec in specs[:-1]:
            link.call("create", {"spec": spec}).result(WAIT)
            assert owner.run(settled(owner)) <= CAPACITY
        with pytest.raises(TooLarge, match=r"raise warm\.capacity"):
            link.call("create", {"spec": specs[-1]}).result(WAIT)
        assert len(catalogue(link)) == room > 3
        link.call("drop", {"table": specs[0]["name"]}).result(WAIT)
        link.call("create", {"spec": ITEM.to_json()}).result(WAIT)


async def settled(owner: OwnerThread) -> int:
    """Bytes of all regions, once they are divided as they should be."""
    await owner.owner.parts.memory.rebalance()
    return owner.owner.parts.memory.tables.used


@given(
    st.dictionaries(st.integers(1, 20), st.tuples(st.integers(1, 1000), st.integers(1, 1000)), min_size=1),
    st.integers(1, 20_000),
    st.sets(st.integers(1, 20)),
)
def test_moves_end_within_the_capacity_and_spare_what_fits(
    pairs: dict[int, tuple[int, int]], capacity: int, exact: set[int]
) -> None:
    sizes = {v: size for v, (size, _) in pairs.items()}
    targets = shares({v: Want(want, 0) for v, (_, want) in pairs.items()}, capacity)
    made = moves(sizes, targets, capacity, exact=exact)
    after = sizes | made
    assert sum(after.values()) <= max(capacity, sum(min(sizes[v], targets[v] * 1.25) for v in sizes))
    assert all(made[v] == targets[v] != sizes[v] for v in made)
    grown = [made[v] > sizes[v] for v in made]
    assert grown == sorted(grown), "what shrinks goes first"
    assert all(after[v] == targets[v] for v in exact & sizes.keys()), "too large or too small, by however little"
    if sum(after.values()) <= capacity and all(targets[v] < sizes[v] * 1.25 for v in sizes.keys() - exact):
        needed = sum(targets[v] if v in exact else size for v, size in sizes.items()) > capacity
        assert needed or made.keys() <= exact


def test_a_version_that_fits_holds_all_its_rows(tmp_path: Path, store: WatchedStore) -> None:
    ids = some_ids(CAPACITY // 256 // 2)
    with OwnerThread(store, tmp_path, [WIDE]) as owner:
        link = owner.link()
        fill(link, "wide", ids, rows_of(ids, 256))
        live = catalogue(link)["wide"]
        read(link, live, ids)
        found, status = owner.warm(live.number, ids)
        assert (status == WARM).all()
        assert found.tobytes() == rows_of(ids, 256).tobytes()
        assert Want.of(256, len(ids)).most < CAPACITY


def sizes(owner: OwnerThread) -> dict[int, int]:
    """Bytes of each version's region."""
    return {held.version: held.table.region.size for held in owner.owner.parts.memory.tables}


def test_a_new_version_gets_its_share_and_rows_in_memory_stay(tmp_path: Path, store: WatchedStore) -> None:
    with OwnerThread(store, tmp_path, [WIDE, OTHER]) as owner:
        link = owner.link()
        fill(link, "wide", MANY, rows_of(MANY, 256))
        wide = catalogue(link)["wide"]
        read(link, wide, MANY)
        alone = sizes(owner)[wide.number]
        assert alone > 0.9 * FILLED * CAPACITY
        fill(link, "other", MANY, rows_of(MANY, 256, salt=1))
        other = catalogue(link)["other"]
        assert owner.when(lambda: sizes(owner)[wide.number] < 0.6 * alone), "the first gives way in the background"
        assert sum(sizes(owner).values()) <= CAPACITY
        found, status = owner.warm(wide.number, MANY)
        kept = status == WARM
        assert 0.3 < kept.mean() < 0.6
        np.testing.assert_array_equal(found[kept], rows_of(MANY[kept], 256))
        link.call("drop", {"table": "other"}).result(WAIT)
        assert owner.when(lambda: sizes(owner)[wide.number] >= alone), "and has it back when the other goes"
        assert (owner.warm(wide.number, MANY[kept])[1] == WARM).all()
        assert other.number not in sizes(owner)
        state, rows = read(link, wide, MANY)
        assert (state == 1).all()
        assert rows.tobytes() == rows_of(MANY, 256).tobytes()


def test_a_region_that_updates_fill_grows_with_what_is_asked_of_it(
    tmp_path: Path, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_COUNT_EVERY_S", 0.01)
    few = MANY[: len(MANY) // 2]
    values = rows_of(few, 256).view(np.float32)
    values[~np.isfinite(values)] = 0.0
    with OwnerThread(store, tmp_path, [WIDE]) as owner:
        link = owner.link()
        wide = catalogue(link)["wide"]
        Pusher(owner).push(("wide", ASSIGN, few, values))
        at_first = sizes(owner)[wide.number]
        assert at_first < few.size * 256 / 4
        assert owner.when(lambda: owner.owner.parts.tables.rows(wide.number) >= few.size)
        assert sizes(owner)[wide.number] == at_first, "not before somebody asks for the rows"
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            read(link, wide, few)
            found, status = owner.warm(wide.number, few)
            if (status == WARM).mean() > 0.9:
                break
        assert (status == WARM).mean() > 0.9
        np.testing.assert_array_equal(found[status == WARM], values.view(np.uint8)[status == WARM])


@pytest.fixture
def go_on(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Moves of rows wait for it after each slice, the first included."""
    event = asyncio.Event()
    monkeypatch.setattr(memory, "breathe", event.wait)
    return event


@pytest.fixture
def moving(tmp_path: Path, store: WatchedStore, go_on: asyncio.Event) -> Iterator[tuple[OwnerThread, Link, Live]]:
    """An owner in the middle of moving `wide`, whose rows are all in the arena."""
    with OwnerThread(store, tmp_path, [WIDE, OTHER]) as owner:
        link = owner.link()
        fill(link, "wide", MANY, rows_of(MANY, 256))
        wide = catalogue(link)["wide"]
        read(link, wide, MANY)
        fill(link, "other", MANY, rows_of(MANY, 256, salt=1))
        assert owner.when(lambda: owner.owner.parts.memory.region(wide.number) is None)
        yield owner, link, wide


async def set_event(event: asyncio.Event) -> None:
    event.set()


def test_updates_replace_rows_in_the_old_region_and_the_new_while_it_is_moved(
    moving: tuple[OwnerThread, Link, Live], go_on: asyncio.Event
) -> None:
    """One slice is moved, the others are not: no row may come out of it as it was before."""
    owner, _, wide = moving
    memory = owner.owner.parts.memory
    gone, new = MANY[::5], rows_of(MANY, 256, salt=9)

    async def update() -> None:
        memory.replace(wide.number, MANY, new)
        memory.replace(wide.number, gone, None)

    owner.run(update())
    for _ in range(2):  # as readers see it now, and when it is moved
        found, status = owner.warm(wide.number, MANY)
        assert not (status[::5] == WARM).any()
        warm = status == WARM
        assert warm.mean() > 0.2
        np.testing.assert_array_equal(found[warm], new[warm])
        owner.run(set_event(go_on))
        assert owner.when(lambda: memory.region(wide.number) is not None)


def test_rows_are_read_while_their_region_is_moved(
    moving: tuple[OwnerThread, Link, Live], go_on: asyncio.Event
) -> None:
    owner, link, wide = moving
    ids = np.concatenate([MANY[::7], MANY[:3] + np.uint64(1)])
    state, rows = read(link, wide, ids)
    assert (state[:-3] == 1).all()
    assert rows[:-3].tobytes() == rows_of(MANY[::7], 256).tobytes()
    found, status = owner.warm(wide.number, MANY)
    np.testing.assert_array_equal(found[status == WARM], rows_of(MANY[status == WARM], 256))
    owner.run(set_event(go_on))
    assert owner.when(lambda: owner.owner.parts.memory.region(wide.number) is not None)
    read(link, wide, ids)
    assert (owner.warm(wide.number, ids)[1] == WARM).mean() > 0.9, "and come in again once it is moved"


def test_a_version_dropped_while_it_is_moved(
    moving: tuple[OwnerThread, Link, Live], store: WatchedStore, go_on: asyncio.Event
) -> None:
    owner, link, wide = moving
    link.call("drop", {"table": "wide"}).result(WAIT)
    owner.run(set_event(go_on))
    assert owner.when(lambda: wide.number not in sizes(owner))
    assert set(catalogue(link)) == {"other"}
    assert (read(link, wide, MANY[:3])[0] == 3).all()
    other = catalogue(link)["other"]
    assert store.versions() == [other.number]
    assert read(link, other, MANY)[1].tobytes() == rows_of(MANY, 256, salt=1).tobytes()


def test_an_owner_stops_while_it_moves(moving: tuple[OwnerThread, Link, Live]) -> None:
    owner, _, wide = moving
    owner.run(owner.owner.stop(WAIT))
    assert wide.number in sizes(owner)


def test_rows_that_readers_use_stay_when_others_come(tmp_path: Path, store: WatchedStore) -> None:
    twice = some_ids(2 * CAPACITY // 256, seed=4)
    hot, first, later = twice[::16].copy(), twice[1::2].copy(), twice[::2].copy()
    with OwnerThread(store, tmp_path, [WIDE]) as owner:
        link = owner.link()
        fill(link, "wide", twice, rows_of(twice, 256))
        wide = catalogue(link)["wide"]
        read(link, wide, np.concatenate([first, hot]))
        reader = Reader(Arena.adopt(link.arena_fd, writable=False))
        reader.ring = UseRing(link.ring_fd)
        held = owner.owner.parts.memory.tables.get(wide.number)
        assert held is not None
        for _ in range(4):
            reader.lookup(held, hot)
            owner.run(drained(owner))
        before = (owner.warm(wide.number, hot)[1] == WARM).mean()
        read(link, wide, later[~np.isin(later, hot)])
        after = (owner.warm(wide.number, hot)[1] == WARM).mean()
        others = (owner.warm(wide.number, first)[1] == WARM).mean()
        assert after > 0.9 * before > 0.5
        assert others < 0.8 * after


async def drained(owner: OwnerThread) -> None:
    """What readers reported has been counted."""
    owner.owner.rings.drain()


@pytest.mark.parametrize("head", [1, 5, 1 << 40, 2**63, 2**64 - 1])
def test_nonsense_in_a_ring_harms_nobody(owner: OwnerThread, head: int) -> None:
    ids = some_ids(100)
    link, broken = owner.link(), owner.link()
    fill(link, "item", ids, rows_of(ids, 16))
    live = catalogue(link)["item"]
    read(link, live, ids)
    entry = live.entry << 42
    words = np.array([2**64 - 1, entry | (1 << 41), entry | 10**6, 0, (live.entry + 1) << 42, 1023 << 42], np.uint64)
    os.pwrite(broken.ring_fd, words.tobytes() * 2500, 64)
    os.pwrite(broken.ring_fd, np.uint64(head).tobytes(), 0)
    owner.run(drained(owner))
    os.pwrite(broken.ring_fd, np.uint64(3).tobytes(), 0)
    owner.run(drained(owner))
    assert (owner.warm(live.number, ids)[1] == WARM).all()
    assert (read(link, live, ids)[0] == 1).all()
