"""What dies comes back, what stalls holds nobody, and no answer is ever a wrong row."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import msgpack
import numpy as np
import pytest

from embcache import EmbeddingCache
from embcache.pending import STATE_S
from embcache_client import Client, RetryPolicy
from embcache_client.errors import ClientError
from embcache_client.results import COLD, LATE, WARM
from embcache_client.wire import Query, encode_lookup
from tests.service.running import FILLED, TABLES, Running, fill, rows_of, running, start
from tests.service.wires import connect, ends, get, post, receive

BACK_WITHIN_S = 60.0  # the service promises 5 s; this is only how long a test waits for it, on any machine
PATIENT = RetryPolicy(attempts=1000, cap_s=0.1)
LARGE = post("/v1/lookup", encode_lookup([Query("item", np.resize(FILLED, 200_000))]))
CONFIG = '[server]\nport = 0\nuds = "front.sock"\n'
TIERS = '[warm]\ncapacity = "32MiB"\n[cold]\npath = "data"\n'

SIGNALLED_WITHIN_A_CALLBACK = """
import ctypes, os, signal, sys
from embcache.config import Settings
from embcache.host.arena import Arena
from embcache.service.supervisor import serve

create = Arena.create

def signalled(capacity):
    @ctypes.CFUNCTYPE(None)
    def callback():
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(1000))  # where the handler runs

    callback()
    return create(capacity)

Arena.create = signalled
sys.exit(serve(Settings.load(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service whose processes these tests kill."""
    with running(tmp_path_factory.mktemp("mortal"), TABLES) as service:
        with service.client() as client:
            fill(client, "item", FILLED)
        yield service


class Lookups:
    """Lookups without end in a thread, each row checked; errors of the client are counted, anything else is kept."""

    def __init__(self, service: Running, seed: int) -> None:
        self.answered = 0
        self.refused = 0
        self.wrong: list[object] = []
        self._service = service
        self._rng = np.random.default_rng(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def await_answer(self) -> None:
        """Wait until lookups are answered again."""
        before, until = self.answered, time.monotonic() + BACK_WITHIN_S
        while self.answered == before and not self.wrong:
            assert time.monotonic() < until, "no lookup was answered"
            self._stop.wait(0.005)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        assert self.wrong == []

    def _run(self) -> None:
        with self._service.client(timeout=2.0) as client:
            while not self._stop.is_set():
                try:
                    self._look_up(client)
                except ClientError:
                    self.refused += 1
                except Exception as error:
                    self.wrong.append(error)

    def _look_up(self, client: Client) -> None:
        ids = self._rng.choice(FILLED, self._rng.integers(1, 400))
        result = client.lookup({"item": ids}, deadline_ms=1500)["item"]
        known = result.status != LATE
        if not np.isin(result.status[known], (WARM, COLD)).all():
            self.wrong.append(result.status)
        if result.rows[known].tobytes() != rows_of(ids[known]).tobytes():
            self.wrong.append(ids)
        self.answered += 1


@pytest.mark.parametrize("victim", ["front", "owner"])
def test_a_killed_process_comes_back_and_no_row_is_wrong(mortal: Running, victim: Literal["front", "owner"]) -> None:
    lookups = [Lookups(mortal, seed) for seed in range(2)]
    try:
        for each in lookups:
            each.await_answer()
        killed = mortal.child(victim)
        os.kill(killed, signal.SIGKILL)
        until = time.monotonic() + BACK_WITHIN_S
        while mortal.child(victim) in (0, killed):
            assert time.monotonic() < until, f"no other {victim} was started"
        for each in lookups:
            each.await_answer()
            each.await_answer()
    finally:
        for each in lookups:
            each.stop()
    assert mortal.process.poll() is None


def test_without_an_owner_the_front_says_so(mortal: Running) -> None:
    os.kill(mortal.child("owner"), signal.SIGSTOP)  # it neither answers nor is started anew
    owner = mortal.child("owner")
    os.kill(owner, signal.SIGKILL)
    statuses: set[int] = set()
    until = time.monotonic() + BACK_WITHIN_S
    while not {200, 503} <= statuses or mortal.child("owner") in (0, owner):
        answer = mortal.ask(get("/readyz"))
        statuses.add(answer.status)
        assert answer.status in (200, 503)
        if answer.status == 503:
            assert answer.json()["error"]["code"] == "not_ready"
            assert int(answer.headers["retry-after"]) >= 1
            assert mortal.ask(get("/healthz")).status == 200
        assert time.monotonic() < until


def test_counts_outlive_a_front(mortal: Running) -> None:
    def lookups() -> float:
        lines = mortal.ask(get("/metrics")).body.splitlines()
        line = next(line for line in lines if line.startswith(b"embcache_lookups_total "))
        return float(line.split()[1])

    with mortal.client(timeout=BACK_WITHIN_S, retry=PATIENT) as client:
        client.lookup({"item": FILLED[:5]})
        before = lookups()
        front = mortal.child("front")
        os.kill(front, signal.SIGKILL)
        client.lookup({"item": FILLED[:5]})
    assert lookups() == before + 1
    assert mortal.child("front") != front


def test_an_owner_that_stands_still_does_not_keep_the_fronts_figures(mortal: Running) -> None:
    def figures() -> dict[str, float]:
        lines = mortal.ask(get("/metrics")).body.decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    def await_owner() -> dict[str, float]:
        until = time.monotonic() + BACK_WITHIN_S
        while not (now := figures())["embcache_owner_answers"]:
            assert time.monotonic() < until, "the owner's figures did not come back"
        return now

    owners = ("embcache_producers", 'embcache_resident_bytes{process="owner"}', 'embcache_position{of="applied"}')
    with mortal.client(timeout=BACK_WITHIN_S, retry=PATIENT) as client:
        client.lookup({"item": FILLED[:5]})
    before = await_owner()
    assert before.keys() >= {*owners}
    owner = mortal.child("owner")
    os.kill(owner, signal.SIGSTOP)
    try:
        stopped = figures()
    finally:
        os.kill(owner, signal.SIGCONT)
    assert (stopped["embcache_ready"], stopped["embcache_owner_answers"]) == (1, 0)
    assert stopped["embcache_lookups_total"] == before["embcache_lookups_total"] > 0
    assert not stopped.keys() & {*owners}
    assert await_owner().keys() == before.keys()


@pytest.fixture
def stopped_owner(mortal: Running) -> Iterator[None]:
    with mortal.client(timeout=BACK_WITHIN_S, retry=PATIENT) as client:
        client.lookup({"item": FILLED[:5]})
    owner = mortal.child("owner")
    os.kill(owner, signal.SIGSTOP)
    yield
    os.kill(owner, signal.SIGCONT)


@pytest.mark.usefixtures("stopped_owner")
def test_who_asks_an_owner_that_stands_still_how_things_are_hears_so(mortal: Running) -> None:
    paths = ("/v1/position", "/v1/tables", "/v1/tables/item", "/v1/producers/p", "/v1/quarantine", "/v1/quarantine/1")
    with ThreadPoolExecutor(len(paths)) as threads:
        answers = list(threads.map(lambda path: mortal.ask(get(path)), paths))
    for path, answer in zip(paths, answers, strict=True):
        packed = answer.headers["content-type"] == "application/msgpack"
        error = (msgpack.unpackb(answer.body) if packed else answer.json())["error"]
        assert (answer.status, error["code"]) == (503, "not_ready"), path
        assert "the owner did not answer within 5 s" in error["message"]
        assert answer.headers["retry-after"] == "1"
    with mortal.client() as client:
        assert (client.lookup({"item": FILLED[:5]})["item"].status == WARM).all(), "what is in memory is answered"


def test_a_change_of_tables_is_known_to_a_front_that_nobody_asks(mortal: Running) -> None:
    """So that what is in memory is answered, too, where the owner stands still soon afterwards."""
    with (
        mortal.client(timeout=BACK_WITHIN_S, retry=PATIENT) as client,
        EmbeddingCache.attach(mortal.folder / "data") as cache,
    ):
        client.lookup({"item": FILLED[:5]})
        cache.create_table({"name": "unrelated", "dim": 4})
        time.sleep(0.5)
        owner = mortal.child("owner")
        os.kill(owner, signal.SIGSTOP)
        try:
            asked = time.monotonic()
            assert (client.lookup({"item": FILLED[:5]})["item"].status == WARM).all()
            assert time.monotonic() - asked < STATE_S, "nobody waited for the owner"
        finally:
            os.kill(owner, signal.SIGCONT)
        cache.drop_table("unrelated")


def shared_memory() -> set[Path]:
    """What has a name in it, but for Python's semaphores: the service has none, other tests' processes have."""
    return {path for path in Path("/dev/shm").iterdir() if not path.name.startswith("sem.mp-")}


def test_a_stop_waits_for_work_but_for_no_idler_and_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM while one client stalls in a head, one in a body, one in reading, one idles, and one is being served."""
    shared = shared_memory()
    (tmp_path / "config.toml").write_text(CONFIG + "grace_s = 3\n" + TIERS + TABLES)
    with running(tmp_path) as service:
        with service.client() as client:
            fill(client, "item", FILLED)
        pids = [service.child("owner"), service.child("front")]
        head, body, reader, idle, served = (connect(service.port, receive_buffer=4096) for _ in range(5))
        head.sendall(b"POST /v1/lookup HT")
        body.sendall(LARGE[:-1])
        reader.sendall(LARGE)
        assert reader.recv(15) == b"HTTP/1.1 200 OK"
        served.sendall(LARGE[:-1])
        idle.sendall(get("/healthz"))
        assert receive(idle).status == 200
        service.process.send_signal(signal.SIGTERM)
        assert ends(idle)  # so it has begun to stop
        served.sendall(LARGE[-1:])
        answer = receive(served)
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert service.process.wait(BACK_WITHIN_S) == 0
        assert ends(head)
        assert ends(body)
        for client_ in (head, body, reader, idle, served):
            client_.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert shared_memory() <= shared
    assert not (tmp_path / "front.sock").exists()
    assert "Traceback" not in service.log()


def test_when_the_supervisor_is_killed_its_children_end_and_another_can_start(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CONFIG + TIERS)
    with running(tmp_path) as service:
        pids = [service.child("owner"), service.child("front")]
        service.process.kill()
        until = time.monotonic() + BACK_WITHIN_S
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            assert time.monotonic() < until
    assert (tmp_path / "front.sock").is_socket()
    with running(tmp_path), Client(f"http+unix://{tmp_path / 'front.sock'}") as client:
        client.ready()


def test_a_stop_while_it_starts_is_a_clean_one(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CONFIG + TIERS)
    process = start(tmp_path)
    assert process.stdout is not None
    with process.stdout:
        starting = Running(process, tmp_path, "http://127.0.0.1:0")
        while not (starting.child("owner") and starting.child("front")):
            assert process.poll() is None
        pids = [starting.child("owner"), starting.child("front")]
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        assert process.wait(BACK_WITHIN_S) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not (tmp_path / "front.sock").exists()
    assert "Traceback" not in starting.log()


def test_a_signal_within_a_call_from_c_is_not_lost(tmp_path: Path) -> None:
    """As the loader of compiled kernels makes them: an exception that is raised in one is printed and dropped."""
    (tmp_path / "config.toml").write_text(CONFIG + TIERS)
    (tmp_path / "serve.py").write_text(SIGNALLED_WITHIN_A_CALLBACK)
    command = [sys.executable, str(tmp_path / "serve.py"), str(tmp_path / "config.toml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            out, err = process.communicate(timeout=BACK_WITHIN_S)
        finally:
            process.kill()
    assert (process.returncode, out) == (0, b"")
    assert b"Traceback" not in err
    assert b"killed" not in err  # the owner, which was started after the signal came, heeds its own


def test_a_stop_while_kernels_compile_waits_for_none_of_them(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CONFIG + "grace_s = 1\n" + TIERS)
    process = start(tmp_path, environment={"EMBCACHE_KERNEL_CACHE": str(tmp_path / "kernels")})
    assert process.stdout is not None
    with process.stdout:
        until = time.monotonic() + BACK_WITHIN_S
        while not _answers(tmp_path / "front.sock"):
            assert time.monotonic() < until
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(BACK_WITHIN_S) == 0
        assert process.stdout.read() == b""  # it was not ready yet
    said = (tmp_path / "log").read_text()
    assert "killed" not in said
    assert "Traceback" not in said


def _answers(path: Path) -> bool:
    """Whether a front serves there, ready or not."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
            client.sendall(get("/healthz"))
            return receive(client).status == 200
        except OSError:
            return False


def test_a_data_folder_in_use_is_told_so(tmp_path: Path, mortal: Running) -> None:
    (tmp_path / "config.toml").write_text(
        f'[server]\nport = 0\n[warm]\ncapacity = "8MiB"\n[cold]\npath = "{mortal.folder}/data"\n'
    )
    process = start(tmp_path)
    assert process.stdout is not None
    with process.stdout:
        assert process.wait(BACK_WITHIN_S) == 1
        assert process.stdout.read() == b""
    said = (tmp_path / "log").read_text()
    assert f"process {mortal.process.pid} has it open" in said
    assert "Traceback" not in said
    with mortal.client(timeout=BACK_WITHIN_S, retry=PATIENT) as client:
        assert client.lookup({"item": FILLED}, strict=True)["item"].rows.tobytes() == rows_of(FILLED).tobytes()
