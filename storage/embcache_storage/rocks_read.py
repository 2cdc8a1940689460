"""Reading rows from a column family: many at once by id, or in order. Changes nothing.

rocksdict's list get releases the GIL inside RocksDB, so a read is split over threads. It raises for the whole list when
one block is damaged; the list is then halved until only the damaged rows stand alone.
"""

from __future__ import annotations

import itertools
import logging
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Final

import numpy as np

from embcache_storage.cells import CHECKSUM_BYTES, unpack_cells
from embcache_storage.rocks_options import scan_options
from embcache_storage.store import FOUND, StoreCorrupt, U8Array, U64Array

log = logging.getLogger(__name__)

_MIN_PIECE_IDS: Final = 256
"""Below this, handing a piece to a thread costs more than it saves."""
_MAX_PIECE_BYTES: Final = 8 << 20
"""A piece is held three times: by RocksDB, as bytes objects, and joined."""
_SCAN_STEP: Final = 512
"""Rows taken from an iterator before other threads get the GIL, which iterators hold."""
_UNREADABLE: Final = b"\0"
"""Stands for a cell that cannot be read: no cell has this length."""


def keys_of(ids: U64Array) -> list[bytes]:
    """Keys of ids u64[n], contiguous: 8 bytes big-endian, so that they sort as the ids do."""
    keys: list[bytes] = ids.byteswap().view("V8").tolist()
    return keys


class Reader:
    """Reads rows of any column family with a pool of threads of its own."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        # The calling thread reads a piece itself.
        self._pool = ThreadPoolExecutor(max(1, threads - 1), "embcache-rocks")

    def close(self) -> None:
        """Wait for reads in progress."""
        self._pool.shutdown(wait=True)

    def read(self, handle: Any, row_bytes: int, ids: U64Array) -> tuple[U8Array, U8Array]:
        """(rows u8[n, row_bytes], state u8[n]) of ids u64[n] in any order."""
        if len(ids) > 1 and not np.all(ids[1:] > ids[:-1]):
            # In order, ids that share a block are read together, and each thread has blocks of its own.
            order = np.argsort(ids)
            place = np.empty_like(order)
            place[order] = np.arange(len(ids))
            rows, state = self._read_sorted(handle, row_bytes, ids[order])
            return rows[place], state[place]
        return self._read_sorted(handle, row_bytes, ids)

    def _read_sorted(self, handle: Any, row_bytes: int, ids: U64Array) -> tuple[U8Array, U8Array]:
        rows = np.empty((len(ids), row_bytes), np.uint8)
        state = np.empty(len(ids), np.uint8)
        step = self._piece_ids(len(ids), row_bytes)
        pieces = [slice(start, start + step) for start in range(0, len(ids), step)]
        others = [self._pool.submit(_read_piece, handle, ids[piece], rows[piece], state[piece]) for piece in pieces[1:]]
        try:
            for piece in pieces[:1]:
                _read_piece(handle, ids[piece], rows[piece], state[piece])
        finally:
            wait(others)  # the handle and the arrays are in use until all are done
        for other in others:
            other.result()
        return rows, state

    def _piece_ids(self, n: int, row_bytes: int) -> int:
        """How many ids a thread reads at once."""
        share = max(_MIN_PIECE_IDS, -(-n // self._threads))
        return max(1, min(share, _MAX_PIECE_BYTES // (row_bytes + CHECKSUM_BYTES)))


def _read_piece(handle: Any, ids: U64Array, rows: U8Array, state: U8Array) -> None:
    failures: list[str] = []
    unpack_cells(_get(handle, keys_of(ids), failures), ids, rows, state)
    if failures:
        log.warning("%d of %d rows cannot be read: %s", len(failures), len(ids), failures[0])


def _get(handle: Any, keys: list[bytes], failures: list[str]) -> list[bytes]:
    """The cells of keys: b"" for one that is absent, _UNREADABLE, and a failure, for one whose block is damaged."""
    try:
        cells: list[bytes] = handle.get(keys, b"")
        return cells
    except Exception as error:
        if len(keys) == 1:
            failures.append(str(error))
            return [_UNREADABLE]
    middle = len(keys) // 2
    return _get(handle, keys[:middle], failures) + _get(handle, keys[middle:], failures)


def scan(handle: Any, row_bytes: int, start: int, limit: int) -> tuple[U64Array, U8Array]:
    """The first `limit` rows from id `start` on. StoreCorrupt names what cannot be read."""
    found: list[tuple[bytes, bytes]] = []
    items = handle.items(from_key=start.to_bytes(8, "big"), read_opt=scan_options())
    while len(found) < limit:
        step = min(_SCAN_STEP, limit - len(found))
        piece = list(itertools.islice(items, step))
        found += piece
        if len(piece) < step:
            _check_end(handle, int.from_bytes(found[-1][0], "big") + 1 if found else start)
            break
    keys, cells = zip(*found, strict=True) if found else ((), ())
    ids = np.frombuffer(b"".join(keys), ">u8").astype(np.uint64)
    rows = np.empty((len(ids), row_bytes), np.uint8)
    state = np.empty(len(ids), np.uint8)
    unpack_cells(list(cells), ids, rows, state)
    if not np.all(state == FOUND):
        damaged = ids[state != FOUND].tolist()
        raise StoreCorrupt(f"the row of id {damaged[0]} is damaged ({len(damaged)} of the {len(ids)} scanned)", damaged)
    return ids, rows


def _check_end(handle: Any, after: int) -> None:
    """An iterator also ends, without a word, where a block is damaged: look whether that is why nothing follows."""
    if after > 2**64 - 1:
        return
    probe = handle.iter(scan_options())
    probe.seek(after.to_bytes(8, "big"))
    try:
        probe.status()
    except Exception as error:
        raise StoreCorrupt(f"rows from id {after} on cannot be read: {error}") from error
