"""Feeds of changed rows at the owner: all is told, positions wait for who has not taken it, and for nobody for ever.

What a link sees is taken apart by the written layout, not by the reader's own code (tests/test_feed.py has that). The
limit on waiting is looked at by hand here, except where a test says so: a slow machine is no slow reader.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embcache.errors import DeadlineExceeded, MalformedRequest, NotReady
from embcache.host.arena import Arena
from embcache.host.ring import UseRing
from embcache.local.link import Reply
from embcache.owner import applier, feeds
from embcache.owner.committer import Receipt
from embcache.spec import TableSpec
from embcache_client.updates import ADD, ASSIGN, DELETE
from tests.owner.stores import WatchedStore
from tests.owner.support import ITEM, WAIT, Ids, OwnerThread, Rows, answer, ask, catalogue, fill, read, some_ids
from tests.owner.test_updates import UNKNOWN, Pusher, floats, rows

IDS = some_ids(60)
HALF = TableSpec(name="half", dim=3, dtype="f16", add=True)  # rows of 6 bytes, of 12 on disk
Watch = Callable[[int], None]
Changes = list[tuple[int, Ids, Rows | None]]


@pytest.fixture
def watches(monkeypatch: pytest.MonkeyPatch) -> list[Watch]:
    """What is called with each position just before it is published."""
    watches: list[Watch] = []
    publish = Arena.publish_position

    def watched(arena: Arena, position: int) -> None:
        for watch in watches:
            watch(position)
        publish(arena, position)

    monkeypatch.setattr(Arena, "publish_position", watched)
    return watches


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "ACK_S", 3600.0)


@pytest.fixture
def owner(tmp_path: Path, store: WatchedStore, watches: list[Watch], patient: None) -> Iterator[OwnerThread]:
    with OwnerThread(store, tmp_path, [ITEM, HALF]) as owner:
        yield owner


@pytest.fixture
def pusher(owner: OwnerThread) -> Pusher:
    fill(owner.link(), "item", IDS[:40], rows(floats(IDS[:40])))
    pusher = Pusher(owner)
    parts = owner.owner.parts
    owner.run(parts.intake.wait_applied(parts.intake.committer.accepted, WAIT))  # its opening has a position too
    return pusher


class Listener:
    """A reader with a feed, step by step."""

    def __init__(self, owner: OwnerThread) -> None:
        self.link = owner.link()
        self.ring = UseRing(self.link.ring_fd)
        self.open()

    def open(self) -> None:
        self.number = int(self.link.call("feed_open").result(WAIT).meta["feed"])
        self.taken = 0

    @property
    def valid(self) -> bool:
        return self.ring.feed == self.number

    def ask(self) -> Future[Reply]:
        """Acknowledge what was taken."""
        return self.link.call("feed_next", {"feed": self.number, "acked": self.taken})

    def take(self, asked: Future[Reply] | None = None) -> Changes:
        """The changes of the next bundle, or of one that was asked for."""
        meta, payload = (asked or self.ask()).result(WAIT)
        self.taken += 1
        assert meta["number"] == self.taken
        data, at, changes = bytes(payload), 0, []
        for version, n, row_bytes in meta["changes"]:
            ids = np.frombuffer(data[at : at + 8 * n], np.uint64)
            at += 8 * n
            found = np.frombuffer(data[at : at + n * row_bytes], np.uint8).reshape(n, row_bytes)
            at += n * row_bytes + -(n * row_bytes) % 8
            changes.append((int(version), ids, found if row_bytes else None))
            assert len(np.unique(ids)) == n
        assert at == len(data)
        return changes


def told(owner: OwnerThread, push: Future[Receipt]) -> int:
    """Waits until a push is in the arena and with the feeds -> its position."""
    position = push.result(WAIT).position
    assert owner.when(lambda: owner.owner.parts.intake.applier._cursor.position >= position)
    return position


def published(owner: OwnerThread, position: int) -> None:
    """Waits until a position is published."""
    assert owner.when(lambda: owner.arena.position == position)


def plain(changes: Changes) -> list[tuple[int, list[int], Any]]:
    """Changes of f32 rows as lists."""
    return [(v, ids.tolist(), None if r is None else r.view(np.float32).tolist()) for v, ids, r in changes]


def test_a_bundle_holds_what_rows_are_now(owner: OwnerThread, pusher: Pusher) -> None:
    live = catalogue(owner.link())
    item, half = live["item"].number, live["half"].number
    listener = Listener(owner)
    ids = IDS[[1, 2, 1, 1, 50]]
    values = floats(ids, 4)
    pusher.send(pusher.batch(("item", ASSIGN, ids, values)))
    assert plain(listener.take()) == [(item, ids[[1, 3, 4]].tolist(), values[[1, 3, 4]].tolist())], (
        "the last one counts"
    )
    asked = listener.ask()
    pusher.send(pusher.batch(("item", DELETE, ids[:3], None)))
    assert plain(listener.take(asked)) == [(item, ids[1:3].tolist(), None)]
    asked = listener.ask()
    pusher.send(pusher.batch(("item", ADD, ids, values)))
    [(version, found, sums)] = listener.take(asked)
    assert (version, sorted(found.tolist())) == (item, sorted(ids[[0, 1, 4]].tolist()))
    expected = {int(ids[0]): values[[0, 2, 3]].sum(0), int(ids[1]): values[1], int(ids[4]): 2 * values[4]}
    assert sums is not None
    np.testing.assert_array_equal(sums.view(np.float32), [expected[i] for i in found.tolist()])
    asked = listener.ask()
    narrow, wide = floats(IDS[:3], 1, 3), floats(IDS[:3], 2, 3) + 0.5
    push = pusher.send(
        pusher.batch(
            ("half", ASSIGN, IDS[:3], narrow), ("item", DELETE, IDS[:0], None), ("item", DELETE, IDS[3:4], None)
        )
    )
    (first, some, small), second = sorted(listener.take(asked), key=lambda change: change[0] != half)
    assert (first, some.tolist()) == (half, IDS[:3].tolist())
    assert small is not None
    assert small.view(np.float16).tolist() == narrow.tolist(), "as in memory, not as on disk"
    assert plain([second]) == [(item, [int(IDS[3])], None)]
    asked = listener.ask()
    push = pusher.send(pusher.batch(("half", ADD, IDS[:3], wide)))
    [(_, some, small)] = listener.take(asked)
    assert small is not None
    assert small.view(np.float16).tolist() == (narrow + wide).astype(np.float16).tolist()
    listener.ask()
    owner.run(owner.owner.parts.intake.wait_applied(push.result(WAIT).position, WAIT))


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


def test_a_large_change_is_split_and_its_position_waits_for_all_of_it(
    owner: OwnerThread, pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "BUNDLE_BYTES", feeds._CHANGE_BYTES + 7 * 24)
    listener = Listener(owner)
    before = owner.arena.position
    position = told(owner, pusher.send(pusher.batch(("item", ASSIGN, IDS, floats(IDS, 1)))))
    found: Changes = []
    while sum(len(ids) for _, ids, _ in found) < len(IDS):
        assert owner.arena.position == before
        found += listener.take()
        assert len(found) == listener.taken
    assert [len(ids) for _, ids, _ in found] == [7] * 8 + [4]
    assert np.concatenate([ids for _, ids, _ in found]).tolist() == IDS.tolist()
    np.testing.assert_array_equal(np.concatenate([r for _, _, r in found if r is not None]), rows(floats(IDS, 1)))
    assert owner.arena.position == before
    listener.ask()
    published(owner, position)


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


BREAKS: list[dict[str, Any]] = [{"acked": 2}, {"acked": 0}, {"acked": -1}, {"acked": "1"}, {}, {"acked": 2.0}]


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


def test_a_feed_opened_before_a_piece_is_in_the_arena_is_told_of_it(
    owner: OwnerThread, store: WatchedStore, pusher: Pusher
) -> None:
    """Opened while the piece is committed, or just after that."""
    reached, go_on = threading.Event(), threading.Event()

    def hold_commits(call: str) -> None:
        if call == "commit":
            reached.set()
            assert go_on.wait(WAIT)

    store.before = hold_commits
    push = pusher.send(pusher.batch(("item", ASSIGN, IDS[:3], floats(IDS[:3], 1))))
    assert reached.wait(WAIT)
    listener = Listener(owner)
    go_on.set()
    position = told(owner, push)
    assert owner.arena.position < position
    assert plain(listener.take())[0][2] == floats(IDS[:3], 1).tolist()
    listener.ask()
    published(owner, position)


def test_all_that_is_applied_after_a_feed_was_opened_is_told(owner: OwnerThread, pusher: Pusher) -> None:
    """Rows as they were some time after the opening, and every change since: together they are the rows at the end."""
    link = owner.link()
    live = catalogue(link)
    rng = np.random.default_rng(7)

    def change(table: str, dim: int) -> tuple[str, str, Ids, Any]:
        ids = rng.choice(IDS, rng.integers(1, 30))
        return table, str(rng.choice([ADD, ASSIGN, DELETE])), ids, rng.integers(-8, 8, (len(ids), dim)) / 4

    def push() -> int:
        for _ in range(150):
            sent = pusher.send(pusher.batch(*[change("item", 4), change("half", 3)][: rng.integers(1, 3)]))
        return int(sent.result(WAIT).position)

    last: Future[int] = Future()
    pushing = threading.Thread(target=lambda: last.set_result(push()))
    begin = owner.arena.position
    pushing.start()
    assert owner.when(lambda: owner.arena.position > begin + 30)
    listener = Listener(owner)
    model: dict[tuple[int, int], bytes | None] = {}

    def note(version: int, ids: Ids, found: Sequence[Rows | None]) -> None:
        for feature_id, row in zip(ids.tolist(), found, strict=True):
            model[version, feature_id] = None if row is None else row.tobytes()

    def all_rows() -> Iterator[tuple[int, list[Rows | None]]]:
        for table in live.values():
            state, found = read(link, table, IDS)
            yield table.number, [row if there else None for row, there in zip(found, state.tolist(), strict=True)]

    for number, found in all_rows():
        note(number, IDS, found)

    def is_over() -> bool:
        return last.done() and owner.arena.position == last.result()

    while not is_over():
        asked = listener.ask()
        while not (asked.done() or is_over()):
            assert owner.when(lambda: True)
        if asked.done():
            for version, ids, now in listener.take(asked):
                note(version, ids, [None] * len(ids) if now is None else list(now))
    pushing.join()
    told_rows = dict(model)
    for number, found in all_rows():
        note(number, IDS, found)
    assert told_rows == model
    assert listener.taken > 1


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
