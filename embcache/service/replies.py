"""Where everything of a lookup's reply stands, settled before a row is touched. Does no I/O and sees no row.

Rows are written once, by the lookup itself, straight into the buffer that leaves for the socket. So the msgpack around
them is laid out first, each array at a known offset:

    83 "position" u64 "history" str "results" array of
        87 "table" "version" "dtype" "shape" "pad" [zeros] "rows" [rows] "status" [u8 n]
        89 "table" "version" "dtype" "shape" "pad" [zeros] "bias" [f32] "scale" [f32] "rows" [codes] "status" [u8 n]

Statuses stand behind the rows: so rows can be on their way while others are still looked for.
`pad` brings `rows` to a multiple of 64 from the start of the body, so that a reader who receives the body at such an
address uses them where they lie. For that, too, q8's keys `scale` and `rows` are packed as str 8 and str 16: with their
headers they take 12 bytes, and so the float32 arrays before them stay aligned.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from struct import Struct

import msgpack

from embcache.places import Part, Place

ALIGNMENT = 64
POSITION_AT = 11  # where a reply's position stands, u64 big-endian

_POSITION = Struct(">11sQ")
_RESULTS = Struct(">9sH")
_SHAPE = Struct(">BIBI")
_BIN_6 = Struct(">6sI")
_BIN_8 = Struct(">8sI")
_PADS = [b"\xa3pad\xc4" + bytes([size]) + bytes(size) for size in range(ALIGNMENT)]
_PAD_HEADER, _ROWS_HEADER, _Q8_HEADER = 6, 10, 12


class Skeleton:
    """A reply of `size` bytes without its arrays: what stands around them, and the places where they go."""

    __slots__ = ("_pieces", "places", "size")

    def __init__(self, position: int, history: str, dtype: str, parts: Sequence[Part]) -> None:
        self.places: list[Place] = []
        self._pieces: list[tuple[int, bytes]] = []
        self.size = 0
        lead = _POSITION.pack(b"\x83\xa8position\xcf", position) + _packed_history(history)
        lead += _RESULTS.pack(b"\xa7results\xdc", len(parts))
        for part in parts:
            rows, dim = part.shape
            lead += _names(part.table, part.version, dtype)
            lead += _SHAPE.pack(0xCE, rows, 0xCE, dim)
            self.places.append(self._place_q8(part, lead) if dtype == "q8" else self._place(part, lead))
            lead = b""

    def write(self, body: memoryview) -> None:
        """Write all but the arrays into the first `size` bytes of `body`."""
        for at, piece in self._pieces:
            body[at : at + len(piece)] = piece

    def _put(self, piece: bytes, array_bytes: int) -> int:
        """Append a piece and room for the array behind it -> where the array goes."""
        self._pieces.append((self.size, piece))
        at = self.size + len(piece)
        self.size = at + array_bytes
        return at

    def _place(self, part: Part, lead: bytes) -> Place:
        pad = _PADS[-(self.size + len(lead) + _PAD_HEADER + _ROWS_HEADER) % ALIGNMENT]
        rows = self._put(lead + pad + _BIN_6.pack(b"\xa4rows\xc6", part.rows_bytes), part.rows_bytes)
        return Place(rows, 0, 0, self._put_status(part))

    def _place_q8(self, part: Part, lead: bytes) -> Place:
        each = part.scale_bytes  # of the scales, and as much of the biases
        before = _PAD_HEADER + _ROWS_HEADER + each + _Q8_HEADER + each + _Q8_HEADER
        pad = _PADS[-(self.size + len(lead) + before) % ALIGNMENT]
        bias = self._put(lead + pad + _BIN_6.pack(b"\xa4bias\xc6", each), each)
        scale = self._put(_BIN_8.pack(b"\xd9\x05scale\xc6", each), each)
        rows = self._put(_BIN_8.pack(b"\xda\x00\x04rows\xc6", part.rows_bytes), part.rows_bytes)
        return Place(rows, scale, bias, self._put_status(part))

    def _put_status(self, part: Part) -> int:
        return self._put(_BIN_8.pack(b"\xa6status\xc6", part.status_bytes), part.status_bytes)


@lru_cache(maxsize=64)
def lay_out(position: int, history: str, dtype: str, parts: tuple[Part, ...]) -> Skeleton:
    """The skeleton of a reply. A client's lookups are much alike, so that most find theirs laid out already."""
    return Skeleton(position, history, dtype, parts)


@lru_cache(maxsize=4096)
def _names(table: str, version: str, dtype: str) -> bytes:
    """What opens a result, up to the two numbers of its shape."""
    names: bytes = msgpack.packb({"table": table, "version": version, "dtype": dtype})
    return bytes([0x89 if dtype == "q8" else 0x87]) + names[1:] + b"\xa5shape\x92"


@lru_cache(maxsize=16)
def _packed_history(history: str) -> bytes:
    packed: bytes = msgpack.packb(history)
    return b"\xa7history" + packed
