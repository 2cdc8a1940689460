"""What narrow adds leave out: the rounding error of a row's delta, which goes with the row's next one.

Without it deltas that are small beside their row's others, or beside the dtype's smallest value, would be lost each
time; with it the sum of what was sent is never further from what was asked for than one rounding. Known as error
feedback: Seide et al., 1-Bit Stochastic Gradient Descent, Interspeech 2014.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embcache_client import rowtypes, updates
from embcache_client.id_index import IdIndex, Slots, grown
from embcache_client.updates import Change


class Residues:
    """Of each row the part of its adds that was not sent yet. One thread at a time.

    What was asked for by adds since a row's last assign or delete = what the carried changes say + its residue, up to
    the rounding of float32.
    """

    def __init__(self, max_bytes: int) -> None:
        """max_bytes: of memory; see overflow."""
        self._max_bytes = max_bytes
        self._tables: dict[str, _TableResidues] = {}

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory held, room for growth included."""
        return sum(table.memory_bytes for table in self._tables.values())

    def carry(self, changes: Sequence[Change]) -> list[Change]:
        """The changes of a batch as they are to be sent: narrow adds take with them what earlier ones left out, and are
        encoded; assign and delete forget it.

        In a change an id stands once, and rows of narrow adds are at most half of rowtypes.LARGEST, as Pending has it:
        sums with residues do not saturate then.
        """
        return [self._carry(change) for change in changes]

    def overflow(self) -> list[Change]:
        """The residues of whole tables, largest first, until the others are within max_bytes: adds in f32, to be sent
        before any later batch. They are no longer kept here."""
        changes: list[Change] = []
        while self.memory_bytes > self._max_bytes:
            largest = max(self._tables, key=lambda name: self._tables[name].memory_bytes)
            changes += self._tables.pop(largest).changes()
        return changes

    def take_all(self) -> list[Change]:
        """As overflow, of all tables."""
        tables, self._tables = self._tables, {}
        return [change for table in tables.values() for change in table.changes()]

    def _carry(self, change: Change) -> Change:
        table = self._tables.get(change.table)
        if change.op != updates.ADD:
            if table is not None:
                table.forget(change.ids)
            return change
        if change.rows is None or change.dtype == "f32":
            return change
        dim = change.rows.shape[1]
        if table is None or table.dim != dim:  # of another dim: the table they were for is gone
            table = self._tables[change.table] = _TableResidues(change.table, dim)
        return table.carry(change, change.rows)


class _TableResidues:
    """Those of one table: for each id that was added to a slot with its residue, zeros where there is none."""

    def __init__(self, name: str, dim: int) -> None:
        self.dim = dim
        self._name = name
        self._index = IdIndex()
        self._rows = np.zeros((0, dim), np.float32)  # [capacity, dim]

    @property
    def memory_bytes(self) -> int:
        return self._index.memory_bytes + self._rows.nbytes

    def carry(self, change: Change, deltas: NDArray[np.float32]) -> Change:
        slots, code = self._slots(change.ids), rowtypes.code_of(change.dtype)
        rows = self._rows[slots]
        rows += deltas
        wire = rowtypes.encode(rows, code)
        self._rows[slots] = rows - rowtypes.decode(wire.values, code, wire.scale, wire.bias)
        return dataclasses.replace(change, rows=rows, wire_rows=wire)

    def forget(self, ids: NDArray[np.uint64]) -> None:
        self._rows[self._index.known_slots(ids)] = 0

    def changes(self) -> list[Change]:
        rows = self._rows[: self._index.used]
        some = rows.any(axis=1)
        return [Change(self._name, updates.ADD, self._index.ids[: len(rows)][some], rows[some])] if some.any() else []

    def _slots(self, ids: NDArray[np.uint64]) -> Slots:
        slots = self._index.slots_of(ids)
        if len(self._index.ids) > len(self._rows):
            self._rows = grown(self._rows, len(self._index.ids))
        return slots
