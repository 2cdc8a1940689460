"""Replies to like lookups differ in their arrays and their position alone.

An outline is a decoded reply without these: where its arrays lie, and the bytes around them. A later reply with the
same bytes there needs no decoding, its arrays are cut out: decoding is most of what a client does on a small lookup,
and a tenth of it on a large one. Any other reply is decoded as ever.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from embcache_client import wire
from embcache_client.errors import ProtocolError
from embcache_client.results import LookupResult, TableRows

# As embcache writes it: the position comes first and always is a u64.
_LEAD: Final = b"\xa8position\xcf"
_POSITION_START: Final = 1 + len(_LEAD)
_POSITION_END: Final = _POSITION_START + 8

MAX_OUTLINES: Final = 256
MAX_LITERAL_BYTES: Final = 64 << 10  # of one outline; a result takes about 150

_Place = tuple[int, np.dtype[Any], tuple[int, ...]]  # of an array: its first byte in the body, its dtype and shape


class Outlines:
    """The outlines of what was asked more than once. Safe to use from many threads."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Outline | str] = {}  # or why there is none: "asked once", "laid out otherwise"

    def read(self, asked: Hashable, body: bytes | NDArray[np.uint8]) -> LookupResult | None:
        """The reply, where the outline of what was asked fits it."""
        outline = self._known.get(asked)
        return outline.read(body) if isinstance(outline, Outline) else None

    def learn(self, asked: Hashable, body: bytes | NDArray[np.uint8]) -> None:
        """Take note of a reply that had to be decoded, and is right."""
        known = self._known.get(asked)
        if known is None:
            if len(self._known) >= MAX_OUTLINES:
                self._known.clear()
            self._known[asked] = "asked once"
        elif known == "asked once" or (isinstance(known, Outline) and known.fitted):
            try:
                self._known[asked] = Outline(body)
            except ProtocolError:
                self._known[asked] = "laid out otherwise"


class Outline:
    """What like replies have in common. fitted: it has been of use."""

    __slots__ = ("_history", "_literals", "_results", "_size", "fitted")

    def __init__(self, body: bytes | NDArray[np.uint8]) -> None:
        """Of a reply that was decoded before. Raises ProtocolError where embcache would have written it otherwise."""
        view = memoryview(body) if isinstance(body, bytes) else body.data
        if bytes(view[1:_POSITION_START]) != _LEAD:
            raise ProtocolError("the position does not come first")
        result = wire.decode_lookup_views(view)
        start = np.frombuffer(view, np.uint8).ctypes.data
        self.fitted = False
        self._size = len(view)
        self._history = result.history
        self._results = [
            (rows.table, rows.version, rows.dtype, [_place(array, start, self._size) for array in _arrays_of(rows)])
            for rows in result.results
        ]
        self._literals: list[tuple[int, int, bytes]] = []
        at = 0
        for first, past in sorted([(_POSITION_START, _POSITION_END), *self._extents()]):
            self._literals.append((at, first, bytes(view[at:first])))
            at = past
        self._literals.append((at, self._size, bytes(view[at:])))
        if sum(len(literal) for *_, literal in self._literals) > MAX_LITERAL_BYTES:
            raise ProtocolError("the reply holds much besides its arrays")

    def _extents(self) -> list[tuple[int, int]]:
        places = [place for *_, places in self._results for place in places]
        return [(first, first + dtype.itemsize * int(np.prod(shape))) for first, dtype, shape in places]

    def read(self, body: bytes | NDArray[np.uint8]) -> LookupResult | None:
        """The reply, if this is its outline. Arrays are copies of bytes, and views of a buffer."""
        view = body if isinstance(body, bytes) else body.data
        if len(view) != self._size:
            return None
        for start, stop, literal in self._literals:
            if view[start:stop] != literal:
                return None
        self.fitted = True
        results = []
        for table, version, dtype, places in self._results:
            arrays = [np.ndarray(shape, kind, body, start) for start, kind, shape in places]
            if body is view:
                arrays = [array.copy() for array in arrays]
            results.append(TableRows(table, version, dtype, arrays[0], arrays[1]))
            if len(arrays) == 4:
                results[-1].scale, results[-1].bias = arrays[2:]
        return LookupResult(results, int.from_bytes(view[_POSITION_START:_POSITION_END], "big"), self._history)


def _arrays_of(rows: TableRows) -> list[NDArray[Any]]:
    return [array for array in (rows.raw, rows.status, rows.scale, rows.bias) if array is not None]


def _place(array: NDArray[Any], start: int, size: int) -> _Place:
    first = array.ctypes.data - start
    if not 0 <= first <= size - array.nbytes:
        raise ProtocolError("an array does not lie aligned in the reply, and was copied")
    return first, array.dtype, array.shape
