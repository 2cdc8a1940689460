"""Tables come, go and come back: what readers are told, what a restart finds, and what an error leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from embcache.errors import ConfigError, Conflict, MalformedRequest, NotReady, StorageCorrupt, StorageFull, UnknownTable
from embcache.local.link import Link
from embcache.owner import applier
from embcache.owner.catalogue import KEY, Table, TableChange, Version
from embcache.owner.entries import to_payload
from embcache.spec import TableSpec, Uniform
from embcache_storage.store import StoreFull
from tests.owner.stores import WatchedStore
from tests.owner.support import ITEM, WAIT, OwnerThread, begin, catalogue, fill, read, rows_of, some_ids

USER = TableSpec(name="user", dim=6, dtype="f16", default=Uniform(uniform=0.5), feature="person")
IDS = some_ids(100)
ROWS = rows_of(IDS, 16)


def create(link: Link, spec: TableSpec) -> bool:
    return bool(link.call("create", {"spec": spec.to_json()}).result(WAIT).meta["created"])


def drop(link: Link, table: str) -> None:
    link.call("drop", {"table": table}).result(WAIT)


def message(link: Link) -> dict[str, Any]:
    return link.call("catalogue").result(WAIT).meta


def test_readers_are_told_of_every_change(owner: OwnerThread) -> None:
    link = owner.link()
    told = message(link)
    assert told["generation"] == owner.arena.generation == link.hello["generation"]
    assert told["history"] == link.hello["history"]
    assert [entry["spec"] for entry in told["versions"]] == [ITEM.to_json()]
    for change in (
        lambda: create(link, USER),
        lambda: fill(link, "item", IDS, ROWS),
        lambda: drop(link, "user"),
    ):
        before = owner.arena.generation
        change()
        assert message(link)["generation"] == owner.arena.generation == before + 1
    [version] = message(link)["versions"]
    of_its_own = {key: version[key] for key in ("number", "entry")}
    assert version == {"label": "2", "state": "live", "rows": 100, "spec": ITEM.to_json(), **of_its_own}


def test_the_same_spec_again_does_nothing_and_another_is_a_conflict(owner: OwnerThread) -> None:
    link = owner.link()
    assert create(link, USER)
    generation = owner.arena.generation
    assert not create(link, USER)
    with pytest.raises(Conflict, match="'user' is there with dim 6, not 7"):
        create(link, USER.model_copy(update={"dim": 7}))
    assert owner.arena.generation == generation


def test_what_is_no_table(owner: OwnerThread) -> None:
    link = owner.link()
    with pytest.raises(UnknownTable, match="'nobody'"):
        drop(link, "nobody")
    with pytest.raises(MalformedRequest, match="dim"):
        link.call("create", {"spec": {"name": "x", "dim": 0}}).result(WAIT)
    with pytest.raises(MalformedRequest, match="'spec'"):
        link.call("create", {"spec": "x"}).result(WAIT)
    with pytest.raises(MalformedRequest, match="'table'"):
        link.call("drop", {}).result(WAIT)
    with pytest.raises(MalformedRequest, match="no op is named 'truncate'"):
        link.call("truncate").result(WAIT)


def test_a_table_dropped_and_made_anew_never_shows_old_rows(owner: OwnerThread, store: WatchedStore) -> None:
    link = owner.link()
    fill(link, "item", IDS, ROWS)
    old = catalogue(link)["item"]
    assert (read(link, old, IDS)[0] == 1).all()
    drop(link, "item")
    assert old.number not in store.versions()
    assert create(link, ITEM)
    new = catalogue(link)["item"]
    assert new.number > old.number
    assert (read(link, new, IDS)[0] == 0).all()
    assert (read(link, old, IDS)[0] == 3).all()


def test_a_restart_finds_the_tables_as_they_were(tmp_path: Path, store: WatchedStore) -> None:
    with OwnerThread(store, tmp_path, [ITEM]) as owner:
        link = owner.link()
        create(link, USER)
        fill(link, "item", IDS, ROWS)
        before, first = message(link), catalogue(link)
    with OwnerThread(store, tmp_path, [ITEM]) as owner:
        link = owner.link()
        after, second = message(link), catalogue(link)
        assert after["history"] == before["history"]
        assert [entry["spec"] for entry in after["versions"]] == [entry["spec"] for entry in before["versions"]]
        assert {name: live[:2] for name, live in second.items()} == {name: live[:2] for name, live in first.items()}
        assert second["item"].rows == 100
        state, rows = read(link, second["item"], IDS)
        assert (state == 1).all()
        assert rows.tobytes() == ROWS.tobytes()
        fill(link, "item", IDS, ROWS)
        assert catalogue(link)["item"].number > max(live.number for live in first.values())


def test_another_folder_has_another_history(tmp_path: Path) -> None:
    histories = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with OwnerThread(WatchedStore(tmp_path / name / "rocksdb"), tmp_path / name) as owner:
            histories.add(owner.link().hello["history"])
    assert len(histories) == 2


def test_numbers_of_what_never_came_to_be_are_not_used_again(tmp_path: Path, store: WatchedStore) -> None:
    with OwnerThread(store, tmp_path, [ITEM]) as owner:
        link = owner.link()
        begin(link, "item")
        last = catalogue(link)["item"].number
    with OwnerThread(store, tmp_path, [ITEM]) as owner:
        fill(owner.link(), "item", IDS, ROWS)
        assert catalogue(owner.link())["item"].number > last + 1


def test_a_declared_table_must_be_as_it_is(tmp_path: Path, store: WatchedStore) -> None:
    with OwnerThread(store, tmp_path, [ITEM]):
        pass
    other = ITEM.model_copy(update={"dim": 5})
    with pytest.raises(ConfigError, match=r"\[\[table\]\] 'item' is there with dim 4, not 5"):
        OwnerThread(store, tmp_path, [USER, other]).__enter__()
    with OwnerThread(store, tmp_path) as owner:
        assert set(catalogue(owner.link())) == {"item"}


def test_versions_that_the_catalogue_does_not_know_are_dropped_at_start(tmp_path: Path, store: WatchedStore) -> None:
    with OwnerThread(store, tmp_path, [ITEM]) as owner:
        known = catalogue(owner.link())["item"].number
    store.create(50, 16)
    store.create(51, 16)
    with OwnerThread(store, tmp_path, [ITEM]):
        assert store.versions() == [known]


def test_a_folder_that_lost_its_catalogue_is_not_emptied(tmp_path: Path, store: WatchedStore) -> None:
    store.create(3, 16)
    with pytest.raises(StorageCorrupt, match="no catalogue"):
        OwnerThread(store, tmp_path, [ITEM]).__enter__()
    assert store.versions() == [3]


def test_a_folder_that_lost_its_rows_is_refused(tmp_path: Path, store: WatchedStore) -> None:
    with OwnerThread(store, tmp_path, [ITEM, USER]) as owner:
        lost = catalogue(owner.link())["user"].number
    store.drop(lost)
    with pytest.raises(StorageCorrupt, match="lacks the rows of user"):
        OwnerThread(store, tmp_path).__enter__()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x00\xff", "cannot be read"),
        (b"[]", "cannot be read"),
        (b'{"format": 1}', "cannot be read"),
        (json.dumps({"format": 3, "tables": []}).encode(), "format 3, this release reads 2"),
        (json.dumps({"format": 1, "history": "h", "numbers": 3, "tables": [{"spec": {}}]}).encode(), "table spec"),
        (
            json.dumps(
                {
                    "format": 1,
                    "history": "h",
                    "numbers": 3,
                    "tables": [{"spec": {"name": "x"}, "born": 1, "versions": [{"number": 1, "label": "1"}]}],
                }
            ).encode(),
            "table spec: dim",
        ),
    ],
)
def test_a_catalogue_that_cannot_be_read_is_refused(
    tmp_path: Path, store: WatchedStore, data: bytes, words: str
) -> None:
    store.put_meta(KEY, data)
    with pytest.raises(StorageCorrupt, match=words):
        OwnerThread(store, tmp_path, [ITEM]).__enter__()
    assert store.get_meta(KEY) == data


def test_a_change_that_does_not_get_into_the_log_leaves_the_old_tables(
    tmp_path: Path, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreFull("no space left")

    with OwnerThread(store, tmp_path, [ITEM]) as owner:
        link = owner.link()
        fill(link, "item", IDS, ROWS)
        before, position = message(link), store.log.last
        with monkeypatch.context() as broken:
            broken.setattr(type(store.log), "sync", full)
            for change in (
                lambda: create(link, USER),
                lambda: drop(link, "item"),
                lambda: fill(link, "item", IDS[:5], rows_of(IDS[:5], 16, salt=1)),
            ):
                with pytest.raises(StorageFull, match="no space left"):
                    change()
                assert message(link) == before
                assert owner.arena.generation == before["generation"]
        assert store.log.last == position
        state, rows = read(link, catalogue(link)["item"], IDS)
        assert (state == 1).all()
        assert rows.tobytes() == ROWS.tobytes()
        assert store.versions() == [catalogue(link)["item"].number]
    with OwnerThread(store, tmp_path) as owner:
        again = owner.link()
        assert set(catalogue(again)) == {"item"}
        assert (read(again, catalogue(again)["item"], IDS)[0] == 1).all()
        assert create(again, USER)


def test_a_change_in_the_log_is_made_as_soon_as_the_catalogue_can_be_written(
    tmp_path: Path, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applier, "_RETRY_S", 0.001)
    with OwnerThread(store, tmp_path, [ITEM]) as owner:
        link = owner.link()
        fill(link, "item", IDS, ROWS)
        store.commit_errors += [StoreFull("no space left")] * 3
        assert create(link, USER)
        store.commit_errors += [StoreFull("no space left")] * 3
        drop(link, "item")
        assert set(catalogue(link)) == {"user"}
        assert store.versions() == [catalogue(link)["user"].number]


def test_a_change_that_was_taken_back_before_it_was_told_is_passed_over_at_the_next_start(
    tmp_path: Path, store: WatchedStore
) -> None:
    """Its entry is in the log, since the disk took no retraction of it either; its version is not in the store."""
    with OwnerThread(store, tmp_path, [ITEM]):
        pass
    lost = Table(USER, 60, (Version(60, "1", USER, 60),))
    position = store.log.append([to_payload(TableChange({"user": lost}, 60))])
    with OwnerThread(store, tmp_path, [ITEM]) as owner:
        assert owner.arena.position == position
        assert set(catalogue(owner.link())) == {"item"}


def test_changes_of_tables_have_positions(owner: OwnerThread) -> None:
    link = owner.link()
    before = owner.arena.position
    for created in (True, False):
        told = link.call("create", {"spec": USER.to_json()}).result(WAIT).meta
        assert (told["created"], told["position"]) == (created, before + 1)
    assert fill(link, "item", IDS, ROWS).meta["position"] == before + 2
    assert link.call("drop", {"table": "user"}).result(WAIT).meta["position"] == before + 3 == owner.arena.position


def test_what_is_asked_of_an_owner_that_stops(tmp_path: Path, store: WatchedStore) -> None:
    with OwnerThread(store, tmp_path, [ITEM]) as owner:
        link = owner.link()
        fill(link, "item", IDS, ROWS)
    assert not owner.arena.alive
    with pytest.raises(NotReady):
        link.call("catalogue").result(WAIT)
    with pytest.raises(NotReady, match="no service runs"):
        Link.connect(tmp_path, WAIT)
