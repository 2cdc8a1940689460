"""Tables in files: NumPy's own reader and writer are the oracle."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from embcache_storage.files import FileError, TableWriter, open_table
from tests.storage.tablefiles import IDS, expect_error, make_rows, read_all, write

# --- reading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["<f4", "<f2", "<f8", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_rows_are_numbered(tmp_path: Path, dtype: str, order: Any) -> None:
    rows = np.array(make_rows(5), dtype, order=order)
    np.save(tmp_path / "t.npy", rows)
    source = open_table(tmp_path / "t.npy")
    assert (source.count, source.dim, source.dtype) == (5, 4, "f16" if dtype == "<f2" else "f32")
    ids, read = read_all(source)
    assert ids.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(read, rows.astype(np.float32))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["<f4", "<f2", "<f8", ">f8"])
def test_npz_rows_come_with_their_ids(tmp_path: Path, save: Any, dtype: str) -> None:
    rows = make_rows(5, dtype=dtype)
    save(tmp_path / "t.npz", ids=IDS, rows=rows)
    ids, read = read_all(open_table(tmp_path / "t.npz"))
    np.testing.assert_array_equal(ids, IDS)
    np.testing.assert_array_equal(read, rows.astype(np.float32))


@pytest.mark.parametrize("order", ["C", "F"])
def test_ids_out_of_order_are_sorted_with_their_rows(tmp_path: Path, order: Any) -> None:
    rows = np.array(make_rows(5), order=order)
    shuffled = np.array([3, 0, 4, 2, 1])
    np.savez(tmp_path / "t.npz", ids=IDS[shuffled], rows=np.array(rows[shuffled], order=order))
    ids, read = read_all(open_table(tmp_path / "t.npz"))
    np.testing.assert_array_equal(ids, IDS)
    np.testing.assert_array_equal(read, rows)


def test_column_major_rows_of_an_npz_in_order(tmp_path: Path) -> None:
    rows = np.asfortranarray(make_rows(5))
    np.savez(tmp_path / "t.npz", ids=IDS, rows=rows)
    np.testing.assert_array_equal(read_all(open_table(tmp_path / "t.npz"))[1], rows)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, ">i4"])
def test_ids_of_any_integer_type(tmp_path: Path, dtype: Any) -> None:
    np.savez(tmp_path / "t.npz", ids=np.array([1, 5, 7], dtype), rows=make_rows(3))
    assert read_all(open_table(tmp_path / "t.npz"))[0].tolist() == [1, 5, 7]


def test_more_ids_than_are_looked_at_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embcache_storage.files_read._STEP", 3)
    order = np.random.default_rng(0).permutation(100)
    rows = make_rows(100)
    np.savez(tmp_path / "t.npz", ids=order, rows=rows)
    ids, read = read_all(open_table(tmp_path / "t.npz"), 7)
    np.testing.assert_array_equal(ids, np.arange(100))
    np.testing.assert_array_equal(read[order], rows)
    for first in range(99):
        ids = np.arange(100, dtype=np.uint64)
        ids[first + 1] = ids[first]
        np.savez(tmp_path / "t.npz", ids=ids, rows=rows)
        expect_error(tmp_path / "t.npz", f"id {first} ", f"row {first} ", f"row {first + 1};")


def test_an_empty_table(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.empty((0, 4), np.float32))
    np.savez(tmp_path / "t.npz", ids=np.empty(0, np.uint64), rows=np.empty((0, 4), np.float32))
    for name in ("t.npy", "t.npz"):
        source = open_table(tmp_path / name)
        assert (source.count, source.dim, len(read_all(source)[0])) == (0, 4, 0)


def test_a_chunk_may_be_larger_than_the_table(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", make_rows(5))
    assert len(read_all(open_table(tmp_path / "t.npy"), 1000)[0]) == 5


def test_the_content_and_not_the_name_says_what_a_file_is(tmp_path: Path) -> None:
    with (tmp_path / "table").open("wb") as file:
        np.save(file, make_rows(5))
    assert open_table(tmp_path / "table").count == 5


def test_float64_is_rounded_once(tmp_path: Path) -> None:
    value = 1 + 2.0**-24 + 2.0**-50
    np.save(tmp_path / "t.npy", np.array([[value]]))
    assert read_all(open_table(tmp_path / "t.npy"))[1][0, 0] == np.float32(value)


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(tmp_path: Path, bad: float) -> None:
    rows = make_rows(5)
    rows[3, 2] = bad
    np.save(tmp_path / "t.npy", rows)
    expect_error(tmp_path / "t.npy", "id 3", "row 3", "column 2", str(bad))
    np.savez(tmp_path / "t.npz", ids=IDS[::-1], rows=rows)
    expect_error(tmp_path / "t.npz", "id 3 ", "row 3", "column 2", str(bad))
    np.savez_compressed(tmp_path / "t.npz", ids=IDS, rows=rows)
    expect_error(tmp_path / "t.npz", f"id {2**63} ", "row 3", "column 2")


def test_float64_too_large_for_float32_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.array([[0.0], [1e39]]))
    expect_error(tmp_path / "t.npy", "id 1", "1e+39", "too large for float32")


def test_a_repeated_id_is_named_with_both_rows(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", ids=np.array([7, 1, 9, 1]), rows=make_rows(4))
    expect_error(tmp_path / "t.npz", "id 1 ", "row 1 ", "row 3;")


def test_a_negative_id_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", ids=np.array([7, 1, -9, 1]), rows=make_rows(4))
    expect_error(tmp_path / "t.npz", "-9", "row 2")


@pytest.mark.parametrize(
    "rows", [np.zeros((2, 3), np.int64), np.zeros((2, 3), np.uint8), np.zeros((2, 3), np.complex64)]
)
def test_rows_that_are_no_floats(tmp_path: Path, rows: npt.NDArray[Any]) -> None:
    np.save(tmp_path / "t.npy", rows)
    expect_error(tmp_path / "t.npy", str(rows.dtype), "float32")
    np.savez(tmp_path / "t.npz", ids=np.arange(2), rows=rows)
    expect_error(tmp_path / "t.npz", "`rows`", str(rows.dtype))


def test_bfloat16_and_objects_are_no_floats(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.zeros((2, 3), ml_dtypes.bfloat16))
    expect_error(tmp_path / "t.npy", "float32")
    np.save(tmp_path / "t.npy", np.array([[{}]]), allow_pickle=True)
    expect_error(tmp_path / "t.npy", "objects")


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (3, 0), ()])
def test_rows_that_are_no_table(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "t.npy", np.zeros(shape, np.float32))
    expect_error(tmp_path / "t.npy", str(list(shape)), "[n, dim]")


def test_ids_that_are_none(tmp_path: Path) -> None:
    rows = make_rows(3)
    for ids, word in ((np.zeros(3), "float64"), (np.zeros((3, 1), int), "[3, 1]"), (np.arange(2), "2 ids for 3 rows")):
        np.savez(tmp_path / "t.npz", ids=ids, rows=rows)
        expect_error(tmp_path / "t.npz", word)


def test_an_archive_without_ids_or_rows(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", rows=make_rows(3), names=np.arange(3))
    expect_error(tmp_path / "t.npz", "no array `ids`", "`rows`, `names`")


def test_what_is_no_table_file(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"id,x\n1,2\n")
    expect_error(tmp_path / "t.csv", "neither", "safetensors", "--format")
    (tmp_path / "t.npy").write_bytes(b"id,x\n1,2\n")
    expect_error(tmp_path / "t.npy", "magic")
    with pytest.raises(FileNotFoundError):
        open_table(tmp_path / "none.npy")


def test_compressed_rows_are_reordered_too(tmp_path: Path) -> None:
    rows = make_rows(5)
    np.savez_compressed(tmp_path / "t.npz", ids=IDS[::-1], rows=rows)
    ids, read = read_all(open_table(tmp_path / "t.npz"))
    np.testing.assert_array_equal(ids, IDS)
    np.testing.assert_array_equal(read, rows[::-1])


def test_compressed_columns_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "t.npz", ids=IDS, rows=np.asfortranarray(make_rows(5)))
    expect_error(tmp_path / "t.npz", "column-major")


def test_a_truncated_file_at_every_length(tmp_path: Path) -> None:
    np.save(tmp_path / "whole.npy", make_rows(5))
    np.savez(tmp_path / "whole.npz", ids=IDS, rows=make_rows(5))
    for name in ("whole.npy", "whole.npz"):
        data = (tmp_path / name).read_bytes()
        cut = tmp_path / name.replace("whole", "cut")
        for length in range(0, len(data), 13):
            cut.write_bytes(data[:length])
            expect_error(cut)


def test_a_file_longer_than_its_header_says(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", make_rows(5))
    with (tmp_path / "t.npy").open("ab") as file:
        file.write(b"more")
    expect_error(tmp_path / "t.npy", "longer")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("ids", [IDS, IDS[::-1]])
def test_no_flipped_bit_of_an_archive_gives_other_rows(tmp_path: Path, save: Any, ids: npt.NDArray[np.uint64]) -> None:
    if save is np.savez_compressed:
        ids = IDS
    path = tmp_path / "t.npz"
    rows = make_rows(5)
    save(path, ids=ids, rows=rows)
    data = path.read_bytes()
    order = np.argsort(ids)
    for at in range(0, len(data), 3):
        flipped = bytearray(data)
        flipped[at] ^= 1 << (at % 8)
        path.write_bytes(flipped)
        try:
            read_ids, read_rows = read_all(open_table(path))
        except FileError:
            continue
        np.testing.assert_array_equal(read_ids, ids[order])  # the bit meant nothing, as in a time stamp
        np.testing.assert_array_equal(read_rows, rows[order])


@pytest.mark.parametrize(("order", "ids"), [("C", IDS[::-1]), ("F", IDS)])
def test_rows_that_are_mapped_are_checked_too(tmp_path: Path, order: Any, ids: npt.NDArray[np.uint64]) -> None:
    path = tmp_path / "t.npz"
    np.savez(path, ids=ids, rows=np.array(make_rows(5, 4000), order=order))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    expect_error(path, "`rows`", "CRC")


def test_members_compressed_otherwise_are_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.save(header, IDS)
    with zipfile.ZipFile(tmp_path / "t.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("ids.npy", header.getvalue())
        archive.writestr("rows.npy", header.getvalue())
    expect_error(tmp_path / "t.npz", "method 12")


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    np.savez(path, ids=IDS, rows=make_rows(5))
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(signature)
        data[at + flags] |= 1
    path.write_bytes(data)
    expect_error(path, "encrypted")


# --- writing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "written"), [("f32", "<f4"), ("f16", "<f2"), ("bf16", "<f4"), ("q8", "<f4")])
def test_numpy_reads_what_is_written(tmp_path: Path, dtype: str, written: str) -> None:
    rows = make_rows(5, dtype=np.float16).astype(np.float32)
    write(tmp_path / "t.npy", np.arange(5, dtype=np.uint64), rows, dtype)
    write(tmp_path / "t.npz", IDS, rows, dtype)
    for array in (np.load(tmp_path / "t.npy"), np.load(tmp_path / "t.npz")["rows"]):
        assert array.dtype == np.dtype(written)
        np.testing.assert_array_equal(array.astype(np.float32), rows)
    np.testing.assert_array_equal(np.load(tmp_path / "t.npz")["ids"], IDS)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["t.npy", "t.npz"]


@pytest.mark.parametrize("name", ["t.npy", "t.npz"])
@pytest.mark.parametrize("n", [0, 1, 9, 10, 1234])
def test_what_is_written_reads_back(tmp_path: Path, name: str, n: int) -> None:
    rows = make_rows(n, 3)
    ids = np.arange(n, dtype=np.uint64)
    write(tmp_path / name, ids, rows, step=100)
    read_ids, read_rows = read_all(open_table(tmp_path / name), 1000)
    np.testing.assert_array_equal(read_ids, ids)
    np.testing.assert_array_equal(read_rows, rows)


def _write_and_break_off(path: Path) -> None:
    with TableWriter(path, 4) as writer:
        writer.write(np.arange(2, dtype=np.uint64), make_rows(2))
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["t.npy", "t.npz"])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, name: str) -> None:
    rows = make_rows(4)
    ids = np.arange(4, dtype=np.uint64)
    write(tmp_path / name, ids, rows)
    before = (tmp_path / name).read_bytes()
    with pytest.raises(KeyboardInterrupt):
        _write_and_break_off(tmp_path / name)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == before
    write(tmp_path / name, ids, rows * 2)
    np.testing.assert_array_equal(read_all(open_table(tmp_path / name))[1], rows * 2)


@pytest.mark.parametrize("ids", [[1, 2], [0, 2]])
def test_an_npy_has_no_gaps(tmp_path: Path, ids: list[int]) -> None:
    missing = next(id_ for id_ in range(3) if id_ not in ids)
    with pytest.raises(FileError, match=rf"no row for id {missing}.*write an \.npz"):
        write(tmp_path / "t.npy", np.array(ids, np.uint64), make_rows(2))
    assert not list(tmp_path.iterdir())


def test_writing_refuses_other_names_shapes_and_orders(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"\.npy, \.npz, .*--format"):
        TableWriter(tmp_path / "t.csv", 4)
    for ids, rows in (([1], make_rows(2)), ([1, 2], make_rows(2, 5)), ([2, 1], make_rows(2)), ([1, 1], make_rows(2))):
        with TableWriter(tmp_path / "u.npz", 4) as writer, pytest.raises(ValueError, match="must"):
            writer.write(np.array(ids, np.uint64), rows)
    (tmp_path / "u.npz").unlink()
    with pytest.raises(ValueError, match="ascend"):
        write(tmp_path / "t.npz", np.array([5, 4], np.uint64), make_rows(2), step=1)
    assert not list(tmp_path.iterdir())


def test_written_archives_are_sound_for_other_tools(tmp_path: Path) -> None:
    write(tmp_path / "t.npz", IDS, make_rows(5))
    with zipfile.ZipFile(tmp_path / "t.npz") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["ids.npy", "rows.npy"]
        np.testing.assert_array_equal(np.load(io.BytesIO(archive.read("ids.npy"))), IDS)
