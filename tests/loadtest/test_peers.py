"""Peers start by themselves, answer what they should, and leave nothing behind."""

from __future__ import annotations

import shutil
import socket
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from loadtest.peers import PeerAbsent
from loadtest.peers.bare_app import bare_app
from loadtest.peers.blocking_sockets import blocking_sockets, receive_whole
from loadtest.peers.fbgemm_table import fbgemm_table
from loadtest.peers.plain_rocksdict import rocksdict_with_rows
from loadtest.peers.redis_server import keys_of, redis_with_rows
from loadtest.processes import Process, ProcessFailed, free_port
from loadtest.workloads import random_ids, rows_from_ids

IDS = random_ids(10_000, np.random.default_rng(1))
ROWS = rows_from_ids(IDS, 4)


def test_keys_are_big_endian() -> None:
    assert keys_of(np.array([1, 2**63], np.uint64)) == [bytes(7) + b"\1", b"\x80" + bytes(7)]


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_redis_holds_the_rows_and_stops() -> None:
    with redis_with_rows(IDS, ROWS) as client:
        assert client.dbsize() == len(IDS)
        values = client.mget(keys_of(IDS[::-7]))
        np.testing.assert_array_equal(np.frombuffer(b"".join(values), np.float32).reshape(-1, 4), ROWS[::-7])
        folder = Path(client.config_get("dir")["dir"])
        assert client.config_get("save") == {"save": ""}
    assert not folder.exists()


def test_redis_that_is_not_installed_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(PeerAbsent, match="no redis-server on PATH"), redis_with_rows(IDS, ROWS):
        pass


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_redis_on_a_unix_socket_holds_the_rows_and_listens_on_no_other() -> None:
    with redis_with_rows(IDS, ROWS, unix=True) as client:
        values = client.mget(keys_of(IDS[::-7]))
        np.testing.assert_array_equal(np.frombuffer(b"".join(values), np.float32).reshape(-1, 4), ROWS[::-7])
        assert client.config_get("port") == {"port": "0"}
        path = Path(client.config_get("unixsocket")["unixsocket"])
        assert path.is_socket()
    assert not path.exists()


def test_package_that_is_not_installed_is_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "rocksdict", None)
    with pytest.raises(PeerAbsent, match="rocksdict is not installed"), rocksdict_with_rows(tmp_path, [], ROWS[:0]):
        pass


def test_fbgemm_that_is_not_installed_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fbgemm_gpu", None)
    with pytest.raises(PeerAbsent, match=r"torch with FBGEMM .*bench-fbgemm"), fbgemm_table(ROWS, 8):
        pass


def test_fbgemm_holds_the_rows_in_one_thread() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("fbgemm_gpu", reason="fbgemm-gpu-cpu is not installed")
    threads = torch.get_num_threads()
    places = np.arange(len(IDS), dtype=np.int64)[::-7]
    with fbgemm_table(ROWS, len(places)) as table:
        np.testing.assert_array_equal(np.asarray(table.lookup(table.places(places.copy()))), ROWS[::-7])
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == threads


def test_rocksdict_holds_the_rows(tmp_path: Path) -> None:
    keys = keys_of(IDS)
    with rocksdict_with_rows(tmp_path / "db", keys, ROWS) as database:
        values = database[keys[::-3]]
    np.testing.assert_array_equal(np.frombuffer(b"".join(values), np.float32).reshape(-1, 4), ROWS[::-3])


def test_bare_app_answers_its_body_to_any_post() -> None:
    body = bytes(range(256)) * 20
    with bare_app(body) as url:
        request = urllib.request.Request(f"{url}/v1/lookup", data=b"x" * 100_000)
        for _ in range(2):
            with urllib.request.urlopen(request) as reply:
                assert reply.headers["content-type"] == "application/msgpack"
                assert reply.read() == body
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url)


@pytest.mark.parametrize("reply_bytes", [1, 5_000_000])
def test_blocking_sockets_answer_whole_requests_alone(reply_bytes: int) -> None:
    reply = np.random.default_rng(1).bytes(reply_bytes)
    with blocking_sockets(300_000, reply) as exchange:
        for _ in range(3):
            assert exchange(bytes(300_000)) == reply
        first = exchange(bytes(300_000))
        first[0] ^= 1
        assert exchange(bytes(300_000)) is first, "the buffer is used again"
        assert first == reply


def test_blocking_sockets_stop_at_the_end() -> None:
    with blocking_sockets(8, b"reply") as exchange:
        exchange(bytes(8))
    with pytest.raises(OSError, match="Bad file descriptor"):
        exchange(bytes(8))


def test_other_side_that_ends_within_a_reply_is_an_error() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"abc")
        theirs.close()
        with pytest.raises(EOFError, match="after 3 of 10 bytes"):
            receive_whole(ours, memoryview(bytearray(10)))


def test_process_that_dies_says_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; print('out'); sys.exit('no such luck')"]
    with (
        Process(command, tmp_path / "log") as process,
        pytest.raises(ProcessFailed, match=r"ended with status 1: (?s:.*)no such luck"),
    ):
        process.wait_until(lambda: False, timeout_s=30)


def test_process_is_stopped_at_the_end_and_killed_if_it_must_be(tmp_path: Path) -> None:
    stubborn = (
        "import signal, sys, threading; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('up', flush=True); threading.Event().wait()"
    )
    process = Process([sys.executable, "-c", stubborn], tmp_path / "log", grace_s=0.2)
    with process:
        process.wait_until(lambda: "up" in process.last_words(), timeout_s=30)
    assert not process.running
    assert process.stop() == -9


def test_process_not_ready_in_time_is_an_error(tmp_path: Path) -> None:
    with (
        Process(["sleep", "60"], tmp_path / "log") as process,
        pytest.raises(ProcessFailed, match=r"sleep 60 was not ready within 0\.05 s: \(no output\)"),
    ):
        process.wait_until(lambda: False, timeout_s=0.05)


def test_free_ports_can_be_listened_on() -> None:
    with socket.create_server(("127.0.0.1", free_port())):
        pass
