"""A read of the store under way, and how others find their ids in it: by vectors, no object for each id.

Pure arrays: touches neither store nor arena.
"""

from __future__ import annotations

import asyncio

import numpy as np
from numpy.typing import NDArray

from embcache.spec import TableSpec

Ids = NDArray[np.uint64]
Rows = NDArray[np.uint8]
Places = NDArray[np.intp]

_NOWHERE = np.empty(0, np.intp)


class Batch:
    """Ids u64 [n] of one version that one store read fetches, in the order in which they were asked for.

    `spec` is the table's: rows on disk may be wider, see TableSpec.cold_dtype. `began` is the applied position when the
    read began. `use`: see reads.Part. `landed` is done when `rows` u8 [n, row_bytes] and `state`
    u8 [n] are there, or `error`.
    """

    def __init__(self, version: int, spec: TableSpec, ids: Ids, began: int, use: int | None = None) -> None:
        self.version = version
        self.spec = spec
        self.ids = ids
        self.began = began
        self.use = use
        self.landed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.rows: Rows = np.empty((0, spec.row_bytes), np.uint8)
        self.state: Rows = np.empty(0, np.uint8)
        self.error: Exception | None = None
        self.overtaken: NDArray[np.bool_] | None = None
        self._sorted: tuple[Ids, Places] | None = None
        # One byte for each value of the ids' low bits: tells most strangers apart without a search.
        self._low = np.uint64((1 << (8 * len(ids)).bit_length()) - 1)
        self._sketch = np.zeros(int(self._low) + 1, np.bool_)
        self._sketch[ids & self._low] = True

    def find(self, ids: Ids) -> tuple[Places, Places]:
        """Which of ids u64 [m] are in this batch: (their places in `ids`, their places here)."""
        near = np.flatnonzero(self._sketch[ids & self._low])
        if near.size == 0:
            return _NOWHERE, _NOWHERE
        own, order = self.sorted()
        at = np.searchsorted(own, ids[near])
        at[at == len(own)] = 0
        same = own[at] == ids[near]
        return near[same], order[at[same]]

    def overtake(self, ids: Ids) -> None:
        """Ids u64 [m] were updated while the read was under way: what it brings for them may be older."""
        _, own = self.find(ids)
        if own.size:
            if self.overtaken is None:
                self.overtaken = np.zeros(len(self.ids), np.bool_)
            self.overtaken[np.isin(self.ids, self.ids[own])] = True  # repeats too

    def sorted(self) -> tuple[Ids, Places]:
        """The ids ascending, and where each stands in `ids`. May be called from any thread."""
        if self._sorted is None:
            order = np.argsort(self.ids)
            self._sorted = self.ids[order], order
        return self._sorted

    def distinct(self) -> tuple[Ids, Places | None]:
        """The ids ascending and without repeats, and for each of `ids` its place among them; None: they were so."""
        if np.all(self.ids[1:] > self.ids[:-1]):
            return self.ids, None
        own, order = self.sorted()
        new = np.ones(len(own), np.bool_)
        np.not_equal(own[1:], own[:-1], out=new[1:])
        places = np.empty(len(own), np.intp)
        places[order] = np.cumsum(new) - 1
        return own[new], places
