"""Sorting rows in bounded memory: NumPy's argsort of everything at once is the oracle."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from embcache_storage import files_sort
from embcache_storage.files import FileError
from embcache_storage.files_sort import RepeatedId, RowSorter, temporary_folder

DIM = 5
RECORD = 16 + 4 * DIM
FILE = Path("table.npz")


def sort(
    ids: npt.NDArray[np.uint64], rows: npt.NDArray[np.float32], budget: int, folder: Path, step: int = 100
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]]:
    with RowSorter(FILE, rows.shape[1], budget, folder) as sorter:
        for start in range(0, len(ids), step):
            sorter.add(ids[start : start + step], start, rows[start : start + step])
        chunks = []
        for chunk in sorter.chunks(step):
            chunks.append(chunk)
            assert not list(folder.iterdir()), "a temporary file has a name, which a crash would leave behind"
    assert all(len(ids) == len(rows) <= step for ids, rows in chunks)
    return np.concatenate([ids for ids, _ in chunks]), np.concatenate([rows for _, rows in chunks])


def orders(n: int) -> dict[str, npt.NDArray[Any]]:
    random = np.random.default_rng(n).permutation(n)
    near = np.arange(n)
    near[n // 2], near[0] = 0, n // 2
    return {
        "random": random,
        "reversed": np.arange(n)[::-1],
        "near": near,
        "dealt": np.arange(n).reshape(4, -1).T.ravel(),
    }


@pytest.mark.parametrize("order", ["random", "reversed", "near", "dealt"])
@pytest.mark.parametrize("memory_rows", [7, 60, 999, 10_000])
@pytest.mark.parametrize("fan_in", [3, 128])
def test_rows_come_by_ascending_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, memory_rows: int, fan_in: int
) -> None:
    monkeypatch.setattr(files_sort, "FAN_IN", fan_in)
    rng = np.random.default_rng(1)
    ids = np.sort(rng.integers(1, 2**64 - 1, 1200, np.uint64))
    ids[0], ids[-1] = 0, 2**64 - 1
    rows = rng.random((len(ids), DIM), np.float32)
    shuffled = orders(len(ids))[order]
    sorted_ids, sorted_rows = sort(ids[shuffled], rows[shuffled], memory_rows * RECORD, tmp_path)
    np.testing.assert_array_equal(sorted_ids, ids)
    np.testing.assert_array_equal(sorted_rows, rows)


def test_what_fits_into_the_budget_touches_no_disk() -> None:
    nowhere = Path("/nowhere/at/all")
    ids = np.arange(100, dtype=np.uint64)[::-1]
    with RowSorter(FILE, DIM, 200 * RECORD, nowhere) as sorter:
        sorter.add(ids, 0, np.zeros((100, DIM), np.float32))
        (chunk,) = sorter.chunks(100)
    np.testing.assert_array_equal(chunk[0], ids[::-1])
    with RowSorter(FILE, DIM, 50 * RECORD, nowhere) as sorter, pytest.raises(FileNotFoundError):
        sorter.add(ids, 0, np.zeros((100, DIM), np.float32))


@pytest.mark.parametrize(("first", "second"), [(0, 1), (3, 5), (0, 999), (10, 700), (998, 999)])
@pytest.mark.parametrize("memory_rows", [20, 10_000])
@pytest.mark.parametrize("fan_in", [3, 128])
def test_a_repeated_id_is_told_with_both_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int, second: int, memory_rows: int, fan_in: int
) -> None:
    monkeypatch.setattr(files_sort, "FAN_IN", fan_in)
    ids = np.random.default_rng(2).permutation(1000).astype(np.uint64)
    ids[second] = ids[first]
    with pytest.raises(RepeatedId) as caught:
        sort(ids, np.zeros((1000, DIM), np.float32), memory_rows * RECORD, tmp_path)
    assert caught.value.args == (int(ids[first]), first, second)


def test_a_full_disk_is_said_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RowSorter, "_temporary", lambda self: Path("/dev/full").open("r+b", buffering=0))  # noqa: SIM115
    with pytest.raises(FileError, match=rf"{FILE}.*disk of {tmp_path}; set TMPDIR"):
        sort(np.arange(1000, dtype=np.uint64)[::-1], np.zeros((1000, DIM), np.float32), 100 * RECORD, tmp_path)


def test_memory_stays_within_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n, dim, budget, step = 100_000, 60, 4 << 20, 1000
    order = np.random.default_rng(3).permutation(n).astype(np.uint64)
    monkeypatch.setattr(files_sort, "_WRITE_BYTES", 1 << 18)
    tracemalloc.start()
    try:
        with RowSorter(FILE, dim, budget, tmp_path) as sorter:
            for start in range(0, n, step):
                ids = order[start : start + step]
                sorter.add(ids, start, np.repeat(ids.astype(np.float32)[:, None], dim, 1))
            done = 0
            for ids, rows in sorter.chunks(step):
                assert ids[0] == done
                assert np.array_equal(rows[:, 0], ids)
                done += len(ids)
        assert done == n
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < budget + 6 * step * (4 * dim + 16)  # of 26 MB that were sorted


def test_temporary_files_go_to_tmpdir_or_to_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)  # what it found out before
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert temporary_folder() == tmp_path
    monkeypatch.delenv("TMPDIR")
    assert os.access(temporary_folder(), os.W_OK)
