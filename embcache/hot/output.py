"""Results that stay on the device: arrays there for one lookup's rows, and how those come there that the host found.

The hot tier writes its rows to the arrays in the lookup's launch. The others come into a buffer in pinned memory, and
one more launch, on the caller's stream, brings them over. So what the caller does there afterwards sees all rows, and
what it did before does not see them early: a lookup launches only once all that stood on that stream has run.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embcache.errors import DimensionMismatch, MalformedRequest, UnknownTable
from embcache.gpu.device import Device, DeviceError, Event
from embcache.gpu.layout import MOVE, MOVE_ROWS
from embcache.gpu.tiles import cut_moves
from embcache.host.memory import address_of
from embcache.places import Part, Place, Target
from embcache_client.results import TableRows
from embcache_client.rowtypes import CODES, ELEMENTS

LIMIT_S = 5.0  # what the emulated device may take for a move
_THREADS = 128
_WARPS = _THREADS // 32


class DeviceRows(TableRows):
    """The rows of one query on a device: `raw`, `scale` and `bias` are CuPy arrays, `status` is the host's.

    Where the device is emulated they are NumPy's. `from_dlpack` of torch or JAX takes them over without a copy.
    """

    @property
    def rows(self) -> Any:
        """float32 [n, dim] on the device: `raw` itself for f32, otherwise converted there, on the current stream."""
        if self._rows is None:
            self._rows = self._decoded()
        return self._rows

    def _decoded(self) -> Any:
        if self.dtype == "bf16":
            return (self.raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
        rows = self.raw.astype(np.float32, copy=False)
        if self.scale is None or self.bias is None:
            return rows
        return rows * self.scale[:, None] + self.bias[:, None]


class Arrays(NamedTuple):
    """One result's arrays on the device: `raw` [n, dim] of the dtype asked for; scale, bias float32 [n], q8 alone."""

    raw: Any
    scale: Any = None
    bias: Any = None


class Move(NamedTuple):
    """Rows of one array that have to come over: from an address to an address, which ones i32, and their bytes."""

    source: int
    target: int
    rows: NDArray[np.int32]
    nbytes: int


class Output:
    """Made by HotTier.output, for one lookup."""

    def __init__(self, device: Device, parts: Sequence[Part], dtype: str, given: Mapping[str, Any]) -> None:
        """given: by table, arrays to use: `raw`, or (codes, scale, bias) for q8; others are made.

        MalformedRequest, DimensionMismatch and UnknownTable say what of `given` does not fit.
        DeviceError where the device has no room, or is lost.
        """
        self._device = device
        for table in given:
            if all(part.table != table for part in parts):
                raise UnknownTable(f"out[{table!r}]: this table is not asked for", {"table": table})
        self.arrays = [self._made(part, dtype, given.get(part.table)) for part in parts]
        # Where the hot tier writes to. Asked for once: on a GPU that is a call to the driver for each array.
        self.targets = [Target(*map(self._address, each)) for each in self.arrays]
        self._check_apart(parts, given)

    def moves(self, rows: Sequence[NDArray[np.int32]], buffer: int, places: Sequence[Place]) -> list[Move]:
        """How to bring these rows of each result over, from their places in a buffer at an address."""
        moves = []
        for arrays, targets, place, here in zip(self.arrays, self.targets, places, rows, strict=True):
            for array, target, offset in zip(arrays, targets, place, strict=False):
                if array is not None and here.size:
                    nbytes = array.itemsize * (array.shape[1] if array.ndim == 2 else 1)
                    moves.append(Move(buffer + offset, target, here, nbytes))
        return moves

    def _address(self, array: Any) -> int:
        return 0 if array is None else self._device.address(array)

    def _made(self, part: Part, dtype: str, given: Any) -> Arrays:
        wanted: list[tuple[tuple[int, ...], np.dtype[Any]]] = [(part.shape, ELEMENTS[CODES[dtype]])]
        if dtype == "q8":
            wanted += 2 * [(part.shape[:1], np.dtype(np.float32))]
        if given is None:
            return Arrays(*(self._device.empty(shape, element.name) for shape, element in wanted))
        arrays = given if dtype == "q8" else (given,)
        if not isinstance(arrays, tuple) or len(arrays) != len(wanted):
            raise MalformedRequest(
                f"out[{part.table!r}]: for q8 it should be (codes, scale, bias), arrays on the device"
            )
        for array, (shape, element) in zip(arrays, wanted, strict=True):
            self._check(part.table, array, shape, element)
        return Arrays(*arrays)

    def _check_apart(self, parts: Sequence[Part], given: Mapping[str, Any]) -> None:
        """That no two arrays that were given lie over each other: each would be written over by the other's rows."""
        spans = sorted(
            (target, array.nbytes, part.table)
            for part, arrays, targets in zip(parts, self.arrays, self.targets, strict=True)
            for array, target in zip(arrays, targets, strict=True)
            if array is not None and part.table in given
        )
        for (begin, nbytes, first), (other, _, second) in itertools.pairwise(spans):
            if begin + nbytes > other:
                raise MalformedRequest(f"out[{first!r}] and out[{second!r}] share memory: each array needs its own")

    def _check(self, table: str, array: Any, shape: tuple[int, ...], element: np.dtype[Any]) -> None:
        try:
            self._device.address(array)
        except TypeError as error:
            raise MalformedRequest(f"out[{table!r}]: {error}") from None
        if array.dtype != element or array.shape != shape:
            raise DimensionMismatch(
                f"out[{table!r}] is {array.dtype} {tuple(array.shape)}, and should be {element.name} {shape}"
            )


class Deliveries:
    """Brings rows from buffers to the device, and holds the buffers until they are there. Safe for many threads."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._under_way: list[tuple[Event, object]] = []

    def deliver(self, moves: Sequence[Move], pinned: NDArray[np.uint8], keep: object) -> None:
        """Launch some moves on the caller's stream.

        pinned: u8 [room_for_moves(moves)], for what the kernel reads beside the rows; keep: what holds those.
        """
        count = sum(move.rows.size for move in moves)
        places, at = pinned[: 4 * count].view(np.int32), 0
        arrays = np.empty((len(moves), 5), np.int64)
        for each, (source, target, rows, nbytes) in enumerate(moves):
            places[at : at + rows.size] = rows
            arrays[each] = (source, target, address_of(places) + 4 * at, nbytes, rows.size)
            at += rows.size
        cut_to = address_of(pinned) + _after_places(count)
        made = int(cut_moves(arrays, cut_to))
        stream, event = self._device.caller_stream(), self._device.event()
        self._device.launch("scatter", stream, -(-made // _WARPS), _THREADS, (cut_to, made))
        self._device.record(event, stream)
        with self._lock:
            self._under_way = [each for each in self._under_way if not self._device.done(each[0])]
            self._under_way.append((event, (pinned, keep)))
        if not self._device.order_caller(event, LIMIT_S):
            raise DeviceError(f"{self._device.name}: rows did not come over within {LIMIT_S:g} s")


def room_for_moves(moves: Sequence[Move]) -> int:
    """Bytes of pinned memory that a delivery takes beside the rows."""
    pieces = sum(-(-move.rows.size // MOVE_ROWS) for move in moves)
    return _after_places(sum(move.rows.size for move in moves)) + pieces * MOVE.itemsize


def _after_places(count: int) -> int:
    """Where moves stand behind so many places, in bytes."""
    line: int = MOVE.itemsize
    return -(-4 * count // line) * line
