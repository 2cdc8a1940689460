"""HTTP/1.1 as bytes: request heads out, answers in. Does no I/O: both transports move the bytes.

ResponseReader says where the next bytes of an answer are wanted and is told how many came. A body of known length is
received straight into a pooled buffer, past a first piece of it that came along with the head. Heads, and bodies whose
length is not known beforehand (chunked, behind a proxy), go through httptools.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

import httptools
import numpy as np
from numpy.typing import NDArray

from embcache_client.address import Address
from embcache_client.buffers import BufferPool
from embcache_client.errors import ProtocolError, ReplyTooLarge

MAX_APART: Final = 16 << 20  # bytes of a body that are not wanted at the place of its last ones
MAX_HEAD: Final = 16 << 10  # bytes of an answer's head; also how much is read at a time until a body's place is known


@dataclass(slots=True)
class Place:
    """Where a piece of an answer's body goes: as many bytes as `room` has, those that `behind` bytes follow."""

    room: memoryview
    behind: int


@dataclass(slots=True)
class Response:
    """A whole answer. `headers` has lower-case names; `body` is bytes if it came with its head, or uint8, pooled.

    placed: whether a piece of the body is not in `body`, but at the Place where the call wanted it.
    """

    status: int
    headers: dict[bytes, bytes]
    media_type: bytes  # lower case, without parameters
    body: bytes | NDArray[np.uint8]
    placed: bool = False


class RequestHeads:
    """Writes request heads for one service and one token."""

    def __init__(self, address: Address, token: str | None) -> None:
        if token is not None and not (token.isascii() and token.isprintable() and token.strip() == token):
            raise ValueError("the token has characters that no HTTP header can carry")
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        self._prefix = address.prefix
        self._common = f" HTTP/1.1\r\nHost: {address.authority}\r\n{authorization}"

    def head(self, method: str, target: str, media_type: str | None, body_bytes: int) -> bytes:
        """`target` is a path with its query, quoted already."""
        content = f"Content-Type: {media_type}\r\nContent-Length: {body_bytes}\r\n" if media_type else ""
        if not media_type and method != "GET":
            content = "Content-Length: 0\r\n"
        return f"{method} {self._prefix}{target}{self._common}{content}\r\n".encode("ascii")


class _Phase(Enum):
    HEAD = auto()
    SIZED = auto()  # a body of known length goes straight to its buffer
    PARSED = auto()  # a chunked body, or one that ends with the connection
    DONE = auto()


@dataclass(slots=True)
class _Head:
    raw: bytes
    status: int
    headers: dict[bytes, bytes]
    media_type: bytes
    keep_alive: bool
    body_bytes: int | None  # None where it is not known beforehand


class ResponseReader:
    """The answers of one connection, one after another: start(), then space() and received(n) until `done`.

    Answers to like calls have the same head, but for the date once a second: the last head is kept, and parsed anew
    only when another comes.
    """

    def __init__(self, buffers: BufferPool, max_bytes: int) -> None:
        self._buffers = buffers
        self._max_bytes = max_bytes
        self._scratch = bytearray(MAX_HEAD)
        self._scratch_view = memoryview(self._scratch)
        self._head = _NO_HEAD
        self._parser: Any = None  # holds this reader, which is why it is let go as soon as it has done its work
        self.start()

    def start(self, place: Place | None = None) -> None:
        """Forget the last answer and wait for the next.

        place: where a piece of its body goes, if it is a 200 of known length with something before that piece, and no
        more than MAX_APART besides.
        """
        self._place = place
        self._placed = False
        self._pieces_left: list[memoryview] = []  # of a body of known length, the next one last
        self._phase = _Phase.HEAD
        self._filled = 0  # bytes in the scratch buffer, or in the body
        self._body: bytes | NDArray[np.uint8] = b""
        self._body_view = self._scratch_view
        self.began = False

    @property
    def keep_alive(self) -> bool:
        """The connection can carry another call: asked once the answer is whole."""
        return self.done and self._head.keep_alive

    @property
    def done(self) -> bool:
        return self._phase is _Phase.DONE

    @property
    def wants_whole_body(self) -> bool:
        """True when space() is exactly what is left of the answer."""
        return self._phase is _Phase.SIZED

    def space(self) -> memoryview:
        """Where the next bytes of the answer go; never empty before `done`."""
        if self._phase is _Phase.SIZED:
            return self._body_view[self._filled :]
        return self._scratch_view[self._filled :]

    def received(self, count: int) -> None:
        """`count` bytes lie at the start of what space() said. Raises ProtocolError."""
        self.began = True
        if self._phase is _Phase.SIZED:
            self._filled += count
            if self._filled == len(self._body_view):
                self._begin_piece()
        elif self._phase is _Phase.PARSED:
            self._parse_body(self._scratch_view[:count])
        elif self._phase is _Phase.HEAD:
            searched = max(0, self._filled - 3)
            self._filled += count
            self._seek_head(searched)
        else:
            raise ProtocolError(f"{count} bytes follow the answer")

    def end_of_stream(self) -> bool:
        """The connection ended; True where that completes the answer."""
        if self._phase is _Phase.PARSED and b"transfer-encoding" not in self._head.headers:
            self._finish_parsed()
        return self.done

    def response(self) -> Response:
        """The answer, once `done`."""
        body, self._body, self._body_view = self._body, b"", self._scratch_view
        self._pieces_left = []
        return Response(self._head.status, self._head.headers, self._head.media_type, body, self._placed)

    def _seek_head(self, searched: int) -> None:
        end = self._scratch.find(b"\r\n\r\n", searched, self._filled) + 4
        if end < 4:
            if self._filled == MAX_HEAD:
                raise ProtocolError(f"the answer's head is longer than {MAX_HEAD} bytes")
            return
        raw, rest = self._scratch[:end], self._scratch_view[end : self._filled]
        if raw != self._head.raw:
            self._parse_head(bytes(raw))
        if self._head.status < 200:  # an interim answer: the real one follows
            self._filled = len(rest)
            self._scratch_view[: self._filled] = bytes(rest)
            self._seek_head(0)
        elif self._head.body_bytes is None:
            self._begin_parsed(rest)
        else:
            self._begin_sized(self._head.body_bytes, rest)

    def _parse_head(self, raw: bytes) -> None:
        self._headers: dict[bytes, bytes] = {}
        self._pieces: list[bytes] = []
        self._pieces_bytes = 0
        self._message_complete = False
        self._parser = httptools.HttpResponseParser(self)
        self._feed(raw)
        headers, status, keep_alive = self._headers, self._parser.get_status_code(), self._parser.should_keep_alive()
        media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        length = headers.get(b"content-length")
        size = None if length is None or self._message_complete or b"transfer-encoding" in headers else int(length)
        self._head = _Head(raw, status, headers, media_type, keep_alive, size)
        if size is not None:
            self._parser = None

    def _begin_sized(self, size: int, rest: memoryview) -> None:
        self._check_size(size)
        if len(rest) > size:
            raise ProtocolError(f"{len(rest) - size} bytes follow the answer's body of {size}")
        if len(rest) == size:
            self._body = bytes(rest)
            self._phase = _Phase.DONE
            return
        place = self._place
        before = 0 if place is None else size - len(place.room) - place.behind
        if place is not None and self._head.status == 200 and 0 < before <= MAX_APART - place.behind:
            self._placed = True
            self._body = body = self._buffers.take(before + place.behind)
            self._pieces_left = [body.data[before:], place.room, body.data[:before]]
        else:
            self._body = body = self._buffers.take(size)
            self._pieces_left = [body.data]
        self._phase = _Phase.SIZED
        self._begin_piece()
        while len(rest):
            count = min(len(rest), len(self._body_view))
            self._body_view[:count] = rest[:count]
            rest = rest[count:]
            self._filled = count
            if count == len(self._body_view):
                self._begin_piece()

    def _begin_piece(self) -> None:
        """The next piece of the body is wanted, if there is one."""
        self._filled = 0
        while self._pieces_left:
            self._body_view = self._pieces_left.pop()
            if len(self._body_view):
                return
        self._phase = _Phase.DONE

    def _begin_parsed(self, rest: memoryview) -> None:
        self._head.raw = b""  # to be parsed anew: the parser has to see the body behind it
        self._phase, self._filled = _Phase.PARSED, 0
        if self._message_complete:
            self._finish_parsed()
        if rest:
            self._parse_body(rest)

    def _parse_body(self, piece: memoryview) -> None:
        if self.done:
            raise ProtocolError(f"{len(piece)} bytes follow the answer")
        self._feed(piece)
        self._check_size(self._pieces_bytes)
        if self._message_complete:
            self._finish_parsed()

    def _finish_parsed(self) -> None:
        body = self._buffers.take(self._pieces_bytes)
        body.data[:] = b"".join(self._pieces)
        self._body = body
        self._pieces.clear()
        self._parser = None
        self._phase = _Phase.DONE

    def _feed(self, piece: bytes | memoryview) -> None:
        try:
            self._parser.feed_data(piece)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise ProtocolError(f"the answer is not HTTP/1.1: {error}") from None

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise ReplyTooLarge(f"the answer has {size} bytes or more, over max_reply_bytes = {self._max_bytes}")

    # httptools calls these.

    def on_message_begin(self) -> None:
        if self._message_complete:
            raise ProtocolError("a second answer follows the first")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._pieces_bytes += len(piece)

    def on_message_complete(self) -> None:
        self._message_complete = True


_NO_HEAD: Final = _Head(b"", 0, {}, b"", False, None)
