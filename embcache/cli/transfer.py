"""Whole tables between files and a service, with a bar that says how far, how fast and how long still.

An import is one new version that goes live at its end or not at all; an export is one file that is complete or not
there. May touch the files of embcache_storage, and tables only through `Tables`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from embcache.cli.tables import Since, TableInfo, Tables, existing, find
from embcache.cli.words import counted
from embcache.errors import DimensionMismatch, MalformedRequest
from embcache.features import hash_values
from embcache.host.memory import keep_freed_memory
from embcache.spec import Dtype, TableSpec
from embcache_storage import files

CHUNK_BYTES = 8 << 20
"""Of float32 rows handed on at once: enough that a call's fixed cost is nothing, little enough to show progress."""

LINE_SECONDS = 10.0
"""Between lines that tell the progress where no terminal shows a bar."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What a transfer did: rows, the version they are, and seconds; of an export, from where its changes go on."""

    rows: int
    version: str | None
    seconds: float
    since: Since | None = None

    @property
    def summary(self) -> str:
        return (
            f"{counted(self.rows, 'row')} in {self.seconds:.1f} s ({self.rows / max(self.seconds, 1e-9):,.0f} rows/s)"
        )


@dataclass(frozen=True, slots=True)
class TableFormat:
    """How a file is to be understood: its format, and what ids and rows are called in it. None: as the file shows."""

    format: str | None = None
    ids: str | None = None
    rows: str | None = None


def import_file(
    tables: Tables,
    table: str,
    file: Path,
    form: TableFormat,
    dtype: Dtype | None,
    add: bool,
    console: Console,
    version: str | None = None,
) -> Moved:
    """Fill a new version of `table` with the rows of a file; creates the table from the file's shape where it is new.

    Words of a file are hashed as raw values of the table. dtype: what the created table keeps; that of the file where
    None. add: it takes `add`. version: fill that one, staged or new, which does not go live. Raises DimensionMismatch
    or MalformedRequest where the file or an option does not fit an existing table, and whatever files and tables raise.
    """
    began = time.monotonic()
    keep_freed_memory()
    info = find(tables, table)
    feature = table if info is None else info.spec.feature_name
    names = files.Names(form.ids, form.rows, lambda words: hash_values(feature, words))
    source = files.open_table(file, form.format, names)
    if source.changes is not None:
        raise MalformedRequest(
            f"{file} holds what changed of a table since a position, and an import replaces all its rows: "
            "`embcache apply` is for such a file"
        )
    named = None if info is None or version is None else _named(tables, info, version)
    if info is not None and version is not None and named is None and (dtype or add):
        spec: TableSpec | None = _spec_like(_fitting(info, source).spec, dtype, add)
    else:
        spec = _spec_for(named or info, table, source, dtype, add)
    chunk = chunk_rows(source.dim)
    with progress_bar(source.count, console) as advance, tables.importing(table, spec, version) as load:
        for ids, rows in source.sorted_chunks(chunk, sorting=lambda rows: advance(f"sort {file.name}", rows)):
            load.write(ids, rows)
            advance(f"import {table}", len(ids))
    return Moved(source.count, load.version, time.monotonic() - began)


def export_file(tables: Tables, table: str, file: Path, form: TableFormat, console: Console) -> Moved:
    """Write all rows of the live version of `table` to a file, which appears when it is complete.

    Raises UnknownTable, and whatever files and tables raise.
    """
    began = time.monotonic()
    since = tables.since()  # before the version is known: so no other one went live between the two unnoticed
    info = existing(tables, table)
    names = files.Names(form.ids, form.rows)
    done = 0
    with (
        files.TableWriter(file, info.spec.dim, info.spec.cold_dtype, form.format, names) as writer,
        progress_bar(info.rows, console) as advance,
    ):
        for ids, rows in tables.pages(table, info.version, chunk_rows(info.spec.dim)):
            writer.write(ids, rows)
            done += len(ids)
            advance(f"export {table}", len(ids))
    return Moved(done, info.version, time.monotonic() - began, since)


def _spec_for(
    info: TableInfo | None, table: str, source: files.TableFile, dtype: Dtype | None, add: bool
) -> TableSpec | None:
    """The spec to create `table` with, or None where it is there already and the file fits it."""
    if info is None:
        return TableSpec.parse({"name": table, "dim": source.dim, "dtype": dtype or source.dtype, "add": add or None})
    _fitting(info, source)
    if dtype not in (None, info.spec.dtype):
        raise MalformedRequest(
            f"table {table!r} keeps {info.spec.dtype}; --dtype {dtype} is for a table that the import creates"
        )
    if add and not info.spec.add:
        raise MalformedRequest(f"table {table!r} takes no `add`; --add is for a table that the import creates")
    return None


def _fitting(info: TableInfo, source: files.TableFile) -> TableInfo:
    name, dim = info.spec.name, info.spec.dim
    if dim != source.dim:
        raise DimensionMismatch(f"table {name!r} has rows of {dim}, {source.path} has rows of {source.dim}")
    return info


def _named(tables: Tables, info: TableInfo, version: str) -> TableInfo | None:
    return next((each for each in tables.versions(info.spec.name) if each.version == version), None)


def _spec_like(live: TableSpec, dtype: Dtype | None, add: bool) -> TableSpec:
    """The spec of a new version: the live one's, but for what is said otherwise."""
    dtype = dtype or live.dtype
    return TableSpec.parse({**live.to_json(), "dtype": dtype, "add": add or dtype == "f32" or live.add})


def chunk_rows(dim: int) -> int:
    """Rows that are handed on at once."""
    return max(1, CHUNK_BYTES // (4 * dim))


class _RateColumn(ProgressColumn):
    """Rows a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} rows/s", style="progress.data.speed")


class _CountColumn(ProgressColumn):
    """Rows done of all."""

    def render(self, task: Task) -> Text:
        return Text(f"{int(task.completed):,} of {int(task.total or 0):,}", style="progress.download")


Advance = Callable[[str, int], None]
"""Tells that so many more rows are through with what is being done."""


@contextmanager
def progress_bar(rows: int, console: Console) -> Iterator[Advance]:
    """A bar for each thing that is done to all rows; where there is no terminal, a line now and then."""
    if not console.is_terminal:
        yield _Lines(rows, console).advance
        return
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), _CountColumn(), _RateColumn()
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def advance(what: str, n: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=rows)
            progress.advance(tasks[what], n)

        yield advance


class _Lines:
    """Progress for a log: a line every LINE_SECONDS, so none for what is done sooner."""

    def __init__(self, rows: int, console: Console) -> None:
        self._rows, self._console = rows, console
        self._done: dict[str, int] = {}
        self._told = time.monotonic()

    def advance(self, what: str, n: int) -> None:
        self._done[what] = self._done.get(what, 0) + n
        if time.monotonic() - self._told >= LINE_SECONDS:
            self._told = time.monotonic()
            done = self._done[what]
            share = f" ({done / self._rows:.0%})" if self._rows else ""
            self._console.print(f"{what}: {done:,} of {self._rows:,} rows{share}", highlight=False, soft_wrap=True)
