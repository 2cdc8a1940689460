"""ChangeQueue: changes in order, from which those of the next batch are taken."""

from __future__ import annotations

import dataclasses
import sys
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from embcache_client import rowtypes, updates
from embcache_client.updates import Change

_ID_BYTES: Final = 8


def unit_bytes(dtype: str, dim: int | None) -> int:
    """Bytes of an id and its row on the wire; of the id alone where there is no row."""
    return _ID_BYTES + (0 if dim is None else rowtypes.row_bytes(rowtypes.code_of(dtype), dim))


class ChangeQueue:
    """Changes that wait, the oldest first; one that is too large for a batch is cut in two."""

    def __init__(self, changes: Iterable[Change] = ()) -> None:
        self._changes = deque(changes)

    @property
    def row_count(self) -> int:
        return sum(len(change.ids) for change in self._changes)

    @property
    def byte_count(self) -> int:
        """Bytes of the ids and rows on the wire."""
        return sum(len(change.ids) * _unit_bytes(change) for change in self._changes)

    @property
    def memory_bytes(self) -> int:
        return sum(c.ids.nbytes + (0 if c.rows is None else c.rows.nbytes) for c in self._changes)

    def take(
        self, max_bytes: int, max_rows: int = sys.maxsize, refill: Callable[[], Iterable[Change]] = tuple
    ) -> list[Change]:
        """The changes of the next batch; they wait no longer. Empty when nothing waits.

        They have max_rows ids, and encode_update makes max_bytes of them, at most; only that one row is taken however
        large it is. refill: where more changes come from when none is left; none from there are the end.
        """
        taken: list[Change] = []
        left = max_bytes - updates.BATCH_BYTES
        while len(taken) < updates.MAX_CHANGES and self._has_one(refill):
            change = self._changes[0]
            left -= updates.change_bytes(change.table)
            fitting = min(left // _unit_bytes(change), max_rows)
            if fitting < 1 and taken:
                break
            taken.append(self._cut(max(fitting, 1)))
            left -= len(taken[-1].ids) * _unit_bytes(change)
            max_rows -= len(taken[-1].ids)
        return taken

    def _has_one(self, refill: Callable[[], Iterable[Change]]) -> bool:
        if not self._changes:
            self._changes.extend(refill())
        return bool(self._changes)

    def _cut(self, count: int) -> Change:
        """The first `count` rows, or all, of the first change."""
        change = self._changes.popleft()
        if len(change.ids) <= count:
            return change
        self._changes.appendleft(_part(change, slice(count, None)))
        return _part(change, slice(None, count))


def _unit_bytes(change: Change) -> int:
    return unit_bytes(change.dtype, None if change.rows is None else change.rows.shape[1])


def _part(change: Change, part: slice) -> Change:
    rows = None if change.rows is None else change.rows[part]
    return dataclasses.replace(change, ids=change.ids[part], rows=rows)
