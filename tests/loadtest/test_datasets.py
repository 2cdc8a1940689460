"""The demo's data: files taken for what they are, and refused with their name and a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loadtest.datasets import DataError, Dataset, read_folder, synthetic
from loadtest.workloads import rows_from_ids

REAL = Path(__file__).parents[3] / "shared" / "data"


def rows(count: int, dim: int = 4) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, dim)).astype(np.float32)


def only(folder: Path) -> Dataset:
    found = read_folder(folder)
    assert len(found.datasets) == 1
    return found.datasets[0]


def test_sequences_are_the_lookups_of_the_table_named_alike(tmp_path: Path) -> None:
    np.save(tmp_path / "shop_items.npy", rows(10))
    np.savez(
        tmp_path / "shop_sequences.npz", ids=np.array([3, 1, 3, 9], np.uint64), lengths=np.array([1, 3], np.uint32)
    )
    dataset = only(tmp_path)
    assert dataset.table == "shop_items"
    assert [ids.tolist() for ids, _ in dataset.lookups] == [[3], [1, 3, 9]]
    np.testing.assert_array_equal(dataset.rows, rows(10))


def test_trace_makes_up_rows_and_says_so(tmp_path: Path) -> None:
    trace = np.array([7, 2**63, 7, 1] * 200, np.uint64)
    np.savez(tmp_path / "clicks_trace.npz", ids=trace)
    dataset = only(tmp_path)
    assert dataset.ids.tolist() == [1, 7, 2**63]
    assert "MADE UP" in dataset.origin
    np.testing.assert_array_equal(np.concatenate([ids for ids, _ in dataset.lookups]), trace)
    np.testing.assert_array_equal(dataset.rows, rows_from_ids(dataset.ids, 64))


def test_table_alone_gets_a_synthetic_trace_over_its_ids(tmp_path: Path) -> None:
    np.savez(tmp_path / "Ad-Words.npz", ids=np.array([9, 4, 2**64 - 1], np.uint64), rows=rows(3).astype(np.float64))
    dataset = only(tmp_path)
    assert dataset.table == "ad_words"
    assert dataset.ids.tolist() == [4, 9, 2**64 - 1]
    np.testing.assert_array_equal(dataset.rows, rows(3)[[1, 0, 2]])
    assert set(dataset.lookups.ids.tolist()) <= set(dataset.ids.tolist())
    assert "synthetic trace" in dataset.origin


def test_chunks_are_the_table_in_pieces(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", rows(10))
    pieces = list(only(tmp_path).chunks(4))
    assert [len(ids) for ids, _ in pieces] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([part for _, part in pieces]), rows(10))


def test_files_that_are_no_tables_are_remarked_on(tmp_path: Path) -> None:
    np.savez(tmp_path / "a_sequences.npz", ids=np.zeros(1, np.uint64), lengths=np.ones(1, np.uint32))
    np.savez(tmp_path / "weights.npz", w=rows(2), b=rows(2))
    (tmp_path / "notes.csv").write_text("x\n")
    found = read_folder(tmp_path)
    assert found.datasets == []
    assert found.remarks == ["weights.npz: no table (arrays b, w)", "a_sequences.npz: sequences of no table here"]


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"ids": np.array([1, 1], np.uint64), "rows": rows(2)}, "id 1 stands there twice"),
        ({"ids": np.array([1], np.uint64), "rows": rows(2)}, "1 ids, but 2 rows"),
        ({"ids": np.array([1, -1]), "rows": rows(2)}, "integers from 0 on"),
        ({"ids": np.array([0.5, 1]), "rows": rows(2)}, "integers from 0 on, not float64"),
        ({"ids": np.array([1, 2]), "rows": np.ones(2, np.float32)}, "2-D array of floats"),
        ({"ids": np.array([1, 2]), "rows": np.ones((2, 2), np.int64)}, "2-D array of floats"),
        ({"ids": np.array([1, 2]), "rows": np.array([[1], [np.nan]])}, "rows hold NaN or infinity"),
        ({"ids": np.array([1]), "rows": np.array([[1e300]])}, "rows hold NaN or infinity"),
        ({"ids": np.empty(0, np.uint64)}, "holds no accesses"),
        ({"ids": np.zeros(3, np.uint64), "lengths": np.array([1, 1])}, "lengths sum to 2, but there are 3 ids"),
        (
            {"ids": np.zeros(2, np.uint64), "lengths": np.array([1.0, 1.0])},
            "`lengths` should be a 1-D array of integers",
        ),
    ],
)
def test_bad_arrays_are_passed_over(tmp_path: Path, arrays: dict[str, np.ndarray], complaint: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)  # type: ignore[arg-type]  # its stub takes allow_pickle for an array
    np.save(tmp_path / "bad_items.npy", rows(3))
    found = read_folder(tmp_path)
    assert [dataset.table for dataset in found.datasets] == ["bad_items"]
    assert len(found.remarks) == 1
    assert found.remarks[0].startswith("bad.npz: ")
    assert complaint in found.remarks[0]


@pytest.mark.parametrize("name", ["broken.npy", "broken.npz"])
@pytest.mark.parametrize("content", [b"", b"no table", b"\x93NUMPY\x01\x00", b"PK\x03\x04 and no more"])
def test_a_broken_file_is_passed_over(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    np.save(tmp_path / "a_items.npy", rows(3))
    found = read_folder(tmp_path)
    assert [dataset.table for dataset in found.datasets] == ["a_items"]
    assert [remark.split(": ")[0] for remark in found.remarks] == [name]


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        read_folder(tmp_path / "nowhere")


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", rows(2))
    np.save(tmp_path / "A.npy", rows(2))
    with pytest.raises(DataError, match="two files make a table called a"):
        read_folder(tmp_path)


def test_synthetic_tables_say_that_they_are() -> None:
    datasets = synthetic(items=10_000)
    assert [dataset.table for dataset in datasets] == ["item", "user"]
    for dataset in datasets:
        assert dataset.origin.startswith("synthetic rows and trace")
        _, known = dataset.places_of(dataset.lookups.ids)
        assert 0.003 < 1 - known.mean() < 0.007


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data in {REAL}")
def test_real_files_are_taken_for_what_they_are() -> None:
    items, trace = read_folder(REAL).datasets
    assert (items.table, items.rows.shape, len(items.lookups)) == ("beauty_items", (12_103, 64), 22_363)
    assert (trace.table, len(trace.ids), len(trace.lookups.ids)) == ("scarab_recs_trace", 258_368, 1_245_184)
    assert items.places_of(items.lookups.ids)[1].all()
