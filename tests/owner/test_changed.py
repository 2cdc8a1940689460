"""What changed since a position, at the owner: no id is left out, and what is not known is said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embcache.errors import Conflict, DimensionMismatch, HistoryChanged, StorageCorrupt, UnknownTable
from embcache.local.link import Link
from embcache.owner import changed
from embcache.owner.catalogue import KEY
from embcache.spec import TableSpec
from embcache_client.updates import ADD, ASSIGN, DELETE
from embcache_storage.log import Trimmed
from embcache_storage.rocks import RocksStore
from tests.naive import NaiveTable
from tests.owner.stores import WatchedStore
from tests.owner.support import ITEM, WAIT, Ids, OwnerThread, catalogue, fill, some_ids
from tests.owner.test_updates import Pusher, floats, rows
from tests.owner.versioning import drop_version, fill_version, stage, switch

IDS = some_ids(60)
NONE = np.zeros((0, 4), np.float32)


def ask(link: Link, since: int, table: str = "item", history: str | None = None) -> tuple[dict[str, Any], Ids]:
    meta, payload = link.call("changed", {"table": table, "since": since, "history": history}).result(WAIT)
    ids = np.frombuffer(payload, np.uint64)
    assert len(ids) == meta["n"]
    assert np.all(ids[1:] > ids[:-1])
    return dict(meta), ids


def since(link: Link, position: int, table: str = "item") -> set[int]:
    """All of it, piece by piece."""
    found: set[int] = set()
    while True:
        told, ids = ask(link, position, table)
        found |= set(ids.tolist())
        if told["position"] == told["applied"]:
            return found
        assert told["position"] > position
        position = told["position"]


def fetch(link: Link, number: int, ids: Ids, row_bytes: int = 16) -> dict[int, list[float]]:
    meta, payload = link.call("fetch", {"version": number, "n": len(ids)}, [ids]).result(WAIT)
    assert meta["row_bytes"] == row_bytes
    there = np.frombuffer(payload, np.uint64, meta["n"])
    values = np.frombuffer(payload, np.float32, offset=8 * meta["n"]).reshape(meta["n"], row_bytes // 4)
    return dict(zip(there.tolist(), values.tolist(), strict=True))


def now(owner: OwnerThread) -> int:
    return owner.owner.parts.intake.applier.applied


@pytest.fixture
def pusher(owner: OwnerThread) -> Pusher:
    fill(owner.link(), "item", IDS[:40], rows(floats(IDS[:40])))
    pusher, intake = Pusher(owner), owner.owner.parts.intake
    owner.run(intake.wait_applied(intake.committer.accepted, WAIT))  # its opening
    return pusher


def test_ids_and_rows_against_a_model(owner: OwnerThread, pusher: Pusher, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each position the model's copy, brought on by what changed since, is the model."""
    monkeypatch.setattr(changed, "PIECE_BYTES", 2000)  # some batches each
    link = owner.link()
    owner.run(owner.owner.parts.tables.create(TableSpec(name="other", dim=4)))
    model, other, random = NaiveTable(4), NaiveTable(4), np.random.default_rng(3)
    model.load(IDS[:40].tolist(), floats(IDS[:40]))
    live = catalogue(link)["item"].number
    copies = {now(owner): dict(model.rows)}
    for step in range(60):
        table = "other" if random.random() < 0.3 else "item"
        op = (ASSIGN, ADD, DELETE)[random.integers(3)]
        ids = random.choice(IDS, random.integers(0, 12))
        values = floats(ids, step)
        position = pusher.push((table, op, ids, values))
        (model if table == "item" else other).change(op, ids.tolist(), values)
        if random.random() < 0.3:
            copies[position] = dict(model.rows)
        if step == 30:
            stage(link, "beside", follow=True)
            fill_version(link, "beside", IDS[:5], rows(floats(IDS[:5])))
    drop_version(link, "beside")
    for position, copy in copies.items():
        told = since(link, position)
        newer = fetch(link, live, np.array(sorted(told), np.uint64))
        for identifier in told:
            copy.pop(identifier, None)
        copy |= {identifier: np.array(row, np.float32) for identifier, row in newer.items()}
        assert copy.keys() == model.rows.keys()
        for identifier, row in copy.items():
            np.testing.assert_array_equal(row, model.rows[identifier])
    assert since(link, now(owner)) == set()


def test_no_more_than_what_changed_is_told(owner: OwnerThread, pusher: Pusher) -> None:
    position = now(owner)
    pusher.push(("item", ASSIGN, IDS[3:5], floats(IDS[3:5])), ("item", DELETE, IDS[50:51], None))
    owner.run(owner.owner.parts.intake.open("another"))
    told, ids = ask(owner.link(), position)
    assert ids.tolist() == [*IDS[3:5].tolist(), int(IDS[50])]
    assert (told["position"], told["applied"], told["version"]) == (position + 2, position + 2, "2")


def test_a_piece_ends_where_the_log_says(owner: OwnerThread, pusher: Pusher, monkeypatch: pytest.MonkeyPatch) -> None:
    position = now(owner)
    for at in range(4):
        pusher.push(("item", ASSIGN, IDS[at : at + 1], floats(IDS[:1])))
    monkeypatch.setattr(changed, "PIECE_BYTES", 1)
    told, ids = ask(owner.link(), position + 1)
    assert (told["position"], told["applied"], ids.tolist()) == (position + 2, position + 4, [int(IDS[1])])


def test_what_is_not_applied_is_not_told(owner: OwnerThread, pusher: Pusher) -> None:
    position = now(owner)
    with unpublished(owner):
        pending = pusher.send(pusher.batch(("item", ASSIGN, IDS[:1], floats(IDS[:1]))))
        pending.result(WAIT)  # in the log
        told, ids = ask(owner.link(), position)
        assert (told["position"], told["applied"], len(ids)) == (position, position, 0)
        with pytest.raises(Conflict, match=f"position {position + 1} is beyond what is applied, which is {position}"):
            ask(owner.link(), position + 1)
    owner.run(owner.owner.parts.intake.wait_applied(position + 1, WAIT))
    assert since(owner.link(), position) == {int(IDS[0])}


@contextmanager
def unpublished(owner: OwnerThread) -> Iterator[None]:
    """Within the block nothing is published: a reader that keeps rows has not acknowledged what it was told."""
    link = owner.link()
    link.call("feed_open", {}).result(WAIT)
    yield
    link.close()


def test_rows_that_came_as_a_whole_make_it_unknown(owner: OwnerThread, pusher: Pusher) -> None:
    link = owner.link()
    created = ask(link, now(owner))[0]["applied"]

    def refused(position: int, at: int, label: str) -> None:
        with pytest.raises(Conflict, match=rf"anew at position {at}, when version '{label}' went live") as refusal:
            ask(link, position)
        assert refusal.value.detail == {"table": "item", "since": position, "oldest": at}

    refused(0, created - 1, "2")  # the import, before the opening
    stage(link, "next", follow=True)
    staged = now(owner)
    assert since(link, created) == set()
    fill_version(link, "next", IDS[:5], rows(floats(IDS[:5])))
    assert since(link, created) == set(), "a version beside the live one is nobody's row"
    switch(link, item="next", follow=True)
    refused(staged, now(owner), "next")
    first = now(owner)
    pusher.push(("item", ASSIGN, IDS[7:8], floats(IDS[7:8])))
    assert since(link, first) == {int(IDS[7])}
    switch(link, item="2")
    refused(first, now(owner), "2")
    back = now(owner)
    drop_version(link, "next")
    fill(link, "item", IDS[:3], rows(floats(IDS[:3])))
    refused(back, now(owner), "3")
    link.call("drop", {"table": "item"}).result(WAIT)
    with pytest.raises(UnknownTable):
        ask(link, back)
    owner.run(owner.owner.parts.tables.create(ITEM))
    refused(back, now(owner), "4")
    assert since(link, now(owner)) == set()


def test_another_history_is_refused(owner: OwnerThread, pusher: Pusher) -> None:
    history = ask(owner.link(), now(owner))[0]["history"]
    assert ask(owner.link(), now(owner), history=history)[0]["history"] == history
    with pytest.raises(HistoryChanged, match=f"'other' is not this service's, which is '{history}'"):
        ask(owner.link(), now(owner), history="other")


def test_a_log_that_was_trimmed_says_so(owner: OwnerThread, pusher: Pusher) -> None:
    position = now(owner)
    for at in range(4):
        pusher.push(("item", ASSIGN, IDS[at : at + 1], floats(IDS[:1])))
    owner.owner.parts.store.log.trim(position + 2, 0, 0.0)
    with pytest.raises(Conflict, match=f"The oldest that can be asked about now is {position + 2}; export") as refusal:
        ask(owner.link(), position + 1)
    assert refusal.value.detail == {"table": "item", "since": position + 1, "oldest": position + 2}
    assert "updates.log_bytes" in refusal.value.message
    assert since(owner.link(), position + 2) == {int(identifier) for identifier in IDS[2:4]}


def test_a_log_that_is_trimmed_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two entries: it is told as trimmed, and not as lost."""
    with closing(RocksStore(tmp_path / "data")) as store:
        store.log.append([b"one", b"two", b"three"])
        read_head = store.log._cell

        def trims_first(position: int) -> Any:
            if position == 2:
                monkeypatch.undo()
                store.log.trim(3, 0, 0.0)
            return read_head(position)

        monkeypatch.setattr(store.log, "_cell", trims_first)
        with pytest.raises(Trimmed) as trimmed:
            store.log.read(0, 1 << 20)
        assert trimmed.value.first == 4


def test_entries_behind_a_position_are_not_read(tmp_path: Path) -> None:
    with closing(RocksStore(tmp_path / "data")) as store:
        store.log.append([b"one", b"two", b"three"])
        assert [entry.payload for entry in store.log.read(0, 1 << 20, 2)] == [b"one", b"two"]
        assert store.log.read(2, 1 << 20, 2) == store.log.read(3, 1 << 20, 9) == []


def test_an_entry_of_a_new_kind_is_not_passed_over() -> None:
    @dataclass
    class New:
        nbytes: int = 0

    with pytest.raises(AssertionError):
        changed.changed_ids(New(), 1)  # type: ignore[arg-type]


def test_since_when_a_version_is_live_outlasts_a_restart(tmp_path: Path, store: WatchedStore) -> None:
    with OwnerThread(store, tmp_path, [ITEM]) as owner:
        fill(owner.link(), "item", IDS[:40], rows(floats(IDS[:40])))
        imported = now(owner)
        position = Pusher(owner).push(("item", ASSIGN, IDS[:1], floats(IDS[:1])))
    with OwnerThread(store, tmp_path) as owner:
        assert since(owner.link(), imported) == {int(IDS[0])}
        with pytest.raises(Conflict, match=f"anew at position {imported}"):
            ask(owner.link(), imported - 1)
        assert now(owner) >= position


def test_a_catalogue_that_does_not_tell_begins_where_it_is_applied(tmp_path: Path, store: WatchedStore) -> None:
    with OwnerThread(store, tmp_path, [ITEM]) as owner:
        position = Pusher(owner).push(("item", ASSIGN, IDS[:1], floats(IDS[:1])))
    data = store.get_meta(KEY)
    assert data is not None
    value = json.loads(data)
    for table in value["tables"]:
        del table["since"]
    store.put_meta(KEY, json.dumps(value).encode())
    for _ in range(2):
        with OwnerThread(store, tmp_path) as owner:
            with pytest.raises(Conflict, match=f"anew at position {position}"):
                ask(owner.link(), position - 1)
            assert ask(owner.link(), position)[0]["position"] == now(owner)
            owner.run(owner.owner.parts.intake.open("goes-on"))


def test_what_cannot_be_fetched(owner: OwnerThread, pusher: Pusher, store: WatchedStore) -> None:
    link, live = owner.link(), catalogue(owner.link())["item"]
    assert fetch(link, live.number, IDS[38:42]).keys() == set(IDS[38:40].tolist())
    assert fetch(link, live.number, IDS[:0]) == {}
    with pytest.raises(UnknownTable, match="version 77 is gone"):
        fetch(link, 77, IDS[:1])
    for n in (2, 1 << 24):
        with pytest.raises(DimensionMismatch):
            link.call("fetch", {"version": live.number, "n": n}, [IDS[:1]]).result(WAIT)
    store.damage(live.number, int(IDS[3]))
    with pytest.raises(StorageCorrupt, match=f"the row of id {IDS[3]} is damaged"):
        fetch(link, live.number, IDS[:10])
    warm = owner.warm(live.number, IDS[:10])[1]
    assert (warm == 0xEE).all(), "what is fetched does not come to memory"
