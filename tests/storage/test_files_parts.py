"""Folders of Parquet parts, as Spark writes them, against pyarrow's own reading of the same folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from embcache_storage.files import Changes, FileError, Names, TableWriter, open_table

LISTS = pa.list_(pa.float32())
SCHEMA = pa.schema([("item_id", pa.int64()), ("vector", LISTS), ("note", pa.string())])
NAMES = Names("item_id", "vector")


def part(path: Path, ids: list[int], dim: int = 3, schema: Any = SCHEMA) -> None:
    rows = [[float(x), float(-x), 0.5][:dim] for x in ids]
    columns = [ids, rows, ["" for _ in ids]][: len(schema)]
    parquet.write_table(pa.table(columns, schema=schema), path, compression="snappy")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ids in no order, a part without rows first, and all that Spark leaves beside them."""
    folder = tmp_path / "items"
    folder.mkdir()
    for at, ids in enumerate(([], [9, 4, 7], [], [1, 2**62], [3])):
        part(folder / f"part-{at:05}-8f1c.c000.snappy.parquet", ids)
    (folder / "_SUCCESS").write_bytes(b"")
    (folder / "_temporary").mkdir()
    (folder / ".part-00000-8f1c.c000.snappy.parquet.crc").write_bytes(b"crc")
    return folder


def test_all_parts_are_one_table(folder: Path) -> None:
    source = open_table(folder, names=NAMES)
    assert (source.format, source.count, source.dim, source.dtype) == ("parquet", 6, 3, "f32")
    expected = parquet.read_table(folder).sort_by("item_id")
    pieces = list(source.sorted_chunks(4))
    assert np.concatenate([ids for ids, _ in pieces]).tolist() == expected["item_id"].to_pylist()
    assert np.concatenate([rows for _, rows in pieces]).tolist() == expected["vector"].to_pylist()
    assert open_table(folder, "parquet", NAMES).count == 6


def test_parts_in_order_need_no_sorting(tmp_path: Path) -> None:
    part(tmp_path / "part-0.parquet", [1, 2, 3])
    part(tmp_path / "part-1.parquet", [4, 9])
    sorted_rows: list[int] = []
    pieces = list(open_table(tmp_path, names=NAMES).sorted_chunks(2, sorting=sorted_rows.append))
    assert [ids.tolist() for ids, _ in pieces] == [[1, 2], [3], [4, 9]]
    assert sorted_rows == []


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ([("item_id", pa.int64()), ("vector", LISTS)], r"`item_id` int64, `vector` list<.*>; not `item_id`.*`note`"),
        (
            [("item_id", pa.int32()), ("vector", LISTS), ("note", pa.string())],
            r"`item_id` int32.*; not `item_id` int64",
        ),
        ([("id", pa.int64()), ("vector", LISTS), ("note", pa.string())], r"`id` int64, .*; not `item_id` int64"),
    ],
)
def test_a_part_with_other_columns_is_named(folder: Path, columns: list[Any], told: str) -> None:
    for ids in ([], [77]):
        part(folder / "part-00003-8f1c.c000.snappy.parquet", ids, schema=pa.schema(columns))
        with pytest.raises(FileError, match=rf"part-00003-.* has other columns than part-00000-.*: {told}"):
            open_table(folder, names=NAMES)


def test_what_is_wrong_in_a_part_names_it(folder: Path) -> None:
    last = folder / "part-00004-8f1c.c000.snappy.parquet"
    part(last, [5], dim=2)
    with pytest.raises(FileError, match=r"part-00004.* has rows of 2, .*part-00001.* has rows of 3"):
        open_table(folder, names=NAMES)
    part(last, [4])
    with pytest.raises(FileError, match=r"id 4 is in row 1 of part-00001-.* and again in row 0 of part-00004-"):
        list(open_table(folder, names=NAMES).sorted_chunks(4))
    part(last, [-4])
    with pytest.raises(FileError, match=r"`item_id` of .*part-00004.* has -4 in row 0"):
        list(open_table(folder, names=NAMES).sorted_chunks(4))
    parquet.write_table(pa.table([[8], [[1.0, np.nan, 2.0]], [""]], schema=SCHEMA), last)
    with pytest.raises(FileError, match=r"id 8 \(row 0 of part-00004-.*\) has nan in column 1"):
        list(open_table(folder, names=NAMES).sorted_chunks(4))
    last.write_bytes(last.read_bytes()[:-9])
    with pytest.raises(FileError, match=r"part-00004.* cannot be read as Parquet"):
        open_table(folder, names=NAMES)


def test_what_is_no_part_is_named(folder: Path) -> None:
    (folder / "readme.txt").write_text("?")
    with pytest.raises(
        FileError, match=r"readme.txt is no part: .* ends in .parquet or .pq, and the names of all else"
    ):
        open_table(folder, names=NAMES)
    (folder / "readme.txt").unlink()
    (folder / "day=1").mkdir()
    with pytest.raises(FileError, match="day=1 is a folder within a folder of parts"):
        open_table(folder, names=NAMES)


def test_folders_that_are_no_table(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "by_day").mkdir()
    with pytest.raises(FileError, match="by_day has no file `key`"):
        open_table(tmp_path / "by_day")
    with pytest.raises(FileError, match="by_day has no part, no file that ends in"):
        open_table(tmp_path / "by_day", "parquet")
    (tmp_path / "by_day" / "day=1").mkdir()
    with pytest.raises(FileError, match="day=1 is a folder within a folder of parts"):
        open_table(tmp_path / "by_day")
    with pytest.raises(FileError, match="whose rows have no numbers"):
        open_table(folder, names=Names("-", "vector"))
    for path in folder.glob("part-*"):
        part(path, [])
    with pytest.raises(FileError, match="is empty, and its lists have no fixed size: nothing says its dim"):
        open_table(folder, names=NAMES)


def test_a_file_of_changes_is_no_part(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "part-0.parquet", 3, changes=Changes("item", 1, 2, "h")) as writer:
        writer.write(np.array([1], np.uint64), np.ones((1, 3), np.float32))
    with pytest.raises(FileError, match=r"part-0.parquet is a file of changes since a position"):
        open_table(tmp_path)
