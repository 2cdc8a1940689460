"""RepeatedLookup: rows of one table as they are stored, for lookups that differ in nothing but their ids.

What a Lookup settles anew each time (which version answers, what the kernels have to know of it) is settled once here,
for as long as the catalogue stays as it is. Only the arena is asked: what it lacks is left to a Lookup.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embcache.host.memory import address_of
from embcache.host.segment import COUNT, IDS, MISSES, OUT, SEGMENT_COLUMNS, STATUS

if TYPE_CHECKING:
    from embcache.attachment import Attachment

_ID_BYTES = 8


class RepeatedLookup:
    """Of one version of a table, as long as `is_current`. For one thread."""

    def __init__(self, attachment: Attachment, table: str, version: str | None) -> None:
        """UnknownTable where there is none."""
        views = attachment.views
        self.attachment = attachment
        self.view = view = views.find(table, version)
        self.history = views.history
        self.row_bytes = view.spec.row_bytes
        self._generation = views.generation
        self._segments = np.zeros((1, SEGMENT_COLUMNS), np.int64)
        self._segments[0, :COUNT] = view.columns
        self._columns = self._segments.reshape(-1).data  # to set one by one at the least cost
        self._position = np.empty(1, np.uint64)  # where one goes that nobody asked for
        self._position_at = address_of(self._position)
        self._make_room(64)

    def gives(self, dtype: str) -> bool:
        """Whether it can give rows in a dtype: the table's own, of rows for ever, and of one default row."""
        spec = self.view.spec
        return dtype == spec.dtype != "q8" and self.view.bound is None and not spec.expires

    def is_current(self, attachment: Attachment) -> bool:
        """Whether the catalogue of the attachment there is now is still the one that it was made for."""
        return attachment is self.attachment and attachment.views.generation == self._generation

    def takes(self, count: int) -> bool:
        """Whether so many ids are for the arena, and not for the hot tier first."""
        hot = self.attachment.hot
        return hot is None or count < hot.crossover.rows

    def answer(self, ids: memoryview, rows_at: int, status_at: int, position_at: int | None) -> bool:
        """Write rows, statuses and, before, the applied position u64 big-endian to their addresses.

        ids: u8 [8 n], u64 little-endian. position_at: None for who has one that is older. False: something is missing
        or over, and nothing that was written counts.
        """
        size = len(ids)
        if size > len(self._ids):
            self._make_room(size // _ID_BYTES)
        self._ids[:size] = ids
        columns = self._columns
        columns[COUNT], columns[OUT], columns[STATUS] = size // _ID_BYTES, rows_at, status_at
        if self.attachment.link.closed:
            return False
        position_at = self._position_at if position_at is None else position_at
        left = self.attachment.probe_now(self._segments, self._generation, position_at)
        if left == 0 and self.attachment.hot is not None and self.attachment.hot.may_offer():
            self.attachment.hot.offer(self.view, np.frombuffer(ids, np.uint64), missed=False)
        return left == 0

    def _make_room(self, count: int) -> None:
        """For so many ids: the kernel finds them at an address that does not change."""
        self._room = np.empty(count, np.uint64), np.empty(count, np.int32)
        self._ids = self._room[0].data.cast("B")
        self._columns[IDS], self._columns[MISSES] = address_of(self._room[0]), address_of(self._room[1])
