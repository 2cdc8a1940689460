"""The tables of a run: made and filled, brought into memory, or found as they are in a service that runs already."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from embcache_client import Client
from embcache_client.errors import ClientError, UnknownTable
from loadtest.datasets import DataError
from loadtest.importing import ROWS_AT_ONCE
from loadtest.load.asked import AskedTable
from loadtest.load.asking import Target
from loadtest.load.traces import TraceFiles
from loadtest.workloads import U64s, rows_from_ids

_PRELOAD_IDS: Final = 4096
_PRELOAD_DEADLINE_MS: Final = 30_000

Progress = Callable[[str, int, int], object]
"""Told what goes on, and how many rows of how many are done."""


class Done:
    """Tells of one thing that is done to many tables, as a whole."""

    def __init__(self, progress: Progress, what: str, tables: Sequence[AskedTable]) -> None:
        self._progress, self._what = progress, what
        self._total, self._done = sum(table.rows for table in tables), 0

    def more(self, rows: int) -> None:
        self._done += rows
        self._progress(self._what, self._done, self._total)


def fill(client: Client, table: AskedTable, dtype: str, *, add: bool, done: Done) -> None:
    """Create a table with made-up rows, a function of their ids. DataError where it is there already."""
    with contextlib.suppress(UnknownTable):
        client.table(table.name)
        raise DataError(
            f"the service has a table {table.name} already: leave out --fill to ask it as it is, or name another one"
        )
    spec: dict[str, Any] = {"name": table.name, "dim": table.dim, "dtype": dtype}
    if add and dtype != "f32":
        spec["add"] = True
    with client.importing(table.name, spec, dtype=dtype) as filling:
        for ids in id_pieces(table, ROWS_AT_ONCE):
            filling.write(ids, rows_from_ids(ids, table.dim))
            done.more(len(ids))


def preload(client: Client, table: AskedTable, done: Done) -> None:
    """Look up every id of a table once, so that as many of its rows are in memory as fit."""
    for ids in id_pieces(table, _PRELOAD_IDS):
        client.lookup({table.name: ids}, dtype="q8", deadline_ms=_PRELOAD_DEADLINE_MS)
        done.more(len(ids))


def found(client: Client, name: str, rows: int | None) -> AskedTable:
    """A table of the service as it is; its ids are taken to be 0 to rows - 1. DataError where it holds none."""
    said = client.table(name)
    there = int(said["rows"])
    if not (rows or there):
        raise DataError(f"table {name} of the service has no rows: fill it, or let --fill make one of another name")
    return AskedTable(name, int(said["spec"]["dim"]), rows or there)


def read_ids(client: Client, name: str, folder: Path, progress: Progress) -> tuple[Path, int]:
    """The ids of a table, ascending, read from the service into a .npy in `folder`; -> it and how many they are."""
    most = max(int(client.table(name)["rows"]), 1)
    pieces: list[U64s] = []
    for page in client.pages(name, dtype="q8"):
        pieces.append(np.array(page.ids))
        progress(f"reading ids of {name}", sum(map(len, pieces)), most)
    if not sum(map(len, pieces)):
        raise DataError(f"table {name} of the service has no rows")
    path = folder / f"{name}.ids.npy"
    ids = np.concatenate(pieces)
    np.save(path, ids)
    return path, len(ids)


def distinct_ids(trace: TraceFiles, folder: Path) -> tuple[Path, int]:
    """The ids of a file, each once and ascending, as a .npy in `folder`; -> it and how many they are."""
    distinct = np.unique(np.load(trace.ids, mmap_mode="r"))
    path = folder / "distinct.npy"
    np.save(path, distinct)
    return path, len(distinct)


def id_pieces(table: AskedTable, size: int) -> Iterator[U64s]:
    """All ids of a table, a piece at a time; ascending if its file is."""
    known = table.known()
    for start in range(0, table.rows, size):
        end = min(start + size, table.rows)
        yield np.arange(start, end, dtype=np.uint64) if known is None else np.array(known[start:end])


@contextlib.contextmanager
def dropped_at_the_end(target: Target, *, keep: bool) -> Iterator[list[str]]:
    """Drops the tables whose names the block notes, whatever becomes of it."""
    names: list[str] = []
    try:
        yield names
    finally:
        if names and not keep:
            with Client(target.url, token=target.token) as client:
                for name in names:
                    with contextlib.suppress(ClientError):  # the run's own error matters more, and so does its report
                        client.drop_table(name)
