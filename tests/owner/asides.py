"""An owner with guarded tables and one producer of it, beside the oracle that does the same."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embcache.local import frames
from embcache.local.link import Link, Reply
from embcache.spec import TableSpec
from tests.naive import Naive, NaiveTable
from tests.owner.support import WAIT, OwnerThread, catalogue, read

LIMIT = 10.0
GUARDED = TableSpec(name="item", dim=4, max_norm=LIMIT)
FREE = TableSpec(name="free", dim=2)

Change: TypeAlias = tuple[str, str, Sequence[int], Any] | tuple[str, str, Sequence[int], Any, int | None]


def wide(ids: Sequence[int], norm: float = 2 * LIMIT, dim: int = 4) -> NDArray[np.float32]:
    """Rows of that norm."""
    rows = np.zeros((len(ids), dim), np.float32)
    rows[:, 0] = norm
    return rows


class Served:
    """A producer `name` of an owner, through a link, and the oracle beside it, where one is given."""

    def __init__(self, owner: OwnerThread, naive: Naive | None = None, name: str = "trainer") -> None:
        self.owner = owner
        self.naive = naive
        self.name = name
        self.link: Link = owner.link()
        opened = self.link.call("open_producer", {"producer": name}).result(WAIT).meta
        self.epoch, self.seq = opened["epoch"], opened["last_seq"]
        if naive is not None:
            naive.open(name)

    def send(self, *changes: Change, seq: int | None = None, applied: bool = True) -> Future[Reply]:
        """Begin to push a batch; the answer comes once it is applied, or durable."""
        shapes, payload = [], list[frames.Buffer]()
        for table, op, ids, values, *ttl_s in changes:
            rows = np.zeros((len(ids), 0), np.uint8)
            if op != "delete":
                rows = np.ascontiguousarray(values, np.float32).view(np.uint8)
            shapes.append([table, op, 0, len(ids), rows.shape[1], *ttl_s])
            payload += [np.array(ids, np.uint64), rows, frames.padding(rows.nbytes)]
        if seq is None:
            self.seq += 1
        meta = {"producer": self.name, "epoch": self.epoch, "seq": self.seq if seq is None else seq, "mark": b""}
        within = {"applied_within_s": WAIT} if applied else {}
        return self.link.call("update", {**meta, "changes": shapes, **within}, payload)

    def push(self, *changes: Change) -> int:
        """Push a batch and wait until it is applied -> its position. It is set aside where the oracle says so."""
        told = self.send(*changes).result(WAIT).meta
        position: int = told["position"]
        if self.naive is not None:
            is_aside = self.naive.push(self.name, b"", changes, position)
            assert (position in told["quarantined"]) == is_aside
            assert told["quarantined_count"] == len(self.naive.aside)
        return position

    def release(self, position: int) -> dict[str, int]:
        told = dict(self.link.call("quarantine_release", {"position": position}).result(WAIT).meta)
        if self.naive is not None:
            assert (told["rows"], told["skipped"]) == self.naive.release(position)
        return told

    def drop(self, position: int) -> None:
        self.link.call("quarantine_drop", {"position": position}).result(WAIT)
        if self.naive is not None:
            del self.naive.aside[position]

    def listed(self) -> list[int]:
        page = self.link.call("quarantine", {"after": 0, "limit": 1000}).result(WAIT).meta
        assert page["count"] == len(page["batches"])
        return [record["position"] for record in page["batches"]]

    def check(self, ids: Sequence[int], table: str = "item") -> None:
        """Rows and quarantine are the oracle's."""
        assert self.naive is not None
        state, rows = read(self.link, catalogue(self.link)[table], np.array(ids, np.uint64))
        wanted, found = self.naive.lookup(table, ids)
        assert (state == 1).tolist() == found
        np.testing.assert_array_equal(rows.view(np.float32)[found], wanted[found])
        assert self.listed() == sorted(self.naive.aside)


def oracle() -> Naive:
    """GUARDED and FREE, empty."""
    naive = Naive()
    naive.tables = {"item": NaiveTable(4, add=True, max_norm=LIMIT), "free": NaiveTable(2, add=True)}
    naive.labels = {"item": "1", "free": "1"}
    return naive
