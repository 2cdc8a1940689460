"""Versions of a table: staged beside the live one, filled, switched to and back, dropped, each by its entry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgpack
import pytest

from embcache import EmbeddingCache
from embcache.errors import ConfigError, Conflict, MalformedRequest, StorageFull, UnknownTable
from embcache.local.link import Link
from embcache.owner.catalogue import KEY, TableChange
from embcache.owner.entries import from_payload
from embcache.spec import TableSpec
from embcache_client.results import LookupResult
from embcache_storage.store import StoreFull
from tests.owner.stores import WatchedStore
from tests.owner.support import (
    ITEM,
    WAIT,
    OwnerThread,
    answer,
    ask,
    catalogue,
    fill,
    read,
    rows_of,
    some_ids,
    versions,
)
from tests.owner.versioning import drop_version, fill_version, stage, switch

USER = TableSpec(name="user", dim=3, default="zeros")
IDS = some_ids(200)
OLD, NEW = rows_of(IDS, 16, salt=1), rows_of(IDS, 16, salt=2)


def states(link: Link) -> dict[str, str]:
    """Of the versions of `item`."""
    told = link.call("catalogue").result(WAIT).meta["versions"]
    return {entry["label"]: entry["state"] for entry in told if entry["spec"]["name"] == "item"}


def live_rows(link: Link) -> bytes:
    return read(link, catalogue(link)["item"], IDS)[1].tobytes()


def test_a_version_from_its_staging_to_its_end(owner: OwnerThread, store: WatchedStore) -> None:
    link = owner.link()
    fill(link, "item", IDS, OLD)
    before, first = owner.arena.position, catalogue(link)["item"]
    assert stage(link, "blue")["position"] == before + 1
    assert fill_version(link, "blue", IDS, NEW)["version"] == "blue"
    assert live_rows(link) == OLD.tobytes()
    blue = versions(link, "staged")["item", "blue"]
    assert (blue.rows, read(link, blue, IDS)[1].tobytes()) == (200, NEW.tobytes())
    assert states(link) == {"2": "live", "blue": "staged"}
    for version, rows in (("blue", NEW), ("2", OLD), ("blue", NEW)):
        position = switch(link, item=version)["position"]
        assert position == owner.arena.position
        assert live_rows(link) == rows.tobytes()
        assert switch(link, item=version)["position"] == position, "it is live already"
    assert states(link) == {"blue": "live", "2": "retired"}
    assert sorted(store.versions()) == sorted([blue.number, first.number])
    drop_version(link, "2")
    assert store.versions() == [blue.number]
    assert states(link) == {"blue": "live"}
    assert (read(link, first, IDS)[0] == 3).all()


def test_an_import_that_names_no_version_takes_the_live_ones_place_alone(
    owner: OwnerThread, store: WatchedStore
) -> None:
    link = owner.link()
    fill(link, "item", IDS, OLD)
    fill_version(link, "3", IDS, NEW)  # a name that imports would come to
    switch(link, item="3")
    stage(link, "next")
    fill(link, "item", IDS[:50], OLD[:50])
    assert states(link) == {"2": "retired", "4": "live", "next": "staged"}
    assert len(store.versions()) == 3
    drop_version(link, "2")
    fill(link, "item", IDS, NEW)
    assert states(link) == {"5": "live", "next": "staged"}


def test_what_a_version_may_have_of_its_own(owner: OwnerThread) -> None:
    link = owner.link()
    own: dict[str, Any] = {"dtype": "f16", "default": {"constant": [1.0, 2.0, 3.0, 4.0]}}
    told = stage(link, "small", **own, add=False)
    assert told["spec"] == {**ITEM.to_json(), "dtype": "f16", "default": {"constant": [1, 2, 3, 4]}, "add": False}
    assert stage(link, "summed", **own)["spec"]["add"] is True, "what it does not say is as the live one has it"
    half = rows_of(IDS, 8)
    fill_version(link, "small", IDS, half)
    switch(link, item="small")
    assert live_rows(link) == half.tobytes()
    assert stage(link, "back", dtype="f32")["spec"] == {**ITEM.to_json(), "default": {"constant": [1, 2, 3, 4]}}


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ({"dim": 5}, Conflict, "'item' has dim 4, .* dtype, default, add"),
        ({"feature": "shoe"}, Conflict, "'item' has feature 'item'"),
        ({"name": "user"}, Conflict, "'item' has name 'item'"),
        ({"dtype": "f64"}, MalformedRequest, "table spec: dtype"),
        ({"dtyp": "f16"}, MalformedRequest, "nearest right key is dtype"),
        ({"dtype": "f16", "default": {"constant": [1.0]}}, MalformedRequest, "default.constant has 1 numbers"),
        ({"add": False}, MalformedRequest, "add should be true where dtype is f32"),
    ],
)
def test_specs_that_cannot_be(owner: OwnerThread, spec: Any, error: type[Exception], words: str) -> None:
    link = owner.link()
    with pytest.raises(error, match=words):
        stage(link, "blue", **spec)
    assert states(link) == {"1": "live"}


def test_what_is_refused_and_changes_nothing(owner: OwnerThread, store: WatchedStore) -> None:
    link = owner.link()
    link.call("create", {"spec": USER.to_json()}).result(WAIT)
    stage(link, "blue")
    stage(link, "narrow", dtype="f16", add=False)
    before, position, there = states(link), owner.arena.position, store.versions()
    with pytest.raises(Conflict, match="has a version 'blue', which is staged"):
        stage(link, "blue")
    for name in ("", "Blue", "a" * 65, "blå", "a-b", "a\n"):
        with pytest.raises(MalformedRequest, match="no name of a version"):
            stage(link, name)
        if name:
            with pytest.raises(MalformedRequest, match="no name of a version"):
                fill_version(link, name, IDS, NEW)
    with pytest.raises(UnknownTable, match="nobody"):
        stage(link, "blue", "nobody")
    with pytest.raises(UnknownTable, match="nobody"):
        switch(link, nobody="1")
    with pytest.raises(UnknownTable, match="the nearest is blue; it has 1, blue, narrow"):
        switch(link, item="blu", user="1")
    with pytest.raises(UnknownTable, match="no version 'blu'; the nearest is blue"):
        drop_version(link, "blu")
    with pytest.raises(Conflict, match="'1' of table 'item' is live: switch to another"):
        drop_version(link, "1")
    with pytest.raises(Conflict, match="is live: an import by name"):
        fill_version(link, "1", IDS, NEW)
    with pytest.raises(MalformedRequest, match="warm_s"):
        switch(link, warm_s=-1.0, item="blue")
    assert (states(link), store.versions(), owner.arena.position) == (before, there, position)
    switch(link, item="blue")
    with pytest.raises(Conflict, match="is retired: an import by name"):
        fill_version(link, "1", IDS, NEW)


def test_a_version_that_cannot_take_what_the_live_one_takes_cannot_follow(owner: OwnerThread) -> None:
    link = owner.link()
    with pytest.raises(Conflict, match="'narrow' of table 'item' cannot follow"):
        stage(link, "narrow", dtype="f16", add=False, follow=True)
    stage(link, "narrow", dtype="f16", add=False)
    stage(link, "wide", follow=True)
    switch(link, item="narrow", follow=True)
    with pytest.raises(Conflict, match="'narrow' of table 'item' cannot follow"):
        switch(link, item="1", follow=True)  # which takes `add`
    assert states(link)["narrow"] == "live"
    switch(link, item="1", follow=False)
    assert states(link) == {"1": "live", "narrow": "retired", "wide": "staged"}


def test_an_import_into_a_version_that_went_meanwhile(owner: OwnerThread, store: WatchedStore) -> None:
    link = owner.link()
    stage(link, "blue")
    for again in (False, True):
        import_id = link.call("import_begin", {"table": "item", "version": "blue"}).result(WAIT).meta["import"]
        drop_version(link, "blue")
        if again:
            stage(link, "blue")
        with pytest.raises(Conflict if again else UnknownTable, match="while rows were imported into it"):
            link.call("import_commit", {"import": import_id}).result(WAIT)
        assert len(store.versions()) == len(states(link))
        if not again:
            stage(link, "blue")
    import_id = link.call("import_begin", {"table": "item", "version": "blue"}).result(WAIT).meta["import"]
    switch(link, item="blue")
    with pytest.raises(Conflict, match="'blue' of table 'item' is live"):
        link.call("import_commit", {"import": import_id}).result(WAIT)


def test_lookups_of_several_tables_see_a_switch_of_all_of_them_at_once(owner: OwnerThread) -> None:
    link = owner.link()
    tables = {"item": ITEM, "user": USER}
    for name, spec in tables.items():
        fill(link, name, IDS, rows_of(IDS, spec.row_bytes, salt=1), spec)
        fill_version(link, "blue", IDS, rows_of(IDS, spec.row_bytes, salt=2), name)
    first = {name: live.label for name, live in catalogue(link).items()}
    seen = set()
    with EmbeddingCache.attach(owner.folder) as cache:
        for turn in range(10):
            targets = dict.fromkeys(tables, "blue") if turn % 2 == 0 else first
            meta = {"tables": targets, "follow": None, "warm_s": 0.0}
            switching = link.call("switch", meta)
            answered: list[LookupResult] = []
            while not (answered and switching.done()):
                answered.append(cache.lookup(dict.fromkeys(tables, IDS)))
            position = switching.result(WAIT).meta["position"]
            answered.append(cache.lookup(dict.fromkeys(tables, IDS), min_position=position))
            for result in answered:
                told = {name: result[name].version for name in tables}
                assert told in (first, dict.fromkeys(tables, "blue")), "both are old, or both are new"
                salt = 1 if told == first else 2
                for name, spec in tables.items():
                    assert result[name].raw.tobytes() == rows_of(IDS, spec.row_bytes, salt).tobytes()
                seen.add(salt)
            assert told == targets, "who was told of the switch sees it"
    assert seen == {1, 2}


def test_a_read_under_way_finishes_on_the_version_that_it_began_with(owner: OwnerThread, store: WatchedStore) -> None:
    link = owner.link()
    fill(link, "item", IDS, OLD)
    fill_version(link, "blue", IDS, NEW)
    first = catalogue(link)["item"]
    with store.held_back(first.number):
        late = ask(link, (first.number, 16, IDS))
        assert store.reading.acquire(timeout=WAIT)
        switch(link, item="blue")
        assert live_rows(link) == NEW.tobytes()
    [(state, rows)] = answer(late)
    assert (state == 1).all()
    assert rows.tobytes() == OLD.tobytes()


def test_a_restart_finds_the_versions_as_they_were(tmp_path: Path, store: WatchedStore) -> None:
    with OwnerThread(store, tmp_path, [ITEM]) as owner:
        link = owner.link()
        fill(link, "item", IDS, OLD)
        stage(link, "small", dtype="f16", add=False)
        fill_version(link, "small", IDS, rows_of(IDS, 8))
        stage(link, "next", follow=True, dtype="f16")
        switch(link, item="small")
        before = link.call("catalogue").result(WAIT).meta["versions"]
        told = owner.owner.parts.tables.named("item")
    with OwnerThread(store, tmp_path, [ITEM]) as owner:  # declared as it once was
        link = owner.link()
        after = link.call("catalogue").result(WAIT).meta["versions"]
        without_place = [{**entry, "entry": None} for entry in before]
        assert [{**entry, "entry": None} for entry in after] == without_place
        assert owner.owner.parts.tables.named("item") == told
        assert live_rows(link) == rows_of(IDS, 8).tobytes()
    small = ITEM.model_copy(update={"dtype": "f16", "add": False})
    with OwnerThread(store, tmp_path, [small]):  # or as its live version is
        pass
    with pytest.raises(ConfigError, match="dtype 'f16', not 'bf16'"):
        OwnerThread(store, tmp_path, [small.model_copy(update={"dtype": "bf16"})]).__enter__()


def test_a_folder_of_format_1_is_taken_up(tmp_path: Path, store: WatchedStore) -> None:
    with OwnerThread(store, tmp_path, [ITEM]) as owner:
        fill(owner.link(), "item", IDS, OLD)
    now = json.loads(store.get_meta(KEY) or b"")
    [table] = now["tables"]
    [version] = table["versions"]
    plain = {"number": version["number"], "label": version["label"], "live": True}
    table = {"spec": table["spec"], "born": table["born"], "versions": [plain]}
    store.put_meta(KEY, json.dumps({**now, "format": 1, "tables": [table]}).encode())
    with OwnerThread(store, tmp_path, [ITEM]) as owner:
        link = owner.link()
        assert live_rows(link) == OLD.tobytes()
        fill(link, "item", IDS, NEW)
        assert states(link) == {"3": "live"}
    head = msgpack.packb({"name": "item", "table": table, "rows": 200})
    entry = from_payload(len(head).to_bytes(4, "little") + head)
    assert isinstance(entry, TableChange)
    assert (entry.new, entry.rows) == (version["number"], 200)


def test_a_switch_that_does_not_get_into_the_log_leaves_the_old_versions(
    owner: OwnerThread, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreFull("no space left")

    link = owner.link()
    fill(link, "item", IDS, OLD)
    fill_version(link, "blue", IDS, NEW)
    before, there = states(link), store.versions()
    with monkeypatch.context() as broken:
        broken.setattr(type(store.log), "sync", full)
        for call in (
            lambda: switch(link, item="blue"),
            lambda: stage(link, "green"),
            lambda: drop_version(link, "blue"),
            lambda: fill_version(link, "blue", IDS, OLD),
        ):
            with pytest.raises(StorageFull):
                call()
    assert (states(link), store.versions(), live_rows(link)) == (before, there, OLD.tobytes())
    switch(link, item="blue")
    assert live_rows(link) == NEW.tobytes()
