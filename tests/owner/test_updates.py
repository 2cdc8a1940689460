"""Updates at the owner: counted once, in order, durable before the answer, and never an older row afterwards.

Interleavings are driven through a store that stops where a test says (stores.py), not by sleeping.
"""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embcache.errors import (
    Conflict,
    DeadlineExceeded,
    DimensionMismatch,
    Fenced,
    MalformedRequest,
    NotReady,
    Overloaded,
    SequenceGap,
    StorageFull,
    UnknownTable,
)
from embcache.host.segment import WARM
from embcache.owner import applier, intake
from embcache.owner.committer import Receipt
from embcache.owner.entries import from_payload, to_payload
from embcache.owner.updates import Batch, RowsChange, digest_of
from embcache.spec import TableSpec
from embcache_client.updates import ADD, ASSIGN, DELETE
from embcache_storage.rocks import RocksStore
from embcache_storage.store import StoreFull
from tests.owner.stores import WatchedStore
from tests.owner.support import ITEM, WAIT, Ids, OwnerThread, Rows, catalogue, fill, read, some_ids

IDS = some_ids(60)
UNKNOWN = 0xEE


def floats(ids: Ids, salt: int = 0, dim: int = 4) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Small whole numbers, so that sums are exact in any order."""
    return np.random.default_rng([salt, len(ids)]).integers(-50, 50, (len(ids), dim)).astype(np.float32)


def rows(values: np.ndarray[Any, Any]) -> Rows:
    return np.ascontiguousarray(values, np.float32).view(np.uint8)


class Pusher:
    """A producer of one owner."""

    def __init__(self, owner: OwnerThread, name: str = "trainer-0") -> None:
        self.owner = owner
        self.name = name
        state = owner.run(owner.owner.parts.intake.open(name))
        self.epoch, self.seq = state.epoch, state.last_seq

    def batch(self, *changes: tuple[str, str, Ids, Any], seq: int | None = None, mark: bytes = b"") -> Batch:
        tables = self.owner.owner.parts.tables
        told = [
            (name, op, 0, ids, np.zeros((len(ids), 0), np.uint8) if op == DELETE else rows(values), None)
            for name, op, ids, values in changes
        ]
        made = tuple(RowsChange(tables.named(t).live.number, op, 0, ids, r) for t, op, _, ids, r, _ in told)
        if seq is None:
            self.seq += 1
        return Batch(self.name, self.epoch, self.seq if seq is None else seq, mark, digest_of(mark, told), made)

    def send(self, batch: Batch) -> Future[Receipt]:
        unresolved = replace(batch, changes=())
        return self.owner.begin(self.owner.owner.parts.intake.push(unresolved, lambda: batch.changes))

    def send_later(self, *changes: tuple[str, str, Ids, Any]) -> Future[Receipt]:
        """Send a batch whose tables are resolved when it is accepted."""
        self.seq += 1
        seq = self.seq
        unresolved = Batch(self.name, self.epoch, seq, b"", b"later", ())
        intake = self.owner.owner.parts.intake
        return self.owner.begin(intake.push(unresolved, lambda: self.batch(*changes, seq=seq).changes))

    def push(self, *changes: tuple[str, str, Ids, Any], mark: bytes = b"") -> int:
        """Push and wait until it is applied; -> its position."""
        position = self.send(self.batch(*changes, mark=mark)).result(WAIT).position
        self.owner.run(self.owner.owner.parts.intake.wait_applied(position, WAIT))
        return position


def values_of(owner: OwnerThread, ids: Ids, table: str = "item") -> tuple[Rows, np.ndarray[Any, Any]]:
    """State and f32 values of rows, read from the store."""
    link = owner.link()
    state, found = read(link, catalogue(link)[table], ids)
    return state, found.view(np.float32)


@pytest.fixture
def pusher(owner: OwnerThread) -> Pusher:
    fill(owner.link(), "item", IDS[:40], rows(floats(IDS[:40])))
    return Pusher(owner)


def test_a_batch_in_the_log_is_what_it_was(pusher: Pusher) -> None:
    ids = np.array([3, 3, 2**64 - 1], np.uint64)
    batch = pusher.batch(("item", ADD, ids, floats(ids)), ("item", DELETE, ids[:1], None), mark=b"\x00here")
    again = from_payload(to_payload(batch))
    assert isinstance(again, Batch)
    assert (again.producer, again.epoch, again.seq, again.mark, again.digest) == (
        *(batch.producer, batch.epoch, batch.seq),
        *(batch.mark, batch.digest),
    )
    for one, other in zip(batch.changes, again.changes, strict=True):
        assert (one.version, one.op, one.dtype) == (other.version, other.op, other.dtype)
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.rows, other.rows)


def test_changes_are_applied_in_order_and_absent_rows_count_as_the_default(owner: OwnerThread, pusher: Pusher) -> None:
    old, new = IDS[:40], IDS[40:]
    expected = dict(zip(IDS.tolist(), np.concatenate([floats(old), np.zeros((20, 4), np.float32)]), strict=True))
    pusher.push(("item", ADD, IDS, floats(IDS, 1)), ("item", ASSIGN, new[:5], floats(new[:5], 2)))
    pusher.push(("item", DELETE, old[:3], None), ("item", ADD, old[2:4], floats(old[2:4], 3)))
    for ids, values in ((IDS, floats(IDS, 1)), (old[3:4], floats(old[2:4], 3)[1:])):
        for feature_id, row in zip(ids.tolist(), values, strict=True):
            expected[feature_id] = expected[feature_id] + row
    expected |= dict(zip(new[:5].tolist(), floats(new[:5], 2), strict=True))
    expected[int(old[2])] = floats(old[2:4], 3)[0]
    state, found = values_of(owner, IDS)
    assert state.tolist() == [0, 0, *[1] * 58]
    np.testing.assert_array_equal(found[2:], np.array([expected[i] for i in IDS.tolist()])[2:])


def test_repeated_ids_of_a_change_add_all_and_assign_the_last(owner: OwnerThread, pusher: Pusher) -> None:
    ids = IDS[[1, 2, 1, 1]]
    values = floats(ids, 4)
    before = values_of(owner, IDS[1:3])[1]
    pusher.push(("item", ADD, ids, values))
    np.testing.assert_array_equal(
        values_of(owner, IDS[1:3])[1], [before[0] + values[[0, 2, 3]].sum(0), before[1] + values[1]]
    )
    pusher.push(("item", ASSIGN, ids, values))
    np.testing.assert_array_equal(values_of(owner, IDS[1:3])[1], [values[3], values[1]])


@pytest.mark.parametrize(("bound", "piece"), [("PIECE_ROWS", 7), ("PIECE_BYTES", 10), ("PIECE_BYTES", 40)])
def test_large_and_small_batches_count_alike(
    owner: OwnerThread, pusher: Pusher, monkeypatch: pytest.MonkeyPatch, bound: str, piece: int
) -> None:
    """Rows of 16 bytes, some of them larger than a piece."""
    monkeypatch.setattr(applier, bound, piece)
    expected = np.zeros((60, 4), np.float32)
    expected[:40] = floats(IDS[:40])
    sent = []
    for turn in range(12):
        some = np.sort(np.random.default_rng(turn).choice(60, 1 + 5 * turn, replace=False))
        expected[some] += floats(IDS[some], turn)
        deltas, half = floats(IDS[some], turn), len(some) // 2
        changes = [("item", ADD, IDS[some[part]], deltas[part]) for part in (slice(half), slice(half, None))]
        sent.append(pusher.send(pusher.batch(*changes)))
    last = sent[-1].result(WAIT).position
    owner.run(owner.owner.parts.intake.wait_applied(last, WAIT))
    assert [receipt.result(WAIT).position for receipt in sent] == list(range(last - 11, last + 1))
    touched, found = values_of(owner, IDS)
    np.testing.assert_array_equal(found[touched == 1], expected[touched == 1])


def test_a_batch_that_is_sent_again_counts_once(owner: OwnerThread, pusher: Pusher) -> None:
    batch = pusher.batch(("item", ADD, IDS[:2], floats(IDS[:2], 5)), mark=b"42")
    sent = [pusher.send(batch) for _ in range(5)]
    receipts = [future.result(WAIT) for future in sent]
    assert len({receipt.position for receipt in receipts}) == 1
    assert [receipt.duplicate for receipt in receipts] == [False, True, True, True, True]
    owner.run(owner.owner.parts.intake.wait_applied(receipts[0].position, WAIT))
    np.testing.assert_array_equal(values_of(owner, IDS[:2])[1], floats(IDS[:40])[:2] + floats(IDS[:2], 5))
    again = Pusher(owner)
    state = owner.owner.parts.intake.producers.get("trainer-0")
    assert (again.epoch, again.seq, state.mark) == (pusher.epoch + 1, 1, b"42")


def test_what_cannot_be_old_or_new_is_an_error(owner: OwnerThread, pusher: Pusher) -> None:
    pusher.push(("item", ADD, IDS[:2], floats(IDS[:2], 6)))
    before = values_of(owner, IDS[:2])[1]
    with pytest.raises(Conflict, match="other content"):
        pusher.send(pusher.batch(("item", ADD, IDS[:2], floats(IDS[:2], 7)), seq=1)).result(WAIT)
    with pytest.raises(SequenceGap, match="batch 3 came, 2 is the next") as gap:
        pusher.send(pusher.batch(("item", ADD, IDS[:2], floats(IDS[:2], 7)), seq=3)).result(WAIT)
    assert gap.value.detail == {"expected": 2}
    Pusher(owner)
    with pytest.raises(Fenced, match="another process opened it"):
        pusher.send(pusher.batch(("item", ADD, IDS[:2], floats(IDS[:2], 7)), seq=2)).result(WAIT)
    np.testing.assert_array_equal(values_of(owner, IDS[:2])[1], before)


def test_a_row_in_memory_is_the_new_one_once_the_position_is_applied(owner: OwnerThread, pusher: Pusher) -> None:
    link = owner.link()
    live = catalogue(link)["item"]
    read(link, live, IDS)  # 40 rows and 20 absent marks are in the arena now
    pusher.push(("item", ADD, IDS[:50], floats(IDS[:50], 8)), ("item", DELETE, IDS[:5], None))
    found, status = owner.warm(live.number, IDS)
    assert (status[5:40] == WARM).all()
    assert (status[[*range(5), *range(40, 50)]] == UNKNOWN).all()  # removed; and absent no more
    np.testing.assert_array_equal(found[5:40].view(np.float32), floats(IDS[:40])[5:] + floats(IDS[:50], 8)[5:40])


def test_a_read_that_an_update_overtakes_leaves_nothing_in_memory(
    owner: OwnerThread, store: WatchedStore, pusher: Pusher
) -> None:
    """The read has the old rows, or found none; it lands after the update was applied."""
    link = owner.link()
    live = catalogue(link)["item"]
    old, absent = IDS[:10], IDS[50:]
    with store.held_back(after=True):
        late = link.call("read", {"parts": [[live.number, 20, 16]]}, [np.concatenate([old, absent])])
        assert store.reading.acquire(timeout=WAIT)
        pusher.push(("item", ASSIGN, old, floats(old, 9)), ("item", ASSIGN, absent, floats(absent, 9)))
    late.result(WAIT)
    _, status = owner.warm(live.number, np.concatenate([old, absent]))
    assert (status == UNKNOWN).all()
    found = values_of(owner, np.concatenate([old, absent]))[1]
    np.testing.assert_array_equal(found, np.concatenate([floats(old, 9), floats(absent, 9)]))


def test_adds_to_rows_in_memory_on_disk_and_nowhere_are_the_same(
    owner: OwnerThread, store: WatchedStore, pusher: Pusher
) -> None:
    live = catalogue(owner.link())["item"]
    expected = np.concatenate([floats(IDS[:40]), np.zeros((20, 4), np.float32)])
    values_of(owner, IDS[:20])
    assert (owner.warm(live.number, IDS[:20])[1] == WARM).all()
    store.asked.clear()
    for turn in range(3):
        places = np.random.default_rng(turn).permutation(np.concatenate([np.arange(60), np.arange(10, 50)]))
        deltas = floats(IDS[places], turn)
        pusher.push(("item", ADD, IDS[places], deltas))
        np.add.at(expected, places, deltas)
        np.testing.assert_array_equal(owner.warm(live.number, IDS[:20])[0].view(np.float32), expected[:20])
    assert store.asked == [IDS[20:].tolist()] * 3, "the disk is not asked for what is in memory"
    np.testing.assert_array_equal(values_of(owner, IDS)[1], expected)
    np.testing.assert_array_equal(store.read(live.number, 16, IDS)[0].view(np.float32), expected)


def test_a_full_disk_gives_sequence_and_position_back(
    owner: OwnerThread, pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    update_log: Any = owner.owner.parts.store.log
    last = update_log.last

    def full(*arguments: object) -> None:
        raise StoreFull("no space left")

    batch = pusher.batch(("item", ADD, IDS[:2], floats(IDS[:2], 10)))
    follower = pusher.batch(("item", ADD, IDS[:2], floats(IDS[:2], 11)))
    with monkeypatch.context() as broken:
        broken.setattr(type(update_log), "sync", full)
        failed = [pusher.send(batch), pusher.send(follower), pusher.send(batch)]
        for future in failed:
            with pytest.raises(StorageFull, match="no space left"):
                future.result(WAIT)
    assert update_log.last == last == owner.owner.parts.intake.committer.durable
    receipts = [pusher.send(each).result(WAIT) for each in (batch, follower)]
    assert receipts == [Receipt(last + 1, False), Receipt(last + 2, False)]


def test_what_can_be_neither_kept_nor_taken_back_is_told_as_unknown(
    tmp_path: Path, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sync and retraction fail: after a restart the batch is there, so it must not be called refused."""

    def full(*arguments: object) -> None:
        raise StoreFull("no space left")

    with OwnerThread(store, tmp_path, [ITEM]) as owner:
        pusher = Pusher(owner)
        batch = pusher.batch(("item", ADD, IDS[:2], floats(IDS[:2], 10)))
        with monkeypatch.context() as broken:
            broken.setattr(type(store.log), "sync", full)
            broken.setattr(type(store.log), "retract", full)
            with pytest.raises(NotReady, match="send the very same again"):
                pusher.send(batch).result(WAIT)
            unknown = store.log.last
    store.close()
    with OwnerThread(store, tmp_path, [ITEM]) as owner:
        pusher.owner = owner
        assert pusher.send(batch).result(WAIT) == Receipt(unknown, True)
        np.testing.assert_array_equal(values_of(owner, IDS[:2])[1], floats(IDS[:2], 10))


def test_sums_saturate_one_by_one_whatever_pieces_they_fall_into(owner: OwnerThread, pusher: Pusher) -> None:
    large, ids = np.full((1, 4), 3e38, np.float32), IDS[59:60]
    expected = np.float32(3.4028235e38) - np.float32(3e38)
    pusher.push(*[("item", ADD, ids, sign * large) for sign in (1, 1, -1)])
    np.testing.assert_array_equal(values_of(owner, ids)[1], np.full((1, 4), expected))
    pusher.push(("item", DELETE, ids, None))
    for sign in (1, 1, -1):
        pusher.push(("item", ADD, ids, sign * large))
    np.testing.assert_array_equal(values_of(owner, ids)[1], np.full((1, 4), expected))
    assert owner.owner.parts.intake.applier.values_saturated == 8


def test_a_table_change_waits_for_the_updates_before_it_and_those_after_it_wait_for_it(
    owner: OwnerThread, store: WatchedStore, pusher: Pusher
) -> None:
    link = owner.link()
    reached, go_on = threading.Event(), threading.Event()

    def hold_commits(call: str) -> None:
        if call == "commit":
            reached.set()
            assert go_on.wait(WAIT)

    store.before = hold_commits
    before = pusher.send(pusher.batch(("item", ADD, IDS[:2], floats(IDS[:2], 12)))).result(WAIT)
    assert reached.wait(WAIT)
    dropped = link.call("drop", {"table": "item"})
    assert owner.when(lambda: not owner.owner.parts.intake.accepts)
    after = pusher.send_later(("item", ADD, IDS[:2], floats(IDS[:2], 13)))
    assert not dropped.done()
    go_on.set()
    dropped.result(WAIT)
    assert owner.arena.position >= before.position
    with pytest.raises(UnknownTable):  # it was judged by the tables as they are now
        after.result(WAIT)
    link.call("create", {"spec": ITEM.to_json()}).result(WAIT)
    pusher.seq -= 1
    assert pusher.push(("item", ADD, IDS[:2], floats(IDS[:2], 14))) == before.position + 3  # a drop, a creation
    np.testing.assert_array_equal(values_of(owner, IDS[:2])[1], floats(IDS[:2], 14))


def test_who_pushes_does_not_wait_for_ever_for_a_change_of_tables(
    owner: OwnerThread, store: WatchedStore, pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_CLOSED_S", 0.01)
    monkeypatch.setattr(applier, "_RETRY_S", 0.001)
    store.commit_errors = Endless(StoreFull("no space left"))
    created = owner.link().call("create", {"spec": {"name": "late", "dim": 1}})
    assert owner.when(lambda: not owner.owner.parts.intake.accepts)
    with pytest.raises(Overloaded, match="tables are being changed"):
        pusher.send(pusher.batch(("item", ADD, IDS[:2], floats(IDS[:2])))).result(WAIT)
    store.commit_errors = []
    assert created.result(WAIT).meta["created"]
    pusher.seq -= 1
    pusher.push(("item", ADD, IDS[:2], floats(IDS[:2])))


class Endless(list[Exception]):
    """Errors that do not run out."""

    def __init__(self, error: Exception) -> None:
        super().__init__([error])

    def pop(self, *_: Any) -> Exception:
        return self[0]


def test_what_was_accepted_and_not_applied_is_applied_at_the_next_start(tmp_path: Path) -> None:
    """An owner that died between the acknowledgement and the rows."""
    folder = tmp_path / "rocksdb"
    with OwnerThread(RocksStore(folder), tmp_path, [ITEM]) as owner:
        Pusher(owner).push(("item", ASSIGN, IDS, floats(IDS)))
    for turn in range(1, 4):
        with closing(RocksStore(folder)) as store:
            change = RowsChange(max(store.versions()), ADD, 0, IDS, rows(floats(IDS, turn)))
            opening = Batch("trainer-0", turn + 1, turn, b"", b"", ())
            batch = Batch("trainer-0", turn + 1, turn + 1, b"%d" % turn, b"digest", (change,))
            last = store.log.append([to_payload(opening), to_payload(batch)])
        with OwnerThread(RocksStore(folder), tmp_path, [ITEM]) as owner:
            state = owner.owner.parts.intake.producers.get("trainer-0")
            assert (state.epoch, state.last_seq, state.mark) == (turn + 1, turn + 1, b"%d" % turn)
            assert owner.arena.position == owner.owner.parts.intake.committer.durable == last
            expected = floats(IDS) + sum(floats(IDS, past) for past in range(1, turn + 1))
            np.testing.assert_array_equal(values_of(owner, IDS)[1], expected)


@pytest.mark.parametrize("pieces", range(10))
def test_a_crash_between_the_pieces_of_a_batch_counts_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    """The folder as it stands after so many pieces, taken from under a running owner as kill -9 would leave it."""
    monkeypatch.setattr(applier, "PIECE_ROWS", 7)
    store = WatchedStore(tmp_path / "rocksdb")
    copied = tmp_path / "copy"
    with OwnerThread(store, tmp_path, [ITEM]) as owner:
        pusher = Pusher(owner)
        pusher.push(("item", ASSIGN, IDS, floats(IDS)))
        commits = 0

        def copy_before_the_next(call: str) -> None:
            nonlocal commits
            if call == "commit":
                if commits == pieces:
                    shutil.copytree(tmp_path / "rocksdb", copied)
                commits += 1

        store.before = copy_before_the_next
        pusher.push(("item", ADD, IDS, floats(IDS, 1)))
        assert commits > pieces or pieces == 9
    if not copied.exists():
        shutil.copytree(tmp_path / "rocksdb", copied)
    with OwnerThread(RocksStore(copied), tmp_path, [ITEM]) as owner:
        np.testing.assert_array_equal(values_of(owner, IDS)[1], floats(IDS) + floats(IDS, 1))


def test_a_link_pushes_opens_and_asks(owner: OwnerThread, pusher: Pusher) -> None:
    link = owner.link()
    opened = link.call("open_producer", {"producer": "p"}).result(WAIT).meta
    assert (opened["epoch"], opened["last_seq"], opened["mark"]) == (1, 0, b"")
    payload: list[Any] = [IDS[:2], rows(floats(IDS[:2], 20)), IDS[2:3]]
    asked = {"producer": "p", "epoch": 1, "seq": 1, "mark": b"m", "applied_within_s": WAIT}
    changes = [["item", ADD, 0, 2, 16], ["item", DELETE, 0, 1, 0], ["item", ASSIGN, 0, 0, 0]]
    told = link.call("update", {**asked, "changes": changes}, payload).result(WAIT).meta
    assert told["applied"] == told["durable"] == told["position"] == owner.arena.position
    assert not told["duplicate"]
    assert link.call("update", {**asked, "changes": changes}, payload).result(WAIT).meta["duplicate"]
    np.testing.assert_array_equal(values_of(owner, IDS[:2])[1], floats(IDS[:40])[:2] + floats(IDS[:2], 20))
    assert values_of(owner, IDS[2:3])[0].tolist() == [0]
    state = link.call("producer", {"producer": "p"}).result(WAIT).meta
    assert (state["last_seq"], state["mark"], state["position"]) == (1, b"m", told["position"])
    now = link.call("wait", {"position": told["position"], "timeout_s": 1.0}).result(WAIT).meta
    assert link.call("position").result(WAIT).meta == {**now, "lag_s": 0.0, "ok": True}
    with pytest.raises(DeadlineExceeded, match="never accepted"):
        link.call("wait", {"position": told["position"] + 1, "timeout_s": 1.0}).result(WAIT)


@pytest.mark.parametrize(
    ("change", "more", "error", "words"),
    [
        (["item", "multiply", 0, 1, 16], b"", MalformedRequest, r"\[table, op, dtype, n, row_bytes\]"),
        (["item", ADD, 0, 1], b"", MalformedRequest, r"\[table, op, dtype, n, row_bytes\]"),
        (["itme", ADD, 0, 1, 16], b"", UnknownTable, "'itme'; the nearest name is item"),
        (["item", ADD, 1, 1, 16], b"", DimensionMismatch, "1 rows of 4 x f16 for table 'item' take 8"),
        (["item", ADD, 0, 2, 16], b"", DimensionMismatch, "take 48 bytes, and 24 came"),
        (["item", ADD, 0, 1, 16], bytes(300), MalformedRequest, "mark: 300 bytes"),
        (["half", ADD, 0, 1, 16], b"", MalformedRequest, "`add` needs dtype f32"),
    ],
)
def test_a_push_that_cannot_be_is_refused_and_takes_no_number(
    owner: OwnerThread, pusher: Pusher, change: list[Any], more: bytes, error: type[Exception], words: str
) -> None:
    link = owner.link()
    link.call("create", {"spec": TableSpec(name="half", dim=4, dtype="f16").to_json()}).result(WAIT)
    asked = {"producer": "trainer-0", "epoch": pusher.epoch, "seq": 1, "mark": more, "changes": [change]}
    with pytest.raises(error, match=words):
        link.call("update", asked, [IDS[:1], rows(floats(IDS[:1]))]).result(WAIT)
    assert owner.owner.parts.intake.producers.get("trainer-0").last_seq == 0


def test_a_batch_sent_again_after_its_table_went_is_a_duplicate(owner: OwnerThread, pusher: Pusher) -> None:
    link = owner.link()
    asked = {"producer": "trainer-0", "epoch": pusher.epoch, "seq": 1, "mark": b""}
    asked["changes"] = [["item", ADD, 0, 1, 16]]
    payload: list[Any] = [IDS[:1], rows(floats(IDS[:1]))]
    position = link.call("update", asked, payload).result(WAIT).meta["position"]
    link.call("drop", {"table": "item"}).result(WAIT)
    for spec in (None, TableSpec(name="item", dim=9, dtype="f16")):
        if spec is not None:
            link.call("create", {"spec": spec.to_json()}).result(WAIT)
        again = link.call("update", asked, payload).result(WAIT).meta
        assert (again["position"], again["duplicate"]) == (position, True)
    with pytest.raises(MalformedRequest, match="add = true"):
        link.call("update", asked | {"seq": 2}, payload).result(WAIT)


def test_rows_travel_in_any_dtype_and_saturate(owner: OwnerThread, pusher: Pusher) -> None:
    link = owner.link()
    link.call("create", {"spec": TableSpec(name="half", dim=4, dtype="f16").to_json()}).result(WAIT)
    wide = np.array([[1.5, -70000.0, 65504.0, 3e38]], np.float32)
    asked = {"producer": "trainer-0", "epoch": pusher.epoch, "seq": 1, "mark": b"", "applied_within_s": WAIT}
    link.call("update", {**asked, "changes": [["half", ASSIGN, 0, 1, 16]]}, [IDS[:1], rows(wide)]).result(WAIT)
    state, found = read(link, catalogue(link)["half"], IDS[:1])
    assert state.tolist() == [1]
    assert found.view(np.float16).tolist() == [[1.5, -65504.0, 65504.0, 65504.0]]
    assert owner.owner.parts.intake.applier.values_saturated == 2
    narrow = np.array([[1.5, -7.0, 65504.0, 0.25]], np.float16)
    asked["seq"] = 2
    link.call("update", {**asked, "changes": [["item", ADD, 1, 1, 8]]}, [IDS[:1], narrow.view(np.uint8)]).result(WAIT)
    np.testing.assert_array_equal(values_of(owner, IDS[:1])[1], floats(IDS[:40])[:1] + narrow.astype(np.float32))
