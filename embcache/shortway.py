"""The short way of a lookup in this process: ids of one table, in its own dtype, all of them in the arena.

Most of a lookup's time beside its rows goes into finding out what it means. What it meant for a table and a version is
kept, for each thread (repeated.py), as long as the catalogue stays the same. Where anything else is asked for, or the
arena lacks a row, nothing has happened and the lookup goes the usual way.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from embcache.errors import EmbcacheError
from embcache.host.memory import address_of
from embcache.repeated import RepeatedLookup
from embcache_client.buffers import BufferPool
from embcache_client.results import LookupResult, TableRows
from embcache_client.rowtypes import CODES, ELEMENTS

if TYPE_CHECKING:
    from embcache.attachment import Attachment

_POSITION_BYTES = 8
_MOST_TABLES = 1024


class ShortWay:
    """That of one EmbeddingCache. Safe for threads: each has what it keeps for itself."""

    def __init__(self, memory: BufferPool) -> None:
        """Results lie in `memory`."""
        self._memory = memory
        self._mine = threading.local()

    def answer(self, attachment: Attachment, tables: Mapping[str, Any], dtype: str) -> LookupResult | None:
        """The result of a lookup of live versions without any conditions, or None for the usual way."""
        if type(tables) is not dict or len(tables) != 1:
            return None
        [(table, ids)] = tables.items()
        if type(ids) is not np.ndarray or ids.dtype != np.uint64 or ids.ndim != 1 or not ids.flags.c_contiguous:
            return None
        lookup = self._lookup(attachment, table)
        count = ids.size
        if lookup is None or not count or not lookup.gives(dtype) or not lookup.takes(count):
            return None
        spec = lookup.view.spec
        rows_bytes = count * lookup.row_bytes
        buffer = self._memory.take(rows_bytes + _POSITION_BYTES + count)  # the position comes behind whole words
        at = address_of(buffer)
        status_at = rows_bytes + _POSITION_BYTES
        if not lookup.answer(ids.data.cast("B"), at, at + status_at, at + rows_bytes):
            return None
        position = int.from_bytes(buffer[rows_bytes:status_at], "big")
        raw = np.ndarray((count, spec.dim), ELEMENTS[CODES[dtype]], buffer)
        rows = TableRows(table, lookup.view.label, dtype, raw, buffer[status_at:])
        return LookupResult([rows], position, lookup.history)

    def _lookup(self, attachment: Attachment, table: str) -> RepeatedLookup | None:
        known: dict[str, RepeatedLookup] = self._mine.__dict__
        lookup = known.get(table)
        if lookup is None or not lookup.is_current(attachment):
            try:
                lookup = RepeatedLookup(attachment, table, None)
            except EmbcacheError:  # said by the usual way
                return None
            if len(known) >= _MOST_TABLES:
                known.clear()
            known[table] = lookup
        return lookup
