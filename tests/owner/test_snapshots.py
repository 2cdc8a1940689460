"""Snapshots: of a service under updates, killed at each step, put back, and what an audit finds."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embcache.cache import EmbeddingCache
from embcache.config import Cold, Settings, Warm
from embcache.errors import ConfigError, Conflict, EmbcacheError, StorageCorrupt
from embcache.owner import audit, errands, snapshots
from embcache.owner.applier import CURSOR, Cursor
from embcache.owner.catalogue import KEY
from embcache.owner.claim import FILE
from embcache.owner.errands import Tell
from embcache.owner.lineage import KEY as LINEAGE
from embcache.owner.lineage import Lineage
from embcache.owner.producers import META
from embcache.spec import TableSpec
from embcache.updatecalls import Change as Update
from embcache_storage.rocks import RocksStore
from embcache_storage.store import Change
from tests.naive import Naive, NaiveTable
from tests.owner.stores import WatchedStore
from tests.owner.support import ITEM, WAIT, OwnerThread, fill, rows_of, some_ids
from tests.owner.test_updates import Pusher, floats
from tests.service.running import running
from tests.storage.support import recovery_in_process
from tests.storage.test_rocks_damage import flip

IDS = some_ids(500)
TABLES = '[[table]]\nname = "item"\ndim = 12\n[[table]]\nname = "half"\ndim = 5\ndtype = "f16"\n'


def quiet(what: str, done: int, total: int) -> None:
    pass


def take(folder: Path, target: Path, tell: Tell = quiet) -> dict[str, Any]:
    return snapshots.take(Cold(path=folder), {"target": str(target)}, tell)


def restore(folder: Path, source: Path, tell: Tell = quiet) -> dict[str, Any]:
    return snapshots.restore(Cold(path=folder), {"source": str(source)}, tell)


def findings(folder: Path) -> list[str]:
    told = audit.check(Cold(path=folder), {}, quiet)
    assert all(each["mend"] for each in told["findings"])
    return [f"{each['where']}: {each['what']}" for each in told["findings"]]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != FILE)


# --- under a load of updates ------------------------------------------------------------------------------------


class Load:
    """Pushes batches to a running service until the block ends; `accepted` has them by position."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._push)
        self.accepted: list[tuple[int, list[tuple[str, str, Any, Any]]]] = []
        self.error: Exception | None = None

    def _push(self) -> None:
        draw = np.random.default_rng(3)
        try:
            with EmbeddingCache.attach(self._folder) as cache:
                epoch = cache.open_producer("trainer").epoch
                for seq in range(1, 100_000):
                    changes = []
                    for table, dim, ops in (
                        ("item", 12, ("assign", "add", "delete")),
                        ("half", 5, ("assign", "delete")),
                    ):
                        ids = draw.integers(0, 1000, 150, dtype=np.uint64)
                        values = draw.integers(-99, 99, (150, dim)).astype(np.float32)
                        changes.append((table, ops[seq % len(ops)], ids, values))
                    told = [
                        Update(table, op, ids, None if op == "delete" else rows.view(np.uint8))  # type: ignore[arg-type]
                        for table, op, ids, rows in changes
                    ]
                    self.accepted.append((cache.update("trainer", epoch, seq, told).position, changes))
                    if self._stop.wait(0.005):  # the oracle is slow
                        return
        except Exception as error:
            self.error = error

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self.error is None, self.error

    def until(self, batches: int) -> None:
        while len(self.accepted) < batches and self.error is None:
            self._stop.wait(0.01)

    def state_at(self, position: int) -> Naive:
        naive = Naive()
        naive.tables = {"item": NaiveTable(12), "half": NaiveTable(5, "f16")}
        for at, changes in self.accepted:
            if at <= position:
                for table, op, ids, values in changes:
                    naive.tables[table].change(op, ids.tolist(), values)
        return naive


def test_a_snapshot_under_updates_is_the_state_at_its_position(tmp_path: Path) -> None:
    target = tmp_path / "snapshot"
    with running(tmp_path, TABLES) as service, Load(tmp_path / "data") as load:
        load.until(20)
        before = load.accepted[-1][0]
        command = [sys.executable, "-m", "embcache", "snapshot", str(target), "--url", service.url]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        about = json.loads((target / "snapshot.json").read_text())
        assert f"snapshot at position {about['position']} of history {about['history']}" in done.stdout
        assert about["position"] > before, "what was acknowledged before is in it"
        load.until(len(load.accepted) + 5)
    assert about["position"] < load.accepted[-1][0]
    ids = np.arange(1000, dtype=np.uint64)
    told = restore(tmp_path / "restored", target)
    assert (told["position"], told["kept"]) == (about["position"], None)
    naive = load.state_at(about["position"])
    settings = Settings(cold=Cold(path=tmp_path / "restored"), warm=Warm(capacity=4 << 20))
    with EmbeddingCache.open(settings) as cache:
        assert cache.history != about["history"], "positions of the time after it must not be taken for these"
        assert cache.position == about["position"]
        for table in ("item", "half"):
            found = cache.lookup({table: ids}, deadline_ms=30_000)[table]
            rows, there = naive.lookup(table, ids.tolist())
            assert found.found.tolist() == there
            np.testing.assert_array_equal(found.rows, rows)
    assert names(tmp_path / "data" / "rocksdb" / "staging") == []


# --- killed at each step ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped service's data: `item` with rows of salt 0, imported, and updates after it."""
    folder = tmp_path_factory.mktemp("data")
    with OwnerThread(RocksStore(folder / "rocksdb"), folder, [ITEM]) as owner:
        fill(owner.link(), "item", IDS, rows_of(IDS, 16) & np.uint8(0x3F))
        pusher = Pusher(owner)
        for turn in range(5):
            pusher.push(("item", "assign", IDS[:50], floats(IDS[:50], turn)))
    return folder


@pytest.fixture
def folder(data: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(data, tmp_path / "data")


KILLED = """
import json, os, signal, sys
from pathlib import Path
from embcache.config import Cold
from embcache.owner import snapshots
for work, step, folder, path in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        def tell(what, done, total):
            if what == step:
                os.kill(os.getpid(), signal.SIGKILL)
        order = {"target": path, "source": path}
        getattr(snapshots, work)(Cold(path=Path(folder)), order, tell)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (work, step, status)
"""


def killed(*work: tuple[str, str, Path, Path]) -> None:
    """Each (take or restore, step, data folder, snapshot) in a process that is killed as the step begins."""
    told = json.dumps([[name, step, str(folder), str(path)] for name, step, folder, path in work])
    subprocess.run([sys.executable, "-c", KILLED, told], check=True, cwd=Path(__file__).parents[2])


def steps_of(call: Callable[[Tell], object]) -> list[str]:
    told: list[str] = []
    call(lambda what, done, total: told.append(what))
    return list(dict.fromkeys(told))


def marks(folder: Path) -> bytes | None:
    """A meta value by which tests tell data apart."""
    store = RocksStore(folder / "rocksdb")
    try:
        assert np.all(store.read(store.versions()[-1], 16, IDS)[1] == 1)
        return store.get_meta("mark")
    finally:
        store.close()


def mark(folder: Path, value: bytes) -> None:
    store = RocksStore(folder / "rocksdb")
    store.put_meta("mark", value)
    store.close()


def test_a_kill_at_any_step_of_a_snapshot_leaves_none_or_all(data: Path, folder: Path, tmp_path: Path) -> None:
    steps = steps_of(lambda tell: take(folder, tmp_path / "whole", tell))
    assert steps == ["link", "link or copy", "complete", "move", "sync", "name"]
    killed(*(("take", step, folder, tmp_path / step) for step in steps))
    with recovery_in_process():
        _take_again(folder, tmp_path, steps)


def _take_again(folder: Path, tmp_path: Path, steps: list[str]) -> None:
    for step in steps:
        assert not (tmp_path / step).exists()
        take(folder, tmp_path / step)
        assert names(tmp_path / step) == ["rocksdb", "snapshot.json"]
        assert findings(tmp_path / step) == []
    assert not [name for name in names(tmp_path) if name.startswith(".")], "what was left is gone"
    marks(folder)
    assert not (folder / "rocksdb" / "staging").exists(), "an owner that starts removes what a kill left"


def test_a_kill_at_any_step_of_a_restore_leaves_the_old_or_the_new(folder: Path, tmp_path: Path) -> None:
    mark(folder, b"new")
    take(folder, tmp_path / "snapshot")
    mark(folder, b"old")
    trial = shutil.copytree(folder, tmp_path / "trial")
    steps = steps_of(lambda tell: restore(trial, tmp_path / "snapshot", tell))
    assert steps == [
        *("link", "link or copy", "check", "read rows", "read the update log", "complete", "sync", "exchange", "tidy"),
        "keep",
    ]
    places = {step: shutil.copytree(folder, tmp_path / "places" / step) for step in steps}
    killed(*(("restore", step, place, tmp_path / "snapshot") for step, place in places.items()))
    with recovery_in_process():
        found = _restore_again(list(places.values()), tmp_path / "snapshot")
    assert found == [b"old"] * 8 + [b"new"] * 2


def _restore_again(places: list[Path], snapshot: Path) -> list[bytes | None]:
    """What is found in each place; once more, from there on."""
    found = []
    for place in places:
        found.append(marks(place))
        mark(place, b"later")
        assert restore(place, snapshot)["kept"]
        assert marks(place) == b"new"
        kept = [name for name in names(place) if name.startswith("rocksdb-before-")]
        assert names(place) == ["rocksdb", *kept]
        old = []
        for name in kept:
            (place / "as-data").mkdir()
            (place / name).rename(place / "as-data" / "rocksdb")
            old.append(marks(place / "as-data"))
            shutil.rmtree(place / "as-data")
        assert sorted(filter(None, old)) == ([b"later"] if found[-1] == b"old" else [b"later", b"old"]), (
            "nothing is lost"
        )
    return found


def test_nothing_is_restored_over_data_in_use_or_from_what_is_damaged(folder: Path, tmp_path: Path) -> None:
    take(folder, tmp_path / "snapshot")
    with pytest.raises(Conflict, match="overwrites nothing"):
        take(folder, tmp_path / "snapshot")
    store = RocksStore(folder / "rocksdb")
    with pytest.raises(ConfigError, match="another process has it open"):
        errands.run("restore", {"cold": Cold(path=folder).model_dump_json(), "source": str(tmp_path / "snapshot")})
    store.close()
    for source in (tmp_path, folder):
        with pytest.raises(ConfigError, match=r"no snapshot|the data folder itself"):
            restore(folder, source)
    mark(folder, b"mine")
    with_rows = max((tmp_path / "snapshot" / "rocksdb").glob("*.sst"), key=lambda path: path.stat().st_size)
    shutil.copyfile(with_rows, tmp_path / "own")  # the file is the data's, too
    (tmp_path / "own").replace(with_rows)
    flip(with_rows, 2000)
    with pytest.raises(StorageCorrupt, match="is damaged, and nothing was changed"):
        restore(folder, tmp_path / "snapshot")
    assert names(folder) == ["rocksdb"]
    assert marks(folder) == b"mine"
    told = snapshots.restore(Cold(path=folder), {"source": str(tmp_path / "snapshot"), "force": True}, quiet)
    assert told["findings"] >= 1
    assert findings(folder), "it is there, as damaged as it is"


@pytest.mark.parametrize("path", ["relative", "/no/such/folder", "data/rocksdb/inside"])
def test_no_snapshot_is_taken_where_none_can_be(folder: Path, path: str) -> None:
    target = folder.parent / path if path.startswith("data") else Path(path)
    with pytest.raises(ConfigError, match=r"absolute path|is no folder|within the database"):
        take(folder, target)
    with pytest.raises(ConfigError, match="there is no data yet"):
        take(folder / "empty", folder.parent / "snapshot")


def test_a_copy_of_a_data_folder_can_be_put_back_too(data: Path, folder: Path, tmp_path: Path) -> None:
    told = restore(tmp_path / "elsewhere", data)
    assert told["rows"] == len(IDS)
    with opened(tmp_path / "elsewhere") as store:
        assert Lineage.from_bytes(store.get_meta(LINEAGE) or b"").files == "a snapshot", "nobody goes on in its history"
    histories = set()
    for place in (folder, tmp_path / "elsewhere"):
        with OwnerThread(RocksStore(place / "rocksdb"), place, [ITEM]) as owner:
            histories.add(owner.link().hello["history"])
    assert len(histories) == 2


def test_who_ends_an_errand_leaves_nothing_of_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errand = errands.Errand("snapshot", {"cold": Cold(path=folder).model_dump_json(), "target": str(tmp_path / "no")})

    def stop(what: str, done: int, total: int) -> None:
        if what == "complete":
            errand.stop()

    with contextlib.suppress(EmbcacheError):  # it may have been done
        errand.run(stop)
        shutil.rmtree(tmp_path / "no")
    assert names(tmp_path) == ["data"]
    assert names(folder / "rocksdb" / "staging") == []


# --- audits -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[RocksStore]:
    store = RocksStore(folder / "rocksdb")
    yield store
    store.close()


def put(store: RocksStore, version: int, identifier: int, cell: bytes) -> None:
    with store._families.use(version) as family:
        family[identifier.to_bytes(8, "big")] = cell


def test_sound_data_has_no_findings_and_is_left_as_it_is(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "rocksdb").iterdir() if path.is_file()}
    told = audit.check(Cold(path=folder), {}, quiet)
    assert (told["findings"], told["rows"], told["tables"]) == ([], len(IDS), 1)
    assert told["entries"] == told["position"] == 8
    assert {path: path.stat().st_mtime_ns for path in (folder / "rocksdb").iterdir() if path.is_file()} == before


def test_each_flipped_bit_of_rows_or_log_is_found(folder: Path) -> None:
    draw = np.random.default_rng(5)
    files = [path for path in (folder / "rocksdb").glob("*.sst") if path.stat().st_size > 3000]
    assert files
    for file in files:
        for at in draw.integers(0, file.stat().st_size - 2000, 4).tolist():  # what follows is filters and properties
            flip(file, at)
            found = "\n".join(findings(folder))
            assert found, f"bit of byte {at} of {file.name}"
            assert str(file) in found or "does not match its checksum" in found
            flip(file, at)
    manifest = folder / "rocksdb" / (folder / "rocksdb" / "CURRENT").read_text().strip()
    for at in draw.integers(0, manifest.stat().st_size, 5).tolist():
        flip(manifest, at)
        assert findings(folder), f"bit of byte {at} of the MANIFEST"
        flip(manifest, at)
    assert findings(folder) == []
    files[0].unlink()
    assert any(f"the file {files[0].name} is gone" in each for each in findings(folder))


def test_single_rows_are_named(folder: Path) -> None:
    one, two, three = IDS[[60, 61, 62]].tolist()
    with opened(folder) as store:
        [version] = store.versions()
        put(store, version, one, b"short")
        put(store, version, two, b"x" * 24)
        store.commit([Change(version, IDS[62:63], np.full((1, 4), np.nan, np.float32).view(np.uint8))])
    found = findings(folder)
    assert len(found) == 3
    assert any(f"table item, version 2: the row of id {one} has -3 bytes, not 16" == each for each in found)
    assert any(f"the row of id {two} does not match its checksum" in each for each in found)
    assert any(f"the row of id {three} holds NaN or infinity" in each for each in found)


def test_what_does_not_fit_together_is_found(data: Path, tmp_path: Path) -> None:
    def catalogue(store: RocksStore, change: Callable[[dict[str, Any]], None]) -> None:
        value = json.loads(store.get_meta(KEY) or b"")
        change(value)
        store.put_meta(KEY, json.dumps(value).encode())

    def other_dim(value: dict[str, Any]) -> None:
        for entry in (value["tables"][0], *value["tables"][0]["versions"]):
            if "spec" in entry:
                entry["spec"]["dim"] = 5

    def other_number(value: dict[str, Any]) -> None:
        value["tables"][0]["versions"][0]["number"] = 77

    def producer(store: RocksStore) -> None:
        [(key, state)] = store.metas(META).items()
        store.put_meta(key, state.replace(b"\xa8last_seq\x05", b"\xa8last_seq\x04"))

    def log_entry(store: RocksStore) -> None:
        family = store.log._family
        key = next(iter(family.keys(from_key=(5).to_bytes(8, "big") + bytes(4))))
        value = bytearray(family[key])
        value[-1] ^= 1
        family[key] = bytes(value)

    harms: dict[str, Callable[[RocksStore], object]] = {
        r"catalogue: there is none": lambda store: store.commit((), {KEY: None}),
        r"catalogue: the catalogue .* cannot be read": lambda store: store.put_meta(KEY, b"{}"),
        r"the row of id \d+ has 16 bytes, not 20": lambda store: catalogue(store, other_dim),
        r"table item, version 2: its rows are gone": lambda store: catalogue(store, other_number),
        r"update log: rows stand at position 99": lambda store: store.put_meta(CURSOR, Cursor(99).to_bytes()),
        r"producer trainer-0: it stands at position 8, and rows at 7": (
            lambda store: store.put_meta(CURSOR, Cursor(7).to_bytes())
        ),
        r"producer trainer-0: its newest batch": producer,
        r"update log: the entry at position 5 cannot be read": log_entry,
    }
    for number, (said, harm) in enumerate(harms.items()):
        folder = shutil.copytree(data, tmp_path / str(number))
        with opened(folder) as store:
            harm(store)
        found = "\n".join(findings(folder))
        assert re.search(said, found), (said, found)


def test_rows_in_memory_that_are_not_those_on_disk_are_found(
    tmp_path: Path, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embcache.owner import warm_audit

    monkeypatch.setattr(warm_audit, "_PAUSE_S", 0.001)
    monkeypatch.setattr(warm_audit, "SETS", 16)
    narrow = TableSpec(name="narrow", dim=4, dtype="f16", add=True)
    with OwnerThread(store, tmp_path, [ITEM, narrow]) as owner:
        link = owner.link()
        pusher = Pusher(owner)
        for table in ("item", "narrow"):
            pusher.push((table, "assign", IDS, floats(IDS)))
        numbers = {each.number: each for each in map(_live, ("item", "narrow"), [owner] * 2)}
        for number, each in numbers.items():
            shapes = {"parts": [[number, len(IDS), each.row_bytes]]}
            link.call("read", shapes, [IDS]).result(WAIT)

        def audited() -> tuple[int, list[str]]:
            rows, said, place = 0, [], [0, 0]
            while place is not None:
                told = link.call("check", {"version": place[0], "set": place[1]}).result(WAIT).meta
                rows, place = rows + told["rows"], told["next"]
                said += [each["what"] for each in told["findings"]]
            return rows, said

        assert audited() == (2 * len(IDS), [])
        first = min(numbers)
        region = owner.owner.parts.memory.tables.get(first)
        assert region is not None
        right, _ = region.table.read(IDS[7:8])

        async def write(rows: Any) -> None:
            region.table.replace(IDS[7:8], rows)

        owner.run(write(right ^ 1))
        assert audited()[1] == [f"rows that are not as on disk: ids {IDS[7]}"]
        owner.run(write(right))
        store.damage(first, int(IDS[9]))
        assert audited()[1] == [f"rows that are not as on disk: ids {IDS[9]}"]


def _live(name: str, owner: OwnerThread) -> Any:
    from tests.owner.support import catalogue

    return catalogue(owner.link())[name]
