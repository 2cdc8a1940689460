"""Who does not acknowledge, breaks the rules or goes holds nobody up, and relies on nothing that it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from embcache.errors import MalformedRequest, NotReady
from embcache.owner import feeds
from embcache_client.updates import ASSIGN
from tests.owner.feeds.listener import IDS, Listener, Watch, plain, published, told
from tests.owner.stores import WatchedStore
from tests.owner.support import ITEM, WAIT, OwnerThread
from tests.owner.test_updates import Pusher, floats

BREAKS: list[dict[str, Any]] = [{"acked": 2}, {"acked": 0}, {"acked": -1}, {"acked": "1"}, {}, {"acked": 2.0}]


def test_a_feed_that_never_acknowledges_is_revoked_before_the_position_is_published(
    owner: OwnerThread, watches: list[Watch], pusher: Pusher
) -> None:
    mute, well = Listener(owner), Listener(owner)
    seen: list[tuple[int, bool, bool]] = []
    watches.append(lambda position: seen.append((position, mute.valid, well.valid)))
    asked = well.ask()
    position = told(owner, pusher.send(pusher.batch(("item", ASSIGN, IDS[:3], floats(IDS[:3], 1)))))
    mute.take()
    well.take(asked)
    well.ask()

    async def look() -> None:
        owner.owner.parts.feeds.look()

    for _ in range(feeds._TICKS):
        owner.run(look())
        assert mute.valid
    assert seen == []
    owner.run(look())
    assert seen == [(position, False, True)]
    assert owner.arena.position == position
    with pytest.raises(NotReady, match="did not acknowledge"):
        mute.ask().result(WAIT)
    updates = mute.link.call("stats").result(WAIT).meta["updates"]
    assert (updates["feeds"], updates["feed_bytes"], updates["feeds_revoked"]) == (1, 0, 1)
    for _ in range(2 * feeds._TICKS):
        owner.run(look())
    assert well.valid, "who has nothing to acknowledge may be silent"


def test_who_is_waited_for_is_looked_at_every_now_and_then(
    tmp_path: Path, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "ACK_S", 0.05)
    with OwnerThread(store, tmp_path, [ITEM]) as owner:
        mute, pusher = Listener(owner), Pusher(owner)
        pusher.push(("item", ASSIGN, IDS[:3], floats(IDS[:3], 1)))
        assert not mute.valid


@pytest.mark.parametrize("broken", BREAKS)
def test_who_breaks_the_rules_loses_the_feed_and_holds_nobody_up(
    owner: OwnerThread, watches: list[Watch], pusher: Pusher, broken: dict[str, Any]
) -> None:
    listener = Listener(owner)
    seen: list[tuple[int, bool]] = []
    watches.append(lambda position: seen.append((position, listener.valid)))
    position = told(owner, pusher.send(pusher.batch(("item", ASSIGN, IDS[:3], floats(IDS[:3], 1)))))
    listener.take()
    with pytest.raises(MalformedRequest, match="acked"):
        listener.link.call("feed_next", {"feed": listener.number, **broken}).result(WAIT)
    assert seen == [(position, False)]
    with pytest.raises(MalformedRequest):
        listener.ask().result(WAIT)
    assert listener.link.call("stats").result(WAIT).meta["updates"]["feeds_revoked"] == 1


def test_who_asks_twice_at_once_loses_the_feed(owner: OwnerThread, pusher: Pusher) -> None:
    listener = Listener(owner)
    asked = listener.ask(), listener.ask()
    for each in asked:
        with pytest.raises(MalformedRequest, match="twice at once"):
            each.result(WAIT)
    assert not listener.valid
    pusher.push(("item", ASSIGN, IDS[:3], floats(IDS[:3], 1)))


def test_another_feed_of_a_link_takes_the_place_of_the_one_before(
    owner: OwnerThread, watches: list[Watch], pusher: Pusher
) -> None:
    listener = Listener(owner)
    old = listener.number
    seen: list[tuple[int, int]] = []
    watches.append(lambda position: seen.append((position, listener.ring.feed)))
    first = told(owner, pusher.send(pusher.batch(("item", ASSIGN, IDS[:3], floats(IDS[:3], 1)))))
    listener.open()
    assert seen == [(first, 0)]
    assert listener.number > old
    assert listener.valid
    second = told(owner, pusher.send(pusher.batch(("item", ASSIGN, IDS[:3], floats(IDS[:3], 2)))))
    with pytest.raises(NotReady, match="open another"):
        listener.link.call("feed_next", {"feed": old, "acked": 0}).result(WAIT)
    [change] = plain(listener.take())
    assert change[2] == floats(IDS[:3], 2).tolist(), "only what came since it was opened"
    with pytest.raises(NotReady, match="open another"):
        listener.link.call("feed_close", {"feed": old}).result(WAIT)
    assert seen == [(first, 0)], "nothing was acknowledged by a call for the old one"
    listener.link.call("feed_close", {"feed": listener.number}).result(WAIT)
    assert seen == [(first, 0), (second, 0)]
    with pytest.raises(NotReady, match="closed by its reader"):
        listener.ask().result(WAIT)
    updates = listener.link.call("stats").result(WAIT).meta["updates"]
    assert (updates["feeds"], updates["feeds_revoked"]) == (0, 0)


def test_of_two_feeds_one_dies_and_the_other_goes_on(owner: OwnerThread, watches: list[Watch], pusher: Pusher) -> None:
    dies, lives = Listener(owner), Listener(owner)
    seen: list[tuple[int, bool, bool]] = []
    watches.append(lambda position: seen.append((position, dies.valid, lives.valid)))
    asked, _ = lives.ask(), dies.ask()
    first = told(owner, pusher.send(pusher.batch(("item", ASSIGN, IDS[:3], floats(IDS[:3], 1)))))
    lives.take(asked)
    asked = lives.ask()
    assert seen == []
    dies.link.close()
    published(owner, first)
    assert seen == [(first, False, True)]
    second = told(owner, pusher.send(pusher.batch(("item", ASSIGN, IDS[:3], floats(IDS[:3], 2)))))
    assert len(lives.take(asked)) == 1
    lives.ask()
    published(owner, second)
    assert seen[1:] == [(second, False, True)]


def test_an_owner_that_stops_waits_for_no_feed(owner: OwnerThread, watches: list[Watch], pusher: Pusher) -> None:
    idle, mute = Listener(owner), Listener(owner)
    seen: list[tuple[int, bool, bool]] = []
    watches.append(lambda position: seen.append((position, idle.valid, mute.valid)))
    asked = idle.ask()
    position = told(owner, pusher.send(pusher.batch(("item", ASSIGN, IDS[:3], floats(IDS[:3], 1)))))
    idle.take(asked)
    asked = idle.ask()
    mute.take()
    owner.run(owner.owner.stop(WAIT))
    with pytest.raises(NotReady, match=r"the owner (stops|is stopping)"):
        asked.result(WAIT)
    assert seen == [(position, False, False)]
    assert owner.arena.position == position
