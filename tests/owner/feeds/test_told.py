"""What feeds are told: all that changes, as it is now, once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from embcache.owner import feeds
from embcache_client.updates import ADD, ASSIGN, DELETE
from tests.owner.feeds.listener import IDS, Changes, Listener, plain, published, told
from tests.owner.stores import WatchedStore
from tests.owner.support import WAIT, Ids, OwnerThread, Rows, catalogue, read
from tests.owner.test_updates import Pusher, floats, rows


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
