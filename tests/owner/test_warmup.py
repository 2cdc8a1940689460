"""Before a switch the rows in use are brought into memory for the version that is to be live."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embcache.host.eviction import MOST_HITS
from embcache.host.segment import MISSING, WARM
from embcache.owner import bring
from embcache.spec import TableSpec
from embcache_storage.store import StoreError
from tests.owner.stores import WatchedStore
from tests.owner.support import CAPACITY, WAIT, Ids, OwnerThread, catalogue, fill, read, rows_of, some_ids, versions
from tests.owner.versioning import fill_version, stage, switch

WIDE = TableSpec(name="item", dim=64)
IDS = some_ids(3000)
UNKNOWN = 0xEE


@pytest.fixture
def filled(owner: OwnerThread) -> OwnerThread:
    """The first 2,000 rows in memory, of which a version `blue` lacks every other one."""
    link = owner.link()
    fill(link, "item", IDS, rows_of(IDS, 16))
    fill_version(link, "blue", IDS[::2].copy(), rows_of(IDS[::2], 16, salt=2))
    read(link, catalogue(link)["item"], IDS[:2000])
    return owner


def test_what_the_live_version_has_in_memory_is_warm_in_the_next(filled: OwnerThread, store: WatchedStore) -> None:
    link = filled.link()
    told = switch(link, item="blue", warm_s=WAIT)
    assert told["warmed"] == {"item": {"ids": 2000, "warmed": 2000}}
    found, status = filled.warm(catalogue(link)["item"].number, IDS[:2000])
    assert (status[::2] == WARM).all()
    assert set(status[1::2].tolist()) == {MISSING, UNKNOWN}, "of those that it lacks, as many as are noted so"
    np.testing.assert_array_equal(found[::2], rows_of(IDS[:2000:2], 16, salt=2))
    assert (filled.warm(catalogue(link)["item"].number, IDS[2000:])[1] == UNKNOWN).all()
    asked = len(store.asked)
    assert switch(link, item="2", warm_s=WAIT)["warmed"] == {"item": {"ids": 1000, "warmed": 1000}}
    assert len(store.asked) == asked, "what is there still is not read again"


def test_a_switch_does_not_wait_longer_than_it_is_told(filled: OwnerThread, store: WatchedStore) -> None:
    link = filled.link()
    assert switch(link, item="blue", warm_s=0.0)["warmed"] == {"item": {"ids": 0, "warmed": 0}}
    switch(link, item="2", warm_s=0.0)
    with store.held_back(versions(link)["item", "blue"].number):
        told = switch(link, item="blue", warm_s=0.2)
    assert told["warmed"] == {"item": {"ids": 2000, "warmed": 0}}
    assert catalogue(link)["item"].label == "blue"


def test_a_switch_does_not_fail_for_what_cannot_be_read(filled: OwnerThread, store: WatchedStore) -> None:
    store.read_errors.append(StoreError("the disk is gone"))
    assert switch(filled.link(), item="blue", warm_s=WAIT)["warmed"] == {"item": {"ids": 2000, "warmed": 0}}
    assert catalogue(filled.link())["item"].label == "blue"


def test_tables_are_warmed_in_turn(filled: OwnerThread, store: WatchedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bring, "PIECE_IDS", 100)
    link = filled.link()
    fill(link, "user", IDS[:300], rows_of(IDS[:300], 16), TableSpec(name="user", dim=4))
    fill_version(link, "blue", IDS[:300], rows_of(IDS[:300], 16), "user")
    read(link, catalogue(link)["user"], IDS[:300])
    store.asked.clear()
    assert switch(link, warm_s=WAIT, item="blue", user="blue")["warmed"]["user"] == {"ids": 300, "warmed": 300}
    assert [len(ids) for ids in store.asked] == [100] * 23
    user = [set(ids) <= set(IDS[:300].tolist()) for ids in store.asked[:6]]
    assert user.count(True) >= 3, "the small one does not wait for the large one"


def test_rows_in_use_come_first_and_as_many_as_find_room(tmp_path: Path, store: WatchedStore) -> None:
    """A table three times as large as memory."""
    ids = some_ids(3 * CAPACITY // 256)
    with OwnerThread(store, tmp_path, [WIDE]) as owner:
        link = owner.link()
        fill(link, "item", ids, rows_of(ids, 256))
        fill_version(link, "blue", ids, rows_of(ids, 256, salt=2))
        used = use_some(owner, ids)
        told = switch(link, item="blue", warm_s=WAIT)["warmed"]["item"]
        assert used.size < told["ids"] == told["warmed"] < CAPACITY // 256
        live = catalogue(link)["item"].number
        assert (owner.warm(live, used)[1] == WARM).mean() > 0.99
        assert owner.when(lambda: owner.owner.parts.memory.tables.get(live).table.region.size > 0.8 * CAPACITY), (  # type: ignore[union-attr]
            "the version that was retired gives its memory to the one that is looked up"
        )
        assert (owner.warm(live, used)[1] == WARM).mean() > 0.99


def use_some(owner: OwnerThread, ids: Ids) -> Any:
    """Read rows until memory is full, and note use of some of them; -> which."""
    link = owner.link()
    live = catalogue(link)["item"]
    for begin in range(0, ids.size // 2, 1000):
        read(link, live, ids[begin : begin + 1000])

    async def count() -> Any:
        held = owner.owner.parts.memory.tables.get(live.number)
        assert held is not None
        there, use = held.table.held(0, held.table.region.sets)
        assert there.size == len(held.table)
        assert not (use & MOST_HITS).any()
        slots = np.random.default_rng(1).choice(held.table.region.slots, 2000, replace=False)
        held.table.count_use(slots.astype(np.uint64))
        there, use = held.table.held(0, held.table.region.sets)
        return there[use & MOST_HITS > 0]

    used = owner.run(count())
    assert used.size > 1000
    return used


def test_a_version_that_is_not_live_takes_little_memory(tmp_path: Path, store: WatchedStore) -> None:
    ids = some_ids(CAPACITY // 256)
    with OwnerThread(store, tmp_path, [WIDE]) as owner:
        link = owner.link()
        fill(link, "item", ids, rows_of(ids, 256))
        live = catalogue(link)["item"].number
        memory = owner.owner.parts.memory

        def size(number: int) -> int:
            held = memory.tables.get(number)
            return 0 if held is None else held.table.region.size

        before = size(live)
        stage(link, "empty")
        fill_version(link, "blue", ids, rows_of(ids, 256))
        owner.run(memory.settled())
        assert size(live) > 0.9 * before
        switch(link, item="blue")
        owner.run(memory.settled())
        blue = versions(link)["item", "blue"].number
        assert size(live) < size(blue)
        assert size(blue) > 0.9 * before
    with OwnerThread(store, tmp_path, [WIDE]) as owner:
        held = owner.owner.parts.memory.tables
        sizes = {version.number: held.get(version.number) for version in owner.owner.parts.tables.versions()}
        assert max(sizes.values(), key=lambda each: each.table.region.size if each else 0) is sizes[blue]
