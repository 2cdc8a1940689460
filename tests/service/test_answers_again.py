"""Heads that were seen before are not parsed again: the answers are those of a server that parses all of them."""

from __future__ import annotations

import random
import re
import socket
import time
from collections.abc import Iterator

import pytest

from embcache.service.bodies import Receive, Scope, Send
from embcache.service.connection import Answer
from tests.service.wires import connect, ends, get, post, receive, serving


class Echo:
    """Answers with what a request was: at once where its body begins with "now", else as an application."""

    def __init__(self, knows: bool) -> None:
        self.parsed = self.again = 0
        if not knows:
            self.answer_again = None  # type: ignore[assignment,method-assign]

    def answer_now(self, scope: Scope, body: bytes) -> Answer | None:
        self.parsed += 1
        return self._answer(scope, body) if body.startswith(b"now") else None

    def answer_again(self, scope: Scope, body: bytes) -> Answer | None:
        if not body.startswith(b"now"):
            return None
        self.again += 1
        return self._answer(scope, body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        told = self._told(scope, body)
        headers = [(b"content-length", b"%d" % len(told))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": told})

    def _answer(self, scope: Scope, body: bytes) -> Answer:
        told = self._told(scope, body)
        return Answer(b"content-length: %d\r\n" % len(told), told)

    @staticmethod
    def _told(scope: Scope, body: bytes) -> bytes:
        names = dict(scope["headers"])
        names.pop(b"content-length", None)
        return f"{scope['method']} {scope['path']} {sorted(names.items())} ".encode() + body


def test_a_head_that_comes_again_is_not_parsed_again() -> None:
    app = Echo(knows=True)
    with serving(app) as server, connect(server.port) as client:
        for turn in range(20):
            body = b"now" + bytes(turn % 7)
            client.sendall(post("/", body, "authorization: Bearer x"))
            told = receive(client).body
            assert b"Bearer x" in told
            assert told.endswith(b" " + body)
    assert (app.parsed, app.again) == (1, 19)


OTHERS = [
    get("/"),
    post("/", b"later"),
    post("/", b""),
    post("/", b"now then", "authorization: Bearer other"),
    post("/elsewhere", b"now"),
    post("/", b"now 12345678"),
    post("/", b"now").replace(b"content-length: 3", b"Content-Length:  3"),
    post("/", b"now").replace(b"content-length: 3", b"content-length: 0003"),
    post("/", b"now").replace(
        b"content-length: 3\r\n\r\nnow", b"transfer-encoding: chunked\r\n\r\n3\r\nnow\r\n0\r\n\r\n"
    ),
    post("/", b"now", "expect: nothing"),
    post("/", b"now", "x: content-length: 9"),
]


def _requests(chance: random.Random, count: int) -> Iterator[bytes]:
    """Mostly the same head, and sometimes another."""
    for turn in range(count):
        yield chance.choice(OTHERS) if chance.random() < 0.2 else post("/", b"now %d" % turn)


@pytest.mark.parametrize("seed", range(6))
def test_answers_are_the_same_however_the_bytes_come(seed: int) -> None:
    """The same requests in the same pieces to both servers; a request is answered before the next piece is sent."""
    chance = random.Random(seed)
    requests = list(_requests(chance, 200))
    knowing, parsing = Echo(knows=True), Echo(knows=False)
    with (
        serving(knowing) as first,
        serving(parsing) as second,
        connect(first.port) as known,
        connect(second.port) as parsed,
    ):
        while requests:
            count = chance.choice([1, 1, 1, 2, 3])
            together, requests = requests[:count], requests[count:]
            stream = b"".join(together)
            cuts = sorted(chance.sample(range(1, len(stream)), chance.choice([0, 0, 0, 1, 2])))
            for client in (known, parsed):
                for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
                    client.sendall(stream[begin:end])
            rests = bytearray(), bytearray()
            for _ in together:
                ours, theirs = receive(known, rest=rests[0]), receive(parsed, rest=rests[1])
                assert (ours.status, ours.body) == (theirs.status, theirs.body)
    assert knowing.again > 0
    assert parsing.again == 0


KNOWN = post("/", b"now 1")
HIDING = [
    [b"POST / HTTP/1.1\r\nhost: other\r\nx: ", KNOWN],  # it goes on with a header that reads like a request
    [post("/", KNOWN)[: -len(KNOWN)], KNOWN],  # with a body that does
    [post("/", b"later" + KNOWN)[: -len(KNOWN)], KNOWN],
    [post("/", b"later"), KNOWN],  # it is another request, which is answered later
    [KNOWN[:-1], b"1" + KNOWN],
]


@pytest.mark.parametrize("pieces", HIDING)
def test_bytes_that_read_like_a_known_head_are_one_only_where_a_request_begins(pieces: list[bytes]) -> None:
    told = []
    for app in (Echo(knows=True), Echo(knows=False)):
        with serving(app) as server, connect(server.port) as client:
            for _ in range(3):
                client.sendall(KNOWN)
                receive(client)
            for piece in pieces:
                client.sendall(piece)
                time.sleep(0.05)
                server.on_loop(lambda: None)
            client.shutdown(socket.SHUT_WR)
            told.append(re.sub(rb"date: [^\r]*", b"", read_all(client)))
    assert told[0] == told[1]
    assert told[0]


def read_all(client: socket.socket) -> bytes:
    pieces = []
    while piece := client.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def test_what_is_no_request_is_still_told_so() -> None:
    with serving(Echo(knows=True)) as server, connect(server.port) as client:
        for _ in range(3):
            client.sendall(post("/", b"now"))
            receive(client)
        client.sendall(post("/", b"now").replace(b"content-length: 3", b"content-length: x"))
        assert receive(client).status == 400
        assert ends(client)


def test_a_connection_in_use_is_not_idle() -> None:
    app = Echo(knows=True)
    with serving(app, idle_s=0.3) as server, connect(server.port) as client:
        for _ in range(15):
            client.sendall(post("/", b"now"))
            receive(client)
            server.on_loop(lambda: None)
            time.sleep(0.05)
        assert app.again == 14
        assert ends(client)  # and once it is, it is closed
