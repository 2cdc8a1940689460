"""Imports: nothing of one is seen before its commit, all of it afterwards, and what ends one leaves nothing."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from embcache.errors import (
    Conflict,
    DimensionMismatch,
    InvalidRows,
    MalformedRequest,
    Overloaded,
    StorageFull,
    UnknownTable,
)
from embcache.owner import imports
from embcache.spec import TableSpec
from embcache_storage.store import StoreFull
from tests.owner.stores import WatchedStore
from tests.owner.support import ITEM, WAIT, OwnerThread, add, begin, catalogue, fill, read, rows_of, some_ids

IDS = some_ids(300)
OLD = rows_of(IDS, 16, salt=1)
NEW = rows_of(IDS, 16, salt=2)


def test_nothing_is_seen_before_the_commit_and_everything_after(owner: OwnerThread, store: WatchedStore) -> None:
    link = owner.link()
    fill(link, "item", IDS, OLD)
    before = catalogue(link)["item"]
    import_id = begin(link, "item")
    assert add(link, import_id, IDS[:100], NEW[:100]).result(WAIT).meta["rows"] == 100
    assert add(link, import_id, IDS[100:], NEW[100:]).result(WAIT).meta["rows"] == len(IDS)
    assert catalogue(link)["item"] == before
    assert read(link, before, IDS)[1].tobytes() == OLD.tobytes()
    generation = owner.arena.generation
    done = link.call("import_commit", {"import": import_id}).result(WAIT).meta
    after = catalogue(link)["item"]
    assert (done["table"], done["version"], done["rows"]) == ("item", after.label, len(IDS))
    assert owner.arena.generation == generation + 1
    state, rows = read(link, after, IDS)
    assert (state == 1).all()
    assert rows.tobytes() == NEW.tobytes()
    assert (read(link, before, IDS)[0] == 3).all()
    assert store.versions() == [after.number]


def test_an_import_creates_a_table_that_is_not_there(owner: OwnerThread) -> None:
    link = owner.link()
    user = TableSpec(name="user", dim=8, dtype="q8")
    import_id = begin(link, "user", user)
    assert "user" not in catalogue(link)
    add(link, import_id, IDS, rows_of(IDS, 16)).result(WAIT)
    assert link.call("import_commit", {"import": import_id}).result(WAIT).meta["version"] == "1"
    assert catalogue(link)["user"].rows == len(IDS)
    with pytest.raises(UnknownTable, match="'nobody'"):
        begin(link, "nobody")
    with pytest.raises(Conflict, match="'item' is there with dim 4, not 5"):
        begin(link, "item", TableSpec(name="item", dim=5))
    with pytest.raises(MalformedRequest, match="is named 'item'"):
        begin(link, "user", ITEM)


def test_an_import_of_nothing_empties_the_table(owner: OwnerThread) -> None:
    link = owner.link()
    fill(link, "item", IDS, OLD)
    import_id = begin(link, "item")
    assert add(link, import_id, IDS[:0], OLD[:0]).result(WAIT).meta["rows"] == 0
    assert link.call("import_commit", {"import": import_id}).result(WAIT).meta["rows"] == 0
    assert (read(link, catalogue(link)["item"], IDS)[0] == 0).all()


def test_an_aborted_import_leaves_nothing(owner: OwnerThread, store: WatchedStore) -> None:
    link = owner.link()
    fill(link, "item", IDS, OLD)
    before, versions = catalogue(link), store.versions()
    import_id = begin(link, "item")
    add(link, import_id, IDS, NEW).result(WAIT)
    link.call("import_abort", {"import": import_id}).result(WAIT)
    for call in ("import_commit", "import_abort"):
        with pytest.raises(UnknownTable, match="no import"):
            link.call(call, {"import": import_id}).result(WAIT)
    with pytest.raises(UnknownTable, match="no import"):
        add(link, import_id, IDS, NEW).result(WAIT)
    assert catalogue(link) == before
    assert store.versions() == versions


def test_an_idle_import_is_aborted_and_one_in_use_is_not(tmp_path: Path, store: WatchedStore) -> None:
    with OwnerThread(store, tmp_path, [ITEM], import_idle_s=0.2) as owner:
        link = owner.link()
        idle, busy = begin(link, "item"), begin(link, "item")
        running = owner.owner.parts.imports
        next_id = iter(range(1, 1_000_000))
        while len(running) > 1:  # whoever sends a piece now and then is not idle
            ids = np.array([next(next_id)], np.uint64)
            add(link, busy, ids, rows_of(ids, 16)).result(WAIT)
        with pytest.raises(UnknownTable, match="idle for too long"):
            link.call("import_commit", {"import": idle}).result(WAIT)
        assert link.call("import_commit", {"import": busy}).result(WAIT).meta["rows"] == next(next_id) - 1


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([5, 7, 7], "7 comes after 7 .id 2 of this piece"),
        ([5, 9, 8, 10], "8 comes after 9"),
        ([3], "3 comes after 3 of the piece before"),
        ([2**64 - 1, 0], "0 comes after 18446744073709551615"),
    ],
)
def test_ids_that_do_not_ascend_are_refused_and_the_import_goes_on(
    owner: OwnerThread, ids: list[int], words: str
) -> None:
    link = owner.link()
    import_id = begin(link, "item")
    first = np.array([0, 1, 3], np.uint64)
    add(link, import_id, first, rows_of(first, 16)).result(WAIT)
    wrong = np.array(ids, np.uint64)
    with pytest.raises(InvalidRows, match=words):
        add(link, import_id, wrong, rows_of(wrong, 16)).result(WAIT)
    last = np.array([4, 2**64 - 1], np.uint64)
    assert add(link, import_id, last, rows_of(last, 16)).result(WAIT).meta["rows"] == 5
    link.call("import_commit", {"import": import_id}).result(WAIT)
    ids_there = np.concatenate([first, last])
    assert read(link, catalogue(link)["item"], ids_there)[1].tobytes() == rows_of(ids_there, 16).tobytes()


def test_pieces_of_a_wrong_size_are_refused(owner: OwnerThread) -> None:
    link = owner.link()
    import_id = begin(link, "item")
    with pytest.raises(DimensionMismatch, match="300 rows of 16 bytes and their ids take 7200 bytes, not 7199"):
        link.call("import_rows", {"import": import_id, "n": 300}, [IDS, OLD.reshape(-1)[:-1]]).result(WAIT)
    with pytest.raises(MalformedRequest, match="'n'"):
        link.call("import_rows", {"import": import_id, "n": -1}, [IDS, OLD]).result(WAIT)


def test_pieces_sent_without_waiting_are_taken_in_their_order(owner: OwnerThread) -> None:
    link = owner.link()
    import_id = begin(link, "item")
    pieces = [add(link, import_id, IDS[n : n + 10], NEW[n : n + 10]) for n in range(0, len(IDS), 10)]
    commit = link.call("import_commit", {"import": import_id})
    assert commit.result(WAIT).meta["rows"] == len(IDS)
    assert [piece.result(WAIT).meta["rows"] for piece in pieces] == [*range(10, len(IDS), 10), len(IDS)]


def test_a_piece_is_in_line_while_the_one_before_is_written(owner: OwnerThread, store: WatchedStore) -> None:
    """Two pieces are held: one that is written, and one that waits for it; what comes to an end waits for both."""
    link, begun, gate = owner.link(), threading.Semaphore(0), threading.Event()

    def held(call: str) -> None:
        if call == "add":
            begun.release()
            assert gate.wait(WAIT)

    import_id = begin(link, "item")
    store.before = held
    assert add(link, import_id, IDS[:10], NEW[:10]).result(WAIT).meta["rows"] == 10
    assert begun.acquire(timeout=WAIT)
    second = add(link, import_id, IDS[10:], NEW[10:])
    commit = link.call("import_commit", {"import": import_id})
    link.call("stats").result(WAIT)  # what came before has been looked at
    assert not second.done()
    assert owner.owner.parts.imports._waiting_bytes == len(IDS) * 24
    gate.set()
    assert second.result(WAIT).meta["rows"] == commit.result(WAIT).meta["rows"] == len(IDS)
    assert owner.owner.parts.imports._waiting_bytes == 0
    assert read(link, catalogue(link)["item"], IDS)[1].tobytes() == NEW.tobytes()


def test_of_two_imports_the_last_commit_stays(owner: OwnerThread, store: WatchedStore) -> None:
    link = owner.link()
    first, second = begin(link, "item"), begin(link, "item")
    add(link, first, IDS, OLD).result(WAIT)
    add(link, second, IDS, NEW).result(WAIT)
    labels = [link.call("import_commit", {"import": entry}).result(WAIT).meta["version"] for entry in (second, first)]
    assert len(set(labels)) == 2
    live = catalogue(link)["item"]
    assert live.label == labels[1]
    assert read(link, live, IDS)[1].tobytes() == OLD.tobytes()
    assert store.versions() == [live.number]


def test_an_import_into_a_table_that_was_dropped_meanwhile(owner: OwnerThread, store: WatchedStore) -> None:
    link = owner.link()
    for again in (False, True):
        import_id = begin(link, "item")
        add(link, import_id, IDS, OLD).result(WAIT)
        link.call("drop", {"table": "item"}).result(WAIT)
        if again:
            link.call("create", {"spec": ITEM.to_json()}).result(WAIT)
        with pytest.raises(Conflict if again else UnknownTable, match="was dropped"):
            link.call("import_commit", {"import": import_id}).result(WAIT)
        assert store.versions() == [live.number for live in catalogue(link).values()]
        link.call("create", {"spec": ITEM.to_json()}).result(WAIT)
    assert (read(link, catalogue(link)["item"], IDS)[0] == 0).all()


@pytest.mark.parametrize("last", ["rows", "commit", "abort"])
def test_a_full_disk_ends_the_import_and_nothing_else(owner: OwnerThread, store: WatchedStore, last: str) -> None:
    link = owner.link()
    fill(link, "item", IDS, OLD)
    import_id = begin(link, "item")
    store.bulk_errors.append(StoreFull("no space left"))
    assert add(link, import_id, IDS[:9], NEW[:9]).result(WAIT).meta["rows"] == 9, "in line, while it is written"
    if last == "rows":
        told = add(link, import_id, IDS[9:], NEW[9:])
    else:
        told = link.call(f"import_{last}", {"import": import_id})
    if last == "abort":
        told.result(WAIT)
    else:
        with pytest.raises(StorageFull, match="no space left"):
            told.result(WAIT)
    with pytest.raises(UnknownTable, match="no import"):
        link.call("import_commit", {"import": import_id}).result(WAIT)
    assert len(owner.owner.parts.imports) == owner.owner.parts.imports._waiting_bytes == 0
    assert not list((store.folder / "staging").glob("*"))
    assert read(link, catalogue(link)["item"], IDS)[1].tobytes() == OLD.tobytes()
    fill(link, "item", IDS, NEW)
    assert read(link, catalogue(link)["item"], IDS)[1].tobytes() == NEW.tobytes()


def test_imports_are_bounded(owner: OwnerThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "MAX_IMPORTS", 2)
    link = owner.link()
    first, _ = begin(link, "item"), begin(link, "item")
    with pytest.raises(Overloaded, match="2 imports"):
        begin(link, "item")
    link.call("import_abort", {"import": first}).result(WAIT)
    begin(link, "item")


def test_a_scan_gives_all_rows_in_order(owner: OwnerThread) -> None:
    link = owner.link()
    fill(link, "item", IDS, OLD)
    live = catalogue(link)["item"]
    found: list[np.ndarray] = []
    start: int | None = 0
    while start is not None:
        meta, payload = link.call("scan", {"version": live.number, "start": start, "limit": 70}).result(WAIT)
        n = meta["n"]
        found.append(np.frombuffer(payload, np.uint64, n))
        rows = np.frombuffer(payload, np.uint8, n * 16, 8 * n).reshape(n, 16)
        assert rows.tobytes() == rows_of(found[-1], 16, salt=1).tobytes()
        start = meta["next"]
    np.testing.assert_array_equal(np.concatenate(found), IDS)
    whole = link.call("scan", {"version": live.number, "start": int(IDS[-1]), "limit": 1}).result(WAIT).meta
    assert (whole["n"], whole["next"]) == (1, None), "after the largest of all ids nothing can come"


def test_scans_that_cannot_be(owner: OwnerThread) -> None:
    link = owner.link()
    number = catalogue(link)["item"].number
    with pytest.raises(UnknownTable, match="version 999 is gone"):
        link.call("scan", {"version": 999, "start": 0, "limit": 10}).result(WAIT)
    for meta in ({"start": -1, "limit": 1}, {"start": 0, "limit": 0}, {"start": 0}, {"start": 0, "limit": 2**32}):
        with pytest.raises(MalformedRequest, match=r"start|limit"):
            link.call("scan", {"version": number, **meta}).result(WAIT)


def test_stats_count_what_is_there(owner: OwnerThread) -> None:
    link = owner.link()
    fill(link, "item", IDS, OLD)
    read(link, catalogue(link)["item"], IDS[:50])
    told = link.call("stats").result(WAIT).meta
    [table] = told["tables"]
    assert (table["table"], table["rows"], table["warm_rows"]) == ("item", len(IDS), 50)
    assert table["cold_bytes"] > 0
    assert table["warm_bytes"] >= 50 * 16
    assert told["memory"]["arena_capacity"] == owner.arena.capacity
    assert (told["owner"]["links"], told["owner"]["imports"], told["owner"]["rows_read"]) == (1, 0, 50)
