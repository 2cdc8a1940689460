"""Parquet and Arrow files: pyarrow's own writers and readers are the oracle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from embcache_storage.files import FileError, Names, open_table
from tests.storage.tablefiles import IDS, expect_error, make_rows, read_all, write


def _stream(table: Any, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def _ipc(table: Any, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "parquet": parquet.write_table,
    "parquet of 2 rows a group, zstd": lambda table, path: parquet.write_table(
        table, path, row_group_size=2, compression="zstd", store_schema=False
    ),
    "feather, lz4": lambda table, path: feather.write_feather(table, str(path)),
    "feather": lambda table, path: feather.write_feather(table, str(path), compression="uncompressed", chunksize=3),
    "ipc file": _ipc,
    "ipc stream": _stream,
}


def make_table(ids: Any, rows: Any, **more: Any) -> Any:
    return pa.table({"ids": ids, "rows": rows, **more})


def lists(rows: Any, kind: Any) -> Any:
    return pa.array(rows.tolist(), kind)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("form", ["fixed", "list", "large list"])
@pytest.mark.parametrize("element", ["float16", "float32", "float64"])
def test_what_pyarrow_writes_is_read(tmp_path: Path, writer: str, form: str, element: str) -> None:
    rows = make_rows(5, 3, element)
    value = pa.from_numpy_dtype(element)
    kind = {"fixed": pa.list_(value, 3), "list": pa.list_(value), "large list": pa.large_list(value)}[form]
    table = make_table(pa.array(IDS), lists(rows, kind), name=["a", "b", None, "d", "e"])
    WRITERS[writer](table, tmp_path / "t")
    source = open_table(tmp_path / "t")
    assert (source.count, source.dim, source.dtype) == (5, 3, "f16" if element == "float16" else "f32")
    ids, read = read_all(source)
    np.testing.assert_array_equal(ids, IDS)
    np.testing.assert_array_equal(read, rows.astype(np.float32))


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("kind", ["int8", "int32", "int64", "uint16", "uint64"])
def test_ids_of_any_integer_type_in_any_order(tmp_path: Path, writer: str, kind: str) -> None:
    rows = make_rows(4, 3)
    table = make_table(pa.array([9, 100, 0, 7], pa.from_numpy_dtype(kind)), lists(rows, pa.list_(pa.float32(), 3)))
    WRITERS[writer](table, tmp_path / "t")
    ids, read = read_all(open_table(tmp_path / "t"))
    assert ids.tolist() == [0, 7, 9, 100]
    np.testing.assert_array_equal(read, rows[[2, 3, 0, 1]])


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "t.feather"])
def test_pyarrow_reads_what_is_written(tmp_path: Path, name: str, dtype: str) -> None:
    rows = make_rows(5, 3, np.float16).astype(np.float32)
    write(tmp_path / name, IDS, rows, dtype)
    if name == "t.parquet":
        table = parquet.read_table(tmp_path / name, page_checksum_verification=True)
    else:
        table = feather.read_table(tmp_path / name)
    assert table.schema.names == ["ids", "rows"]
    assert table.schema.field("ids").type == pa.uint64()
    element = table.schema.field("rows").type
    assert (element.list_size, element.value_type) == (3, pa.float16() if dtype == "f16" else pa.float32())
    assert table.column("ids").to_pylist() == IDS.tolist()
    assert table.column("rows").to_pylist() == rows.tolist()


def test_a_parquet_that_is_written_has_small_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embcache_storage.files_arrow_write._GROUP_BYTES", 4000)
    write(tmp_path / "t.parquet", np.arange(1000, dtype=np.uint64), make_rows(1000, 10), step=90)
    groups = parquet.read_metadata(tmp_path / "t.parquet")
    assert max(groups.row_group(at).num_rows for at in range(groups.num_row_groups)) <= 100


def test_columns_are_named(tmp_path: Path) -> None:
    rows = lists(make_rows(5), pa.list_(pa.float32(), 4))
    parquet.write_table(pa.table({"id": IDS, "emb": rows, "n": IDS}), tmp_path / "t.parquet")
    expect_error(tmp_path / "t.parquet", "no column `ids`", "`id`, `emb`, `n`", "--ids")
    expect_error(tmp_path / "t.parquet", "no column `rows`", "--rows", names=Names("id"))
    assert read_all(open_table(tmp_path / "t.parquet", names=Names("id", "emb")))[0].tolist() == IDS.tolist()


def test_a_table_without_rows(tmp_path: Path) -> None:
    for kind, dim in ((pa.list_(pa.float32(), 4), 4), (pa.list_(pa.float32()), None)):
        parquet.write_table(make_table(pa.array([], pa.uint64()), pa.array([], kind)), tmp_path / "t.parquet")
        if dim is None:
            expect_error(tmp_path / "t.parquet", "`rows`", "nothing says its dim")
        else:
            source = open_table(tmp_path / "t.parquet")
            assert (source.count, source.dim, len(read_all(source)[0])) == (0, 4, 0)


FLOATS = pa.list_(pa.float32())
FIXED = pa.list_(pa.float32(), 2)


@pytest.mark.parametrize("writer", ["parquet", "feather, lz4", "ipc stream"])
@pytest.mark.parametrize(
    ("ids", "rows", "words"),
    [
        (pa.array([1, 2, -3]), pa.array([[1, 2]] * 3, FIXED), ("`ids`", "-3 in row 2", "2^64 - 1")),
        (pa.array([1, None, 3]), pa.array([[1, 2]] * 3, FIXED), ("`ids`", "no value in row 1")),
        (pa.array([1.0, 2.0, 3.0]), pa.array([[1, 2]] * 3, FIXED), ("`ids`", "double", "integers")),
        (pa.array(["1", "2", "3"]), pa.array([[1, 2]] * 3, FIXED), ("`ids`", "string", "integers")),
        (pa.array([1, 2, 1]), pa.array([[1, 2]] * 3, FIXED), ("id 1 is in row 0 and again in row 2",)),
        (pa.array([1, 1, 2]), pa.array([[1, 2]] * 3, FIXED), ("id 1 is in row 0 and again in row 1",)),
        (
            pa.array([1, 2, 3]),
            pa.array([[1, 2], [3, 4], [5]], FLOATS),
            ("`rows`", "row 2 has 1 elements", "before it 2"),
        ),
        (pa.array([1, 2, 3]), pa.array([[1, 2], None, [5, 6]], FLOATS), ("`rows`", "no value in row 1")),
        (pa.array([1, 2, 3]), pa.array([[1, 2], [3, None], [5, 6]], FLOATS), ("`rows`", "row 1 has a null")),
        (pa.array([1, 2, 3]), pa.array([[], [], []], FLOATS), ("`rows`", "lists of 0")),
        (pa.array([1, 2, 3]), pa.array([[1], [2], [3]], pa.list_(pa.int32())), ("`rows`", "int32", "float32")),
        (pa.array([1, 2, 3]), pa.array([1.0, 2.0, 3.0]), ("`rows`", "double", "lists")),
        (pa.array([1, 2, 3]), pa.array([[1, 2], [3, np.inf], [5, 6]], FIXED), ("id 2 (row 1) has inf in column 1",)),
        (pa.array([1, 2]), pa.array([[0.0], [1e39]], pa.list_(pa.float64())), ("id 2", "1e+39", "too large")),
    ],
)
def test_what_is_no_table_is_said_with_its_place(
    tmp_path: Path, writer: str, ids: Any, rows: Any, words: tuple[str, ...]
) -> None:
    WRITERS[writer](make_table(ids, rows), tmp_path / "t")
    expect_error(tmp_path / "t", *words)


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    rows = lists(make_rows(5), pa.list_(pa.float32(), 4))
    _ipc(pa.Table.from_arrays([pa.array(IDS), rows, rows], ["ids", "rows", "rows"]), tmp_path / "t.arrow")
    expect_error(tmp_path / "t.arrow", "two columns `rows`")


@pytest.mark.parametrize("writer", WRITERS)
def test_a_truncated_file_at_every_length(tmp_path: Path, writer: str) -> None:
    table = make_table(pa.array(IDS), lists(make_rows(5), pa.list_(pa.float32(), 4)))
    WRITERS[writer](table, tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    path = tmp_path / ("t.parquet" if "parquet" in writer else "t.arrow")
    ends = 0
    for length in range(0, len(data), 13):
        path.write_bytes(data[:length])
        try:
            ids, _ = read_all(open_table(path))
        except FileError:
            pass
        else:  # a stream may end after any batch
            assert writer == "ipc stream"
            assert ids.tolist() == IDS[: len(ids)].tolist()
            ends += 1
    assert ends < 5


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
def test_a_flipped_bit_is_an_error_or_means_nothing(tmp_path: Path, name: str) -> None:
    rows = make_rows(5)
    path = tmp_path / name
    write(path, IDS, rows)
    data = path.read_bytes()
    other = 0
    for at in range(0, len(data), 3):
        flipped = bytearray(data)
        flipped[at] ^= 1 << (at % 8)
        path.write_bytes(flipped)
        try:
            read_ids, read = read_all(open_table(path))
        except FileError:
            continue
        other += not (np.array_equal(read_ids, IDS) and np.array_equal(read, rows))
    if name == "t.parquet":
        assert other == 0  # its pages have checksums; an Arrow file has none
