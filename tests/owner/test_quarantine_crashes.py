"""What a crash leaves of batches that are judged, set aside, marked, released, dropped: at each call of the store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embcache.owner import applier, guard, judging, quarantine
from embcache_storage.store import StoreFull
from tests.naive import Naive
from tests.owner.asides import FREE, GUARDED, Change, Served, oracle, wide
from tests.owner.stores import WatchedStore
from tests.owner.support import OwnerThread, catalogue, read
from tests.owner.test_crashes import Snapshots

IDS = list(range(40))


def replayed(last: int, steps: list[tuple[int, Callable[[Naive], object]]]) -> Naive:
    """The oracle after all that stands in a log that ends at a position."""
    naive = oracle()
    naive.open("trainer")
    for position, step in steps:
        if position <= last:
            step(naive)
    return naive


def test_a_batch_is_set_aside_released_and_dropped_once_wherever_a_crash_comes(
    tmp_path: Path, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "PIECE_BYTES", 400)
    for module in (applier, judging, guard):
        monkeypatch.setattr(module, "PIECE_ROWS", 16)
    steps: list[tuple[int, Callable[[Naive], object]]] = []
    snapshots = Snapshots(store, tmp_path / "snapshots")
    dropped_from = 0
    with OwnerThread(store, tmp_path, [GUARDED, FREE]) as owner:
        served = Served(owner)

        def push(*changes: Change) -> int:
            position = served.push(*changes)
            steps.append((position, lambda naive: naive.push("trainer", b"", changes, position)))
            return position

        push(("item", "assign", IDS, wide(IDS, 1)))
        with snapshots:
            first = push(("item", "add", IDS, wide(IDS)), ("free", "add", [1], wide([1], 3, 2)))
            push(("item", "assign", [2, 3], wide([2, 3], 2)))
            owner.run(owner.owner.parts.intake._read_for_marks())
            push(("item", "delete", [4], wide([4])))
            released = served.release(first)["position"]
            steps.append((released, lambda naive: naive.release(first)))
            second = push(("item", "add", IDS[30:], wide(IDS[30:], 8)))
            dropped_from = len(snapshots.calls)
            served.drop(second)
    assert dropped_from == len(snapshots.calls) - 2
    listed = []
    for n, (_, folder) in enumerate(snapshots.folders()):
        again = WatchedStore(folder / "rocksdb")
        naive = replayed(again.log.last, steps)
        if n > dropped_from:
            del naive.aside[second]
        listed.append(sorted(naive.aside))
        with OwnerThread(again, folder, [GUARDED, FREE]) as owner:
            served = Served(owner, naive)
            served.check(IDS)
            served.check([1], "free")
            assert served.link.call("producer", {"producer": "trainer"}).result(20).meta["last_seq"] == served.seq
            for position in list(naive.aside):
                served.release(position)
            served.check(IDS)
            served.push(("item", "add", [1], wide([1])))
    assert listed[0] == [first]
    assert [second] in listed
    assert listed[-1] == []


def test_a_batch_that_was_judged_good_is_not_judged_again_in_its_middle(
    tmp_path: Path, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By then its rows would be over: some of them have it already."""
    for module in (applier, judging, guard):
        monkeypatch.setattr(module, "PIECE_ROWS", 7)
    snapshots = Snapshots(store, tmp_path / "snapshots")
    with OwnerThread(store, tmp_path, [GUARDED, FREE]) as owner:
        served = Served(owner)
        with snapshots:
            served.push(("item", "add", IDS, wide(IDS, 6)))
    assert snapshots.calls[-7:] == ["commit"] * 6 + ["end"]
    assert len(snapshots.calls) <= 8, "one before, where the producer's opening was not applied yet"
    for _, folder in snapshots.folders():
        with OwnerThread(WatchedStore(folder / "rocksdb"), folder, [GUARDED, FREE]) as owner:
            served = Served(owner)
            assert served.listed() == []
            found = read(served.link, catalogue(served.link)["item"], np.array(IDS, np.uint64))[1]
            np.testing.assert_array_equal(found.view(np.float32), wide(IDS, 6))


def test_a_full_disk_loses_nothing_of_what_is_set_aside(tmp_path: Path, store: WatchedStore) -> None:
    """The applier tries again; a drop or a scan that fails leaves all as it was."""
    with OwnerThread(store, tmp_path, [GUARDED, FREE]) as owner:
        served = Served(owner, oracle())
        store.commit_errors += [StoreFull("no space left")] * 2  # of the pieces, and of the record
        first = served.push(("item", "add", [1, 2, 3], wide([1, 2, 3])))
        served.push(("item", "assign", [2], wide([2], 1)))
        store.commit_errors.append(StoreFull("no space left"))
        with pytest.raises(StoreFull):
            owner.run(owner.owner.parts.intake._read_for_marks())
        assert owner.owner.parts.intake.quarantine.scanned < first
        store.commit_errors.append(StoreFull("no space left"))
        with pytest.raises(Exception, match="no space left"):
            served.drop(first)
        served.check([1, 2, 3])
        owner.run(owner.owner.parts.intake._read_for_marks())
        owner.owner.parts.intake.marker._groups = {}
        assert served.release(first)["skipped"] == 1
        served.check([1, 2, 3])
