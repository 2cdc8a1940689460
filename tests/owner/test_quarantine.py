"""Batches over their table's limit: set aside as a whole, listed, dropped, released; held against the oracle."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embcache.config import Cold, Updates
from embcache.errors import Conflict, DeadlineExceeded, MalformedRequest, StorageCorrupt, StorageFull, UnknownTable
from embcache.host import expiry
from embcache.owner import applier, audit, guard, intake, judging, quarantine, releases, snapshots
from embcache.spec import TableSpec
from embcache_storage.rocks import RocksStore
from embcache_storage.store import StoreCorrupt, StoreError
from tests.naive import NaiveTable
from tests.owner.asides import FREE, GUARDED, LIMIT, Change, Served, oracle, wide
from tests.owner.stores import WatchedStore
from tests.owner.support import WAIT, OwnerThread, add, begin, catalogue, fill, read, versions
from tests.owner.versioning import drop_version, fill_version, stage, switch

IDS = list(range(12))


@pytest.fixture
def served(tmp_path: Path, store: WatchedStore) -> Iterator[Served]:
    with OwnerThread(store, tmp_path, [GUARDED, FREE]) as owner:
        yield Served(owner, oracle())


def drawn(random: np.random.Generator) -> list[Change]:
    """The changes of a batch: small ids, repeats among them, and now and then a row that is over."""
    changes: list[Change] = []
    for _ in range(random.integers(1, 4)):
        ids = random.integers(0, len(IDS), random.integers(1, 9)).tolist()
        op = str(random.choice(["add", "add", "assign", "delete"]))
        values = random.normal(size=(len(ids), 4)).astype(np.float32) * (1 if random.random() < 0.8 else 4)
        changes.append(("item", op, ids, values))
    if random.random() < 0.3:
        changes.append(("free", "add", [1, 2], random.normal(size=(2, 2)).astype(np.float32) * 100))
    return changes


@pytest.mark.parametrize(("piece", "seed"), [(1, 0), (3, 1), (7, 2), (1024, 3), (1024, 4)])
def test_it_is_as_the_oracle_says_whatever_comes_in_which_pieces(
    served: Served, monkeypatch: pytest.MonkeyPatch, piece: int, seed: int
) -> None:
    for module in (applier, judging, guard):
        monkeypatch.setattr(module, "PIECE_ROWS", piece)
    naive, random = served.naive, np.random.default_rng(seed)
    assert naive is not None
    set_aside = released = 0
    for _ in range(15):
        batches = [drawn(random) for _ in range(random.integers(1, 6))]
        sent = [served.send(*batch) for batch in batches]  # together, so that some are judged together
        for batch, future in zip(batches, sent, strict=True):
            set_aside += naive.push(served.name, b"", batch, future.result(WAIT).meta["position"])
        if naive.aside and random.random() < 0.5:
            position = int(random.choice(sorted(naive.aside)))
            if random.random() < 0.7:
                served.release(position)
                released += 1
            else:
                served.drop(position)
        served.check(IDS)
        served.check([1, 2], "free")
        if random.random() < 0.3:
            read(served.link, catalogue(served.link)["item"], np.array(IDS, np.uint64))  # from now on in memory
    assert set_aside > released > 0
    for position in sorted(naive.aside):
        served.release(position)
    served.check(IDS)


def test_what_is_told_of_a_batch_that_is_over(served: Served) -> None:
    served.push(("item", "assign", [1, 2, 3], wide([1, 2, 3], 1)))
    changes = [("item", "add", [1, 2, 3], np.diag([7, 9, 11, 0])[:3]), ("free", "delete", [5], wide([5]))]
    position = served.push(*changes)
    [told] = served.link.call("quarantine", {"after": 0, "limit": 10}).result(WAIT).meta["batches"]
    norms = [8.0, np.hypot(1, 9), np.hypot(1, 11)]
    assert told["norm"] == pytest.approx(norms[2])
    assert {key: told[key] for key in ("position", "producer", "epoch", "seq", "table", "version", "id")} == {
        "position": position,
        "producer": "trainer",
        "epoch": 1,
        "seq": 2,
        "table": "item",
        "version": "1",
        "id": 3,
    }
    assert (told["limit"], told["over"], told["rows"]) == (LIMIT, 1, 4)
    served.push(("item", "assign", [3], wide([3], 2)), ("item", "add", [2], wide([2], 1)))
    shown = served.link.call("quarantined", {"position": position}).result(WAIT).meta
    assert shown["changes"] == [
        {"table": "item", "op": "add", "rows": 3, "skipped": 1},
        {"table": "free", "op": "delete", "rows": 1, "skipped": 0},
    ]
    stats = served.link.call("stats").result(WAIT).meta["updates"]
    assert (stats["set_aside"], stats["quarantined"], stats["quarantine_bytes"]) == (1, 1, quarantine.LEAST_BYTES)
    state = served.link.call("producer", {"producer": "trainer"}).result(WAIT).meta
    assert (state["last_seq"], state["quarantined"], state["quarantined_count"]) == (3, [position], 1)
    assert served.release(position)["position"] == position + 2
    served.check([1, 2, 3])
    for op in ("quarantined", "quarantine_release", "quarantine_drop"):
        with pytest.raises(UnknownTable, match=f"no batch of position {position} is set aside"):
            served.link.call(op, {"position": position}).result(WAIT)
    with pytest.raises(MalformedRequest, match="limit: 0"):
        served.link.call("quarantine", {"after": 0, "limit": 0}).result(WAIT)


def test_a_batch_that_is_set_aside_has_its_number_and_is_a_duplicate_after_it(served: Served) -> None:
    change: Change = ("item", "add", [1], wide([1]))
    position = served.push(change)
    again = served.send(change, seq=served.seq).result(WAIT).meta
    assert (again["position"], again["duplicate"]) == (position, True)
    assert served.listed() == [position]
    assert served.owner.owner.parts.intake.applier.applied == position
    served.push(("item", "add", [1], wide([1], 1)))
    served.check([1])


def test_lists_go_by_pages_from_the_oldest(served: Served) -> None:
    positions = [served.push(("item", "add", [n], wide([n]))) for n in range(5)]
    found, after = [], 0
    while after is not None:
        page = served.link.call("quarantine", {"after": after, "limit": 2}).result(WAIT).meta
        assert len(page["batches"]) <= 2
        found += [record["position"] for record in page["batches"]]
        after = page["next"]
    assert found == positions


@pytest.mark.parametrize(("dtype", "add"), [("f16", False), ("bf16", True), ("q8", False), ("q8", True)])
def test_narrow_rows_are_judged_as_they_lie_on_disk(tmp_path: Path, store: WatchedStore, dtype: Any, add: bool) -> None:
    """10.004 is below 10.0 in no dtype but f16, where it is 10.0."""
    spec = TableSpec(name="item", dim=4, dtype=dtype, max_norm=LIMIT, add=add)
    naive = oracle()
    naive.tables["item"] = NaiveTable(4, dtype, add=add, max_norm=LIMIT)
    with OwnerThread(store, tmp_path, [spec, FREE]) as owner:
        served = Served(owner, naive)
        for norm in (9.9, 9.999, 10.004, 10.03, 10.2, 20.0):
            served.push(("item", "assign", [1, 2], wide([1, 2], norm)))
        if add:
            served.push(("item", "add", [1, 3], wide([1, 3], 9.0)))
        assert served.listed() == sorted(naive.aside)
        assert naive.aside


def test_one_id_over_many_pieces_and_changes(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row goes from piece to piece; what it was in between counts, too."""
    monkeypatch.setattr(judging, "PIECE_ROWS", 3)
    ones = wide([7] * 40, 1)
    steps: list[tuple[list[Change], bool]] = [
        ([("item", "add", [7] * 9, ones[:9])], False),  # 9
        ([("item", "add", [7, 7, 7, 7], np.concatenate([ones[:2], -ones[:2]]))], True),  # 11 on the way
        ([("item", "add", [7] * 9, -ones[:9]), ("item", "add", [6, 7, 8] * 3, ones[:9])], False),  # 3
        ([("item", "delete", [7], wide([7])), ("item", "add", [7] * 10, ones[:10])], False),  # 10
        ([("item", "add", [7], ones[:1])], True),
        ([("item", "assign", [7] * 5, ones[:5]), ("item", "add", [7] * 10, ones[:10])], True),  # 11
        ([("item", "assign", [7] * 5, ones[:5]), ("item", "add", [7] * 9, ones[:9])], False),  # 10
    ]
    for changes, over in steps:
        position = served.push(*changes)
        assert (position in served.listed()) == over
        served.check([6, 7, 8])


@pytest.mark.parametrize("seed", range(3))
def test_rows_that_expire_are_judged_by_when_their_batch_was_accepted(
    tmp_path: Path, store: WatchedStore, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Batches that came at different times wait for the applier, and are judged together."""
    clock, random = [1_700_000_000_000], np.random.default_rng(seed)
    monkeypatch.setattr(expiry, "now_ms", lambda: clock[0])
    default: Any = {"constant": [3.0, 4.0, 0.0, 0.0]}
    spec = TableSpec.parse({"name": "item", "dim": 4, "default": default, "ttl_s": 3, "max_norm": LIMIT})
    naive = oracle()
    naive.tables["item"] = NaiveTable(4, default=default, add=True, ttl_s=3, max_norm=LIMIT)
    naive.now = clock[0]
    with OwnerThread(store, tmp_path, [spec, FREE]) as owner:
        served, set_aside = Served(owner, naive), 0
        go_on = threading.Event()

        def hold(call: str) -> None:
            go_on.wait(WAIT)

        store.before = hold
        for _ in range(8):
            go_on.clear()
            for _ in range(random.integers(2, 9)):
                ids = random.integers(0, 6, 4).tolist()
                op = str(random.choice(["add", "add", "add", "assign", "delete"]))
                ttl_s = (None, None, 0, 1, 5)[random.integers(5)]
                change: Change = ("item", op, ids, random.normal(size=(4, 4)) * 3, ttl_s)
                position = served.send(change, applied=False).result(WAIT).meta["position"]
                set_aside += naive.push("trainer", b"", [change], position)
                clock[0] += 700
                naive.pass_time(700)
            go_on.set()
            served.link.call("wait", {"position": position, "timeout_s": WAIT}).result(WAIT)
            assert served.listed() == sorted(naive.aside)
            if naive.aside and random.random() < 0.5:
                served.release(min(naive.aside))
            state, rows = read(served.link, catalogue(served.link)["item"], np.arange(6, dtype=np.uint64))
            is_there = (state == 1) & ~expiry.are_over(expiry.expiries_of(rows), clock[0])
            wanted, found = naive.lookup("item", range(6))
            assert is_there.tolist() == found
            np.testing.assert_array_equal(np.ascontiguousarray(rows[:, :-8]).view(np.float32)[found], wanted[found])
        assert set_aside > 2


def test_what_cannot_be_judged_is_not_applied_unjudged(served: Served, store: WatchedStore) -> None:
    served.push(("item", "assign", [1], wide([1], 9)))
    store.read_errors += [StoreError("the disk does not answer")] * 2
    served.push(("item", "add", [1], wide([1], 9)))
    assert not store.read_errors
    served.push(("item", "add", [1], wide([1], 1)))
    served.check([1])


def test_damaged_rows_are_never_over(served: Served, store: WatchedStore) -> None:
    served.push(("item", "assign", [1, 2], wide([1, 2], 9)))
    store.damage(catalogue(served.link)["item"].number, 1)
    told = served.send(("item", "add", [1, 3], wide([1, 3], 9))).result(WAIT).meta
    assert told["quarantined"] == []
    told = served.send(("item", "assign", [1], wide([1], 9)), ("item", "add", [1], wide([1], 9))).result(WAIT).meta
    assert told["quarantined"] == [told["position"]]


def test_marks_outlive_the_log_and_the_log_outlives_what_was_not_read_for_them(served: Served) -> None:
    position = served.push(("item", "add", IDS, wide(IDS)))
    intake, log = served.owner.owner.parts.intake, served.owner.owner.parts.store.log
    for n in (1, 2):
        served.push(("item", "assign", [n], wide([n], n)))
        upto = served.owner.run(intake._read_for_marks())
        log.trim(upto, 0, 2e12)
        assert log.first == upto + 1
    served.push(("item", "delete", [4], wide([4])))
    served.owner.owner.parts.intake.marker._groups = {}  # as after a start
    assert served.release(position)["skipped"] == 3
    served.check(IDS)
    log.trim(log.last, 0, 2e12)
    served.owner.run(intake._forget_set_aside())
    assert quarantine.positions_set_aside(served.owner.owner.parts.store) == set()


def test_the_log_is_read_before_it_is_trimmed_while_the_owner_runs(
    tmp_path: Path, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_TRIM_EVERY_S", 0.01)
    with OwnerThread(store, tmp_path, [GUARDED, FREE], updates=Updates(log_age_s=1e-3)) as owner:
        served = Served(owner, oracle())
        first, second = (served.push(("item", "add", IDS, wide(IDS))) for _ in range(2))
        for n in range(4):
            position = served.push(("item", "assign", [n], wide([n], n)))
            assert owner.when(lambda position=position: store.log.first > position)  # type: ignore[misc]
        assert served.release(first)["skipped"] == 4
        served.drop(second)
        served.check(IDS)
        assert owner.when(lambda: not owner.owner.parts.intake.quarantine.skips(second))
        assert quarantine.positions_set_aside(store) == set()


def test_what_is_damaged_does_not_keep_the_log_and_is_not_released(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that cannot be read; and an entry of the log, which may have changed any row."""
    parts = served.owner.owner.parts
    first, second = (served.push(("item", "add", IDS, wide(IDS))) for _ in range(2))
    damaged = served.push(("item", "add", [1], wide([1], 1)))
    third = served.push(("item", "add", IDS, wide(IDS)))
    last = served.push(("item", "assign", [2], wide([2], 1)))
    parts.store.commit((), {quarantine._piece_key(first, 0): b"damaged"})
    read = type(parts.store.log).read

    def broken(log: Any, after: int, limit_bytes: int, upto: int | None = None) -> Any:
        entries = read(log, after, limit_bytes, upto)
        if damaged in [entry.position for entry in entries]:
            raise StoreCorrupt("an entry is damaged")
        return entries

    monkeypatch.setattr(type(parts.store.log), "read", broken)
    assert served.owner.run(parts.intake._read_for_marks()) == last == parts.intake.quarantine.scanned
    for op in ("quarantine_release", "quarantined"):
        with pytest.raises(StorageCorrupt, match=f"set aside at position {first} is damaged"):
            served.link.call(op, {"position": first}).result(WAIT)
    parts.intake.marker._groups = {}
    told = [served.link.call("quarantine_release", {"position": each}).result(WAIT).meta for each in (second, third)]
    assert [each["skipped"] for each in told] == [len(IDS), 1]
    served.drop(first)
    assert served.listed() == []


def test_who_reads_the_log_knows_which_entries_changed_no_row(served: Served) -> None:
    store = served.owner.owner.parts.store
    positions = [served.push(("item", "add", [n], wide([n]))) for n in range(3)]
    served.push(("item", "add", [5], wide([5], 1)))
    served.drop(positions[0])
    served.release(positions[1])
    assert quarantine.positions_set_aside(store) == set(positions)
    assert {p for p in range(1, store.log.last + 1) if served.owner.owner.parts.intake.quarantine.skips(p)} == set(
        positions
    )


def test_what_tables_have_become_since(served: Served) -> None:
    """A table of another version's rows is left alone; one that was a follower then is not."""
    link, naive = served.link, served.naive
    assert naive is not None
    stage(link, "next", follow=True)
    naive.others["item", "next"] = NaiveTable(4, add=True, follow=True, max_norm=LIMIT)
    for n in (1, 2, 3, 4):
        served.push(("item", "add", [n, 9], wide([n, 9])), ("free", "add", [n], wide([n], 1, 2)))
    first, second, third, fourth = served.listed()
    switch(link, item="next", follow=True)
    naive.switch({"item": "next"}, True)
    assert served.release(first)["skipped"] == 0
    served.check([1, 9])
    served.check([1], "free")
    served.push(("item", "assign", [9], wide([9], 1)))
    stage(link, "other")
    naive.others["item", "other"] = NaiveTable(4, add=True)
    fill_version(link, "other", np.array(IDS, np.uint64), wide(IDS, 1).view(np.uint8))
    naive.others["item", "other"].load(IDS, wide(IDS, 1))
    switch(link, item="other", follow=False)
    naive.switch({"item": "other"}, False)
    assert served.release(second)["skipped"] == 2
    switch(link, item="next", follow=False)
    naive.switch({"item": "next"}, False)
    drop_version(link, "other")
    del naive.others["item", "other"]
    assert served.release(third)["skipped"] == 1
    served.check([*IDS])
    number = versions(link)["item", "1"].number
    found = read(link, versions(link)["item", "1"], np.array(IDS, np.uint64))[1]
    np.testing.assert_array_equal(found.view(np.float32)[1], wide([1])[0])
    assert served.owner.owner.parts.tables.find(number) is not None
    fill(link, "item", np.array(IDS, np.uint64), wide(IDS, 3).view(np.uint8))
    naive.tables["item"] = NaiveTable(4, add=True, max_norm=LIMIT)
    naive.tables["item"].load(IDS, wide(IDS, 3))
    link.call("drop", {"table": "free"}).result(WAIT)
    naive.drop("free")
    parts = link.call("quarantined", {"position": fourth}).result(WAIT).meta["changes"]
    assert [part["table"] for part in parts] == ["item", None]
    assert served.release(fourth) == {"ok": True, "position": served.owner.arena.position, "rows": 0, "skipped": 3}
    served.check(IDS)


def test_the_limit_of_the_live_version_counts(served: Served) -> None:
    """A follower's does not keep updates from the live one; a switch brings it into force."""
    link = served.link
    stage(link, "tight", follow=True, max_norm=0.5)
    served.push(("item", "add", [1], wide([1], 5)))
    assert served.listed() == []
    switch(link, item="tight", follow=True)
    assert served.naive is not None
    served.naive.tables["item"].max_norm = 0.5
    served.push(("item", "add", [2], wide([2], 5)))
    assert len(served.listed()) == 1
    served.check([1, 2])


def test_a_limit_that_is_changed_counts_from_its_position_on(served: Served) -> None:
    link, naive = served.link, served.naive
    assert naive is not None
    versions_before = catalogue(link)
    served.push(("item", "add", [1], wide([1], 9)))
    for limit, over in ((5.0, True), (None, False), (40, False), (20.0, True)):
        position = link.call("limit", {"table": "item", "max_norm": limit}).result(WAIT).meta["position"]
        assert position == owner_position(served)
        naive.tables["item"].max_norm = limit
        assert (served.push(("item", "add", [1], wide([1], 9))) in naive.aside) == over
        served.check([1])
    assert link.call("limit", {"table": "item", "max_norm": 20}).result(WAIT).meta["position"] == owner_position(served)
    assert catalogue(link)["item"].number == versions_before["item"].number
    for wrong in (0, -1.0, "10", float("inf"), True):
        with pytest.raises(MalformedRequest, match="max_norm"):
            link.call("limit", {"table": "item", "max_norm": wrong}).result(WAIT)
    with pytest.raises(UnknownTable):
        link.call("limit", {"table": "itme", "max_norm": 1.0}).result(WAIT)


def owner_position(served: Served) -> int:
    return served.owner.owner.parts.intake.applier.applied


def test_an_import_has_the_limit_that_the_table_has_when_it_is_committed(served: Served) -> None:
    import_id = begin(served.link, "item")
    add(served.link, import_id, np.array([1], np.uint64), wide([1], 3).view(np.uint8)).result(WAIT)
    served.link.call("limit", {"table": "item", "max_norm": 5.0}).result(WAIT)
    served.link.call("import_commit", {"import": import_id}).result(WAIT)
    served.naive = None
    position = served.push(("item", "add", [1], wide([1], 3)))
    assert served.listed() == [position]


def test_a_full_quarantine_stops_who_fills_it_and_nobody_else(tmp_path: Path, store: WatchedStore) -> None:
    with OwnerThread(store, tmp_path, [GUARDED, FREE], updates=Updates(quarantine_bytes=1 << 20)) as owner:
        served, other = Served(owner), Served(owner, name="other")
        positions = [served.push(("item", "add", [1], wide([1]))) for _ in range((1 << 20) // quarantine.LEAST_BYTES)]
        with pytest.raises(StorageFull, match="'trainer' has 16 batches that were set aside") as refused:
            served.push(("item", "add", [2], wide([2], 1)))
        assert refused.value.detail == {"quarantined": 16, "retry_after_ms": 1000}
        served.seq -= 1
        last = served.send(("item", "add", [1], wide([1])), seq=served.seq).result(WAIT).meta
        assert (last["position"], last["duplicate"]) == (positions[-1], True)
        served.push(("free", "add", [1], wide([1], 50, 2)))  # which cannot be over
        other.push(("item", "add", [2], wide([2], 1)))
        late = other.push(("item", "add", [2], wide([2])))  # nothing that was accepted is lost
        assert served.listed() == [*positions, late]
        for position in positions[:2]:
            served.drop(position)
        served.push(("item", "add", [2], wide([2], 1)))


def test_a_release_of_what_is_gone_is_passed_over(tmp_path: Path) -> None:
    """Two releases of one batch in the log, as after an answer that the log's failure took: one of them counts."""
    from dataclasses import replace

    from embcache.owner.entries import from_payload, to_payload
    from embcache.owner.updates import Batch

    folder = tmp_path / "rocksdb"
    with OwnerThread(RocksStore(folder), tmp_path, [GUARDED, FREE]) as owner:
        served = Served(owner)
        position = served.push(("item", "add", [1], wide([1])))
        served.push(("item", "add", [1], wide([1], 1)))
    store = RocksStore(folder)
    batch = from_payload(store.log.read(position - 1, 1)[0].payload)
    assert isinstance(batch, Batch)
    last = store.log.append([to_payload(replace(batch, released=position))] * 2)
    store.close()
    with OwnerThread(RocksStore(folder), tmp_path, [GUARDED, FREE]) as owner:
        served = Served(owner)
        assert served.listed() == []
        assert owner.owner.parts.intake.quarantine.skips(last)
        assert not owner.owner.parts.intake.quarantine.skips(last - 1)
        found = read(served.link, catalogue(served.link)["item"], np.array([1], np.uint64))[1]
        np.testing.assert_array_equal(found.view(np.float32), wide([1], 2 * LIMIT + 1))


def test_a_snapshot_has_what_is_set_aside_and_an_audit_looks_at_it(tmp_path: Path) -> None:
    def quiet(what: str, done: int, total: int) -> None:
        pass

    folder, copy = tmp_path / "data", tmp_path / "copy"
    with OwnerThread(RocksStore(folder / "rocksdb"), folder, [GUARDED, FREE]) as owner:
        served = Served(owner)
        first, second = (served.push(("item", "add", IDS, wide(IDS))) for _ in range(2))
        served.push(("item", "delete", [1], wide([1])))
        owner.run(owner.owner.parts.intake._read_for_marks())
        served.drop(first)
        store = owner.owner.parts.store
        owner.owner.parts.store.flush_all()
        snapshots.take(Cold(path=folder), {"target": str(copy)}, quiet)
    for place in (folder, copy):
        assert audit.check(Cold(path=place), {}, quiet)["findings"] == []
    with OwnerThread(RocksStore(copy / "rocksdb"), copy, [GUARDED, FREE]) as owner:
        served = Served(owner)
        assert served.listed() == [second]
        assert served.release(second)["skipped"] == 1
    store = RocksStore(folder / "rocksdb")
    piece = quarantine._piece_key(second, 0)
    sound = store.get_meta(piece)
    assert sound is not None
    key = f"batch that is set aside, position {second}"
    for metas, what in (
        ({piece: sound[:-1] + b"x"}, f"cannot be read: the batch that was set aside at position {second} is damaged"),
        ({piece: sound, quarantine.marks_key(second): b"12345"}, "its marks, of which of its rows were changed since"),
        ({quarantine.marks_key(second): None, quarantine.head_key(second): b"\xc1"}, "cannot be read: "),
    ):
        store.commit((), metas)
        store.close()
        [finding] = audit.check(Cold(path=folder), {}, quiet)["findings"]
        assert (finding["where"], finding["what"].startswith(what)) == (key, True)
        store = RocksStore(folder / "rocksdb")
    store.close()


def test_what_is_being_released_is_neither_dropped_nor_released_again(
    served: Served, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The release is in the log, and takes longer to apply than who asked for it waits."""
    monkeypatch.setattr(releases, "_APPLY_S", 0.2)
    position = served.push(("item", "add", [1], wide([1])))
    go_on, releasing = threading.Event(), threading.Event()

    def hold(call: str) -> None:
        if releasing.is_set():
            go_on.wait(WAIT)

    store.before = hold
    releasing.set()
    with pytest.raises(DeadlineExceeded):
        served.link.call("quarantine_release", {"position": position}).result(WAIT)
    for op in ("quarantine_release", "quarantine_drop"):
        with pytest.raises(Conflict, match=f"position {position} is being released, at position {position + 1}"):
            served.link.call(op, {"position": position}).result(WAIT)
    go_on.set()
    served.link.call("wait", {"position": position + 1, "timeout_s": WAIT}).result(WAIT)
    assert served.naive is not None
    served.naive.release(position)
    served.check([1])


def test_tables_without_a_limit_are_not_judged(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(judging.Judge, "first_over", never)
    served.push(("free", "add", [1, 2], wide([1, 2], 1e30, 2)))
    served.check([1, 2], "free")
