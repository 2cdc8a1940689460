"""Power loss and damage: what was acknowledged is there exactly, what was not is there whole or not at all.

An owner takes updates of two producers while its syncs are watched. A power cut leaves the write-ahead log cut anywhere
behind the last sync: since the log only grows, its beginnings are all that cuts at any time could have left.
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from embcache import EmbeddingCache
from embcache.config import Cold, Settings, Warm
from embcache.local.link import Link
from embcache.owner import applier
from embcache.spec import TableSpec
from embcache_client.results import MISSING
from embcache_storage import rocks_log
from embcache_storage.rocks import RocksStore
from embcache_storage.rocks_log import PIECE_BYTES
from tests.naive import Naive, NaiveTable
from tests.owner.stores import WatchedStore
from tests.owner.support import WAIT, Ids, OwnerThread, catalogue, fill, read, some_ids
from tests.owner.test_crashes import Snapshots
from tests.storage.support import recovery_in_process
from tests.storage.test_rocks_damage import flip, log_of, records_of

ITEM, USER = TableSpec(name="item", dim=4), TableSpec.parse({"name": "user", "dim": 3, "default": {"uniform": 0.5}})
IDS = some_ids(40)
OLD = IDS[::2].copy()
PRODUCERS = ("trainer-0", "trainer-1")
ROUNDS = 7
CUTS_OF_PROCESSES = 3
FLIPS = 200
SMALL_PIECE_BYTES = 100  # less than any entry has, so that each is a write of its own

ROOT = Path(__file__).parents[2]

Batch = list[tuple[str, str, Ids, np.ndarray[Any, np.dtype[np.float32]]]]


def batch_of(producer: str, seq: int) -> tuple[bytes, Batch]:
    """(mark, changes) of a producer's batch: the same at each call, as a trainer that sends again would make it."""
    draw = np.random.default_rng([seq, PRODUCERS.index(producer)])
    changes = []
    for _ in range(draw.integers(1, 4)):
        spec = (ITEM, USER)[draw.integers(2)]
        ids = draw.choice(IDS, draw.integers(1, 24 if seq == 5 else 5))
        op = ("assign", "add", "add", "delete")[draw.integers(4)]
        changes.append((spec.name, op, ids, draw.standard_normal((ids.size, spec.dim), np.float32)))
    return b"%d of %s" % (seq, producer.encode()), changes


@dataclass
class Run:
    """A data folder as it is when power fails, and what is known of it."""

    folder: Path
    begin: int = 0  # bytes of the write-ahead log that were synced before the updates
    acknowledged: list[tuple[int, int]] = field(default_factory=list)  # position, bytes synced when its answer came
    states: dict[int, Naive] = field(default_factory=dict)  # by position
    row_bytes: dict[int, int] = field(default_factory=dict)  # by version

    @property
    def log(self) -> Path:
        return log_of(self.folder / "rocksdb")

    def copy(self, folder: Path) -> Path:
        """A copy of the folder -> its write-ahead log."""
        shutil.copytree(self.folder / "rocksdb", folder / "rocksdb")
        return folder / "rocksdb" / self.log.name

    def durable(self, cut: int) -> int:
        """The newest position acknowledged at a time at which so many bytes could be all that was on the disk."""
        return max((position for position, synced in self.acknowledged if synced <= cut), default=min(self.states))

    def cuts(self) -> list[int]:
        """Both sides of every record's beginning, and some between them."""
        size = self.log.stat().st_size
        around = {at + step for at in records_of(self.log.read_bytes()) for step in (-1, 0, 1)}
        return sorted(cut for cut in {*around, *range(self.begin, size, 997), size} if self.begin <= cut <= size)


class Watch:
    """How much of a database's write-ahead log is known to be synced."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self.synced = 0
        sync = rocks_log.RocksLog.sync

        def watched(log: rocks_log.RocksLog) -> None:
            before = self.size()
            sync(log)
            self.synced = before

        monkeypatch.setattr(rocks_log.RocksLog, "sync", watched)

    def size(self) -> int:
        return log_of(self._folder).stat().st_size


def push(link: Link, producer: str, epoch: int, seq: int) -> Future[Any]:
    mark, changes = batch_of(producer, seq)
    payload: list[bytes] = []
    for _, op, ids, rows in changes:
        encoded = b"" if op == "delete" else rows.tobytes()
        payload += [ids.tobytes(), encoded, bytes(-len(encoded) % 8)]
    shapes = [
        [table, op, 0, ids.size, 0 if op == "delete" else rows.nbytes // ids.size] for table, op, ids, rows in changes
    ]
    meta = {"producer": producer, "epoch": epoch, "seq": seq, "mark": mark, "changes": shapes}
    return link.call("update", meta, [b"".join(payload)])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Small pieces, so that batches are cut within their entry of the log and between their commits too."""
    with pytest.MonkeyPatch.context() as monkeypatch, recovery_in_process():
        monkeypatch.setattr(applier, "PIECE_ROWS", 7)
        monkeypatch.setattr(rocks_log, "PIECE_BYTES", SMALL_PIECE_BYTES)
        yield _run(tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("power-loss"), monkeypatch)


@pytest.fixture
def plain_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """As any process reads it: the size of a log's pieces is part of its form."""
    monkeypatch.setattr(rocks_log, "PIECE_BYTES", PIECE_BYTES)
    return _run(tmp_path / "run", tmp_path / "power-loss", monkeypatch)


@pytest.fixture
def room() -> Iterator[Path]:
    """A folder in memory where there is such: openings wait for a disk more than for anything else."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def _run(running: Path, left: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    done, naive = Run(left / "0"), Naive()
    with OwnerThread(RocksStore(running / "rocksdb"), running, [ITEM, USER]) as owner:
        for spec in (ITEM, USER):
            rows = np.random.default_rng(1).standard_normal((20, spec.dim), np.float32)
            fill(owner.link(), spec.name, OLD, rows.view(np.uint8))
            naive.tables[spec.name] = NaiveTable(spec.dim, default=spec.to_json()["default"])
            naive.tables[spec.name].load(OLD.tolist(), rows)
    store = WatchedStore(running / "rocksdb")
    watch = Watch(running / "rocksdb", monkeypatch)
    with OwnerThread(store, running) as owner:
        link = owner.link()
        store.log.sync()
        newest = max(store.folder.glob("*.log")).name
        done.begin = watch.size()
        done.states[link.call("position").result(WAIT).meta["applied"]] = naive
        for turn in range(ROUNDS):
            _round(done, link, watch, turn)
        done.row_bytes = {live.number: live.row_bytes for live in catalogue(link).values()}
        last = max(done.states)
        link.call("wait", {"position": last, "timeout_s": WAIT}).result(WAIT)
        Snapshots(store, left).take("power loss")
    assert done.log.name == newest, "all updates are in one write-ahead log"
    return done


def _round(done: Run, link: Link, watch: Watch, turn: int) -> None:
    """Producers open every now and then, and each pushes a batch."""
    if turn % 3 == 0:
        for producer in PRODUCERS:
            opened = link.call("open_producer", {"producer": producer}).result(WAIT).meta
            naive = copy.deepcopy(done.states[max(done.states)])
            naive.open(producer)
            done.states[opened["position"]] = naive
            done.acknowledged.append((opened["position"], watch.synced))
    epoch, seq = 1 + turn // 3, 1 + turn
    sent = {producer: push(link, producer, epoch, seq) for producer in PRODUCERS}
    receipts = {pending.result(WAIT).meta["position"]: producer for producer, pending in sent.items()}
    for position, producer in sorted(receipts.items()):
        naive = copy.deepcopy(done.states[position - 1])
        naive.push(producer, *batch_of(producer, seq))
        done.states[position] = naive
    done.acknowledged += [(position, watch.synced) for position in receipts]


def assert_state(link: Link, naive: Naive) -> None:
    """The owner holds exactly these rows and producers."""
    tables = catalogue(link)
    assert sorted(tables) == sorted(naive.tables)
    for name, table in naive.tables.items():
        state, rows = read(link, tables[name], IDS)
        wanted, found = naive.lookup(name, IDS.tolist())
        assert state.astype(bool).tolist() == found
        np.testing.assert_array_equal(rows.view(np.float32)[found], wanted[found])
        assert set(table.rows) <= set(IDS.tolist())
    for name in PRODUCERS:
        told = link.call("producer", {"producer": name}).result(WAIT).meta
        known = naive.producers.get(name)
        assert (told["epoch"], told["last_seq"], told["mark"]) == (
            (known.epoch, known.last_seq, known.mark) if known else (0, 0, b"")
        )


def test_a_cut_anywhere_leaves_what_was_acknowledged_and_no_half_of_anything(run: Run, room: Path) -> None:
    cuts = run.cuts()
    left = set()
    for cut in cuts:
        folder = room / "cut"
        os.truncate(run.copy(folder), cut)
        with OwnerThread(RocksStore(folder / "rocksdb"), folder) as owner:
            link = owner.link()
            told = link.call("position").result(WAIT).meta
            assert told["applied"] == told["durable"] >= run.durable(cut)
            assert_state(link, run.states[told["applied"]])
            left.add(told["applied"])
        shutil.rmtree(folder)
    assert left == set(run.states), "there was a cut behind each batch and each opening"


def test_producers_go_on_behind_what_a_cut_left(run: Run, room: Path) -> None:
    """Each opens, sends its last batch once more, and those that were lost: everything counts once."""
    for cut in random.Random(1).sample(run.cuts(), 12):
        folder = room / "cut"
        os.truncate(run.copy(folder), cut)
        with OwnerThread(RocksStore(folder / "rocksdb"), folder) as owner:
            link = owner.link()
            naive = copy.deepcopy(run.states[link.call("position").result(WAIT).meta["applied"]])
            for producer in PRODUCERS:
                opened = link.call("open_producer", {"producer": producer}).result(WAIT).meta
                known = naive.open(producer)
                assert opened["epoch"] > known.epoch, "a copy gives epochs that its original never gave"
                known.epoch, last = opened["epoch"], known.last_seq
                for seq in range(max(1, last), ROUNDS + 1):
                    receipt = push(link, producer, opened["epoch"], seq).result(WAIT).meta
                    assert receipt["duplicate"] == (seq == last)
                    if seq > last:
                        naive.push(producer, *batch_of(producer, seq))
                link.call("wait", {"position": receipt["position"], "timeout_s": WAIT}).result(WAIT)
            assert_state(link, naive)
        shutil.rmtree(folder)


def test_a_whole_service_opens_what_a_cut_left(plain_run: Run, room: Path) -> None:
    """With processes of their own for the owner and for the replay."""
    size = plain_run.log.stat().st_size
    for cut in [*random.Random(2).sample(range(size), CUTS_OF_PROCESSES - 1), size]:
        folder = room / str(cut)
        os.truncate(plain_run.copy(folder), cut)
        with EmbeddingCache.open(Settings(warm=Warm(capacity=8 << 20), cold=Cold(path=folder))) as cache:
            assert cache.position >= plain_run.durable(cut)
            naive = plain_run.states[cache.position]
            for name in naive.tables:
                wanted, found = naive.lookup(name, IDS.tolist())
                for _ in range(2):  # from the cold tier, and from memory
                    answer = cache.lookup({name: IDS})[name]
                    np.testing.assert_array_equal(answer.rows, wanted)
                    assert (answer.status != MISSING).tolist() == found


OPENS_EACH = """
import json, signal, sys
from pathlib import Path
from embcache_storage import rocks_log
from embcache_storage.rocks import RocksOptions, RocksStore
from embcache_storage.store import StoreError
from tests.owner.test_crashes import Snapshots
from tests.storage.support import recovery_in_process
rocks_log.PIECE_BYTES = PIECE_BYTES
for line in sys.stdin:
    signal.alarm(10)
    try:
        with recovery_in_process():
            store = RocksStore(json.loads(line), RocksOptions(open_timeout_s=5))
    except StoreError as error:
        told = [type(error).__name__, str(error)]
    else:
        rows = [[a.tolist() for a in store.scan(*version, 0, 1000)] for version in ROW_BYTES.items()]
        entries = [entry.payload.hex() for entry in store.log.read(store.log.first - 1, 1 << 30)]
        metas = {key: value.hex() for key, value in store.metas("").items()}
        told = ["opened", json.dumps([store.log.last, entries, rows, metas])]
        store.close()
    signal.alarm(0)
    print(json.dumps(told), flush=True)
"""


class Opener:
    """A process that opens folders, one after another; it dies where one takes longer than 10 s."""

    def __init__(self, row_bytes: dict[int, int]) -> None:
        told = f"ROW_BYTES, PIECE_BYTES = {row_bytes}, {SMALL_PIECE_BYTES}"
        command = [sys.executable, "-c", f"{told}\n{OPENS_EACH}"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def open(self, folder: Path) -> tuple[str, str]:
        """("opened", all that the store holds) or (the error, its text)."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(str(folder)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "opening did not end within 10 s"
        kind, text = json.loads(line)
        return kind, text

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def test_no_flipped_bit_of_the_write_ahead_log_takes_anything_in_silence(run: Run, room: Path) -> None:
    with Opener(run.row_bytes) as opener:
        run.copy(room / "whole")
        kind, whole = opener.open(room / "whole" / "rocksdb")
        assert kind == "opened"
        places = random.Random(3)
        synced = max(synced for _, synced in run.acknowledged)
        kinds = []
        for _ in range(FLIPS):
            log = run.copy(room / "flipped")
            flip(log, places.randrange(synced), places.randrange(8))
            kind, text = opener.open(log.parent)
            assert kind in {"opened", "StoreCorrupt"}, text
            if kind == "opened":
                assert text == whole
            else:
                assert log.name in text
                assert "restore a backup" in text
            kinds.append(kind)
            shutil.rmtree(log.parent.parent)
    assert kinds.count("StoreCorrupt") > FLIPS // 2
