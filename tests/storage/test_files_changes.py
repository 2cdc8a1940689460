"""Files of changes: rows and the ids of those that are gone, as the formats' own libraries read them, and read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pyarrow import feather, parquet
from safetensors import safe_open

from embcache_storage import files
from embcache_storage.files import Changes, FileError, TableWriter, open_table

TOLD = Changes("item", 100, 2**63, "6f2a9c")
IDS = np.array([0, 7, 2**63, 2**64 - 1], np.uint64)
GONE = np.array([3, 2**63 + 1], np.uint64)
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)

Read = tuple[list[int], list[list[float]], list[int], str]


def written(path: Path, ids: NDArray[np.uint64] = IDS, gone: NDArray[np.uint64] = GONE, dtype: str = "f32") -> Path:
    with TableWriter(path, 3, dtype, changes=TOLD) as writer:
        for start in range(0, len(ids), 3):
            writer.write(ids[start : start + 3], ROWS[: len(ids)][start : start + 3])
        for start in range(len(gone)):
            writer.delete(gone[start : start + 1])
    return path


def npz(path: Path) -> Read:
    with np.load(path) as there:
        told = str(there["changes"])
        return there["ids"].tolist(), there["rows"].tolist(), there["deleted"].tolist(), told


def safetensors(path: Path) -> Read:
    with safe_open(path, "np") as there:
        ids, rows, gone = (there.get_tensor(name) for name in ("ids", "rows", "deleted"))
        return ids.tolist(), rows.tolist(), gone.tolist(), there.metadata()["embcache.changes"]


def columns(table: pa.Table) -> Read:
    present = [row for row in table.to_pylist() if not row["deleted"]]
    gone = [row for row in table.to_pylist() if row["deleted"]]
    assert all(row["rows"] is None for row in gone)
    told = table.schema.metadata[b"embcache.changes"].decode()
    return [row["ids"] for row in present], [row["rows"] for row in present], [row["ids"] for row in gone], told


READERS: dict[str, Callable[[Path], Read]] = {
    "x.npz": npz,
    "x.safetensors": safetensors,
    "x.parquet": lambda path: columns(parquet.read_table(path)),
    "x.arrow": lambda path: columns(feather.read_table(path)),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(("rows", "gone"), [(4, 2), (0, 2), (4, 0), (0, 0)])
def test_libraries_read_what_was_written(tmp_path: Path, name: str, rows: int, gone: int) -> None:
    path = written(tmp_path / name, IDS[:rows], GONE[:gone])
    ids, read, deleted, told = READERS[name](path)
    assert (ids, read, deleted) == (IDS[:rows].tolist(), ROWS[:rows].tolist(), GONE[:gone].tolist())
    assert json.loads(told) == {"table": "item", "since": "100", "position": str(2**63), "history": "6f2a9c"}
    assert [each.name for each in tmp_path.iterdir()] == [name]
    source = open_table(path)
    assert (source.changes, source.count, source.dim) == (TOLD, rows, 3)
    pieces = list(source.sorted_chunks(3))
    assert [each for ids_, _ in pieces for each in ids_.tolist()] == IDS[:rows].tolist()
    assert [each for _, rows_ in pieces for each in rows_.tolist()] == ROWS[:rows].tolist()
    assert [each for ids_ in source.deleted(1) for each in ids_.tolist()] == GONE[:gone].tolist()


@pytest.mark.parametrize("name", READERS)
def test_a_narrow_table_is_kept_narrow(tmp_path: Path, name: str) -> None:
    source = open_table(written(tmp_path / name, dtype="f16"))
    assert source.dtype == "f16"
    assert np.concatenate([rows for _, rows in source.sorted_chunks(9)]).tolist() == ROWS.tolist()


@pytest.mark.parametrize("format", [each.name for each in files.FORMATS if not each.changes and each.sink is not None])
def test_formats_without_a_place_for_what_is_gone_say_so(tmp_path: Path, format: str) -> None:
    with pytest.raises(FileError, match=rf"{format} has no place .*export changes as one of npz, safetensors, parquet"):
        TableWriter(tmp_path / "x", 3, format=format, changes=TOLD)
    assert list(tmp_path.iterdir()) == []


def test_ids_are_needed_and_names_are_kept_apart(tmp_path: Path) -> None:
    for names in (files.Names(ids="-"), files.Names(rows="deleted"), files.Names(ids="changes")):
        with pytest.raises(FileError, match="changes need ids, and those that are gone are called `deleted`"):
            TableWriter(tmp_path / "x.npz", 3, names=names, changes=TOLD)
    with TableWriter(tmp_path / "x.npz", 3, names=files.Names("key", "vector"), changes=TOLD) as writer:
        writer.write(IDS, ROWS)
    assert open_table(tmp_path / "x.npz", names=files.Names("key", "vector")).changes == TOLD


def save_npz(path: Path, told: str) -> None:
    np.savez(path, ids=IDS, rows=ROWS, deleted=GONE, changes=np.array(told))


@pytest.mark.parametrize(
    "told",
    [
        "{",
        "[]",
        '{"table": "item"}',
        '{"table": 1, "since": "1", "position": "2", "history": ""}',
        '{"table": "item", "since": "3", "position": "2", "history": ""}',
        '{"table": "item", "since": "-1", "position": "2", "history": ""}',
        json.dumps({"table": "item", "since": "1", "position": "2", "history": "h" * 65}),
    ],
)
def test_what_is_told_wrongly_is_damage(tmp_path: Path, told: str) -> None:
    save_npz(tmp_path / "x.npz", told)
    with pytest.raises(FileError, match=r"x\.npz: what it tells of the changes in it is damaged"):
        open_table(tmp_path / "x.npz")


@pytest.mark.parametrize("more", [{"changes": np.array(3)}, {"deleted": GONE}, {"changes": np.array("{")}])
def test_other_files_that_have_such_names_are_tables(tmp_path: Path, more: dict[str, Any]) -> None:
    np.savez(tmp_path / "x.npz", ids=IDS, rows=ROWS, **more)
    assert open_table(tmp_path / "x.npz").changes is None


def test_a_cut_file_is_found(tmp_path: Path) -> None:
    path = written(tmp_path / "x.npz")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(FileError):
        open_table(path)


def test_a_negative_id_among_the_deleted_is_found(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", ids=IDS, rows=ROWS, deleted=np.array([1, -1]), changes=np.array(TOLD.to_text()))
    with pytest.raises(FileError, match=r"`deleted` of .* has -1 in row 1"):
        list(open_table(tmp_path / "x.npz").deleted(10))
