"""What an acknowledgement means: with `durability = "interval"`, after a restart, in a copy of the folder."""

from __future__ import annotations

import asyncio
import shutil
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from embcache.config import Updates
from embcache.errors import Fenced
from embcache.owner import intake, lineage
from embcache.owner.committer import Committer, Receipt
from embcache_client.updates import ADD
from embcache_storage.rocks import RocksStore
from embcache_storage.store import StoreFull
from tests.owner.stores import WatchedStore
from tests.owner.support import ITEM, OwnerThread
from tests.owner.test_updates import IDS, Pusher, floats

NOT_SOON = Updates(durability="interval", sync_interval_s=60.0)
SOON = Updates(durability="interval", sync_interval_s=0.001)


def owner_of(tmp_path: Path, store: WatchedStore | RocksStore, updates: Updates | None = None) -> OwnerThread:
    return OwnerThread(store, tmp_path, [ITEM], updates=updates)


def history_of(owner: OwnerThread) -> str:
    return str(owner.link().hello["history"])


def positions(owner: OwnerThread) -> dict[str, Any]:
    return owner.link().call("position").result(20).meta


async def until_durable(committer: Committer, position: int) -> None:
    while committer.durable < position:
        await asyncio.sleep(0)


def test_a_batch_is_answered_before_it_is_synced_and_says_so(tmp_path: Path, store: WatchedStore) -> None:
    with owner_of(tmp_path, store, NOT_SOON) as owner:
        pusher = Pusher(owner)
        opened = owner.owner.parts.intake.committer.durable
        batch = pusher.batch(("item", ADD, IDS, floats(IDS)))
        position = opened + 1
        assert pusher.send(batch).result(20) == Receipt(position, False)
        assert owner.when(lambda: owner.arena.position == position), "it is served all the same"
        assert pusher.send(batch).result(20) == Receipt(position, True)
        told = positions(owner)
        assert (told["durable"], told["applied"]) == (opened, position)
        Pusher(owner, "another")
        assert positions(owner)["durable"] == position + 1, "an opening is synced at once, with all before it"
    assert owner.owner.parts.intake.committer.durable == owner.owner.parts.intake.committer.logged


def test_what_was_answered_becomes_durable(tmp_path: Path, store: WatchedStore) -> None:
    with owner_of(tmp_path, store, SOON) as owner:
        pusher = Pusher(owner)
        committer = owner.owner.parts.intake.committer
        for turn in range(5):
            position = pusher.push(("item", ADD, IDS, floats(IDS, turn)))
            owner.run(until_durable(committer, position))


def test_a_sync_that_fails_leaves_what_was_answered_undurable(
    tmp_path: Path, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = 0

    def full(*_: object) -> None:
        nonlocal failed
        failed += 1
        raise StoreFull("no space left")

    with owner_of(tmp_path, store, SOON) as owner:
        pusher = Pusher(owner)
        committer = owner.owner.parts.intake.committer
        with monkeypatch.context() as broken:
            broken.setattr(type(store.log), "sync", full)
            durable = committer.durable
            position = pusher.push(("item", ADD, IDS, floats(IDS)))
            assert owner.when(lambda: failed >= 3)
            assert committer.durable == durable < position
        assert owner.when(lambda: committer.durable == position)


@pytest.mark.parametrize(
    ("updates", "stopped", "rebooted", "goes_on"),
    [
        (Updates(), True, True, True),
        (Updates(), False, True, True),
        (NOT_SOON, True, True, True),
        (NOT_SOON, False, False, True),
        (NOT_SOON, False, True, False),
    ],
    ids=["sync, stopped", "sync, power loss", "interval, stopped", "interval, killed", "interval, power loss"],
)
def test_power_loss_of_what_was_not_synced_begins_a_new_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, updates: Updates, stopped: bool, rebooted: bool, goes_on: bool
) -> None:
    folder = tmp_path / "rocksdb"
    with owner_of(tmp_path, RocksStore(folder), updates) as owner:
        history = history_of(owner)
        if not stopped:  # as if the owner had not come to its end

            async def forget() -> None:
                owner.owner.parts.tables._lineage = None

            owner.run(forget())
    if rebooted:
        monkeypatch.setattr(lineage, "boot_id", lambda: "another")
    for _ in range(2):
        with owner_of(tmp_path, RocksStore(folder), updates) as owner:
            assert (history_of(owner) == history) == goes_on
    with owner_of(tmp_path, RocksStore(folder), updates) as owner:
        again = history_of(owner)
    with owner_of(tmp_path, RocksStore(folder), updates) as owner:
        assert history_of(owner) == again, "one loss, one new history"


def test_a_copy_of_the_folder_has_a_history_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "rocksdb"
    with owner_of(tmp_path, RocksStore(folder)) as owner:
        history = history_of(owner)
    shutil.copytree(folder, tmp_path / "copy" / "rocksdb")
    epochs = []
    for path, same in ((folder, True), (tmp_path / "copy" / "rocksdb", False)):
        with owner_of(path.parent, RocksStore(path)) as owner:
            assert (history_of(owner) == history) is same
            epochs.append(Pusher(owner).epoch)
    shutil.copytree(tmp_path / "copy" / "rocksdb", tmp_path / "second" / "rocksdb")
    with owner_of(tmp_path / "second", RocksStore(tmp_path / "second" / "rocksdb")) as owner:
        epochs.append(Pusher(owner).epoch)
    apart = [later - earlier for earlier, later in pairwise(epochs)]
    assert min(apart) > 1 << 39, "processes of the time after a copy are shut out, also after a copy of a copy"
    folder.rename(tmp_path / "moved")
    with owner_of(tmp_path, RocksStore(tmp_path / "moved")) as owner:
        assert history_of(owner) == history


def test_producers_are_forgotten_after_long(
    tmp_path: Path, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    age = 1000.0
    with owner_of(tmp_path, store, Updates(producer_age_s=age)) as owner:
        pusher = Pusher(owner)
        pusher.push(("item", ADD, IDS, floats(IDS)))
    later = time.time() + age
    monkeypatch.setattr(intake, "time", SimpleNamespace(time=lambda: later - 500.0))
    with owner_of(tmp_path, store, Updates(producer_age_s=age)) as owner:
        assert owner.owner.parts.intake.producers.get("trainer-0").last_seq == 1
    monkeypatch.setattr(intake, "time", SimpleNamespace(time=lambda: later + 500.0))
    with owner_of(tmp_path, store, Updates(producer_age_s=age)) as owner:
        assert owner.when(lambda: not store.metas("producer/"))
        pusher.owner = owner
        with pytest.raises(Fenced, match="never opened, or not for long"):
            pusher.push(("item", ADD, IDS, floats(IDS)))
        assert Pusher(owner).epoch == pusher.epoch + 1, "the epoch of a process that may live is not given again"
    with owner_of(tmp_path, store, Updates(producer_age_s=age)) as owner:
        assert Pusher(owner, "another").epoch > pusher.epoch
