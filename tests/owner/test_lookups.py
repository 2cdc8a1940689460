"""Cold reads over real sockets: rows and states, who shares a read, and what they leave in the arena."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from embcache import EmbeddingCache
from embcache.errors import EmbcacheError, Internal, MalformedRequest, Overloaded, StorageCorrupt, TooLarge
from embcache.host.segment import COLD, LATE, MISSING, WARM
from embcache.local import frames
from embcache.owner import reads
from embcache.owner.reads import Part
from embcache.spec import TableSpec
from embcache_storage.store import StoreCorrupt
from tests.owner.stores import WatchedStore
from tests.owner.support import WAIT, Ids, OwnerThread, answer, ask, catalogue, fill, read, rows_of, some_ids

UNKNOWN = 0xEE  # what a reader of the arena that finds neither row nor mark leaves in the status
IDS = some_ids(500)
ROWS = rows_of(IDS, 16)


def strangers(count: int) -> Ids:
    """Ids that are not among IDS."""
    ids = some_ids(count, seed=99)
    return ids[~np.isin(ids, IDS)]


def test_rows_come_back_in_the_order_of_the_ids_repeats_too(owner: OwnerThread) -> None:
    link = owner.link()
    fill(link, "item", IDS, ROWS)
    asked = np.random.default_rng(2).permutation(np.concatenate([IDS, IDS[:50], IDS[:50]]))
    state, rows = read(link, catalogue(link)["item"], asked)
    assert (state == 1).all()
    np.testing.assert_array_equal(rows, rows_of(asked, 16))


def test_a_lookup_takes_at_its_deadline_what_was_read_in_time(owner: OwnerThread, store: WatchedStore) -> None:
    link = owner.link()
    many = some_ids(2 * reads.JOB_IDS)  # reads of few ids share a thread, and end together
    fill(link, "item", many, rows_of(many, 16))
    fill(link, "slow", IDS, ROWS, TableSpec(name="slow", dim=4))
    with EmbeddingCache.attach(owner.folder) as cache, store.held_back(catalogue(link)["slow"].number):
        asked = {"item": np.concatenate([many, strangers(5)]), "slow": IDS}
        found = cache.lookup(asked, deadline_ms=3000)
    assert (found["slow"].status == LATE).all()
    assert not found["slow"].rows.any()
    assert found["item"].status.tolist() == [COLD] * many.size + [MISSING] * strangers(5).size
    np.testing.assert_array_equal(found["item"].rows[: many.size].view(np.uint8), rows_of(many, 16))


def test_what_was_read_is_in_the_arena_afterwards(owner: OwnerThread, store: WatchedStore) -> None:
    link = owner.link()
    fill(link, "item", IDS, ROWS)
    live = catalogue(link)["item"]
    absent = strangers(20)
    state, rows = read(link, live, np.concatenate([IDS[:40], absent]))
    np.testing.assert_array_equal(state, [1] * 40 + [0] * len(absent))
    assert not rows[40:].any()
    found, status = owner.warm(live.number, IDS[:40])
    assert (status == WARM).all()
    np.testing.assert_array_equal(found, ROWS[:40])
    assert (owner.warm(live.number, absent)[1] == MISSING).all()
    assert (owner.warm(live.number, IDS[40:])[1] == UNKNOWN).all()


def test_damaged_rows_are_said_to_be_and_are_never_promoted(owner: OwnerThread, store: WatchedStore) -> None:
    link = owner.link()
    fill(link, "item", IDS, ROWS)
    live = catalogue(link)["item"]
    store.damage(live.number, int(IDS[3]))
    for _ in range(2):
        state, rows = read(link, live, IDS[:6])
        np.testing.assert_array_equal(state, [1, 1, 1, 2, 1, 1])
        assert not rows[3].any()
    assert owner.warm(live.number, IDS[3:4])[1][0] == UNKNOWN


def test_parts_of_several_tables_are_padded_to_eight(owner: OwnerThread) -> None:
    link = owner.link()
    odd = TableSpec(name="odd", dim=5, dtype="q8")
    fill(link, "item", IDS, ROWS)
    fill(link, "odd", IDS, rows_of(IDS, odd.row_bytes, salt=7), odd)
    live = catalogue(link)
    item, other = live["item"], live["odd"]
    none = np.empty(0, np.uint64)
    asked = [(other, IDS[:3]), (item, IDS[5:6]), (other, none), (item, IDS[:0]), (other, IDS[9:16])]
    parts = answer(ask(link, *((live.number, live.row_bytes, ids) for live, ids in asked)))
    for (version, ids), (state, rows) in zip(asked, parts, strict=True):
        assert state.tolist() == [1] * len(ids)
        np.testing.assert_array_equal(rows, rows_of(ids, version.row_bytes, salt=7 if version is other else 0))


def test_two_readers_of_the_same_cold_ids_cause_one_read(owner: OwnerThread, store: WatchedStore) -> None:
    first, second = owner.link(), owner.link()
    fill(first, "item", IDS, ROWS)
    live = catalogue(first)["item"]
    with store.held_back():
        one = ask(first, (live.number, 16, IDS))
        assert store.reading.acquire(timeout=WAIT)
        two = ask(second, (live.number, 16, IDS[::-1].copy()))
        assert owner.when(lambda: owner.owner.parts.reads.rows_joined == len(IDS))
    for reply, ids in ((one, IDS), (two, IDS[::-1])):
        [(state, rows)] = answer(reply)
        assert (state == 1).all()
        np.testing.assert_array_equal(rows, rows_of(ids, 16))
    assert store.asked == [IDS.tolist()]


def test_only_the_ids_that_nobody_fetches_are_read(owner: OwnerThread, store: WatchedStore) -> None:
    link = owner.link()
    fill(link, "item", IDS, ROWS)
    live = catalogue(link)["item"]
    absent = strangers(30)
    asked = [IDS[0:200], np.concatenate([IDS[100:300], absent]), np.concatenate([absent, IDS[50:400]])]
    with store.held_back():
        replies = []
        for ids in asked:
            replies.append(ask(link, (live.number, 16, ids)))
            assert store.reading.acquire(timeout=WAIT)
    for reply, ids in zip(replies, asked, strict=True):
        [(state, rows)] = answer(reply)
        here = np.isin(ids, IDS)
        np.testing.assert_array_equal(state, here)
        np.testing.assert_array_equal(rows[here], rows_of(ids[here], 16))
        assert not rows[~here].any()
    once = [feature_id for read_ids in store.asked for feature_id in read_ids]
    assert sorted(once) == sorted({int(i) for ids in asked for i in ids})


def test_one_request_reads_an_id_once_however_often_it_names_it(owner: OwnerThread, store: WatchedStore) -> None:
    link = owner.link()
    fill(link, "item", IDS, ROWS)
    number = catalogue(link)["item"].number
    parts = [(number, 16, np.repeat(IDS[:100], 3)), (number, 16, IDS[50:150])]
    for (_, _, ids), (_, rows) in zip(parts, answer(ask(link, *parts)), strict=True):
        np.testing.assert_array_equal(rows, rows_of(ids, 16))
    assert sorted(itertools.chain(*store.asked)) == IDS[:150].tolist()


def test_a_failed_read_is_an_error_for_its_own_request_only(owner: OwnerThread, store: WatchedStore) -> None:
    link = owner.link()
    fill(link, "item", IDS, ROWS)
    live = catalogue(link)["item"]
    store.read_errors.append(StoreCorrupt("block 7 is damaged", [5]))
    with store.held_back():
        failing = ask(link, (live.number, 16, IDS[:100]))
        assert store.reading.acquire(timeout=WAIT)
        joined = ask(link, (live.number, 16, IDS[50:120]))
        assert store.reading.acquire(timeout=WAIT)
    with pytest.raises(StorageCorrupt, match="block 7") as caught:
        failing.result(WAIT)
    assert caught.value.detail == {"ids": ["5"]}
    [(state, rows)] = answer(joined)
    assert (state == 1).all()
    np.testing.assert_array_equal(rows, ROWS[50:120])


def test_who_stops_waiting_for_a_read_does_not_end_it_for_others(owner: OwnerThread, store: WatchedStore) -> None:
    link = owner.link()
    fill(link, "item", IDS, ROWS)
    number = catalogue(link)["item"].number
    with store.held_back():
        first = owner.begin(owner.owner.parts.reads.read([Part(number, 16, IDS)]))
        assert store.reading.acquire(timeout=WAIT)
        second = ask(link, (number, 16, IDS))
        assert owner.when(lambda: owner.owner.parts.reads.rows_joined == len(IDS))
        first.cancel()
    np.testing.assert_array_equal(answer(second)[0][1], ROWS)
    assert (owner.warm(number, IDS)[1] == WARM).all()


def test_an_unforeseen_error_is_told_with_an_id(owner: OwnerThread, store: WatchedStore) -> None:
    link = owner.link()
    fill(link, "item", IDS, ROWS)
    live = catalogue(link)["item"]
    store.read_errors.append(RuntimeError("a bug"))
    with pytest.raises(Internal, match="a bug") as caught:
        read(link, live, IDS)
    assert len(caught.value.detail["error_id"]) == 8
    assert (read(link, live, IDS)[0] == 1).all()


def test_a_read_is_not_joined_by_a_lookup_that_has_seen_a_newer_position(
    owner: OwnerThread, store: WatchedStore
) -> None:
    link = owner.link()
    fill(link, "item", IDS, ROWS)
    number = catalogue(link)["item"].number
    with store.held_back():
        old = ask(link, (number, 16, IDS[:10]))
        assert store.reading.acquire(timeout=WAIT)
        owner.arena.publish_position(owner.arena.position + 1)
        new = ask(link, (number, 16, IDS[:10]))
        assert store.reading.acquire(timeout=WAIT)
    for reply in (old, new):
        np.testing.assert_array_equal(answer(reply)[0][1], ROWS[:10])
    assert store.asked == [IDS[:10].tolist()] * 2


def test_a_version_dropped_while_it_is_read_leaves_nothing_behind(owner: OwnerThread, store: WatchedStore) -> None:
    link = owner.link()
    fill(link, "item", IDS, ROWS)
    live = catalogue(link)["item"]
    with store.held_back():
        late = ask(link, (live.number, 16, IDS))
        assert store.reading.acquire(timeout=WAIT)
        link.call("drop", {"table": "item"}).result(WAIT)
        fill(link, "item", IDS[:5], rows_of(IDS[:5], 16, salt=1), TableSpec(name="item", dim=4))
        new = catalogue(link)["item"]
        assert new.entry == live.entry, "the new version stands where the old one stood"
    [(state, _)] = answer(late)
    assert (state == 3).all()
    assert (owner.warm(new.number, IDS)[1] == UNKNOWN).all()
    state, rows = read(link, new, IDS[:6])
    assert state.tolist() == [1] * 5 + [0]
    np.testing.assert_array_equal(rows[:5], rows_of(IDS[:5], 16, salt=1))


def test_a_version_that_is_gone_or_never_was(owner: OwnerThread) -> None:
    link = owner.link()
    live = catalogue(link)["item"]
    link.call("drop", {"table": "item"}).result(WAIT)
    for number in (live.number, 0, 4_000_000_000):
        [(state, rows)] = answer(ask(link, (number, 16, IDS[:3])))
        assert state.tolist() == [3, 3, 3]
        assert not rows.any()


def test_a_large_read_goes_in_pieces(owner: OwnerThread, store: WatchedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "PIECE_IDS", 64)
    monkeypatch.setattr(reads, "WAVE_BYTES", 3000)
    link = owner.link()
    fill(link, "item", IDS, ROWS)
    number = catalogue(link)["item"].number
    asked = np.concatenate([IDS, strangers(100), IDS[::-1]])
    [(state, rows), (second, _)] = answer(ask(link, (number, 16, asked), (number, 16, IDS[:100])))
    np.testing.assert_array_equal(state, np.isin(asked, IDS))
    np.testing.assert_array_equal(rows[state == 1], rows_of(asked[state == 1], 16))
    assert second.tolist() == [1] * 100
    assert max(len(ids) for ids in store.asked) == 64


def test_what_is_too_much_at_once_is_refused(
    owner: OwnerThread, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = owner.link()
    fill(link, "item", IDS, ROWS)
    live = catalogue(link)["item"]
    monkeypatch.setattr(reads, "MAX_PENDING_BYTES", 300 * 17)
    with store.held_back():
        first = ask(link, (live.number, 16, IDS[:200]))
        assert store.reading.acquire(timeout=WAIT)
        with pytest.raises(Overloaded) as caught:
            read(link, live, IDS[200:400])
        assert caught.value.detail["retry_after_ms"] > 0
    assert (answer(first)[0][0] == 1).all()
    assert (read(link, live, IDS)[0] == 1).all(), "alone, a request beyond the limit is served"
    monkeypatch.setattr(frames, "MAX_REPLY_PAYLOAD", 10_000)
    with pytest.raises(TooLarge, match="fewer ids"):
        read(link, live, IDS)


@pytest.mark.parametrize(
    ("meta", "payload", "words"),
    [
        ({}, b"", "'parts'"),
        ({"parts": {}}, b"", "'parts'"),
        ({"parts": [[1, 1]]}, b"", "a part of a read"),
        ({"parts": [[1, -1, 16]]}, b"", "a part of a read"),
        ({"parts": [[1, True, 16]]}, b"", "a part of a read"),
        ({"parts": [["1", 1, 16]]}, b"", "a part of a read"),
        ({"parts": [[1, 2, 16]]}, bytes(8), "16 bytes, not 8"),
        ({"parts": [[1, 2**32 - 1, 16]]}, bytes(8), "not 8"),
        ({"parts": [[1, 1, 17]]}, bytes(8), "have 16 bytes, not 17"),
        ({"parts": [[2, 1, 0]]}, bytes(8), "a part of a read"),
        ({"parts": [[1, 0, 16]] * 5000}, b"", "4096 are allowed"),
    ],
)
def test_a_malformed_read_is_refused_and_nothing_else_happens(
    owner: OwnerThread, meta: dict[str, object], payload: bytes, words: str
) -> None:
    link = owner.link()
    with pytest.raises((MalformedRequest, TooLarge), match=words) as caught:
        link.call("read", meta, [payload]).result(WAIT)
    assert isinstance(caught.value, EmbcacheError)
    assert read(link, catalogue(link)["item"], IDS[:2])[0].tolist() == [0, 0]
