"""Prefetches at the owner: bounded, one piece at a time, overtaken by updates and of no harm to who looks up."""

from __future__ import annotations

import numpy as np
import pytest

from embcache.errors import MalformedRequest, Overloaded
from embcache.host.segment import WARM
from embcache.local.link import Link
from embcache.owner import bring, prefetches
from embcache_client.updates import ASSIGN
from tests.owner.stores import WatchedStore
from tests.owner.support import WAIT, Ids, OwnerThread, catalogue, fill, read, rows_of, some_ids
from tests.owner.test_updates import Pusher, floats, rows

IDS = some_ids(500)


def prefetch(link: Link, *parts: tuple[int, Ids]) -> int:
    shapes = [[version, len(ids)] for version, ids in parts]
    call = link.call("prefetch", {"parts": shapes}, [ids for _, ids in parts])
    return int(call.result(WAIT).meta["queued"])


def test_rows_come_into_the_arena_in_pieces(
    owner: OwnerThread, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bring, "PIECE_IDS", 100)
    link = owner.link()
    fill(link, "item", IDS, rows_of(IDS, 16))
    number = catalogue(link)["item"].number
    assert prefetch(link, (number, IDS[:250]), (number, np.repeat(IDS[200:300], 2))) == 450
    assert owner.when(lambda: owner.owner.parts.prefetches.waiting == 0)
    found, status = owner.warm(number, IDS)
    assert (status[:300] == WARM).all()
    assert not (status[300:] == WARM).any()
    np.testing.assert_array_equal(found[:300], rows_of(IDS[:300], 16))
    assert max(map(len, store.asked)) <= 100
    asked = sorted(identifier for ids in store.asked for identifier in ids)
    assert asked == IDS[:300].tolist(), "each row is read once"


def test_an_update_overtakes_what_is_being_read(owner: OwnerThread, store: WatchedStore) -> None:
    link = owner.link()
    fill(link, "item", IDS, rows_of(IDS, 16))
    number = catalogue(link)["item"].number
    pusher = Pusher(owner)
    with store.held_back(number, after=True):
        prefetch(link, (number, IDS))
        assert store.reading.acquire(timeout=WAIT)
        pusher.push(("item", ASSIGN, IDS[:50], floats(IDS[:50], 1)))
    assert owner.when(lambda: owner.owner.parts.prefetches.waiting == 0)
    _, found = read(link, catalogue(link)["item"], IDS)
    np.testing.assert_array_equal(found[:50], rows(floats(IDS[:50], 1)))
    np.testing.assert_array_equal(found[50:], rows_of(IDS, 16)[50:])
    warm, status = owner.warm(number, IDS[:50])
    np.testing.assert_array_equal(warm[status == WARM], rows(floats(IDS[:50], 1))[status == WARM])


def test_a_lookup_does_not_wait_behind_what_is_prefetched(
    owner: OwnerThread, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bring, "PIECE_IDS", 10)
    link = owner.link()
    fill(link, "item", IDS, rows_of(IDS, 16))
    fill(link, "item", IDS, rows_of(IDS, 16))
    live = catalogue(link)["item"]
    prefetch(link, (live.number, IDS[:400]))
    state, _ = read(link, live, IDS[400:])
    assert (state == 1).all()
    assert store.asked.index(IDS[400:].tolist()) < 30


def test_too_many_are_refused_as_a_whole(
    owner: OwnerThread, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetches, "MAX_WAITING_IDS", 600)
    link = owner.link()
    fill(link, "item", IDS, rows_of(IDS, 16))
    number = catalogue(link)["item"].number
    with store.held_back(number):
        prefetch(link, (number, IDS))
        with pytest.raises(Overloaded, match="500 ids wait for their rows already"):
            prefetch(link, (number, IDS[:101]))
        assert prefetch(link, (number, IDS[:100])) == 100
    assert owner.when(lambda: owner.owner.parts.prefetches.waiting == 0)
    assert prefetch(link, (number, IDS)) == 500


def test_a_version_that_goes_and_one_that_never_was_are_passed_over(owner: OwnerThread, store: WatchedStore) -> None:
    link = owner.link()
    fill(link, "item", IDS, rows_of(IDS, 16))
    number = catalogue(link)["item"].number
    with store.held_back(number):
        prefetch(link, (number, IDS), (number + 900, IDS))
        link.call("drop", {"table": "item"}).result(WAIT)
    assert owner.when(lambda: owner.owner.parts.prefetches.waiting == 0)


@pytest.mark.parametrize("parts", [[[1]], [[1, 2, 3]], [["1", 3]], [[1, -1]], [[1, 2]], None])
def test_parts_that_cannot_be_are_refused(owner: OwnerThread, parts: object) -> None:
    with pytest.raises(MalformedRequest):
        owner.link().call("prefetch", {"parts": parts}, [IDS[:3]]).result(WAIT)
