"""A reader of a GpuTable for tests, in any form and in bags: through the tiles that lookups are cut into.

Every array that a launch touches is pinned memory of its own, as long as it may be and no longer: so a sanitizer sees
an access beyond it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embcache.gpu.device import Device
from embcache.gpu.launcher import Launcher, Ticket
from embcache.gpu.layout import BAGS, BYTES, COPY_LIMIT, MEAN, SUM, TILE, form_of
from embcache.gpu.table import GpuTable
from embcache.gpu.tiles import COLUMNS, cut, gather_misses, kind_of
from embcache.host.memory import address_of
from embcache.host.rows import Q8
from embcache.host.segment import HOT
from tests.gpu.forms import Bytes, Form, Ids

IDS_A_TILE = 40  # so that a tile has 32 ids and some more
BAGS_A_TILE = 3
UNWRITTEN = 0xEE


class Bags(NamedTuple):
    """How ids fall into bags: lengths u32 [b]. mean or sum; weights f32 [n], or None, of sums."""

    lengths: NDArray[np.uint32]
    mean: bool = False
    weights: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """rows u8 [n or b, ...] in the wire's form, scale and bias of q8 before the codes; found bool [n].

    Of bags also: done bool [b], which were pooled; encoded u8 [n, row_bytes], where rows of the others stand.
    Whatever was not written is UNWRITTEN.
    """

    rows: Bytes
    found: NDArray[np.bool_]
    done: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))
    encoded: Bytes = field(default_factory=lambda: np.empty((0, 0), np.uint8))


@dataclass(frozen=True, slots=True)
class Asked:
    """A lookup that was submitted."""

    ids: Ids
    bags: Bags | None
    columns: NDArray[np.int64]
    arrays: dict[str, NDArray[Any]]
    ticket: Ticket


class Asker:
    """Looks up rows of a table, in one form."""

    def __init__(self, device: Device, launcher: Launcher, table: GpuTable, form: Form) -> None:
        self._device = device
        self._launcher = launcher
        self._table = table
        self.form = form

    def ask(self, version: int, ids: Ids, bags: Bags | None = None) -> Answer:
        return self.finish(self.begin(version, ids, bags))

    def begin(self, version: int, ids: Ids, bags: Bags | None = None) -> Asked:
        arrays = self._arrays(ids, bags)
        columns = self._columns(version, ids.size, bags, arrays)
        cut_to = np.empty(ids.size // IDS_A_TILE + (0 if bags is None else bags.lengths.size) + 1, TILE)
        made = int(cut(columns, IDS_A_TILE, BAGS_A_TILE, address_of(cut_to)))
        stored = bool((cut_to["form"][:made] >> 16 & 255 <= BYTES).all())
        ticket = Ticket(cut_to[:made], 0 if bags is None else ids.size, arrays, stored=stored)
        assert self._launcher.submit(ticket)
        return Asked(ids, bags, columns, arrays, ticket)

    def finish(self, asked: Asked) -> Answer:
        """Wait for the answer. What it says of one id, or of one bag, must be the same wherever it says so."""
        self._launcher.wait(asked.ticket)
        arrays, tiles = asked.arrays, asked.ticket.tiles
        status, rows = arrays["status"], arrays["out"]
        found = status == HOT
        assert (status[~found] == UNWRITTEN).all()
        left = np.empty(1, np.int64)
        gather_misses(asked.columns, IDS_A_TILE, BAGS_A_TILE, address_of(tiles), asked.ticket.missed, left)
        np.testing.assert_array_equal(arrays["misses"][: left[0]], np.flatnonzero(~found))
        if self.form.wire == Q8:
            rows = np.concatenate([arrays["scale"].view(np.uint8), arrays["bias"].view(np.uint8), rows], axis=1)
        if asked.bags is None:
            assert (rows[~found] == UNWRITTEN).all()
            return Answer(rows.copy(), found)
        done = arrays["done"]
        np.testing.assert_array_equal(done, whole(found, asked.bags.lengths))
        assert (rows[done == 0] == UNWRITTEN).all()
        handed_over = found & ~np.repeat(done == 1, asked.bags.lengths)
        assert (arrays["encoded"][~handed_over] == UNWRITTEN).all()
        return Answer(rows.copy(), found, done == 1, arrays["encoded"].copy())

    def _arrays(self, ids: Ids, bags: Bags | None) -> dict[str, NDArray[Any]]:
        """All that the launch reads and writes."""
        rows = ids.size if bags is None else bags.lengths.size
        arrays = {
            "ids": self._put(ids),
            "out": self._room((rows, self.form.out_bytes), np.uint8),
            "status": self._room((ids.size,), np.uint8),
            "misses": self._room((ids.size,), np.int32),
        }
        if self.form.wire == Q8:
            arrays |= {name: self._room((rows, 1), np.float32) for name in ("scale", "bias")}
        if bags is not None:
            arrays["lengths"] = self._put(bags.lengths)
            if bags.weights is not None:
                arrays["weights"] = self._put(bags.weights)
            arrays["encoded"] = self._room((ids.size, self.form.row_bytes), np.uint8)
            arrays["done"] = self._room((bags.lengths.size,), np.uint8)
        return arrays

    def _columns(
        self, version: int, count: int, bags: Bags | None, arrays: dict[str, NDArray[Any]]
    ) -> NDArray[np.int64]:
        """The question, as `cut` takes it."""
        form = self.form
        pool = self._table.pool_of(form.row_bytes)
        assert pool is not None
        if bags is None:
            kind = kind_of(form.stored, form.wire, form.row_bytes, address_of(arrays["out"]), COPY_LIMIT)
            packed = form_of(form.stored, form.wire, kind)
        else:
            packed = form_of(form.stored, form.wire, BAGS, MEAN if bags.mean else SUM)
        names = ("ids", "out", "status", "misses", "scale", "bias", "lengths", "weights", "encoded", "done")
        columns = np.zeros((1, COLUMNS), np.int64)
        columns[0] = (
            *(address_of(arrays[name]) if name in arrays else 0 for name in names),
            *(count, version, pool.index, form.dim, form.row_bytes, packed),
            *(0 if bags is None else bags.lengths.size, form.out_bytes),
        )
        return columns

    def _room(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        wanted = np.dtype(dtype)
        memory = self._device.pinned(int(np.prod(shape)) * wanted.itemsize)
        memory[:] = UNWRITTEN
        array: NDArray[Any] = memory.view(wanted).reshape(shape)
        return array

    def _put(self, array: NDArray[Any]) -> NDArray[Any]:
        copy = self._room(array.shape, array.dtype)
        copy[:] = array
        return copy


def whole(found: NDArray[np.bool_], lengths: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """bool [b]: of which bags all ids were found."""
    ends = np.cumsum(lengths.astype(np.int64))
    missed = np.concatenate([[0], np.cumsum(~found)])
    complete: NDArray[np.bool_] = missed[ends] == missed[ends - lengths]
    return complete
