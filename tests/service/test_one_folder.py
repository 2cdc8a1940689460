"""Two services on one data folder: the second is refused, also in the time in which the first has no owner."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from embcache.owner.claim import FILE
from tests.service.running import FILLED, TABLES, Running, fill, rows_of, running, start

WITHIN_S = 60.0


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("first"), TABLES) as service:
        with service.client() as client:
            fill(client, "item", FILLED)
        yield service


@pytest.fixture
def killed(tmp_path: Path) -> Iterator[Running]:
    """A service whose supervisor is dead, and with it everything else."""
    (tmp_path / "killed").mkdir()
    with running(tmp_path / "killed", TABLES) as service:
        with service.client() as client:
            fill(client, "item", FILLED)
        owner = os.pidfd_open(service.child("owner"))
        service.process.kill()
        service.process.wait(WITHIN_S)
        assert select.select([owner], [], [], WITHIN_S)[0]
        os.close(owner)
        yield service


def second_config(tmp_path: Path, first: Running) -> Path:
    folder = tmp_path / "second"
    folder.mkdir()
    (folder / "config.toml").write_text(
        (first.folder / "config.toml").read_text().replace('"data"', f'"{first.folder}/data"')
    )
    return folder


def has_all(service: Running) -> None:
    with service.client(timeout=WITHIN_S) as client:
        assert client.lookup({"item": FILLED}, strict=True)["item"].rows.tobytes() == rows_of(FILLED).tobytes()


def test_a_folder_is_not_taken_while_its_owner_is_started_again(tmp_path: Path, first: Running) -> None:
    """The first one's supervisor is stopped, so that its owner, which dies, has no successor for long enough."""
    folder = second_config(tmp_path, first)
    os.kill(first.process.pid, signal.SIGSTOP)
    os.kill(first.child("owner"), signal.SIGKILL)
    process = start(folder)
    try:
        assert process.stdout is not None
        with process.stdout:
            assert process.wait(WITHIN_S) == 1
    finally:
        process.kill()
        os.kill(first.process.pid, signal.SIGCONT)
    said = (folder / "log").read_text()
    assert f"{first.folder}/data: process {first.process.pid} has it open; stop that one" in said
    assert "Traceback" not in said
    until = time.monotonic() + WITHIN_S
    while first.ask(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").status != 200:
        assert time.monotonic() < until, "the first one goes on"
        time.sleep(0.05)
    has_all(first)


def test_owner_and_fronts_have_no_part_in_the_claim(first: Running) -> None:
    lock = first.folder / "data" / FILE
    for pid, has in ((first.process.pid, True), (first.child("owner"), False), (first.child("front"), False)):
        opened = {link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
        assert (lock in opened) is has


def test_a_killed_services_folder_can_be_had_once_its_owner_has_closed_it(tmp_path: Path, killed: Running) -> None:
    """The store is locked here as its owner does, for as long as we like."""
    folder = second_config(tmp_path, killed)
    log = folder / "log"
    with (killed.folder / "data" / "rocksdb" / "LOCK").open("r+b") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        process = start(folder)
        until = time.monotonic() + WITHIN_S
        while "waiting until it is closed" not in log.read_text():
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
    assert process.stdout is not None
    try:
        line = process.stdout.readline().decode()
        assert line.startswith("embcache is ready at "), line + log.read_text()
        has_all(Running(process, folder, line.split()[4]))
    finally:
        process.terminate()
        process.wait(WITHIN_S)
        process.stdout.close()
