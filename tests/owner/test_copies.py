"""Versions that begin with the rows of another one: the same rows, whatever is pushed while they are copied."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embcache.errors import Conflict, StorageFull, UnknownTable
from embcache.host import expiry
from embcache.host.convert import decode_rows, encode_rows
from embcache.owner import copies
from embcache.owner.catalogue import Version
from embcache.spec import TableSpec
from embcache_client.updates import ADD, ASSIGN, DELETE
from embcache_storage.store import StoreFull
from tests.naive import NaiveTable, rounded
from tests.owner.stores import WatchedStore
from tests.owner.support import ITEM, WAIT, Ids, OwnerThread, catalogue, fill, read, some_ids, versions
from tests.owner.test_crashes import Snapshots
from tests.owner.test_updates import Pusher, floats, rows
from tests.owner.versioning import drop_version, fill_version, stage, switch

IDS = some_ids(400)
NAMES = {0: "f32", 1: "f16", 2: "bf16", 3: "q8"}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("SCAN_BYTES", 320), ("WRITE_ROWS", 8), ("FEW_IDS", 4)):
        monkeypatch.setattr(copies, name, size)


def stored(owner: OwnerThread, label: str) -> dict[int, list[float]]:
    """The rows of a version as they are on disk."""
    [version] = [each for each in owner.owner.parts.tables.versions() if each.label == label]
    ids, found = owner.owner.parts.store.scan(version.number, version.spec.cold_row_bytes, 0, 10_000)
    values = decode_rows(found, version.spec.cold_code, version.spec.dim)
    return dict(zip(ids.tolist(), values.tolist(), strict=True))


def told(rows_: dict[int, NDArray[np.float32]]) -> dict[int, list[float]]:
    return {identifier: row.tolist() for identifier, row in rows_.items()}


class Pushing:
    """Updates of `item` without a pause, from a thread of its own, each with its position."""

    def __init__(self, owner: OwnerThread) -> None:
        self._link, self._random = owner.link(), np.random.default_rng(5)
        opened = self._link.call("open_producer", {"producer": "without-pause"}).result(WAIT).meta
        self._batch = {"producer": "without-pause", "epoch": opened["epoch"], "mark": b"", "applied_within_s": WAIT}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.pushed: list[tuple[int, str, Ids, Any]] = []

    def once(self) -> None:
        op = (ASSIGN, ADD, DELETE)[self._random.integers(3)]
        ids = self._random.choice(IDS, self._random.integers(1, 30))
        values = self._random.integers(-50, 50, (len(ids), 4)).astype(np.float32)
        changed = rows(values) if op != DELETE else np.zeros((len(ids), 0), np.uint8)
        batch = {**self._batch, "seq": len(self.pushed) + 1}
        batch["changes"] = [["item", op, 0, len(ids), changed.shape[1]]]
        position = self._link.call("update", batch, [ids, changed]).result(WAIT).meta["position"]
        self.pushed.append((position, op, ids, values))

    def _run(self) -> None:
        while not self._stop.is_set():
            self.once()

    def __enter__(self) -> Pushing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def model(self, upto: int) -> NaiveTable:
        model = NaiveTable(4)
        model.load(IDS[:300].tolist(), floats(IDS[:300]))
        for position, op, ids, values in self.pushed:
            if position <= upto:
                model.change(op, ids.tolist(), values)
        return model


@pytest.mark.parametrize("follow", [True, False])
@pytest.mark.parametrize(
    "spec", [{}, {"dtype": "f16", "add": True}, {"dtype": "f16", "add": False}, {"dtype": "bf16", "add": False}]
)
def test_a_copy_is_its_source_while_updates_go_on(owner: OwnerThread, follow: bool, spec: dict[str, Any]) -> None:
    link = owner.link()
    fill(link, "item", IDS[:300], rows(floats(IDS[:300])))
    if follow and spec.get("add") is False:
        with pytest.raises(Conflict, match="cannot follow: the live version takes `add`"):
            stage(link, "copy", follow=follow, source="2", **spec)
        return
    with Pushing(owner) as pushing:
        while len(pushing.pushed) < 3:
            pass
        position = stage(link, "copy", follow=follow, source="2", **spec)["position"]
        while pushing.pushed[-1][0] < position + 3:
            pass
    assert sum(at < position for at, *_ in pushing.pushed) > 3, "some came while it was copied"
    last = pushing.pushed[-1][0]
    assert stored(owner, "2") == told(pushing.model(last).rows)
    expected = pushing.model(last if follow else position).rows
    if spec.get("add") is False:
        expected = {key: rounded(row[None, :], spec["dtype"])[0] for key, row in expected.items()}
    assert stored(owner, "copy") == told(expected)
    if not spec.get("add") and follow:
        switch(link, item="copy")
        assert read(link, catalogue(link)["item"], IDS)[1].tobytes() == served(pushing.model(last))


def served(model: NaiveTable) -> bytes:
    empty = np.zeros(4, np.float32)
    return np.array([model.rows.get(identifier, empty) for identifier in IDS.tolist()], np.float32).tobytes()


def test_what_comes_at_each_step_is_in_it(owner: OwnerThread, store: WatchedStore) -> None:
    """A batch before each piece of the scan, and before each write of a round: none is overlooked."""
    link, turn = owner.link(), threading.Lock()
    fill(link, "item", IDS[:300], rows(floats(IDS[:300])))
    pushing, steps = Pushing(owner), list[str]()
    pushing.once()  # is accepted once its producer's opening is applied, so in that commit none could be waited for

    def before(call: str) -> None:
        if call in ("add", "commit") and len(steps) < 40 and turn.acquire(blocking=False):
            steps.append(call)
            pushing.once()
            turn.release()

    store.before = before
    position = stage(link, "copy", source="2")["position"]
    store.before = lambda call: None
    assert {"add", "commit"} <= set(steps)
    assert stored(owner, "copy") == told(pushing.model(position).rows)


def test_rows_that_wait_for_their_version_are_nobodys(owner: OwnerThread, store: WatchedStore) -> None:
    """No row of a copy is seen before it is whole; and what is in its way at the end leaves nothing."""
    link, other = owner.link(), owner.link()
    fill(link, "item", IDS[:300], rows(floats(IDS[:300])))
    for what, kind, words in (
        (lambda: stage(other, "copy"), Conflict, "has a version 'copy', which is staged"),
        (lambda: fill(other, "item", IDS[:9], rows(floats(IDS[:9]))), Conflict, "version '2' of .* dropped or filled"),
        (lambda: other.call("drop", {"table": "item"}).result(WAIT), UnknownTable, "no table 'item'"),
    ):
        if ("item", "copy") in versions(link):
            drop_version(link, "copy")

        def before(call: str, what: Any = what) -> None:
            if call == "commit":  # of the load
                store.before = lambda call: None
                assert ("item", "copy") not in versions(other)
                what()

        label = catalogue(link)["item"].label
        store.before = before
        with pytest.raises(kind, match=words.replace("'2'", f"'{label}'")):
            stage(link, "copy", source=label)
        numbers = [version.number for version in versions(link).values()]
        assert owner.owner.parts.store.versions() == sorted(numbers)


def test_a_source_that_is_filled_anew_meanwhile(owner: OwnerThread, store: WatchedStore) -> None:
    link, other = owner.link(), owner.link()
    stage(link, "next")
    fill_version(link, "next", IDS[:50], rows(floats(IDS[:50])))

    def before(call: str) -> None:
        store.before = lambda call: None
        fill_version(other, "next", IDS[:60], rows(floats(IDS[:60])))

    store.before = before
    with pytest.raises(Conflict, match="version 'next' of table 'item' was dropped or filled anew while it was copied"):
        stage(link, "copy", source="next")
    assert stage(link, "copy", source="next")["version"] == "copy"
    assert stored(owner, "copy") == stored(owner, "next")
    assert len(stored(owner, "copy")) == 60


@pytest.mark.parametrize("when", ["add", "round"])
def test_a_full_disk_leaves_nothing(owner: OwnerThread, store: WatchedStore, when: str) -> None:
    link = owner.link()
    fill(link, "item", IDS[:300], rows(floats(IDS[:300])))
    numbers, pusher = owner.owner.parts.store.versions(), Pusher(owner)
    if when == "add":
        store.bulk_errors.append(StoreFull("no space left"))
    else:
        done = False

        def before(call: str) -> None:
            nonlocal done
            if call == "add" and not done:
                done = True
                pusher.push(("item", ASSIGN, IDS[:9], floats(IDS[:9])))
                store.commit_errors.append(StoreFull("no space left"))

        store.before = before
    with pytest.raises(StorageFull, match="no space left"):
        stage(link, "copy", source="2")
    store.before = lambda call: None
    assert owner.owner.parts.store.versions() == numbers
    assert not list((store.folder / "staging").glob("*"))
    stage(link, "copy", source="2")
    assert stored(owner, "copy") == stored(owner, "2")


def test_a_log_that_is_trimmed_unread_leaves_nothing(owner: OwnerThread, store: WatchedStore) -> None:
    link, pusher = owner.link(), Pusher(owner)
    fill(link, "item", IDS[:300], rows(floats(IDS[:300])))
    numbers = owner.owner.parts.store.versions()

    def before(call: str) -> None:
        if call == "add":
            store.before = lambda call: None
            for _ in range(3):
                position = pusher.push(("item", ASSIGN, IDS[:1], floats(IDS[:1])))
            store.log.trim(position, 0, 0.0)

    store.before = before
    with pytest.raises(Conflict, match="the update log was trimmed before version '2' was copied: raise"):
        stage(link, "copy", source="2")
    assert owner.owner.parts.store.versions() == numbers


def test_what_cannot_be_copied(owner: OwnerThread) -> None:
    link = owner.link()
    with pytest.raises(UnknownTable, match="no version 'nex'"):
        stage(link, "copy", source="nex")
    with pytest.raises(Conflict, match="has a version '1', which is live"):
        stage(link, "1", source="1")
    with pytest.raises(Conflict, match="has dim 4"):
        stage(link, "copy", source="1", dim=5)
    stage(link, "copy", source="1")
    assert stored(owner, "copy") == {}


def test_a_crash_in_a_copy_leaves_nothing_or_all_of_it(tmp_path: Path, store: WatchedStore) -> None:
    snapshots = Snapshots(store, tmp_path / "snapshots")
    with OwnerThread(store, tmp_path, [ITEM]) as owner:
        link = owner.link()
        fill(link, "item", IDS[:40], rows(floats(IDS[:40])))
        pusher, position = Pusher(owner), 0
        pusher.push(("item", ASSIGN, IDS[:1], floats(IDS[:1])))  # its opening is applied then
        with snapshots:
            take = store.before

            def before(call: str) -> None:
                nonlocal position
                take(call)
                if call == "add" and not position:
                    position = 1
                    store.before = take
                    pusher.push(("item", ASSIGN, IDS[:9], floats(IDS[:9], 7)), ("item", DELETE, IDS[9:11], None))

            store.before = before
            stage(link, "copy", source="2", follow=True)
    assert snapshots.calls[-3:] == ["commit", "flush", "end"]
    found = []
    for _, folder in snapshots.folders():
        again = WatchedStore(folder / "rocksdb")
        with OwnerThread(again, folder, [ITEM]) as owner:
            there = versions(owner.link())
            assert again.versions() == sorted(version.number for version in there.values())
            found.append(("item", "copy") in there)
            if found[-1]:
                assert stored(owner, "copy") == stored(owner, "2")
                assert len(stored(owner, "copy")) == 38
    assert found == sorted(found)
    assert found[-1]


def made(spec: dict[str, Any]) -> TableSpec:
    return TableSpec.parse({"name": "item", "dim": 4, **spec})


@pytest.mark.parametrize("code", range(4))
@pytest.mark.parametrize(("before", "after"), [(None, None), (None, 60), (0, None), (0, 60), (60, 0)])
def test_rows_in_another_form(code: int, before: int | None, after: int | None, monkeypatch: Any) -> None:
    monkeypatch.setattr(expiry, "now_ms", lambda: 1_000_000)
    ids, values = IDS[:5], floats(IDS[:5])
    times = np.array([expiry.NEVER, 999_999, 1_000_000, 1_000_001, 2_000_000], np.uint64)
    encoded, _ = encode_rows(values, 0)
    if before is not None:
        encoded = expiry.with_expiries(encoded, times)
    origin = made({"dtype": "f32", "ttl_s": before})
    spec = made({"dtype": NAMES[code], "ttl_s": after, "add": False if code else None})
    kept, rows_ = copies.converted(ids, encoded, origin, spec)
    current = [0, 3, 4] if before is not None else [0, 1, 2, 3, 4]
    assert kept.tolist() == ids[current].tolist()
    assert rows_.shape == (len(current), spec.cold_row_bytes)
    assert rows_.flags.c_contiguous
    expected, _ = encode_rows(values[current], code)
    assert rows_[:, : expected.shape[1]].tobytes() == expected.tobytes()
    if after is not None:
        added = [1_000_000 + 1000 * after if after else expiry.NEVER] * 5
        assert expiry.expiries_of(rows_).tolist() == (times[current].tolist() if before is not None else added)


def test_versions_are_values(owner: OwnerThread) -> None:
    stage(owner.link(), "copy", source="1", follow=True)
    [version] = [each for each in owner.owner.parts.tables.versions() if each.label == "copy"]
    assert isinstance(version, Version)
    assert (version.state, version.follow) == ("staged", True)
