"""Positions are published once every feed has taken what goes before them, in order, and nothing older is read then."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from embcache.errors import DeadlineExceeded
from embcache.owner import applier, feeds
from embcache_client.updates import ASSIGN, DELETE
from tests.owner.feeds.listener import IDS, Listener, Watch, plain, published, told
from tests.owner.stores import WatchedStore
from tests.owner.support import WAIT, OwnerThread, answer, ask, catalogue, read
from tests.owner.test_updates import UNKNOWN, Pusher, floats


def test_a_position_waits_for_every_feed_and_so_does_who_waits_for_it(owner: OwnerThread, pusher: Pusher) -> None:
    link = owner.link()
    live = catalogue(link)["item"]
    read(link, live, IDS[:2])
    one, other = Listener(owner), Listener(owner)
    asked = [one.ask(), other.ask()]
    before = owner.arena.position
    push = pusher.send(pusher.batch(("item", ASSIGN, IDS[:2], floats(IDS[:2], 1))))
    position = told(owner, push)
    waiting = link.call("wait", {"position": position, "timeout_s": WAIT})

    def is_held() -> bool:
        with pytest.raises(DeadlineExceeded, match=f"{before} is"):
            link.call("wait", {"position": position, "timeout_s": 0.0}).result(WAIT)
        now = link.call("position").result(WAIT).meta
        updates = link.call("stats").result(WAIT).meta["updates"]
        assert (now["durable"], now["applied"]) == (position, before)
        assert updates["applied"] == before
        assert min(updates[key] for key in ("lag_s", "waiting_bytes", "feed_bytes")) > 0
        return owner.arena.position == before and not waiting.done()

    assert is_held()
    np.testing.assert_array_equal(owner.warm(live.number, IDS[:2])[0].view(np.float32), floats(IDS[:2], 1))
    one.take(asked[0])
    one.ask()
    assert is_held()
    other.take(asked[1])
    assert is_held(), "what was sent is not acknowledged yet"
    other.ask()
    waiting.result(WAIT)
    assert owner.arena.position == position
    updates = link.call("stats").result(WAIT).meta["updates"]
    quiet = {"lag_s": 0.0, "waiting_bytes": 0, "feeds": 2, "feed_bytes": 0, "feeds_revoked": 0, "applied": position}
    assert {key: updates[key] for key in quiet} == quiet
    assert [one.valid, other.valid] == [True, True]


def test_what_piles_up_comes_together_and_positions_go_out_in_order(
    owner: OwnerThread, watches: list[Watch], pusher: Pusher
) -> None:
    seen: list[int] = []
    watches.append(seen.append)
    listener = Listener(owner)

    def assign(salt: int) -> int:
        return told(owner, pusher.send(pusher.batch(("item", ASSIGN, IDS[:3], floats(IDS[:3], salt)))))

    positions = [assign(1)]
    assert len(listener.take()) == 1
    positions += [assign(2), assign(3)]
    positions.append(told(owner, pusher.send(pusher.batch(("item", DELETE, IDS[:1], None)))))
    owner.run(owner.owner.parts.intake.open("another"))
    positions.append(owner.owner.parts.intake.committer.accepted)
    assert seen == []
    changes = listener.take()
    number = catalogue(listener.link)["item"].number
    expected = [(number, IDS[:3].tolist(), floats(IDS[:3], salt).tolist()) for salt in (2, 3)]
    assert plain(changes) == [*expected, (number, [int(IDS[0])], None)]
    assert seen == positions[:1], "an acknowledgement is for its own bundle alone"
    listener.ask()
    published(owner, positions[-1])
    assert seen == positions


def test_positions_follow_the_feed_that_is_furthest_behind(
    owner: OwnerThread, watches: list[Watch], pusher: Pusher
) -> None:
    seen: list[int] = []
    watches.append(seen.append)
    one, other = Listener(owner), Listener(owner)
    asked = one.ask(), other.ask()
    first = told(owner, pusher.send(pusher.batch(("item", ASSIGN, IDS[:3], floats(IDS[:3], 1)))))
    one.take(asked[0])
    other.take(asked[1])
    second = told(owner, pusher.send(pusher.batch(("item", ASSIGN, IDS[:3], floats(IDS[:3], 2)))))
    one.take()
    assert seen == [], "the other one has acknowledged nothing"
    other.take()
    assert seen == [first]
    other.ask()
    one.ask()
    published(owner, second)
    assert seen == [first, second]


def test_a_change_of_tables_has_its_position_after_those_before_it(
    owner: OwnerThread, watches: list[Watch], pusher: Pusher
) -> None:
    seen: list[int] = []
    watches.append(seen.append)
    listener, link = Listener(owner), owner.link()
    first = told(owner, pusher.send(pusher.batch(("item", ASSIGN, IDS[:3], floats(IDS[:3], 1)))))
    generation = owner.arena.generation
    created = link.call("create", {"spec": {"name": "late", "dim": 1}})
    assert owner.when(lambda: owner.arena.generation > generation)
    assert not created.done()
    assert seen == []
    assert len(listener.take()) == 1
    asked = listener.ask()
    assert created.result(WAIT).meta["position"] == first + 1
    dropped = link.call("drop", {"table": "item"}).result(WAIT).meta["position"]
    assert seen == [first, first + 1, dropped] == [first, first + 1, first + 2]
    assert not asked.done(), "of changes of tables nobody needs to hear"


def test_the_applier_goes_on_until_too_much_is_unacknowledged(
    owner: OwnerThread, store: WatchedStore, pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of two rows, of which three may wait."""
    monkeypatch.setattr(applier, "PIECE_ROWS", 2)
    one = feeds._CHANGE_BYTES + 2 * 24
    monkeypatch.setattr(feeds, "UNACKED_BYTES", 3 * one)
    listener = Listener(owner)
    parts = owner.owner.parts
    waiting: list[int] = []
    store.before = lambda call: waiting.append(parts.feeds.unacked_bytes) if call == "commit" else None
    push = pusher.send(pusher.batch(("item", ASSIGN, IDS[:40], floats(IDS[:40], 1))))
    assert owner.when(lambda: parts.feeds.unacked_bytes == 3 * one)
    owner.run(asyncio.sleep(0.05))  # in which nothing should happen
    assert waiting == [0, one, 2 * one]
    changes = listener.take()
    while sum(len(ids) for _, ids, _ in changes) < 40:
        changes += listener.take()
    assert owner.arena.position < push.result(WAIT).position
    listener.ask()
    owner.run(parts.intake.wait_applied(push.result(WAIT).position, WAIT))
    assert len(waiting) == 20
    assert max(waiting) < 3 * one


def test_a_lookup_that_reads_a_position_and_finds_its_feed_valid_has_acknowledged_it(
    owner: OwnerThread, pusher: Pusher
) -> None:
    """A thread that does nothing but look, while feeds are acknowledged and revoked in turn."""
    listener = Listener(owner)
    acknowledged = owner.arena.position
    problems: list[tuple[int, int]] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            position = owner.arena.position
            if listener.valid and position > acknowledged:
                problems.append((position, acknowledged))

    async def revoke() -> None:
        for _ in range(feeds._TICKS + 1):
            owner.owner.parts.feeds.look()

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for turn in range(100):
            asked = listener.ask()
            position = told(owner, pusher.send(pusher.batch(("item", ASSIGN, IDS[:3], floats(IDS[:3], turn)))))
            listener.take(asked)
            if turn % 5 == 4:
                owner.run(revoke())
                acknowledged = position  # with no rows at all
                listener.open()
            else:
                acknowledged = position
                asked = listener.ask()
                published(owner, position)
                listener.open()
    finally:
        stop.set()
        looking.join()
    assert problems == []


def test_a_read_under_way_is_not_joined_once_the_position_is_published(
    owner: OwnerThread, store: WatchedStore, pusher: Pusher
) -> None:
    """The read has the old rows; the update is told and not acknowledged, and then it is."""
    link = owner.link()
    live = catalogue(link)["item"]
    ids, old, new = IDS[:5], floats(IDS[:40])[:5], floats(IDS[:5], 9)
    listener = Listener(owner)
    reads = owner.owner.parts.reads
    with store.held_back(after=True):
        late = ask(link, (live.number, 16, ids))
        assert store.reading.acquire(timeout=WAIT)
        position = told(owner, pusher.send(pusher.batch(("item", ASSIGN, ids, new))))
        assert owner.arena.position < position
        joined = ask(link, (live.number, 16, ids))
        assert owner.when(lambda: reads.rows_joined == 5)
        listener.take()
        listener.ask()
        published(owner, position)
        after = ask(link, (live.number, 16, ids))
        assert store.reading.acquire(timeout=WAIT), "it reads for itself"
        assert reads.rows_joined == 5
    for reply in (late, joined):
        np.testing.assert_array_equal(answer(reply)[0][1].view(np.float32), old)
    np.testing.assert_array_equal(answer(after)[0][1].view(np.float32), new)
    found, status = owner.warm(live.number, ids)
    assert (status != UNKNOWN).all()
    np.testing.assert_array_equal(found.view(np.float32), new)


def test_a_read_that_an_unpublished_update_overtakes_leaves_nothing_in_memory(
    owner: OwnerThread, store: WatchedStore, pusher: Pusher
) -> None:
    link = owner.link()
    live = catalogue(link)["item"]
    listener = Listener(owner)
    with store.held_back(after=True):
        late = ask(link, (live.number, 16, IDS[:5]))
        assert store.reading.acquire(timeout=WAIT)
        position = told(owner, pusher.send(pusher.batch(("item", ASSIGN, IDS[:5], floats(IDS[:5], 9)))))
    answer(late)
    assert owner.arena.position < position
    assert (owner.warm(live.number, IDS[:5])[1] == UNKNOWN).all()
    np.testing.assert_array_equal(read(link, live, IDS[:5])[1].view(np.float32), floats(IDS[:5], 9))
    listener.take()
    listener.ask()
    published(owner, position)
