"""What was in memory is there again after a start: which rows, in which order, and never an older one."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embcache.attachment import Attachment
from embcache.config import Cold, Warm
from embcache.errors import MalformedRequest, NotReady, Overloaded
from embcache.host.eviction import MAIN
from embcache.host.segment import MISSING, WARM
from embcache.owner import audit, bring, snapshots, warm_calls, warm_keep
from embcache.owner import reads as reads_module
from embcache.owner.by_use import Listed
from embcache.owner.kept_ids import HEADER_BYTES, path_of
from embcache.owner.owner import Owner
from embcache.service.warm_gate import WarmGate
from embcache.spec import TableSpec
from embcache_client.updates import ADD, ASSIGN, DELETE
from embcache_storage.store import StoreError
from tests.naive import NaiveTable
from tests.owner.stores import WatchedStore
from tests.owner.support import CAPACITY, WAIT, Ids, OwnerThread, catalogue, fill, read, rows_of, some_ids
from tests.owner.test_updates import Pusher, floats, rows
from tests.owner.test_warmup import use_some
from tests.owner.versioning import fill_version, switch

ITEM = TableSpec(name="item", dim=4)
WIDE = TableSpec(name="item", dim=64)
USER = TableSpec(name="user", dim=4)
IDS = some_ids(3000)
UNKNOWN = 0xEE
AT_THE_END = Warm(capacity=CAPACITY)


def start(tmp_path: Path, store: WatchedStore, *specs: TableSpec, warm: Warm = AT_THE_END) -> OwnerThread:
    return OwnerThread(store, tmp_path, specs or [ITEM], warm=warm)


@contextmanager
def held_back(
    tmp_path: Path,
    store: WatchedStore,
    warm: Warm = AT_THE_END,
    *,
    after: bool = False,
    specs: Sequence[TableSpec] = (),
) -> Iterator[OwnerThread]:
    """An owner whose first piece is being read until somebody sets `store._gate`."""
    with store.held_back(after=after), start(tmp_path, store, *specs, warm=warm) as owner:
        try:
            assert store.reading.acquire(timeout=WAIT)
            yield owner
        finally:
            store._gate.set()


def progress(owner: OwnerThread) -> list[dict[str, Any]]:
    tables: list[dict[str, Any]] = owner.link().call("warm_start").result(WAIT).meta["tables"]
    return tables


def done(owner: OwnerThread) -> dict[str, tuple[int, int, int]]:
    """Wait for the end of the warm start -> (kept, wanted, back) of each table."""
    started = owner.owner.parts.warm_start
    assert owner.when(lambda: all(each["state"] == "done" for each in started.progress()))
    return {each["table"]: (each["kept"], each["wanted"], each["back"]) for each in progress(owner)}


def status(owner: OwnerThread, ids: Ids, table: str = "item") -> Any:
    return owner.warm(catalogue(owner.link())[table].number, ids)[1]


def number_of(owner: OwnerThread, table: str = "item") -> int:
    return catalogue(owner.link())[table].number


def keep_now(owner: Owner) -> Any:
    return owner._keep._keep()


@pytest.fixture
def kept(tmp_path: Path, store: WatchedStore) -> Path:
    """A data folder whose last owner had the first 2,000 rows of `item` in memory -> its list."""
    with start(tmp_path, store) as owner:
        link = owner.link()
        fill(link, "item", IDS, rows_of(IDS, 16))
        read(link, catalogue(link)["item"], IDS[:2000])
        assert done(owner) == {"item": (0, 0, 0)}
        number = number_of(owner)
    store.asked.clear()
    store.reading = threading.Semaphore(0)
    return path_of(tmp_path, number)


def test_what_was_in_memory_is_there_again(kept: Path, tmp_path: Path, store: WatchedStore) -> None:
    with start(tmp_path, store) as owner:
        assert done(owner) == {"item": (2000, 2000, 2000)}
        found, statuses = owner.warm(number_of(owner), IDS)
        assert (statuses[:2000] == WARM).all()
        assert (statuses[2000:] == UNKNOWN).all()
        np.testing.assert_array_equal(found[:2000], rows_of(IDS[:2000], 16))
        [told] = owner.link().call("stats").result(WAIT).meta["tables"]
        assert (told["start_kept"], told["start_wanted"], told["start_back"]) == (2000, 2000, 2000)
        read_in_order = [one for asked in store.asked for one in asked]
        assert read_in_order == sorted(IDS[:2000].tolist())
    with start(tmp_path, store) as owner:
        assert done(owner) == {"item": (2000, 2000, 2000)}


def test_the_hottest_come_first_with_their_use_into_less_memory(tmp_path: Path, store: WatchedStore) -> None:
    ids = some_ids(3 * CAPACITY // 256)
    with start(tmp_path, store, WIDE) as owner:
        link = owner.link()
        fill(link, "item", ids, rows_of(ids, 256))
        use_some(owner, ids)
        before = uses(owner)
    used = np.array([identifier for identifier, use in before.items() if use], np.uint64)
    store.asked.clear()
    with start(tmp_path, store, WIDE, warm=Warm(capacity=CAPACITY // 2)) as owner:
        kept, wanted, back = done(owner)["item"]
        assert kept == len(before)
        assert used.size < back == wanted < kept * 0.6
        order = [before[identifier] for asked in store.asked for identifier in asked]
        assert len(order) < back + 2048, "nothing is read that finds no room"
        assert order == sorted(order, reverse=True)
        assert len(set(order)) >= 3
        found, statuses = owner.warm(number_of(owner), used)
        assert (statuses == WARM).all()
        np.testing.assert_array_equal(found, rows_of(used, 256))
        after = uses(owner)
        assert len(after) == back
        assert all(use == (before[identifier] and before[identifier] | MAIN) for identifier, use in after.items())


def uses(owner: OwnerThread) -> dict[int, int]:
    """How much each row in memory is in use."""
    number = number_of(owner)

    async def look() -> dict[int, int]:
        region = owner.owner.parts.memory.region(number)
        assert region is not None
        there, use = region.held(0, region.region.sets)
        return dict(zip(there.tolist(), use.tolist(), strict=True))

    return owner.run(look())


def test_ids_that_went_or_changed_in_between_are_as_they_are_now(
    kept: Path, tmp_path: Path, store: WatchedStore
) -> None:
    shutil.copy(kept, tmp_path / "before")
    new = floats(IDS[10:20], salt=5)
    with start(tmp_path, store) as owner:
        done(owner)
        Pusher(owner).push(("item", DELETE, IDS[:10], None), ("item", ASSIGN, IDS[10:20], new))
    shutil.copy(tmp_path / "before", kept)
    with start(tmp_path, store) as owner:
        assert done(owner) == {"item": (2000, 1990, 1990)}
        found, statuses = owner.warm(number_of(owner), IDS[:2000])
        assert (statuses[:10] == MISSING).all()
        assert (statuses[10:] == WARM).all()
        np.testing.assert_array_equal(found[10:20], rows(new))
        np.testing.assert_array_equal(found[20:], rows_of(IDS[20:2000], 16))


@pytest.mark.parametrize("after", [False, True], ids=["before it is read", "once it is read"])
def test_an_update_meanwhile_is_never_overtaken_by_the_row_before_it(
    kept: Path, tmp_path: Path, store: WatchedStore, after: bool
) -> None:
    new = floats(IDS[10:20], salt=5)
    with held_back(tmp_path, store, after=after) as owner:
        Pusher(owner).push(("item", DELETE, IDS[:10], None), ("item", ASSIGN, IDS[10:20], new))
        assert (status(owner, IDS[:2000]) == UNKNOWN).all()
        store._gate.set()
        _, _, back = done(owner)["item"]
        found, statuses = owner.warm(number_of(owner), IDS[:2000])
        assert back == 2000 - 20 == np.count_nonzero(statuses == WARM)
        assert (statuses[:20] == UNKNOWN).all(), "whoever asks reads them from disk as they are"
        np.testing.assert_array_equal(found[20:], rows_of(IDS[20:2000], 16))
        np.testing.assert_array_equal(read(owner.link(), catalogue(owner.link())["item"], IDS[10:20])[1], rows(new))


def test_lookups_and_updates_beside_it_find_rows_as_they_are(
    kept: Path, tmp_path: Path, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random changes and reads between the pieces, from start to end."""
    monkeypatch.setattr(bring, "PIECE_IDS", 20)
    table, draw = NaiveTable(4), np.random.default_rng(5)
    stored = floats(IDS, salt=3)
    table.load(IDS.tolist(), stored)
    with start(tmp_path, store) as owner:
        fill(owner.link(), "item", IDS, rows(stored))
        number = number_of(owner)
        read(owner.link(), catalogue(owner.link())["item"], IDS)
    met = 0
    with start(tmp_path, store) as owner:
        pusher, link = Pusher(owner), owner.link()
        live, started = catalogue(link)["item"], owner.owner.parts.warm_start
        while started.is_under_way(number):
            ids = draw.choice(IDS, 60, replace=False)
            values = draw.integers(-50, 50, (40, 4)).astype(np.float32)
            changes = (("assign", ids[:20], values[:20]), ("add", ids[20:40], values[20:]))
            pusher.push(
                *(("item", ASSIGN if op == "assign" else ADD, some, new) for op, some, new in changes),
                ("item", DELETE, ids[40:], None),
            )
            for op, some, new in (*changes, ("delete", ids[40:], np.zeros((20, 4), np.float32))):
                table.change(op, some.tolist(), new)
            asked = draw.choice(IDS, 200)
            state, found = read(link, live, asked)
            naive, there = wanted_of(table, asked)
            assert (state == 1).tolist() == there
            np.testing.assert_array_equal(found[there], naive[there])
            met += 1
            check_memory(owner, table)
        assert met > 3
        done(owner)
        check_memory(owner, table)


def wanted_of(table: NaiveTable, ids: Ids) -> tuple[Any, list[bool]]:
    wanted = np.stack([table.served(identifier) for identifier in ids.tolist()])
    return rows(wanted), [identifier in table.rows for identifier in ids.tolist()]


def check_memory(owner: OwnerThread, table: NaiveTable) -> None:
    """What memory knows of each id is so."""
    found, statuses = owner.warm(number_of(owner), IDS)
    naive, there = wanted_of(table, IDS)
    np.testing.assert_array_equal(found[statuses == WARM], naive[statuses == WARM])
    assert np.array(there)[statuses == WARM].all()
    assert not np.array(there)[statuses == MISSING].any()


def test_a_row_that_a_lookup_brought_stays(kept: Path, tmp_path: Path, store: WatchedStore) -> None:
    """Memory that is full of rows that lookups brought before the first kept one came."""
    with held_back(tmp_path, store, Warm(capacity=192 << 10)) as owner:
        parts, number = owner.owner.parts, number_of(owner)

        async def bring() -> int:
            region = parts.memory.region(number)
            assert region is not None
            others = np.setdiff1d(some_ids(region.region.slots * 2, seed=9), IDS)[: region.region.slots]
            region.insert(others, np.zeros((others.size, 16), np.uint8))
            return len(region)

        before = owner.run(bring())
        store._gate.set()
        kept_rows, wanted, back = done(owner)["item"]
        assert (kept_rows, wanted) == (2000, back)
        assert parts.memory.stats(number)["rows"] == before + back
        assert back < 300


def test_tables_come_back_in_turn(tmp_path: Path, store: WatchedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bring, "PIECE_IDS", 100)
    with start(tmp_path, store, ITEM, USER) as owner:
        link = owner.link()
        for spec in (ITEM, USER):
            fill(link, spec.name, IDS, rows_of(IDS, 16))
        read(link, catalogue(link)["item"], IDS[:2000])
        read(link, catalogue(link)["user"], IDS[2000:2300])
    store.asked.clear()
    with start(tmp_path, store, ITEM, USER) as owner:
        assert done(owner) == {"item": (2000, 2000, 2000), "user": (300, 300, 300)}
        assert [len(asked) for asked in store.asked] == [100] * 23
        user = [set(asked) <= set(IDS[2000:2300].tolist()) for asked in store.asked]
        assert user[:6].count(True) == 3, "the small one does not wait for the large one"


@pytest.mark.parametrize("broken", ["cut off", "flipped", "empty", "a folder", "of another table", "of another number"])
def test_a_list_that_is_none_is_ignored_with_a_word(
    kept: Path, tmp_path: Path, store: WatchedStore, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = kept.read_bytes()
    tables = [ITEM]
    if broken == "a folder":
        kept.unlink()
        kept.mkdir()
    elif broken == "of another table":
        with start(tmp_path, store) as owner:
            done(owner)
            owner.link().call("drop", {"table": "item"}).result(WAIT)
        tables = [USER]
        kept.parent.mkdir(exist_ok=True)
        for number in range(1, 300):
            path_of(tmp_path, number).write_bytes(data)
    elif broken == "of another number":
        kept.write_bytes(data[:8] + (int(kept.stem) + 1).to_bytes(8, "little") + data[16:])
    else:
        kept.write_bytes({"cut off": data[:-3], "flipped": data[:99] + b"\xff" + data[100:], "empty": b""}[broken])
    with start(tmp_path, store, *tables) as owner:
        assert done(owner) == {tables[0].name: (0, 0, 0)}
        assert f"is ignored, and {tables[0].name} begins cold" in caplog.text
        live = catalogue(owner.link())[tables[0].name]
        if tables == [ITEM]:
            np.testing.assert_array_equal(read(owner.link(), live, IDS)[1], rows_of(IDS, 16))
    if broken not in ("a folder", "of another table"):
        with start(tmp_path, store) as owner:
            assert done(owner) == {"item": (3000, 3000, 3000)}, "the next list is a good one"


def test_lists_of_versions_that_went_go_with_them(kept: Path, tmp_path: Path, store: WatchedStore) -> None:
    (kept.parent / ".99.ids.0123").write_bytes(b"what a crash left")
    with start(tmp_path, store) as owner:
        done(owner)
        link = owner.link()
        fill_version(link, "blue", IDS, rows_of(IDS, 16, salt=2))
        switch(link, warm_s=WAIT, item="blue")
        assert number_of(owner) != int(kept.stem)
        number = number_of(owner)
    assert [path.name for path in kept.parent.iterdir()] == [f"{number}.ids"]
    with start(tmp_path, store) as owner:
        assert done(owner) == {"item": (2000, 2000, 2000)}
        np.testing.assert_array_equal(owner.warm(number, IDS[:2000])[0], rows_of(IDS[:2000], 16, salt=2))


def test_a_snapshot_carries_the_lists(tmp_path: Path, store: WatchedStore) -> None:
    with start(tmp_path, store) as owner:
        fill(owner.link(), "item", IDS, rows(floats(IDS)))
        read(owner.link(), catalogue(owner.link())["item"], IDS[:2000])
        kept = path_of(tmp_path, number_of(owner))
    target, restored = tmp_path / "snapshot", tmp_path / "restored"
    snapshots.take(Cold(path=tmp_path), {"target": str(target)}, quiet)
    assert (target / "kept" / kept.name).read_bytes() == kept.read_bytes()
    path_of(restored, 1).parent.mkdir(parents=True)
    path_of(restored, 1).write_bytes(b"of the data before")
    snapshots.restore(Cold(path=restored), {"source": str(target)}, quiet)
    assert [path.name for path in (restored / "kept").iterdir()] == [kept.name]
    (restored / "kept" / kept.name).write_bytes(b"damaged")
    assert audit.check(Cold(path=restored), {}, quiet)["findings"] == [], "no row is worse for it"
    shutil.copy(kept, restored / "kept")
    copy = WatchedStore(restored / "rocksdb")
    with OwnerThread(copy, restored, [ITEM]) as owner:
        assert done(owner) == {"item": (2000, 2000, 2000)}
        assert (status(owner, IDS[:2000]) == WARM).all()


def quiet(what: str, done: int, total: int) -> None:
    pass


def test_a_version_that_goes_while_its_rows_come_back(kept: Path, tmp_path: Path, store: WatchedStore) -> None:
    with held_back(tmp_path, store) as owner:
        owner.link().call("drop", {"table": "item"}).result(WAIT)
        store._gate.set()
        done(owner)


def test_a_list_is_kept_until_its_rows_are_back(kept: Path, tmp_path: Path, store: WatchedStore) -> None:
    """An owner that ends, or keeps its lists, soon after its start does not replace a good list by a short one."""
    before = kept.read_bytes()
    with held_back(tmp_path, store) as owner:
        owner.run(keep_now(owner.owner))
        assert kept.read_bytes() == before
        closing = owner.begin(owner.owner._keep.close())
        closing.result(WAIT)
        assert kept.read_bytes() == before
        store._gate.set()
        done(owner)
        read(owner.link(), catalogue(owner.link())["item"], IDS)
        owner.run(keep_now(owner.owner))
        assert kept.stat().st_size == HEADER_BYTES + 8 * IDS.size


def test_a_list_is_kept_where_the_next_one_would_be_cut_short(
    kept: Path, tmp_path: Path, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are moved to another region while they are listed."""

    async def cut_short(*_: object) -> Listed:
        return Listed(whole=False)

    before = kept.read_bytes()
    with start(tmp_path, store) as owner:
        done(owner)
        with monkeypatch.context() as patched:
            patched.setattr(warm_keep, "by_use", cut_short)
            owner.run(keep_now(owner.owner))
        assert kept.read_bytes() == before


def test_lists_are_kept_while_the_owner_runs(tmp_path: Path, store: WatchedStore) -> None:
    with start(tmp_path, store, warm=Warm(capacity=CAPACITY, keep_every_s=0.02)) as owner:
        link = owner.link()
        fill(link, "item", IDS, rows_of(IDS, 16))
        number = number_of(owner)
        path = path_of(tmp_path, number)
        assert owner.when(lambda: number in {held.version for held in owner.owner.parts.memory.tables})
        read(link, catalogue(link)["item"], IDS[:10])
        assert owner.when(lambda: path.exists() and path.stat().st_size == HEADER_BYTES + 80)
        read(link, catalogue(link)["item"], IDS[:500])
        assert owner.when(lambda: path.stat().st_size == HEADER_BYTES + 8 * 500)


def test_nothing_is_kept_where_nothing_should_be(kept: Path, tmp_path: Path, store: WatchedStore) -> None:
    with start(tmp_path, store, warm=Warm(capacity=CAPACITY, keep_every_s=0)) as owner:
        assert owner.when(lambda: not kept.exists()), "it would be outdated when it is wanted again"
        assert progress(owner) == []
        assert (status(owner, IDS) == UNKNOWN).all()
        read(owner.link(), catalogue(owner.link())["item"], IDS)
    assert not kept.exists()


def test_a_disk_that_fails_ends_a_warm_start_and_nothing_else(kept: Path, tmp_path: Path, store: WatchedStore) -> None:
    store.read_errors.append(StoreError("the disk is gone"))
    with start(tmp_path, store) as owner:
        assert done(owner) == {"item": (2000, 0, 0)}
        assert (read(owner.link(), catalogue(owner.link())["item"], IDS)[0] == 1).all()


def test_the_owner_tells_what_is_in_use_once_it_is_back(
    tmp_path: Path, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_calls, "LIST_SETS", 100)
    ids = some_ids(CAPACITY // 256)
    with start(tmp_path, store, WIDE) as owner:
        fill(owner.link(), "item", ids, rows_of(ids, 256))
        used = use_some(owner, ids)
        number = number_of(owner)
        assert sorted(in_use(owner, number)) == sorted(used.tolist())
        before = uses(owner)
    with held_back(tmp_path, store, specs=[WIDE]) as owner:
        meta = {"version": number, "use": 7, "set": 300}
        told = owner.link().call("in_use", meta).result(WAIT)
        assert (told.meta["later"], told.meta["next"], len(told.payload)) == (True, 300, 0)
        store._gate.set()
        done(owner)
        assert set(in_use(owner, number)) == {one for one, use in before.items() if use} >= set(used.tolist())
        told = owner.link().call("in_use", {"version": number + 1, "use": 7, "set": 0}).result(WAIT)
        assert (told.meta["later"], told.meta["next"], len(told.payload)) == (False, None, 0)
        with pytest.raises(MalformedRequest, match="'use' of a call should be a number from 0 to 7"):
            owner.link().call("in_use", {"version": number, "use": 8, "set": 0}).result(WAIT)


def in_use(owner: OwnerThread, number: int) -> list[int]:
    """All ids of a version whose rows are in use, the most first."""
    link, found = owner.link(), list[int]()
    for use in range(7, 0, -1):
        following: int | None = 0
        while following is not None:
            told = link.call("in_use", {"version": number, "use": use, "set": following}).result(WAIT)
            assert not told.meta["later"]
            found += np.frombuffer(told.payload, np.uint64).tolist()
            following = told.meta["next"]
    return found


def test_lookups_have_the_disk_first(
    kept: Path, tmp_path: Path, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bring, "PIECE_IDS", 500)
    with held_back(tmp_path, store) as owner:
        monkeypatch.setattr(reads_module, "MAX_PENDING_READS", 1)
        parts = owner.owner.parts
        refused: list[object] = []

        async def as_if_lookups_waited(count: int) -> None:
            parts.reads._pending_reads += count

        read_parts = parts.reads.read

        async def counted(asked: Any) -> Any:
            try:
                return await read_parts(asked)
            except Overloaded:
                refused.append(asked)
                raise

        monkeypatch.setattr(parts.reads, "read", counted)
        owner.run(as_if_lookups_waited(1))
        store._gate.set()  # the piece that is under way ends
        assert owner.when(lambda: len(refused) >= 2)
        assert len(store.asked) == 1
        owner.run(as_if_lookups_waited(-1))
        assert done(owner) == {"item": (2000, 2000, 2000)}
        assert len(store.asked) == 4


def test_the_gate_opens_once_enough_is_back(kept: Path, tmp_path: Path, store: WatchedStore) -> None:
    with held_back(tmp_path, store) as owner:
        attachment = Attachment.connect(tmp_path, WAIT)
        try:
            gate = WarmGate(0.9)
            with pytest.raises(NotReady, match=r"warm_start: 0 of 2000 rows of item .* wants 0\.9 of each") as caught:
                asyncio.run(gate.check(attachment))
            assert caught.value.detail["missing"] == "warm_start"
            assert (caught.value.detail["back"], caught.value.detail["wanted"]) == (0, 2000)
            asyncio.run(WarmGate(0.0).check(attachment))
            store._gate.set()
            done(owner)
            asyncio.run(gate.check(attachment))
        finally:
            attachment.close()
