"""Fronts share connections evenly, and none waits for a front that is dead or busy."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from embcache.service.accepting import LEAVE_S, Acceptor
from tests.service.running import Running, running
from tests.service.wires import connect, get, receive

FRONTS = 3


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("accepting")
    config = f'[server]\nport = 0\nworkers = {FRONTS}\n[warm]\ncapacity = "8MiB"\n[cold]\npath = "data"\n'
    (folder / "config.toml").write_text(config)
    with running(folder) as started:
        yield started


def fronts(service: Running) -> list[int]:
    """The process ids of the fronts there are."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            fields = status.read_text().rpartition(")")[2].split()
            command = (status.parent / "cmdline").read_bytes()
            if int(fields[1]) == service.process.pid and b"embcache.service.front" in command and fields[0] != "Z":
                found.append(int(status.parent.name))
    return found


def connections_of(pid: int, port: int) -> int:
    """How many established connections to a port a process has."""
    inodes = {
        fields[9]
        for fields in (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == "01"
    }
    count = 0
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(fd.readlink())[8:-1] in inodes
    return count


@contextlib.contextmanager
def connections(service: Running, count: int) -> Iterator[list[socket.socket]]:
    """So many that are made at once, and answered."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(connect(service.port)) for _ in range(count)]
        for each in made:
            each.sendall(get("/healthz"))
        for each in made:
            assert receive(each).status == 200
        yield made


def counted(service: Running) -> float:
    text = service.ask(get("/metrics")).body.decode()
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith("embcache_connections ")))


def test_connections_that_come_together_are_shared(service: Running) -> None:
    end = time.monotonic() + 60
    while True:
        with connections(service, 30):
            counts = sorted(connections_of(pid, service.port) for pid in fronts(service))
            assert len(counts) == FRONTS
            assert sum(counts) == 30
            if counts[0] >= 8:
                break
        assert time.monotonic() < end, "a machine that is busy for once may keep a front from its part, not each time"


def test_connections_are_counted(service: Running) -> None:
    with connections(service, 30):
        end = time.monotonic() + 30
        while counted(service) not in (30, 31):  # with the one that asks, or without
            assert time.monotonic() < end
            time.sleep(0.1)


def test_a_dead_front_keeps_no_connection_waiting_and_the_next_one_catches_up(service: Running) -> None:
    with connections(service, 12):
        victim = fronts(service)[0]
        os.kill(victim, signal.SIGKILL)
        with connections(service, 12):  # while there are two
            pass
        end = time.monotonic() + 60
        while len(fronts(service)) < FRONTS or victim in fronts(service):
            assert time.monotonic() < end
            time.sleep(0.05)
        new = max(fronts(service))
        while True:  # it begins with none, so what comes is for it
            with connections(service, 3):
                if connections_of(new, service.port) >= 2:
                    break
            assert time.monotonic() < end
            time.sleep(0.1)


class Others:
    """A share that says what a test wants."""

    def __init__(self) -> None:
        self.fair = True
        self.asked: list[int] = []
        self.taken: list[int] = []

    def is_fair(self, beginning: int) -> bool:
        self.asked.append(beginning)
        return self.fair

    def took(self, beginning: int) -> None:
        self.taken.append(beginning)


class Counting(asyncio.Protocol):
    made = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        Counting.made += 1


def test_a_connection_is_left_to_others_for_a_moment_and_taken_then() -> None:
    async def main() -> None:
        share, loop = Others(), asyncio.get_running_loop()
        share.fair = False
        with socket.create_server(("127.0.0.1", 0)) as listener:
            acceptor = Acceptor(listener, Counting, share)
            before, began = Counting.made, loop.time()
            with socket.create_connection(listener.getsockname()):
                while Counting.made == before:
                    await asyncio.sleep(0)
                assert loop.time() - began > LEAVE_S - 0.001  # the loop tells whole milliseconds
                assert share.asked == [0]
                assert share.taken == [1]
            with socket.create_connection(listener.getsockname()):
                while len(share.asked) == 1:
                    await asyncio.sleep(0)
                taken, _ = listener.accept()  # another front was sooner
                taken.close()
                await asyncio.sleep(10 * LEAVE_S)
                assert share.taken == [1]
            share.fair = True
            with socket.create_connection(listener.getsockname()):
                while Counting.made < before + 2:
                    await asyncio.sleep(0)
            acceptor.close()
            acceptor.close()
            await acceptor.wait_closed()
            with socket.create_connection(listener.getsockname()):
                await asyncio.sleep(0.02)
            assert Counting.made == before + 2

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
