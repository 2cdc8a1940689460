"""The demo's tables and who asks for them: read from a folder by what the files are, or made up.

Knows files and workloads; no service.
"""

from __future__ import annotations

import itertools
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from loadtest.workloads import (
    Lookups,
    U64s,
    even_lookups,
    query_lookups,
    random_ids,
    reuse_counts,
    rows_from_ids,
    trace_of,
    with_unknown,
)

TRACE_LOOKUP_IDS = 256
MADE_UP_DIM = 64
MAX_SYNTHETIC_DISTINCT = 100_000
FINITE_ROWS = 65_536

REUSE_SOURCE = (
    "reuse as published for a production recommender (facebookresearch/dlrm_datasets, 2022): ids used more than 16 "
    "times are 11.4% of the ids and 73.8% of the accesses, more than 64 times 1.8% and 51.9%"
)
SIZES_SOURCE = "100 to 700 ids a lookup, 270 in the mean (a query of MLPerf Inference's DLRM-v2)"


class DataError(ValueError):
    """A data folder, or a file of it, cannot be used; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """One table and its lookups.

    ids: u64[n], ascending and distinct; rows: [n, dim] of float32 or float16 (may be a file mapped into memory).
    origin: what is real here and what is made up, for the reader of the demo.
    """

    table: str
    ids: U64s
    rows: NDArray[Any]
    lookups: Lookups
    origin: str

    @property
    def dim(self) -> int:
        return int(self.rows.shape[1])

    @property
    def dtype(self) -> str:
        return "f16" if self.rows.dtype == np.float16 else "f32"

    def places_of(self, ids: U64s) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where the rows of `ids` stand, and which of them there are: i64[n], bool[n]."""
        places = np.searchsorted(self.ids, ids).clip(max=len(self.ids) - 1)
        return places, self.ids[places] == ids

    def chunks(self, rows_at_once: int) -> Iterator[tuple[U64s, NDArray[Any]]]:
        """The table in pieces, ids ascending."""
        for start in range(0, len(self.ids), rows_at_once):
            piece = slice(start, start + rows_at_once)
            yield self.ids[piece], self.rows[piece]


@dataclass(slots=True)
class Found:
    """What a folder holds: tables with their lookups, and remarks on files that are none of it."""

    datasets: list[Dataset] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def synthetic(items: int = 120_000, seed: int = 1) -> list[Dataset]:
    """Two made-up tables under the published reuse: items, and half as many users."""
    rng = np.random.default_rng(seed)
    return [_synthetic("item", items, np.float32, rng), _synthetic("user", items // 2, np.float16, rng)]


def read_folder(folder: Path, seed: int = 1) -> Found:
    """All tables in the .npy and .npz files of a folder, and the lookups that go with them.

    *.npy, 2-D floats             a table; row number is the id
    *.npz of ids and rows         a table
    *.npz of ids and lengths      sequences: each is one lookup, of the table whose file name starts alike
    *.npz of ids alone            an access trace, over a table of its distinct ids with made-up rows
    A table without sequences is looked up by a synthetic trace. Files that cannot be used are passed over with a
    remark. DataError where there is no folder, or two files make one table.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    rng = np.random.default_rng(seed)
    found = Found()
    tables: dict[str, tuple[U64s, NDArray[Any]]] = {}
    sequences: dict[str, Lookups] = {}
    for path in sorted(path for path in folder.iterdir() if path.suffix in {".npy", ".npz"}):
        try:
            arrays = _arrays(path)
            if set(arrays) == {"ids", "rows"}:
                tables[path.stem] = _table(path, arrays["ids"], arrays["rows"])
            elif set(arrays) == {"ids", "lengths"}:
                sequences[path.stem] = _sequences(path, arrays["ids"], arrays["lengths"])
            elif set(arrays) == {"ids"}:
                found.datasets.append(_of_trace(path, _ids(path, arrays["ids"])))
            else:
                found.remarks.append(f"{path.name}: no table (arrays {', '.join(sorted(arrays))})")
        except DataError as error:
            found.remarks.append(str(error))
    for stem, (ids, rows) in tables.items():
        partner = next((other for other in sequences if _prefix(other) == _prefix(stem)), None)
        if partner is None:
            found.datasets.append(_with_synthetic_lookups(stem, ids, rows, rng))
        else:
            lookups = sequences.pop(partner)
            origin = f"rows from the file; each of the {len(lookups):,} sequences in {partner}.npz is one lookup"
            found.datasets.append(Dataset(_table_name(stem), ids, rows, lookups, origin))
    found.remarks += [f"{stem}.npz: sequences of no table here" for stem in sequences]
    found.datasets.sort(key=lambda dataset: dataset.table)
    for first, second in itertools.pairwise(found.datasets):
        if first.table == second.table:
            raise DataError(f"{folder}: two files make a table called {first.table}")
    return found


def _synthetic(table: str, distinct: int, dtype: type[np.floating[Any]], rng: np.random.Generator) -> Dataset:
    ids = random_ids(distinct, rng)
    trace = trace_of(rng.permutation(ids), reuse_counts(distinct), rng)
    trace = with_unknown(trace, ids, 0.005, rng)
    rows = rows_from_ids(ids, MADE_UP_DIM).astype(dtype)
    origin = f"synthetic rows and trace; {REUSE_SOURCE}; {SIZES_SOURCE}; 0.5% of the accesses ask for unknown ids"
    return Dataset(table, ids, rows, query_lookups(trace, rng), origin)


def _with_synthetic_lookups(stem: str, ids: U64s, rows: NDArray[Any], rng: np.random.Generator) -> Dataset:
    distinct = min(len(ids), MAX_SYNTHETIC_DISTINCT)
    asked = rng.choice(ids, distinct, replace=False)
    trace = trace_of(asked, reuse_counts(distinct), rng)
    origin = f"rows from the file; synthetic trace; {REUSE_SOURCE}; {SIZES_SOURCE}"
    return Dataset(_table_name(stem), ids, rows, query_lookups(trace, rng), origin)


def _sequences(path: Path, ids: NDArray[Any], lengths: NDArray[Any]) -> Lookups:
    ids, lengths = _ids(path, ids), _ids(path, lengths, "lengths")
    try:
        return Lookups.of_lengths(ids, lengths)
    except ValueError as error:
        raise DataError(f"{path.name}: {error}") from error


def _of_trace(path: Path, trace: U64s) -> Dataset:
    ids = np.unique(trace)
    if not len(ids):
        raise DataError(f"{path.name}: holds no accesses")
    origin = (
        f"accesses from the file, in order, {TRACE_LOOKUP_IDS} ids a lookup; the rows of its {len(ids):,} distinct "
        f"keys are MADE UP from the key ({MADE_UP_DIM} x f32): the file has none"
    )
    name = _table_name(path.stem)
    return Dataset(name, ids, rows_from_ids(ids, MADE_UP_DIM), even_lookups(trace, TRACE_LOOKUP_IDS), origin)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a file by name; a .npy file is ids (its row numbers) and rows."""
    try:
        if path.suffix == ".npz":
            with path.open("rb") as file, NpzFile(file) as archive:
                return {name: np.asarray(archive[name]) for name in archive}
        rows = open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path.name}: not a NumPy file that can be read: {error}") from error
    return {"ids": np.arange(len(rows) if rows.ndim else 0, dtype=np.uint64), "rows": rows}


def _ids(path: Path, ids: NDArray[Any], name: str = "ids") -> U64s:
    if ids.ndim != 1 or ids.dtype.kind not in "ui" or (ids.dtype.kind == "i" and len(ids) and ids.min() < 0):
        raise DataError(
            f"{path.name}: `{name}` should be a 1-D array of integers from 0 on, not {ids.dtype} {ids.shape}"
        )
    return ids.astype(np.uint64)


def _table(path: Path, ids: NDArray[Any], rows: NDArray[Any]) -> tuple[U64s, NDArray[Any]]:
    """Ids ascending and rows in their order, f64 narrowed to f32."""
    ids = _ids(path, ids)
    if rows.ndim != 2 or rows.dtype.kind != "f" or 0 in rows.shape:
        raise DataError(
            f"{path.name}: a table should be a 2-D array of floats with rows in it, not {rows.dtype} {rows.shape}"
        )
    if len(ids) != len(rows):
        raise DataError(f"{path.name}: {len(ids)} ids, but {len(rows)} rows")
    if rows.dtype not in (np.float32, np.float16):
        with np.errstate(over="ignore"):
            rows = rows.astype(np.float32)
    if not all(np.isfinite(rows[start : start + FINITE_ROWS]).all() for start in range(0, len(rows), FINITE_ROWS)):
        raise DataError(f"{path.name}: rows hold NaN or infinity")
    if np.any(ids[1:] <= ids[:-1]):
        order = np.argsort(ids, kind="stable")
        ids, rows = ids[order], rows[order]
        repeated = np.flatnonzero(ids[1:] == ids[:-1])
        if len(repeated):
            raise DataError(f"{path.name}: id {ids[repeated[0]]} stands there twice")
    return ids, rows


def _prefix(stem: str) -> str:
    return stem.rpartition("_")[0] or stem


def _table_name(stem: str) -> str:
    """The file's name within what a table may be called: [a-z0-9_]{1,64}."""
    return re.sub(r"[^a-z0-9_]", "_", stem.lower())[:64]
