"""Answers as bytes, however they are cut into pieces."""

from __future__ import annotations

import contextlib
import gc
import weakref

import pytest

from embcache_client.address import Address
from embcache_client.buffers import BufferPool
from embcache_client.errors import ProtocolError, ReplyTooLarge
from embcache_client.http1 import MAX_HEAD, RequestHeads, Response, ResponseReader

SIZED = b"HTTP/1.1 200 OK\r\nContent-Type: Application/MsgPack; x=y\r\nContent-Length: 11\r\n\r\nhello world"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nhello \r\n5;x=y\r\nworld\r\n0\r\n\r\n"
UNTIL_END = b"HTTP/1.0 200 OK\r\n\r\nhello world"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + SIZED
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
ZERO = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


def reader(max_bytes: int = 1000) -> ResponseReader:
    return ResponseReader(BufferPool(), max_bytes)


def feed(to: ResponseReader, data: bytes, piece: int) -> None:
    """Hand over `data` in pieces of at most `piece` bytes, as a socket would."""
    while data:
        space = to.space()
        count = min(piece, len(space), len(data))
        assert count > 0
        space[:count] = data[:count]
        to.received(count)
        data = data[count:]


def read(data: bytes, piece: int, *, ends: bool = False) -> Response:
    to = reader()
    feed(to, data, piece)
    if ends:
        assert not to.done
        assert to.end_of_stream()
    assert to.done
    return to.response()


@pytest.mark.parametrize("answer", [SIZED, CHUNKED, INTERIM])
@pytest.mark.parametrize("piece", [1, 2, 3, 5, 7, 20, 60, 1000])
def test_an_answer_in_any_pieces(answer: bytes, piece: int) -> None:
    response = read(answer, piece)
    assert response.status == 200
    assert bytes(response.body) == b"hello world"


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_an_answer_that_ends_with_the_connection(piece: int) -> None:
    assert bytes(read(UNTIL_END, piece, ends=True).body) == b"hello world"


@pytest.mark.parametrize("answer", [EMPTY, ZERO])
@pytest.mark.parametrize("piece", [1, 1000])
def test_an_answer_without_a_body(answer: bytes, piece: int) -> None:
    assert bytes(read(answer, piece).body) == b""


def test_a_body_larger_than_the_scratch_buffer() -> None:
    body = bytes(range(256)) * 300
    heads = [b"Content-Length: %d\r\n\r\n" % len(body), b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body)]
    for head, tail in zip(heads, [b"", b"\r\n0\r\n\r\n"], strict=True):
        to = reader(len(body))
        feed(to, b"HTTP/1.1 200 OK\r\n" + head + body + tail, 5000)
        assert bytes(to.response().body) == body


def test_the_media_type_and_headers_are_found() -> None:
    response = read(SIZED, 1000)
    assert response.media_type == b"application/msgpack"
    assert response.headers[b"content-length"] == b"11"


def test_one_answer_after_another_on_one_connection() -> None:
    to = reader()
    for answer, status in [
        (SIZED, 200),
        (SIZED, 200),
        (SIZED.replace(b"200", b"503"), 503),
        (CHUNKED, 200),
        (SIZED, 200),
    ]:
        to.start()
        feed(to, answer, 1000)
        assert to.keep_alive
        response = to.response()
        assert (response.status, bytes(response.body)) == (status, b"hello world")


def test_no_body_is_written_over_by_the_next() -> None:
    to = reader(20_000)
    bodies = []
    for mark in (b"a", b"b", b"c"):
        to.start()
        feed(to, b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n" + mark * 9000, 1000)
        bodies.append(to.response().body)
    assert [bytes(body) for body in bodies] == [b"a" * 9000, b"b" * 9000, b"c" * 9000]


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
    ],
)
def test_whether_the_connection_can_carry_another_call(head: bytes, kept: bool) -> None:
    to = reader()
    feed(to, head + b"Content-Length: 2\r\n\r\nh", 1000)
    assert not to.keep_alive  # not before the answer is whole
    feed(to, b"i", 1)
    assert to.keep_alive is kept


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", "not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_HEAD, "longer than 16384 bytes"),
        (SIZED + b"!", "1 bytes follow the answer's body of 11"),
        (CHUNKED + CHUNKED, "not HTTP/1.1|second answer"),
        (EMPTY + b"x", "bytes follow the answer"),
    ],
)
def test_what_is_no_answer_is_an_error(answer: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        feed(reader(), answer, MAX_HEAD)


def test_an_answer_that_is_too_large_is_refused_before_it_is_received() -> None:
    with pytest.raises(ReplyTooLarge, match="1001 bytes or more, over max_reply_bytes = 1000"):
        feed(reader(), b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n", 1000)
    endless = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"64\r\n" + b"x" * 100 + b"\r\n") * 11
    with pytest.raises(ReplyTooLarge):
        feed(reader(), endless, 200)


@pytest.mark.parametrize("answer", [SIZED[:20], SIZED[:-1], CHUNKED[:-3], INTERIM[:30], b""])
def test_an_end_in_the_middle_completes_nothing(answer: bytes) -> None:
    to = reader()
    feed(to, answer, 1000)
    assert not to.end_of_stream()
    assert to.began is bool(answer)


@pytest.mark.parametrize("answer", [SIZED[:-3], CHUNKED, SIZED + b"!"])
def test_a_reader_is_freed_without_the_collector(answer: bytes) -> None:
    to = reader()
    with contextlib.suppress(ProtocolError):
        feed(to, answer, 1000)
    gc.disable()
    try:
        gone = weakref.ref(to)
        del to
        assert gone() is None
    finally:
        gc.enable()


def test_request_heads_byte_by_byte() -> None:
    heads = RequestHeads(Address.parse("http://[::1]:7070/cache/"), "s3cret")
    assert heads.head("POST", "/v1/lookup", "application/msgpack", 12) == (
        b"POST /cache/v1/lookup HTTP/1.1\r\nHost: [::1]:7070\r\nAuthorization: Bearer s3cret\r\n"
        b"Content-Type: application/msgpack\r\nContent-Length: 12\r\n\r\n"
    )
    heads = RequestHeads(Address.parse("http+unix:///run/embcache.sock"), None)
    assert heads.head("GET", "/healthz", None, 0) == b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert heads.head("DELETE", "/x", None, 0) == b"DELETE /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("token", ["a\r\nX: y", "ä", " a", "a\n", "\t"])
def test_a_token_cannot_smuggle_headers(token: str) -> None:
    with pytest.raises(ValueError, match="token"):
        RequestHeads(Address.parse("http://a"), token)


@pytest.mark.parametrize(
    ("url", "host", "port", "unix_path", "prefix"),
    [
        ("http://127.0.0.1:7070", "127.0.0.1", 7070, None, ""),
        ("http://Example.org/a/b/", "example.org", 80, None, "/a/b"),
        ("http+unix:///run/emb%20cache.sock", "localhost", 80, "/run/emb cache.sock", ""),
        ("http+unix://%2Frun%2Fembcache.sock", "localhost", 80, "/run/embcache.sock", ""),
    ],
)
def test_addresses(url: str, host: str, port: int, unix_path: str | None, prefix: str) -> None:
    assert Address.parse(url) == Address(host, port, unix_path, prefix)


@pytest.mark.parametrize(
    "url",
    [
        "https://a",
        "a:7070",
        "",
        "http://",
        "http://a:x",
        "http://a?b",
        "http://u:p@a",
        "http+unix://run/x",
        "http://a b",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Address.parse(url)
