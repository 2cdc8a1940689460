"""Owners as real child processes: started, stopped, killed and orphaned, over real data folders."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from embcache.config import Cold, Server, Settings, Warm
from embcache.config import Owner as OwnerSection
from embcache.errors import ConfigError, NotReady, StorageCorrupt
from embcache.local import frames
from embcache.local.link import Link
from embcache.owner.process import OwnerProcess
from embcache_storage.rocks import RocksStore
from embcache_storage.store import Change
from tests.owner.support import ITEM, WAIT, add, begin, catalogue, fill, read, rows_of, some_ids

IDS = some_ids(5000)
OLD = rows_of(IDS, 16, salt=1)


def settings(folder: Path, start_timeout_s: float = 60.0) -> Settings:
    return Settings(
        server=Server(grace_s=5.0),
        owner=OwnerSection(start_timeout_s=start_timeout_s),
        warm=Warm(capacity=8 << 20),
        cold=Cold(path=folder),
        table=(ITEM,),
    )


@contextmanager
def linked(folder: Path) -> Iterator[Link]:
    link = Link.connect(folder, WAIT)
    try:
        yield link
    finally:
        link.close()


def test_an_owner_serves_and_closes_cleanly(tmp_path: Path) -> None:
    with OwnerProcess.start(settings(tmp_path)) as owner:
        assert owner.poll() is None
        assert owner.arena.alive
        with linked(tmp_path) as link:
            fill(link, "item", IDS, OLD)
            before = catalogue(link)["item"]
            assert link.hello["pid"] == owner.pid
        assert owner.stop(WAIT) == 0
    assert not owner.arena.alive
    assert not (tmp_path / frames.SOCKET_NAME).exists()
    assert not any(log.stat().st_size for log in (tmp_path / "rocksdb").glob("*.log")), "the store was closed"
    with OwnerProcess.start(settings(tmp_path)), linked(tmp_path) as link:
        after = catalogue(link)["item"]
        assert (after.number, after.rows) == (before.number, len(IDS))
        assert read(link, after, IDS)[1].tobytes() == OLD.tobytes()


def test_an_owner_stands_back_with_all_that_it_starts(tmp_path: Path) -> None:
    kind = settings(tmp_path)
    with OwnerProcess.start(kind.model_copy(update={"owner": kind.owner.model_copy(update={"nice": 3})})) as owner:
        tasks = Path(f"/proc/{owner.pid}/task")
        names = {int(task.name): (task / "comm").read_text() for task in tasks.iterdir()}
        started = [task for task, name in names.items() if name.startswith("rocksdb")]
        assert started
        nice = min(os.getpriority(os.PRIO_PROCESS, 0) + 3, 19)
        assert {os.getpriority(os.PRIO_PROCESS, task) for task in [owner.pid, *started]} == {nice}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, OwnerProcess]]:
    """A data folder and its owner, for tests that leave both as they are."""
    folder = tmp_path_factory.mktemp("owner") / ("long" * 50) / "data"
    with OwnerProcess.start(settings(folder)) as owner:
        with linked(folder) as link:
            fill(link, "item", IDS, OLD)
        yield folder, owner


def test_an_owner_serves_many_links_and_threads_under_a_long_path(running: tuple[Path, OwnerProcess]) -> None:
    folder, _ = running
    with linked(folder) as link, linked(folder) as other:
        live = catalogue(link)["item"]
        rng = np.random.default_rng(5)
        asked = [rng.choice(IDS, 300) for _ in range(100)]
        shapes = {"parts": [[live.number, 300, 16]]}
        replies = [(link if n % 2 else other).call("read", shapes, [ids]) for n, ids in enumerate(asked)]
        for ids, reply in zip(asked, replies, strict=True):
            payload = np.frombuffer(reply.result(WAIT).payload, np.uint8)
            assert (payload[:300] == 1).all()
            assert payload[304:].tobytes() == rows_of(ids, 16, salt=1).tobytes()


def test_a_second_owner_of_a_folder_is_refused(running: tuple[Path, OwnerProcess]) -> None:
    folder, owner = running
    with linked(folder) as link:
        with pytest.raises(ConfigError, match=r"cold\.path .*another process has it open"):
            OwnerProcess.start(settings(folder))
        assert set(catalogue(link)) == {"item"}
    with linked(folder) as link:
        assert link.hello["pid"] == owner.pid, "the socket is still the first owner's"


def test_an_interrupt_at_the_terminal_is_the_parents_to_judge(running: tuple[Path, OwnerProcess]) -> None:
    folder, owner = running
    os.kill(owner.pid, signal.SIGINT)
    with linked(folder) as link:
        assert set(catalogue(link)) == {"item"}
    assert os.getpgid(owner.pid) != os.getpgid(0), "what a terminal sends to our group is not meant for it"


def test_a_killed_owner_is_noticed_and_loses_nothing(tmp_path: Path) -> None:
    with OwnerProcess.start(settings(tmp_path)) as owner, linked(tmp_path) as link:
        fill(link, "item", IDS, OLD)
        os.kill(owner.pid, signal.SIGKILL)
        assert owner.wait(WAIT) == -signal.SIGKILL
        assert not owner.arena.alive
        with pytest.raises(NotReady):
            link.call("catalogue").result(WAIT)
    with OwnerProcess.start(settings(tmp_path)) as owner, linked(tmp_path) as link:
        assert read(link, catalogue(link)["item"], IDS)[1].tobytes() == OLD.tobytes()
        os.kill(owner.pid, signal.SIGSTOP)
        assert owner.stop(0.05) == -signal.SIGKILL, "one that does not stop is killed"
        assert not owner.arena.alive


def test_an_owner_killed_in_a_commit_leaves_the_old_rows_or_the_new(tmp_path: Path) -> None:
    """Round by round: look at what the last kill left, commit other rows, kill the owner at another moment of it."""
    allowed = [rows_of(IDS, 16, salt=0)]
    with OwnerProcess.start(settings(tmp_path)), linked(tmp_path) as link:
        fill(link, "item", IDS, allowed[0])
    for salt, delay_s in enumerate(("0.001", "0.005", "0.020"), start=1):
        with OwnerProcess.start(settings(tmp_path)) as owner, linked(tmp_path) as link:
            found = whole(link)
            assert any(found.tobytes() == rows.tobytes() for rows in allowed)
            new = rows_of(IDS, 16, salt)
            import_id = begin(link, "item")
            add(link, import_id, IDS, new).result(WAIT)
            commit = link.call("import_commit", {"import": import_id})
            subprocess.run(["sleep", delay_s], check=True)
            owner.kill()
            allowed = [new] if commit.exception(WAIT) is None else [found, new]
    with OwnerProcess.start(settings(tmp_path)), linked(tmp_path) as link:
        found = whole(link)
        assert any(found.tobytes() == rows.tobytes() for rows in allowed)


def whole(link: Link) -> NDArray[np.uint8]:
    """All rows of the one table there is."""
    state, rows = read(link, catalogue(link)["item"], IDS)
    assert (state == 1).all()
    [table] = link.call("stats").result(WAIT).meta["tables"]
    assert table["rows"] == len(IDS)
    return rows


def test_a_damaged_write_ahead_log_is_told(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "store")
    store.create(1, 16)
    for n in range(100):
        store.commit([Change(1, IDS[n : n + 1], OLD[n : n + 1])])
    shutil.copytree(tmp_path / "store", tmp_path / "data" / "rocksdb")  # as a kill would leave it
    store.close()
    [log] = [log for log in (tmp_path / "data" / "rocksdb").glob("*.log") if log.stat().st_size]
    data = bytearray(log.read_bytes())
    data[data.index(OLD[50].tobytes())] ^= 1
    log.write_bytes(data)
    with pytest.raises(StorageCorrupt, match="rocksdb"):
        OwnerProcess.start(settings(tmp_path / "data"))


def test_an_owner_ends_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from embcache.config import Settings\n"
        "from embcache.owner.process import OwnerProcess\n"
        "owner = OwnerProcess.start(Settings.from_json(sys.argv[1]))\n"
        "print(owner.pid, flush=True)\n"
        "time.sleep(1000)\n"
    )
    command = [sys.executable, "-c", code, settings(tmp_path).to_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        owner = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    readable, _, _ = select.select([owner], [], [], WAIT)
    os.close(owner)
    assert readable, "the owner lives on without its parent"
    assert not (tmp_path / frames.SOCKET_NAME).exists()
    RocksStore(tmp_path / "rocksdb").close()


def test_an_owner_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match=r"within 0\.01 s \(owner\.start_timeout_s\)"):
        OwnerProcess.start(settings(tmp_path, start_timeout_s=0.01))
