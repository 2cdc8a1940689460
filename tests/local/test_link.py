"""Links over real sockets: calls and replies, errors, loss, and what is shared in the greeting."""

from __future__ import annotations

import os
import socket
import struct
import threading
from pathlib import Path

import numpy as np
import pytest

from embcache.errors import NotReady, Overloaded, TooLarge, UnknownTable
from embcache.local import frames, link
from embcache.local.link import Link
from tests.local.peer import Peer, echo

WAIT = 20.0  # seconds before a test gives up on something that must happen


def test_a_call_brings_back_meta_and_payload(tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.float32)
    with Peer(tmp_path, echo):
        line = Link.connect(tmp_path, WAIT)
        reply = line.call("read", {"n": 3}, [rows, b"tail"]).result(WAIT)
        line.close()
    assert reply.meta == {"op": "read", "n": 3}
    assert bytes(reply.payload) == rows.tobytes() + b"tail"


def test_the_greeting_brings_the_shared_memory(tmp_path: Path) -> None:
    with Peer(tmp_path, echo, {"protocol": frames.PROTOCOL, "history": "h1"}):
        line = Link.connect(tmp_path, WAIT)
        assert line.hello["history"] == "h1"
        assert os.pread(line.arena_fd, 4, 0) == b"rows"
        assert os.fstat(line.ring_fd).st_size == 0
        assert not os.get_inheritable(line.arena_fd)
        arena_fd = line.arena_fd
        line.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(arena_fd)


def test_a_folder_whose_path_is_too_long_for_a_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 50) / "data"
    folder.mkdir(parents=True)
    with Peer(folder, echo):
        line = Link.connect(folder, WAIT)
        assert line.call("stats").result(WAIT).meta == {"op": "stats"}
        line.close()


def test_replies_find_their_calls_in_any_order_from_many_threads(tmp_path: Path) -> None:
    def backwards(peer: Peer) -> None:
        for call, meta, payload in reversed([peer.receive() for _ in range(40)]):
            peer.send(call, meta, [payload])

    answers: dict[int, tuple[int, bytes]] = {}

    def ask(line: Link, first: int) -> None:
        futures = {n: line.call("echo", {"n": n}, [n.to_bytes(8, "little") * 5000]) for n in range(first, first + 10)}
        for n, future in futures.items():
            reply = future.result(WAIT)
            answers[n] = reply.meta["n"], bytes(reply.payload[-8:])

    with Peer(tmp_path, backwards):
        line = Link.connect(tmp_path, WAIT)
        threads = [threading.Thread(target=ask, args=(line, first)) for first in range(0, 40, 10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        line.close()
    assert answers == {n: (n, n.to_bytes(8, "little")) for n in range(40)}


def test_a_call_never_blocks_on_an_owner_that_does_not_read(tmp_path: Path) -> None:
    read_now = threading.Event()

    def slow(peer: Peer) -> None:
        read_now.wait(WAIT)
        echo(peer)

    payload = np.random.default_rng(1).bytes(20 << 20)  # far beyond what the socket's buffer holds
    with Peer(tmp_path, slow):
        line = Link.connect(tmp_path, WAIT)
        first, second = line.call("a", {}, [payload]), line.call("b", {}, [payload[::-1]])
        read_now.set()
        assert bytes(first.result(WAIT).payload) == payload
        assert bytes(second.result(WAIT).payload) == payload[::-1]
        line.close()


def test_too_much_for_an_owner_that_does_not_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "MAX_WAITING_BYTES", 8 << 20)
    read_now = threading.Event()

    def slow(peer: Peer) -> None:
        read_now.wait(WAIT)
        echo(peer)

    with Peer(tmp_path, slow):
        line = Link.connect(tmp_path, WAIT)
        first = line.call("a", {}, [bytes(6 << 20)])
        with pytest.raises(Overloaded):
            line.call("b", {}, [bytes(6 << 20)]).result(WAIT)
        read_now.set()
        assert first.result(WAIT).meta == {"op": "a"}
        assert line.call("c", {}, [bytes(6 << 20)]).result(WAIT).meta == {"op": "c"}
        line.close()


def test_the_owners_error_is_raised_as_what_it_is(tmp_path: Path) -> None:
    def refuse(peer: Peer) -> None:
        peer.send(peer.receive().call, {"error": UnknownTable("no table 'x'", {"table": "x"}).to_dict()})

    with Peer(tmp_path, refuse):
        line = Link.connect(tmp_path, WAIT)
        with pytest.raises(UnknownTable, match="no table 'x'") as caught:
            line.call("drop", {"table": "x"}).result(WAIT)
        line.close()
    assert caught.value.detail == {"table": "x"}


def test_a_lost_link_fails_its_calls_and_tells(tmp_path: Path) -> None:
    lost = threading.Event()
    with Peer(tmp_path, lambda peer: (peer.receive(), None)[1]):
        line = Link.connect(tmp_path, WAIT)
        line.on_loss(lost.set)
        with pytest.raises(NotReady, match="closed the link"):
            line.call("read").result(WAIT)
        assert lost.wait(WAIT)
    assert line.closed
    with pytest.raises(NotReady):
        line.call("read").result(WAIT)
    late = threading.Event()
    line.on_loss(late.set)
    assert late.is_set()
    line.close()


@pytest.mark.parametrize("junk", [b"HTTP/1.1 400 Bad Request\r\n\r\n", struct.pack("<4sIQQ", b"EMB1", 1, 1 << 60, 1)])
def test_an_answer_that_is_no_frame_ends_the_link(tmp_path: Path, junk: bytes) -> None:
    def garble(peer: Peer) -> None:
        peer.receive()
        peer.connection.sendall(junk)
        peer.connection.recv(1)

    with Peer(tmp_path, garble):
        line = Link.connect(tmp_path, WAIT)
        with pytest.raises(NotReady, match="broke"):
            line.call("read").result(WAIT)
        line.close()


def test_closing_fails_what_waits(tmp_path: Path) -> None:
    with Peer(tmp_path, echo):
        line = Link.connect(tmp_path, WAIT)
        assert line.call("a").result(WAIT)
        line.close()
        line.close()
        with pytest.raises(NotReady, match="was closed"):
            line.call("b").result(WAIT)


def test_a_cancelled_call_drops_its_reply_only(tmp_path: Path) -> None:
    go = threading.Event()

    def late(peer: Peer) -> None:
        first = peer.receive()
        go.wait(WAIT)
        peer.send(first.call, first.meta)
        echo(peer)

    with Peer(tmp_path, late):
        line = Link.connect(tmp_path, WAIT)
        assert line.call("a").cancel()
        go.set()
        assert line.call("b").result(WAIT).meta == {"op": "b"}
        line.close()


def test_an_oversized_call_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    with Peer(tmp_path, echo):
        line = Link.connect(tmp_path, WAIT)
        with pytest.raises(TooLarge, match="payload"):
            line.call("import_rows", {}, [bytes(frames.MAX_REQUEST_PAYLOAD + 1)]).result(WAIT)
        with pytest.raises(TooLarge, match="meta"):
            line.call("create", {"spec": "x" * frames.MAX_REQUEST_META}).result(WAIT)
        assert line.call("stats").result(WAIT).meta == {"op": "stats"}
        line.close()


def test_where_nobody_listens_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match=r"owner\.sock: no service runs"):
        Link.connect(tmp_path, WAIT)
    with pytest.raises(NotReady, match="no service runs"):
        Link.connect(tmp_path / "nowhere", WAIT)
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / frames.SOCKET_NAME))
    stale.close()
    with pytest.raises(NotReady, match="no service runs"):
        Link.connect(tmp_path, WAIT)


def test_an_owner_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / frames.SOCKET_NAME))
    listener.listen(1)
    with pytest.raises(NotReady, match="too busy or hangs"):
        Link.connect(tmp_path, 0.05)
    listener.close()


@pytest.mark.parametrize(
    ("hello", "words"),
    [
        ({"error": NotReady("the owner is stopping").to_dict()}, "is stopping"),
        ({"protocol": 99}, "speaks protocol 99"),
    ],
)
def test_a_greeting_that_refuses(tmp_path: Path, hello: dict[str, object], words: str) -> None:
    with Peer(tmp_path, lambda _: None, hello), pytest.raises(NotReady, match=words):
        Link.connect(tmp_path, WAIT)
