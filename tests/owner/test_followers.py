"""Updates go to the versions that follow, too, and count there once: whatever a crash leaves of a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from embcache.owner import applier
from embcache.owner.entries import from_payload, to_payload
from embcache.owner.updates import Batch
from embcache.spec import TableSpec
from embcache_client.updates import ADD, ASSIGN, DELETE
from tests.naive import Naive, NaiveTable
from tests.owner.stores import WatchedStore
from tests.owner.support import ITEM, Ids, OwnerThread, fill, read, some_ids, versions
from tests.owner.test_crashes import Snapshots
from tests.owner.test_updates import Pusher, floats, rows
from tests.owner.versioning import drop_version, fill_version, stage, switch

IDS = some_ids(60)
Change: TypeAlias = tuple[str, str, Ids, Any]
OWN: dict[str, Any] = {"dtype": "f16", "default": {"constant": [1.0, 2.0, 3.0, 4.0]}}


def oracle() -> Naive:
    """`item` of which a narrow copy follows, with another default row."""
    naive = Naive()
    naive.tables = {"1": NaiveTable(4, add=True), "next": NaiveTable(4, "f16", OWN["default"], add=True)}
    naive.tables["1"].load(IDS[:40].tolist(), floats(IDS[:40]))
    naive.tables["next"].load(IDS[20:50].tolist(), floats(IDS[20:50], 1))
    return naive


def begin(owner: OwnerThread) -> None:
    """The same at the owner; the narrow one keeps f32 on disk."""
    link = owner.link()
    import_rows = rows(floats(IDS[:40]))
    fill(link, "item", IDS[:40], import_rows)
    stage(link, "next", follow=True, **OWN)
    fill_version(link, "next", IDS[20:50], rows(floats(IDS[20:50], 1)))


def check(owner: OwnerThread, naive: Naive, live: str) -> None:
    """Both versions, as they are served."""
    link = owner.link()
    there = versions(link)
    for name, dtype in (("1", np.float32), ("next", np.float16)):
        version = there["item", live if name == "1" else name]
        state, found = read(link, version, IDS)
        wanted, held = naive.lookup(name, IDS.tolist())
        assert (state == 1).tolist() == held
        np.testing.assert_array_equal(found.view(dtype).astype(np.float32)[held], wanted[held])


def change(naive: Naive, op: str, ids: Ids, values: Any) -> Change:
    for table in naive.tables.values():
        table.change(op, ids.tolist(), values)
    return ("item", op, ids, values)


def test_a_batch_with_followers_in_the_log_is_what_it_was(owner: OwnerThread) -> None:
    begin(owner)
    stage(owner.link(), "more", follow=True)
    batch = resolved(owner, Pusher(owner), change(oracle(), ADD, IDS[:3], floats(IDS[:3])))
    again = from_payload(to_payload(batch))
    assert isinstance(again, Batch)
    [one] = again.changes
    numbers = {label: version.number for (_, label), version in versions(owner.link()).items()}
    assert one.versions == (numbers["2"], numbers["next"], numbers["more"])
    assert batch.nbytes == again.nbytes == 3 * 3 * 256, "it is counted for each version"


def resolved(owner: OwnerThread, pusher: Pusher, *changes: Change) -> Batch:
    """A batch as update_calls.py resolves it."""
    batch = pusher.batch(*changes)
    followers = tuple(version.number for version in owner.owner.parts.tables.named("item").followers)
    return Batch(
        *(batch.producer, batch.epoch, batch.seq, batch.mark, batch.digest),
        tuple(type(one)(one.version, one.op, one.dtype, one.ids, one.rows, followers) for one in batch.changes),
    )


def push(owner: OwnerThread, pusher: Pusher, *changes: Change) -> None:
    receipt = pusher.send(resolved(owner, pusher, *changes)).result(20)
    owner.run(owner.owner.parts.intake.wait_applied(receipt.position, 20))


@pytest.mark.parametrize("piece", [1, 7, 1024])
def test_both_versions_get_what_is_pushed_each_by_its_own_rows(
    owner: OwnerThread, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(applier, "PIECE_ROWS", piece)
    naive, pusher = oracle(), Pusher(owner)
    begin(owner)
    for turn in range(6):
        ids = np.random.default_rng(turn).choice(IDS, 25)
        op = (ADD, ASSIGN, ADD, DELETE, ADD, ADD)[turn]
        push(
            *(owner, pusher),
            change(naive, op, ids, floats(ids, turn)),
            change(naive, ADD, ids[:4], floats(ids[:4], turn)),
        )
        read(owner.link(), versions(owner.link())["item", "next"], IDS)  # from now on it is in memory, too
        check(owner, naive, "2")
    switch(owner.link(), item="next", follow=True)
    push(owner, pusher, change(naive, ADD, IDS, floats(IDS, 9)))
    check(owner, naive, "2")  # going back does not go back in time
    switch(owner.link(), item="2", follow=False)
    ids = IDS[:5]
    kept = naive.tables.pop("next")
    push(owner, pusher, change(naive, ASSIGN, ids, floats(ids, 11)))
    naive.tables["next"] = kept
    check(owner, naive, "2")


def test_a_follower_that_is_dropped_is_passed_over(owner: OwnerThread, store: WatchedStore) -> None:
    begin(owner)
    naive, pusher = oracle(), Pusher(owner)
    late = resolved(owner, pusher, change(naive, ADD, IDS, floats(IDS, 3)))
    drop_version(owner.link(), "next")
    receipt = pusher.send(late).result(20)
    owner.run(owner.owner.parts.intake.wait_applied(receipt.position, 20))
    state, found = read(owner.link(), versions(owner.link())["item", "2"], IDS)
    wanted, _ = naive.lookup("1", IDS.tolist())
    np.testing.assert_array_equal(found.view(np.float32), wanted)
    assert (state == 1).all()


def test_a_batch_counts_once_in_both_versions_wherever_a_crash_comes(
    tmp_path: Path, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of some rows each: crashes come in the middle of the batch, before each commit."""
    monkeypatch.setattr(applier, "PIECE_ROWS", 16)
    naive = oracle()
    snapshots = Snapshots(store, tmp_path / "snapshots")
    with OwnerThread(store, tmp_path, [ITEM]) as owner:
        begin(owner)
        pusher = Pusher(owner)
        changes = [change(naive, ADD, IDS, floats(IDS, 5)), change(naive, DELETE, IDS[50:], floats(IDS[50:]))]
        with snapshots:
            push(owner, pusher, *changes)
        check(owner, naive, "2")
    assert snapshots.calls.count("commit") > 6
    for _, folder in snapshots.folders()[:-1:2]:
        with OwnerThread(WatchedStore(folder / "rocksdb"), folder, [ITEM]) as owner:
            check(owner, naive, "2")


def test_what_an_import_by_name_brings_is_followed_from_its_commit_on(owner: OwnerThread) -> None:
    link = owner.link()
    fill(link, "item", IDS, rows(floats(IDS)), TableSpec(name="item", dim=4))
    stage(link, "blue", follow=True)
    pusher = Pusher(owner)
    naive = Naive()
    naive.tables = {"2": NaiveTable(4, add=True), "blue": NaiveTable(4, add=True)}
    naive.tables["2"].load(IDS.tolist(), floats(IDS))
    push(owner, pusher, change(naive, ADD, IDS[:9], floats(IDS[:9], 1)))
    fill_version(link, "blue", IDS, rows(floats(IDS, 2)))
    naive.tables["blue"].load(IDS.tolist(), floats(IDS, 2))
    push(owner, pusher, change(naive, ADD, IDS[5:20], floats(IDS[5:20], 3)))
    for name in ("2", "blue"):
        found = read(link, versions(link)["item", name], IDS)[1]
        np.testing.assert_array_equal(found.view(np.float32), naive.lookup(name, IDS.tolist())[0])
