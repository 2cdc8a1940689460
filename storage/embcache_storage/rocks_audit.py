"""Reading every row of a version, and saying which cannot be trusted. Changes nothing.

RocksDB checks each block that it reads against the block's checksum, and an iterator ends at one that fails. Where the
rows go on behind it is looked for by seeking: ever farther, until something can be read, and then back by halves.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from embcache_storage.cells import CHECKSUM_BYTES, unpack_cells
from embcache_storage.rocks_options import scan_options
from embcache_storage.store import FOUND, U8Array, U64Array

_STEP: Final = 4096
"""Rows taken from an iterator at once."""
_MOST: Final = 1000
"""Damages of a version that are told one by one."""
_LAST: Final = 2**64 - 1


Look = Callable[[U64Array, U8Array], None]


@dataclass(frozen=True, slots=True)
class Damage:
    """Ids first to last, of whose rows `what` says what is wrong."""

    first: int
    last: int
    what: str


def audit_rows(handle: Any, row_bytes: int, look: Look) -> Iterator[tuple[int, list[Damage]]]:
    """Read all rows of a column family -> (rows, what is wrong) of one piece after the other.

    `look` is shown the rows that are sound: ids u64 [n], rows u8 [n, row_bytes].
    """
    start, told = 0, 0
    while start <= _LAST:
        pairs = list(itertools.islice(handle.items(from_key=_key(start), read_opt=scan_options()), _STEP))
        damages = _damaged(pairs, row_bytes, look)
        if pairs:
            start = int.from_bytes(pairs[-1][0][:8].ljust(8, b"\0"), "big") + 1
        if len(pairs) < _STEP:
            error = _error_at(handle, start)
            if error is None:
                start = _LAST + 1
            else:
                following = _readable_after(handle, start)
                damages.append(Damage(start, following - 1, f"cannot be read: {error}"))
                start = following
        told += len(damages)
        yield len(pairs), damages
        if told > _MOST:
            yield 0, [Damage(start, _LAST, "were not looked at: there is too much damage before them")]
            return


def _damaged(pairs: list[tuple[bytes, bytes]], row_bytes: int, look: Look) -> list[Damage]:
    wrong = [key for key, _ in pairs if len(key) != 8]
    damages = [Damage(0, _LAST, f"among them is one whose key is {key!r:.60}, which is no id") for key in wrong]
    pairs = [pair for pair in pairs if len(pair[0]) == 8] if wrong else pairs
    if not pairs:
        return damages
    keys, cells = zip(*pairs, strict=True)
    ids = np.frombuffer(b"".join(keys), ">u8").astype(np.uint64)
    rows, state = np.empty((len(ids), row_bytes), np.uint8), np.empty(len(ids), np.uint8)
    unpack_cells(list(cells), ids, rows, state)
    sound = state == FOUND
    for place in np.flatnonzero(~sound).tolist():
        nbytes = len(cells[place]) - CHECKSUM_BYTES
        what = f"has {nbytes} bytes, not {row_bytes}" if nbytes != row_bytes else "does not match its checksum"
        damages.append(Damage(int(ids[place]), int(ids[place]), what))
    look(ids[sound], rows[sound])
    return damages


def _key(start: int) -> bytes:
    return start.to_bytes(8, "big")


def _error_at(handle: Any, start: int) -> str | None:
    """Why nothing can be read from an id on; None where something can, or where simply nothing follows."""
    if start > _LAST:
        return None
    probe = handle.iter(scan_options())
    probe.seek(_key(start))
    if probe.valid():
        return None
    try:
        probe.status()
    except Exception as error:
        return str(error)
    return None


def _readable_after(handle: Any, start: int) -> int:
    """The first id behind `start` from which on something can be read, or the end; 2^64 where all is damaged."""
    bad, step = start, 1
    while _error_at(handle, min(bad + step, _LAST)) is not None:
        if bad + step >= _LAST:
            return _LAST + 1
        bad, step = bad + step, 2 * step
    good = min(bad + step, _LAST)
    while good - bad > 1:
        middle = (bad + good) // 2
        if _error_at(handle, middle) is None:
            good = middle
        else:
            bad = middle
    return good
