"""The frames that cross the owner's Unix socket. Knows bytes; touches no socket and no process.

A frame is a header, a msgpack map (`meta`) and a raw payload (arrays, one after the other). All numbers little-endian.

    offset  size  field
    0       4     magic, b"EMB1"
    4       4     bytes of meta, u32
    8       8     bytes of payload, u64
    16      8     call number, u64: a reply carries the number of its request
    24            meta, then payload

Example: {"op": "stats"} as call 7, without a payload
    454d4231 0a000000 0000000000000000 0700000000000000  81 a26f70 a57374617473
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgpack
import numpy as np
from numpy.typing import NDArray

Buffer = bytes | bytearray | memoryview | NDArray[Any]

SOCKET_NAME = "owner.sock"
PROTOCOL = 1

_HEADER = struct.Struct("<4sIQQ")
_MAGIC = b"EMB1"
HEADER_BYTES = _HEADER.size

# What either side accepts. Requests are bounded tightly, since the owner serves many: whoever writes many rows sends
# them in pieces. A reply may hold the catalogue of many tables, or all rows of one lookup.
MAX_REQUEST_META = 1 << 20
MAX_REQUEST_PAYLOAD = 64 << 20
MAX_REPLY_META = 256 << 20
MAX_REPLY_PAYLOAD = 2 << 30

_SCRATCH_BYTES = 64 << 10


class FrameError(ValueError):
    """Bytes that are no frame, or one beyond the limits. What follows them cannot be read: close the connection."""


class Frame(NamedTuple):
    """One whole frame. `payload` is writable memory of its own, at an address that is a multiple of 16."""

    call: int
    meta: dict[str, Any]
    payload: memoryview


def encode(call: int, meta: Mapping[str, Any], payload: Sequence[Buffer] = ()) -> list[memoryview]:
    """The pieces of a frame in order. The payload's arrays (C-contiguous) are not copied: leave them be until sent."""
    packed: bytes = msgpack.packb(meta)
    pieces = [view for view in map(_flat, payload) if view.nbytes]
    header = _HEADER.pack(_MAGIC, len(packed), sum(piece.nbytes for piece in pieces), call)
    return [memoryview(header + packed), *pieces]


def padding(nbytes: int) -> bytes:
    """The zeros that bring an array of a payload to a multiple of 8 bytes, so that the next one begins aligned."""
    return bytes(-nbytes % 8)


def padded(nbytes: int) -> int:
    """Bytes of an array of a payload with its padding."""
    return nbytes + -nbytes % 8


def decode_header(header: bytes | memoryview, max_meta: int, max_payload: int) -> tuple[int, int, int]:
    """(bytes of meta, bytes of payload, call number) of the 24 bytes; FrameError where they may not be."""
    magic, meta, payload, call = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise FrameError(f"a frame begins with {_MAGIC!r}, not with {magic!r}")
    if meta > max_meta:
        raise FrameError(f"a frame with {meta:,} bytes of meta, of which {max_meta:,} are allowed")
    if payload > max_payload:
        raise FrameError(f"a frame with {payload:,} bytes of payload, of which {max_payload:,} are allowed")
    return meta, payload, call


def decode_meta(packed: bytes | memoryview) -> dict[str, Any]:
    """The meta map; FrameError where the bytes are something else."""
    try:
        meta = msgpack.unpackb(packed)
    except (ValueError, RecursionError) as error:  # msgpack's own errors are ValueErrors
        raise FrameError(f"the meta of a frame is not msgpack: {error}") from error
    if not isinstance(meta, dict):
        raise FrameError(f"the meta of a frame is a map, not {type(meta).__name__}")
    return meta


class FrameReader:
    """Turns what a socket delivers into frames, for an event loop and for a thread alike.

    Offer `buffer()` to the socket, tell `received` how much came. Small frames arrive together in one scratch buffer;
    the rest of a large payload is received straight into the memory that the frame hands on.
    """

    def __init__(self, max_meta: int, max_payload: int) -> None:
        self._limits = (max_meta, max_payload)
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._held = 0  # bytes of the scratch buffer that no frame has taken
        self._head: tuple[int, int, int] | None = None  # of the frame whose meta is awaited
        self._begun: Frame | None = None  # the frame whose payload is awaited
        self._got = 0  # bytes of that payload

    def buffer(self) -> memoryview:
        """Where the next bytes go; never empty."""
        if self._begun is not None:
            return self._begun.payload[self._got :]
        return self._scratch[self._held :]

    def received(self, nbytes: int) -> Iterator[Frame]:
        """The frames that these bytes complete. Exhaust it before the next `buffer()`. FrameError ends the reading."""
        if self._begun is not None:
            self._got += nbytes
            if self._got == self._begun.payload.nbytes:
                yield self._finish()
            return
        self._held += nbytes
        taken = 0
        while (step := self._take(self._scratch[taken : self._held])) is not None:
            used, frame = step
            taken += used
            if frame is not None:
                yield frame
        self._keep(taken)

    def _take(self, held: memoryview) -> tuple[int, Frame | None] | None:
        """Reads one part of a frame out of `held`: (bytes used, the frame if that was its end), or None: too little."""
        if self._begun is not None:
            return None
        if self._head is None:
            if len(held) < HEADER_BYTES:
                return None
            self._head = decode_header(held[:HEADER_BYTES], *self._limits)
            return HEADER_BYTES, None
        meta_bytes, payload_bytes, call = self._head
        if len(held) < meta_bytes:
            return None
        payload = np.empty(payload_bytes, np.uint8).data
        self._begun = Frame(call, decode_meta(held[:meta_bytes]), payload)
        here = min(payload_bytes, len(held) - meta_bytes)
        payload[:here] = held[meta_bytes : meta_bytes + here]
        self._got = here
        return meta_bytes + here, self._finish() if here == payload_bytes else None

    def _finish(self) -> Frame:
        frame, self._begun, self._head, self._got = self._begun, None, None, 0
        assert frame is not None
        return frame

    def _keep(self, taken: int) -> None:
        """Moves what no frame took to the front, into a larger scratch buffer where the awaited meta needs one."""
        awaited = self._head[0] if self._head is not None and self._begun is None else 0
        if taken == 0 and awaited <= len(self._scratch):
            return
        rest = bytes(self._scratch[taken : self._held])
        if awaited > len(self._scratch):
            self._scratch = memoryview(bytearray(awaited))
        elif not rest and len(self._scratch) > _SCRATCH_BYTES:
            self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._scratch[: len(rest)] = rest
        self._held = len(rest)


def _flat(buffer: Buffer) -> memoryview:
    view = buffer.data if isinstance(buffer, np.ndarray) else memoryview(buffer)
    if view.nbytes == 0:
        return memoryview(b"")
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")
