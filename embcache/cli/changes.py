"""What changed of a table since a position, as a file; and such a file applied to a table, here or elsewhere.

Invariants. A file is complete up to the position that it tells: whatever changed after its `since` and up to there is
in it, as it was there or newer. Applying pushes it as batches of one producer for each table, whose mark says how much
of which file they hold: so what was pushed is not pushed again when the command is, and an older file is not applied
over a newer one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgpack
import numpy as np
import xxhash
from numpy.typing import NDArray
from rich.console import Console

from embcache.cli.tables import Since, TableInfo, Tables, existing
from embcache.cli.transfer import Moved, TableFormat, chunk_rows, progress_bar
from embcache.cli.words import counted
from embcache.errors import Conflict, DimensionMismatch
from embcache_storage import files

BATCH_BYTES = 2 << 20
BATCH_ROWS = 16_384
_MERGE_IDS = 1 << 20
_READ_BYTES = 8 << 20

Ids = NDArray[np.uint64]
Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Changed(Moved):
    """What was exported or applied: rows, and ids of those that are gone. before: done by an earlier run."""

    gone: int = 0
    before: int = 0

    @property
    def told(self) -> str:
        """For people."""
        done = self.rows + self.gone
        speed = f"{self.seconds:.1f} s ({done / max(self.seconds, 1e-9):,.0f}/s)"
        return f"{counted(self.rows, 'row')} and {counted(self.gone, 'deletion')} in {speed}"


def export_changes(
    tables: Tables, table: str, file: Path, form: TableFormat, since: Since, console: Console
) -> Changed:
    """Write the rows of a table that changed since a position, as they are now, and the ids of those that are gone.

    Memory is 8 bytes for each changed id, three times that for a moment, and some pieces of rows. Conflict where it is
    not known what changed, or all did; HistoryChanged; whatever files and tables raise.
    """
    began = time.monotonic()
    info = existing(tables, table)
    upto, ids = _changed_ids(tables, table, since)
    told = files.Changes(table, since.position, upto.position, upto.history)
    names = files.Names(form.ids, form.rows)
    gone = 0
    with (
        files.TableWriter(file, info.spec.dim, info.spec.cold_dtype, form.format, names, told) as writer,
        progress_bar(len(ids), console) as advance,
    ):
        step = chunk_rows(info.spec.dim)
        for start in range(0, len(ids), step):
            piece = ids[start : start + step]
            there, rows = tables.fetch(table, info.version, piece)
            writer.write(there, rows)
            absent = piece[~np.isin(piece, there, assume_unique=True)]
            ids[gone : gone + len(absent)] = absent  # behind what was fetched: no more memory than the ids take
            gone += len(absent)
            advance(f"export {table}", len(piece))
        for start in range(0, gone, step):
            writer.delete(ids[start : min(start + step, gone)])
        _still_live(tables, table, info, "which are not those that were read: export it once more")
    return Changed(len(ids) - gone, info.version, time.monotonic() - began, upto, gone)


def apply_file(tables: Tables, table: str, file: Path, form: TableFormat, again: bool, console: Console) -> Changed:
    """Push what a file of changes holds to a table, but for what an earlier run pushed; deletions first.

    again: push all of it, whatever was applied before. Conflict where that does not fit: a file that is older, a gap,
    or another one that was applied in part; and where the table got other rows as a whole meanwhile.
    """
    began = time.monotonic()
    source = files.open_table(file, form.format, files.Names(form.ids, form.rows))
    if source.changes is None:
        raise files.FileError(
            f"{file} holds no changes since a position, as `embcache export --since` writes them: `embcache import` "
            "takes the rows of a whole table"
        )
    info = existing(tables, table)
    if info.spec.dim != source.dim:
        raise DimensionMismatch(f"table {table!r} has rows of {info.spec.dim}, {file} has rows of {source.dim}")
    gone = sum(len(ids) for ids in source.deleted(BATCH_ROWS))
    mark = Mark.of(file, source.changes, info.live_since or 0, gone + source.count)
    pushed = [0, 0]
    with tables.pushing(_producer(table)) as push, progress_bar(mark.total, console) as advance:
        done = before = mark.goes_on(Mark.parse(push.mark), again)
        for ids, rows in _batches(source, done):
            done += len(ids)
            push.push(table, ids, rows, replace(mark, done=done).to_bytes())
            pushed[rows is None] += len(ids)
            advance(f"apply {file.name}", len(ids))
        if not mark.total and Mark.parse(push.mark) != mark:
            push.push(table, np.empty(0, np.uint64), None, mark.to_bytes())
        push.settle()
        if push.set_aside:
            console.print(
                f"set aside: {counted(push.set_aside, 'batch', 'batches')} of producer {_producer(table)}, since a row "
                "would be over its table's max_norm: what that changes is missing until it is released (embcache "
                "quarantine list)",
                soft_wrap=True,
                highlight=False,
            )
    _still_live(tables, table, info, "and what was pushed is not in all of them: apply the file once more")
    told = Since(source.changes.position, source.changes.history)
    return Changed(pushed[0], info.version, time.monotonic() - began, told, pushed[1], before)


@dataclass(frozen=True, slots=True)
class Mark:
    """How much of which file a table has: the first `done` of its `total` ids, those of deletions before those of rows.

    live_since: of the table's version that they went to; another one has nothing of it, whatever was pushed before.
    """

    digest: bytes
    live_since: int
    history: str
    since: int
    position: int
    total: int
    done: int

    @classmethod
    def of(cls, file: Path, changes: files.Changes, live_since: int, total: int) -> Self:
        """Of a file that is not applied yet; `done` when there is nothing in it."""
        return cls(_digest(file), live_since, changes.history, changes.since, changes.position, total, 0)

    def to_bytes(self) -> bytes:
        packed: bytes = msgpack.packb([getattr(self, name) for name in self.__slots__])
        return packed

    @classmethod
    def parse(cls, data: bytes) -> Self | None:
        """None for what is no mark of ours."""
        try:
            told: Any = msgpack.unpackb(data)
            return cls(*told)
        except (ValueError, TypeError, msgpack.UnpackException):
            return None

    def goes_on(self, last: Self | None, again: bool) -> int:
        """How much of this file is applied, by the mark of what was applied last. Conflict."""
        if last is None or again or last.live_since != self.live_since:
            return 0
        if last.digest == self.digest:
            return last.done
        if last.done < last.total:
            raise _unfit(f"a file of changes up to position {last.position} was applied in part: apply that first")
        if last.history != self.history:
            return 0
        if self.position < last.position + (self.total > 0):
            raise _unfit(
                f"what was applied last is up to position {last.position}, and this file up to {self.position}: rows "
                "would go back in time"
            )
        if self.since > last.position:
            raise _unfit(
                f"what was applied last is up to position {last.position}, and this file begins at {self.since}: what "
                "changed between them is missing"
            )
        return 0


class _Batch(NamedTuple):
    ids: Ids
    rows: Rows | None


def _changed_ids(tables: Tables, table: str, since: Since) -> tuple[Since, Ids]:
    """(Up to where they are complete, ids u64 [n] ascending)."""
    known, more, count = np.empty(0, np.uint64), list[Ids](), 0
    upto = since
    for piece in tables.changed(table, since):
        upto = piece.upto
        more.append(piece.ids)
        count += len(piece.ids)
        if count > max(_MERGE_IDS, len(known) // 2):
            known, more, count = np.unique(np.concatenate([known, *more])), [], 0
    return upto, np.unique(np.concatenate([known, *more]))


def _still_live(tables: Tables, table: str, before: TableInfo, otherwise: str) -> None:
    """Conflict unless the table's live version was the same all the while: its name alone would not tell."""
    now = existing(tables, table)
    if (now.version, now.live_since) != (before.version, before.live_since):
        raise Conflict(f"table {table!r} got other rows as a whole meanwhile, {otherwise}")


def _batches(source: files.TableFile, skipped: int) -> Iterator[_Batch]:
    """What a file holds as batches, without the first ids of it."""
    step = max(1, min(BATCH_ROWS, BATCH_BYTES // (8 + 4 * source.dim)))
    for ids in source.deleted(step):
        if skipped < len(ids):
            yield _Batch(ids[skipped:], None)
        skipped = max(0, skipped - len(ids))
    for ids, rows in source.sorted_chunks(step):
        if skipped < len(ids):
            yield _Batch(ids[skipped:], rows[skipped:])
        skipped = max(0, skipped - len(ids))


def _producer(table: str) -> str:
    """Whose batches changes of a table are: a name has 64 characters at most, and so has a table's."""
    name = f"apply.{table}"
    return name if len(name) <= 64 else f"apply.{xxhash.xxh3_128_hexdigest(table.encode())}"


def _digest(file: Path) -> bytes:
    digest = xxhash.xxh3_128()
    with file.open("rb") as opened:
        while piece := opened.read(_READ_BYTES):
            digest.update(piece)
    return digest.digest()


def _unfit(why: str) -> Conflict:
    return Conflict(f"{why}; --again applies it all the same, from its beginning")
