"""What is asked of the owner about tables and their versions: create, stage, switch, drop, import, scan, statistics.
Each call returns a Pending."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embcache.attachment import Attachment
from embcache.errors import DimensionMismatch, InvalidRows
from embcache.host import expiry
from embcache.host.convert import decode_rows, encode_rows, first_nonfinite
from embcache.host.rows import F32
from embcache.local.link import Reply
from embcache.pending import Pending
from embcache.spec import TableSpec
from embcache.views import TableView

PIECE_BYTES = 16 << 20  # of rows that are sent at a time


@dataclass(frozen=True, slots=True)
class ScanPage:
    """Rows of a table version in the order of their ids: ids u64 [n], rows f32 [n, dim]; next None at the end.

    Those that have expired are left out, so that a page may have none and not be the last.

    `dtype` holds them without loss: it is that of the rows on disk.
    """

    table: str
    version: str
    dtype: str
    ids: NDArray[np.uint64]
    rows: NDArray[np.float32]
    next: int | None


@dataclass(frozen=True, slots=True)
class ChangedIds:
    """Ids u64 [n], ascending, whose rows changed up to `position`; ask on from there until it is `applied`."""

    table: str
    version: str
    history: str
    position: int
    applied: int
    ids: NDArray[np.uint64]


class Import:
    """A table version being filled, which nobody sees before `commit`; after it, too, where it is filled by its name.

    Use as a context manager it commits at the end of the body, and aborts if the body raises. Ids must ascend over all
    writes. `saturated` counts values that were beyond the table's dtype and became its largest.
    """

    def __init__(self, attachment: Attachment, begun: Mapping[str, Any]) -> None:
        self.id: str = begun["import"]
        self.version: str = begun["version"]
        self.spec = TableSpec.parse(begun["spec"])
        self.rows = 0
        self.saturated = 0
        self._attachment = attachment
        self._ended = False

    def send(self, ids: ArrayLike, rows: ArrayLike) -> Pending[int]:
        """Add rows f32 [n, dim] of ids u64 [n], at most 64 MiB of them encoded; -> rows so far. Leave the arrays as
        they are until it is answered.

        DimensionMismatch, InvalidRows and TooLarge say what is wrong.
        """
        id_array = np.ascontiguousarray(ids, np.uint64)
        row_array = np.ascontiguousarray(rows, np.float32)
        if row_array.shape != (id_array.size, self.spec.dim):
            wanted = (id_array.size, self.spec.dim)
            raise DimensionMismatch(f"rows have shape {row_array.shape}, table {self.spec.name!r} wants {wanted}")
        bad = first_nonfinite(row_array)
        if bad >= 0:
            raise InvalidRows(f"the row of id {id_array[bad]} holds NaN or infinity", {"ids": [str(id_array[bad])]})
        encoded = row_array.view(np.uint8)  # as they lie: a copy costs as much as all else here
        if self.spec.cold_code != F32:
            encoded, saturated = encode_rows(row_array, self.spec.cold_code)
            self.saturated += saturated
        meta = {"import": self.id, "n": int(id_array.size)}
        return Pending(self._attachment.link.call("import_rows", meta, [id_array, encoded]), self._note)

    def write(self, ids: ArrayLike, rows: ArrayLike) -> int:
        """Add any number of rows, piece by piece, and wait until they are taken; -> rows so far."""
        id_array, row_array = np.asarray(ids), np.asarray(rows)
        step = max(1, PIECE_BYTES // (8 + 4 * self.spec.dim))
        if len(id_array) != len(row_array):
            self.send(id_array, row_array)  # raises: pieces of both might go together
        for begin in range(0, len(id_array), step):
            self.send(id_array[begin : begin + step], row_array[begin : begin + step]).result()
        return self.rows

    def commit(self) -> Pending[dict[str, Any]]:
        """Make the version live, in place of the one before, or one that is staged where it was named;
        -> {"table", "version", "rows", "position"}.
        """
        self._ended = True
        return Pending(self._attachment.link.call("import_commit", {"import": self.id}), lambda reply: reply.meta)

    def abort(self) -> Pending[None]:
        """Give up: nothing of it remains."""
        self._ended = True
        return Pending(self._attachment.link.call("import_abort", {"import": self.id}), lambda reply: None)

    def __enter__(self) -> Import:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._ended:
            if kind is None:
                self.commit().result()
            else:
                self.abort().result()

    def _note(self, reply: Reply) -> int:
        self.rows = int(reply.meta["rows"])
        return self.rows


def create(attachment: Attachment, spec: TableSpec) -> Pending[tuple[bool, int]]:
    """(Whether the table is new, a position by which it is there). The same spec again changes nothing, another one is
    a Conflict.
    """
    call = attachment.link.call("create", {"spec": spec.to_json()})
    return Pending(call, lambda reply: (bool(reply.meta["created"]), int(reply.meta["position"])))


def drop(attachment: Attachment, table: str) -> Pending[int]:
    """The position from which on the table is gone."""
    return Pending(attachment.link.call("drop", {"table": table}), lambda reply: int(reply.meta["position"]))


def limit(attachment: Attachment, table: str, max_norm: float | None) -> Pending[int]:
    """The position from which on updates of the table are judged by another limit, None for none."""
    call = attachment.link.call("limit", {"table": table, "max_norm": max_norm})
    return Pending(call, lambda reply: int(reply.meta["position"]))


@dataclass(frozen=True, slots=True)
class Staged:
    """A version that was added to a table: its name, what it is, and the position from which on it is there."""

    version: str
    spec: TableSpec
    position: int


@dataclass(frozen=True, slots=True)
class Switched:
    """position: from which on lookups get the versions. warmed: for each table, how many ids were warmed before."""

    position: int
    warmed: Mapping[str, Mapping[str, int]]


def stage(
    attachment: Attachment,
    table: str,
    version: str,
    spec: Mapping[str, Any],
    follow: bool,
    source: str | None = None,
) -> Pending[Staged]:
    """Add a version, empty or with the rows of the version `source`; `spec` is what it has of its own. UnknownTable,
    Conflict, MalformedRequest.
    """
    meta = {"table": table, "version": version, "spec": dict(spec), "follow": follow, "source": source}

    def read(reply: Reply) -> Staged:
        return Staged(reply.meta["version"], TableSpec.parse(reply.meta["spec"]), int(reply.meta["position"]))

    return Pending(attachment.link.call("stage", meta), read)


def switch(attachment: Attachment, tables: Mapping[str, str], follow: bool | None, warm_s: float) -> Pending[Switched]:
    """Make versions live, {table: version}, all at once, after warming them for up to `warm_s` seconds."""
    meta = {"tables": dict(tables), "follow": follow, "warm_s": float(warm_s)}
    call = attachment.link.call("switch", meta)
    return Pending(call, lambda reply: Switched(int(reply.meta["position"]), reply.meta["warmed"]))


def drop_version(attachment: Attachment, table: str, version: str) -> Pending[int]:
    """The position from which on the version is gone. UnknownTable; Conflict for the live one."""
    call = attachment.link.call("drop_version", {"table": table, "version": version})
    return Pending(call, lambda reply: int(reply.meta["position"]))


def begin_import(
    attachment: Attachment, table: str, spec: TableSpec | None, version: str | None = None
) -> Pending[Import]:
    """A new version of a table, which the commit makes live, or the one of that name, which it does not.

    With a spec, the table is created by the commit if it is not there.
    """
    meta = {"table": table, "spec": None if spec is None else spec.to_json(), "version": version}
    return Pending(attachment.link.call("import_begin", meta), lambda reply: Import(attachment, reply.meta))


def scan(attachment: Attachment, view: TableView, start: int, limit: int) -> Pending[ScanPage]:
    """Rows with ids from `start` on, at most `limit` and maybe fewer; go on from the page's `next`."""

    def read(reply: Reply) -> ScanPage:
        ids, rows = _on_disk(view, reply)
        return ScanPage(view.spec.name, view.label, view.spec.cold_dtype, ids, rows, reply.meta["next"])

    return Pending(attachment.link.call("scan", {"version": view.number, "start": start, "limit": limit}), read)


def _on_disk(view: TableView, reply: Reply) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """(Ids u64 [n], rows f32 [n, dim]) of an answer with rows as they are on disk, without those that have expired."""
    count, row_bytes = int(reply.meta["n"]), int(reply.meta["row_bytes"])
    ids = np.frombuffer(reply.payload, np.uint64, count)
    encoded = np.frombuffer(reply.payload, np.uint8, count * row_bytes, 8 * count).reshape(count, row_bytes)
    if view.spec.expires:
        current = ~expiry.are_over(expiry.expiries_of(encoded), expiry.now_ms())
        ids, encoded = ids[current], encoded[current]
    return ids, decode_rows(encoded, view.spec.cold_code, view.spec.dim)


def changed(attachment: Attachment, table: str, since: int, history: str | None = None) -> Pending[ChangedIds]:
    """Which rows of the live version the next updates after a position changed. UnknownTable; Conflict where it is
    older than what is known, or beyond what is applied; HistoryChanged.
    """

    def read(reply: Reply) -> ChangedIds:
        version, told, position, applied = (reply.meta[key] for key in ("version", "history", "position", "applied"))
        return ChangedIds(table, version, told, position, applied, np.frombuffer(reply.payload, np.uint64))

    return Pending(attachment.link.call("changed", {"table": table, "since": since, "history": history}), read)


def fetch(attachment: Attachment, view: TableView, ids: NDArray[np.uint64]) -> Pending[ScanPage]:
    """The rows of ids as they are on disk: of those that have one, in the order asked for. Up to 32 MiB of them."""

    def read(reply: Reply) -> ScanPage:
        there, rows = _on_disk(view, reply)
        return ScanPage(view.spec.name, view.label, view.spec.cold_dtype, there, rows, None)

    call = attachment.link.call("fetch", {"version": view.number, "n": len(ids)}, [np.ascontiguousarray(ids)])
    return Pending(call, read)


def warm_start(attachment: Attachment) -> Pending[list[dict[str, Any]]]:
    """How far the rows are that were in memory before the owner's start, see its WarmStart.progress."""
    return Pending(attachment.link.call("warm_start"), lambda reply: list(reply.meta["tables"]), state=True)


def stats(attachment: Attachment) -> Pending[dict[str, Any]]:
    """The owner's counts of tables, memory and reads."""
    return Pending(attachment.link.call("stats"), lambda reply: reply.meta, state=True)
