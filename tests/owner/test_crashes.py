"""What a crash leaves at each step of a change: the folder is copied there, as a kill would leave it, and opened."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from embcache.spec import TableSpec
from tests.owner.stores import WatchedStore
from tests.owner.support import ITEM, WAIT, OwnerThread, begin, catalogue, fill, read, rows_of, some_ids, versions
from tests.owner.versioning import drop_version, fill_version, stage, switch

IDS = some_ids(200)
OLD, NEW = rows_of(IDS, 16, salt=1), rows_of(IDS, 16, salt=2)


def copy_file(source: str, target: str) -> None:
    """Files of dropped versions may go while we copy."""
    with contextlib.suppress(FileNotFoundError):
        shutil.copyfile(source, target)


def _listing(folder: Path) -> dict[str, int]:
    """Sizes of the files in a folder; the log of messages is not part of the data."""
    sizes = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and not path.name.startswith("LOG"):
                sizes[str(path.relative_to(folder))] = path.stat().st_size
    return sizes


class Snapshots:
    """Copies of a store's folder, made before each call that a change makes of the store, and one at the end."""

    def __init__(self, store: WatchedStore, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self.calls: list[str] = []

    def take(self, call: str) -> None:
        copy = self._folder / str(len(self.calls)) / "rocksdb"
        while True:  # files that RocksDB deletes or adds meanwhile make a copy that no crash would leave
            before = _listing(self._store.folder)
            shutil.copytree(self._store.folder, copy, copy_function=copy_file)
            if _listing(self._store.folder) == before == _listing(copy):
                break
            shutil.rmtree(copy)
        self.calls.append(call)

    def __enter__(self) -> Snapshots:
        self._store.before = self.take
        return self

    def __exit__(self, *_: object) -> None:
        self._store.before = lambda call: None
        self.take("end")

    def folders(self) -> list[tuple[str, Path]]:
        return [(call, self._folder / str(n)) for n, call in enumerate(self.calls)]


@pytest.fixture
def snapshots(tmp_path: Path, store: WatchedStore) -> Snapshots:
    return Snapshots(store, tmp_path / "snapshots")


def test_a_crash_in_an_import_leaves_the_old_rows_or_the_new(
    tmp_path: Path, store: WatchedStore, snapshots: Snapshots
) -> None:
    with OwnerThread(store, tmp_path, [ITEM]) as owner:
        link = owner.link()
        fill(link, "item", IDS, OLD)
        with snapshots:
            fill(link, "item", IDS, NEW)
    assert snapshots.calls == ["bulk", "add", "add", "commit", "commit", "flush", "drop", "end"]
    found = []
    for _, folder in snapshots.folders():
        again = WatchedStore(folder / "rocksdb")
        with OwnerThread(again, folder, [ITEM]) as owner:
            link = owner.link()
            live = catalogue(link)["item"]
            assert again.versions() == [live.number], "nothing is left of the other version"
            assert live.rows == len(IDS)
            state, rows = read(link, live, IDS)
            assert (state == 1).all()
            found.append({OLD.tobytes(): "old", NEW.tobytes(): "new"}[rows.tobytes()])
    assert found == ["old"] * 4 + ["new"] * 4, "the entry of the log, before the catalogue is written, makes them live"


def test_a_crash_while_tables_come_and_go(tmp_path: Path, store: WatchedStore, snapshots: Snapshots) -> None:
    user = TableSpec(name="user", dim=3)
    with OwnerThread(store, tmp_path, [ITEM]) as owner:
        link = owner.link()
        fill(link, "item", IDS, OLD)
        with snapshots:
            link.call("create", {"spec": user.to_json()}).result(WAIT)
            link.call("drop", {"table": "item"}).result(WAIT)
    assert snapshots.calls == ["create", "commit", "flush", "commit", "flush", "drop", "end"]
    found = []
    for _, folder in snapshots.folders():
        again = WatchedStore(folder / "rocksdb")
        with OwnerThread(again, folder) as owner:
            link = owner.link()
            there = catalogue(link)
            assert again.versions() == sorted(live.number for live in there.values())
            found.append(sorted(there))
            if "item" in there:
                assert read(link, there["item"], IDS)[1].tobytes() == OLD.tobytes()
            number = max([live.number for live in there.values()])
            begin(link, "fresh", TableSpec(name="fresh", dim=1))
            fill(link, "fresh", IDS, rows_of(IDS, 4), TableSpec(name="fresh", dim=1))
            assert catalogue(link)["fresh"].number > number
    assert found == [["item"], ["item", "user"], ["item", "user"], ["user"], ["user"], ["user"], ["user"]]


def test_a_crash_while_versions_are_staged_filled_switched_and_dropped(
    tmp_path: Path, store: WatchedStore, snapshots: Snapshots
) -> None:
    """Lookups find the old rows or the new, whatever is staged or left; nothing is in the store that no version has."""
    with OwnerThread(store, tmp_path, [ITEM]) as owner:
        link = owner.link()
        fill(link, "item", IDS, OLD)
        first = catalogue(link)["item"].label
        with snapshots:
            stage(link, "blue")
            fill_version(link, "blue", IDS, NEW)
            switch(link, item="blue")
            drop_version(link, first)
    staged, filled = ["create", "commit", "flush"], ["bulk", "add", "commit", "commit", "flush", "drop"]
    assert snapshots.calls == [*staged, *filled, *["commit", "flush"], *["commit", "flush", "drop"], "end"]
    found = []
    for _, folder in snapshots.folders():
        again = WatchedStore(folder / "rocksdb")
        with OwnerThread(again, folder, [ITEM]) as owner:
            link = owner.link()
            there = versions(link)
            assert again.versions() == sorted(version.number for version in there.values())
            rows = {OLD.tobytes(): "old", NEW.tobytes(): "new"}[read(link, catalogue(link)["item"], IDS)[1].tobytes()]
            blue = there.get(("item", "blue"))
            full = blue is not None and read(link, blue, IDS)[1].tobytes() == NEW.tobytes()
            found.append((rows, len(there), full))
            for label in ("more", "blue"):  # whatever it is, it goes on
                if ("item", label) not in there:
                    stage(link, label)
            switch(link, item="more")
    before, stages, fills = ("old", 1, False), ("old", 2, False), ("old", 2, True)
    assert found == [before] + [stages] * 5 + [fills] * 3 + [("new", 2, True)] * 2 + [("new", 1, True)] * 4
