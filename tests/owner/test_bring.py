"""Rows that nobody waits for, brought while the arena is divided anew, the table goes, or its rows change."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import numpy as np
import pytest

from embcache.errors import Overloaded
from embcache.host.segment import MISSING, WARM
from embcache.owner import bring
from embcache.owner import memory as memory_module
from embcache.owner import reads as reads_module
from embcache.owner.bring import Brought
from embcache.spec import TableSpec
from embcache_client.updates import ASSIGN, DELETE
from embcache_storage.store import StoreError
from tests.owner.stores import WatchedStore
from tests.owner.support import ITEM, WAIT, Live, OwnerThread, catalogue, fill, read, rows_of, some_ids
from tests.owner.test_updates import Pusher, floats, rows

IDS = some_ids(500)
STRANGERS = np.array([5, 6, 7], np.uint64)
ALL = np.concatenate([IDS[::-1], STRANGERS, IDS[:20]])  # in no order, some twice
UNKNOWN = 0xEE

USES = pytest.mark.parametrize("use", [None, 2], ids=["new rows", "rows that were in use"])


@pytest.fixture
def item(owner: OwnerThread) -> Live:
    link = owner.link()
    fill(link, "item", IDS, rows_of(IDS, 16))
    live = catalogue(link)["item"]
    owner.run(owner.owner.parts.memory.settled())
    return live


def bringing(owner: OwnerThread, item: Live, use: int | None = None) -> Future[Brought | None]:
    return owner.begin(owner.owner.parts.bringer.bring(item.number, ALL, use))


def region_is_moved(owner: OwnerThread, item: Live) -> None:
    memory = owner.owner.parts.memory
    before = memory.region(item.number)
    assert before is not None
    owner.run(memory._resize(item.number, 2 * before.region.size))
    assert memory.region(item.number) is not before


def all_is_there(owner: OwnerThread, item: Live) -> None:
    found, status = owner.warm(item.number, ALL)
    stranger = np.isin(ALL, STRANGERS)
    assert (status[~stranger] == WARM).all()
    assert (status[stranger] == MISSING).all()
    np.testing.assert_array_equal(found[~stranger], rows_of(ALL[~stranger], 16))


@USES
def test_each_row_that_memory_lacks_is_read_once(
    owner: OwnerThread, store: WatchedStore, item: Live, use: int | None
) -> None:
    read(owner.link(), item, IDS[:100])
    store.asked.clear()
    brought = bringing(owner, item, use).result(WAIT)
    assert brought is not None
    assert brought.region is owner.owner.parts.memory.region(item.number)
    assert brought.read == 400 + 3
    assert [sorted(asked) for asked in store.asked] == [sorted([*IDS[100:].tolist(), *STRANGERS.tolist()])]
    all_is_there(owner, item)


@USES
@pytest.mark.parametrize("after", [False, True], ids=["before it is read", "once it is read"])
def test_a_region_that_is_moved_while_rows_are_read_has_them_all(
    owner: OwnerThread, store: WatchedStore, item: Live, use: int | None, after: bool
) -> None:
    with store.held_back(after=after):
        future = bringing(owner, item, use)
        assert store.reading.acquire(timeout=WAIT)
        region_is_moved(owner, item)
    brought = future.result(WAIT)
    assert brought is not None
    assert brought.region is owner.owner.parts.memory.region(item.number)
    all_is_there(owner, item)


@pytest.fixture
def go_on(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Regions are moved no further than one slice before this event is set."""
    event = asyncio.Event()
    monkeypatch.setattr(memory_module, "breathe", event.wait)
    monkeypatch.setattr(memory_module, "SLICE_BYTES", 1 << 10)
    return event


@USES
def test_rows_that_come_while_their_region_is_being_moved_are_read_again(
    owner: OwnerThread, store: WatchedStore, item: Live, use: int | None, go_on: asyncio.Event
) -> None:
    memory = owner.owner.parts.memory
    with store.held_back(after=True):
        future = bringing(owner, item, use)
        assert store.reading.acquire(timeout=WAIT)
        before = memory.region(item.number)
        assert before is not None
        moving = owner.begin(memory._resize(item.number, 2 * before.region.size))
        assert owner.when(lambda: memory.region(item.number) is None)
    assert owner.when(lambda: not owner.owner.parts.reads._flying)
    assert (owner.warm(item.number, IDS)[1] == UNKNOWN).all()
    assert not future.done()
    owner.run(set_event(go_on))
    moving.result(WAIT)
    brought = future.result(WAIT)
    assert brought is not None
    assert brought.region is memory.region(item.number) is not before
    all_is_there(owner, item)


async def set_event(event: asyncio.Event) -> None:
    event.set()


def test_a_read_that_was_joined_began_before_the_region_was_moved(
    owner: OwnerThread, store: WatchedStore, item: Live
) -> None:
    """What a lookup began to read in the old region's time comes into the new one for both."""
    link = owner.link()
    with store.held_back(after=True):
        lookup = link.call("read", {"parts": [[item.number, len(IDS), 16]]}, [IDS])
        assert store.reading.acquire(timeout=WAIT)
        region_is_moved(owner, item)
        future = bringing(owner, item)
        assert store.reading.acquire(timeout=WAIT), "of those that the lookup does not ask for"
    lookup.result(WAIT)
    assert future.result(WAIT) is not None
    all_is_there(owner, item)
    assert len(store.asked) == 2


@USES
@pytest.mark.parametrize("after", [False, True], ids=["before it is read", "once it is read"])
def test_a_table_that_is_dropped_meanwhile_gets_nothing(
    owner: OwnerThread, store: WatchedStore, item: Live, use: int | None, after: bool
) -> None:
    link = owner.link()
    with store.held_back(item.number, after=after):
        future = bringing(owner, item, use)
        assert store.reading.acquire(timeout=WAIT)
        link.call("drop", {"table": "item"}).result(WAIT)
        fill(link, "item", IDS, rows_of(IDS, 16, salt=1), ITEM)
    assert future.result(WAIT) is None
    assert list(owner.owner.parts.bringer.pieces(item.number, IDS)) == []
    assert bringing(owner, item, use).result(WAIT) is None
    other = catalogue(link)["item"]
    assert other.number != item.number
    assert (owner.warm(other.number, IDS)[1] == UNKNOWN).all()
    np.testing.assert_array_equal(read(link, other, IDS)[1], rows_of(IDS, 16, salt=1))


@USES
@pytest.mark.parametrize("moved", [False, True], ids=["as it is", "and moved"])
@pytest.mark.parametrize("after", [False, True], ids=["before it is read", "once it is read"])
def test_an_update_between_a_row_being_read_and_put_in_is_what_stays(
    owner: OwnerThread, store: WatchedStore, item: Live, use: int | None, moved: bool, after: bool
) -> None:
    """Wherever the rows are put: what was read before the update is in no region, old or new."""
    new = floats(IDS[10:20], salt=5)
    with store.held_back(after=after):
        future = bringing(owner, item, use)
        assert store.reading.acquire(timeout=WAIT)
        Pusher(owner).push(("item", DELETE, IDS[:10], None), ("item", ASSIGN, IDS[10:20], new))
        if moved:
            region_is_moved(owner, item)
    assert future.result(WAIT) is not None
    for again in (False, True):
        found, status = owner.warm(item.number, IDS)
        assert not (status[:10] == WARM).any()
        assert not (status[10:] == MISSING).any()
        warm = status == WARM
        wanted = np.concatenate([rows_of(IDS[:10], 16), rows(new), rows_of(IDS[20:], 16)])
        np.testing.assert_array_equal(found[warm], wanted[warm])
        assert warm[20:].all()
        if not again:
            bringing(owner, item, use).result(WAIT)
    assert warm[10:].all(), "and what was overtaken comes when it is asked for again"
    assert (status[:10] == MISSING).all()


def test_lookups_that_need_all_reads_go_first(
    owner: OwnerThread, store: WatchedStore, item: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads_module, "MAX_PENDING_READS", 1)
    monkeypatch.setattr(bring, "_RETRY_S", 0.0)
    refused, asked = [0], owner.owner.parts.reads.read

    async def counted(parts: object) -> object:
        try:
            return await asked(parts)  # type: ignore[arg-type]
        except Overloaded:
            refused[0] += 1
            raise

    monkeypatch.setattr(owner.owner.parts.reads, "read", counted)
    with store.held_back():
        lookup = owner.link().call("read", {"parts": [[item.number, 10, 16]]}, [IDS[:10]])
        assert store.reading.acquire(timeout=WAIT)
        future = bringing(owner, item)
        assert owner.when(lambda: refused[0] > 2)
        assert len(store.asked) == 1
    lookup.result(WAIT)
    assert future.result(WAIT) is not None
    all_is_there(owner, item)


def test_an_error_of_the_store_is_told(owner: OwnerThread, store: WatchedStore, item: Live) -> None:
    store.read_errors.append(StoreError("the disk is gone"))
    with pytest.raises(StoreError, match="the disk is gone"):
        bringing(owner, item).result(WAIT)
    assert (owner.warm(item.number, ALL)[1] == UNKNOWN).all()


@pytest.mark.parametrize(("dim", "ids_at_once"), [(4, 1024), (1 << 10, 256), (1 << 14, 16)])
def test_pieces_are_bounded_in_ids_and_in_bytes(owner: OwnerThread, dim: int, ids_at_once: int) -> None:
    link = owner.link()
    link.call("create", {"spec": TableSpec(name="wide", dim=dim).to_json()}).result(WAIT)
    ids = some_ids(5000)
    pieces = list(owner.owner.parts.bringer.pieces(catalogue(link)["wide"].number, ids))
    np.testing.assert_array_equal(np.concatenate(pieces), ids)
    assert {piece.size for piece in pieces[:-1]} == {ids_at_once}
