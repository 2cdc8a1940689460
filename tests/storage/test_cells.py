"""Cells against the xxhash package: the checksum bit for bit, and what a damaged cell turns into."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
import xxhash

from embcache_storage.cells import encode_cells, unpack_cells, xxh64
from embcache_storage.store import ABSENT, DAMAGED, FOUND

EDGE_IDS = np.array([0, 1, 2**63 - 1, 2**63, 2**64 - 1], np.uint64)


def naive_cell(id_: int, row: bytes) -> bytes:
    return xxhash.xxh64_intdigest(row, seed=id_).to_bytes(8, "little") + row


def random_rows(n: int, row_bytes: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, row_bytes), dtype=np.uint8)


@pytest.mark.parametrize("start", [0, 1, 7])
def test_checksum_is_that_of_the_xxhash_package(start: int) -> None:
    rng = np.random.default_rng(start)
    for length in [*range(131), 255, 256, 257, 4096, 65_543]:
        data = rng.integers(0, 256, start + length + 3, dtype=np.uint8)
        seed = rng.integers(0, 2**64, dtype=np.uint64)
        expected = xxhash.xxh64_intdigest(data[start : start + length].tobytes(), seed=int(seed))
        assert int(xxh64(data, np.uint64(start), np.uint64(length), seed)) == expected, length


@pytest.mark.parametrize("row_bytes", [1, 2, 8, 9, 31, 32, 33, 72, 256, 1000])
def test_cells_are_checksum_and_row(row_bytes: int) -> None:
    rows = random_rows(len(EDGE_IDS), row_bytes)
    cells = encode_cells(EDGE_IDS, rows)
    assert [bytes(c) for c in cells] == [naive_cell(int(i), bytes(r)) for i, r in zip(EDGE_IDS, rows, strict=True)]


def unpack(cells: list[bytes], ids: npt.NDArray[np.uint64], row_bytes: int) -> tuple[list[bytes], list[int]]:
    rows = np.full((len(ids), row_bytes), 0xAA, np.uint8)
    state = np.full(len(ids), 0xAA, np.uint8)
    unpack_cells(cells, ids, rows, state)
    return [bytes(r) for r in rows], state.tolist()


@pytest.mark.parametrize("row_bytes", [1, 24, 256])
def test_sound_cells_give_their_rows(row_bytes: int) -> None:
    rows = random_rows(5, row_bytes)
    cells = [naive_cell(int(i), bytes(r)) for i, r in zip(EDGE_IDS, rows, strict=True)]
    assert unpack(cells, EDGE_IDS, row_bytes) == ([bytes(r) for r in rows], [FOUND] * 5)


def test_absent_and_damaged_cells_give_zeros_and_leave_their_neighbours_alone() -> None:
    rows = random_rows(5, 16)
    cells = [naive_cell(int(i), bytes(r)) for i, r in zip(EDGE_IDS, rows, strict=True)]
    zeros = bytes(16)
    cells[0] = b""
    cells[1] = cells[1][:-1]
    cells[3] = cells[3] + b"x"
    expected_rows = [zeros, zeros, bytes(rows[2]), zeros, bytes(rows[4])]
    assert unpack(cells, EDGE_IDS, 16) == (expected_rows, [ABSENT, DAMAGED, FOUND, DAMAGED, FOUND])


def test_wrong_lengths_that_sum_to_the_right_one_are_noticed() -> None:
    rows = random_rows(3, 16)
    ids = EDGE_IDS[:3]
    cells = [naive_cell(int(i), bytes(r)) for i, r in zip(ids, rows, strict=True)]
    uneven = [cells[0] + b"more", cells[1][:-4], cells[2]]
    assert unpack(uneven, ids, 16) == ([bytes(16), bytes(16), bytes(rows[2])], [DAMAGED, DAMAGED, FOUND])


def test_every_flipped_bit_is_noticed() -> None:
    row = bytes(random_rows(1, 20)[0])
    cell = naive_cell(7, row)
    ids = np.array([7], np.uint64)
    for bit in range(8 * len(cell)):
        flipped = bytearray(cell)
        flipped[bit // 8] ^= 1 << (bit % 8)
        assert unpack([bytes(flipped)], ids, 20) == ([bytes(20)], [DAMAGED]), bit


def test_a_cell_of_another_id_is_damaged() -> None:
    assert unpack([naive_cell(8, bytes(12))], np.array([7], np.uint64), 12)[1] == [DAMAGED]


def test_no_ids_at_all() -> None:
    assert unpack([], np.empty(0, np.uint64), 16) == ([], [])
    assert encode_cells(np.empty(0, np.uint64), np.empty((0, 16), np.uint8)).shape == (0, 24)


def test_more_ids_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="5 ids for 4 rows"):
        encode_cells(EDGE_IDS, random_rows(4, 8))
    with pytest.raises(ValueError, match="5 ids"):
        unpack_cells([b""] * 5, EDGE_IDS, random_rows(4, 8), np.empty(5, np.uint8))


def test_read_only_inputs_do_not_compile_anew() -> None:
    ids = np.frombuffer(EDGE_IDS.tobytes(), np.uint64)
    rows = np.frombuffer(random_rows(5, 8).tobytes(), np.uint8).reshape(5, 8)
    cells = encode_cells(ids, rows)
    assert unpack([bytes(c) for c in cells], ids, 8)[1] == [FOUND] * 5
    assert len(xxh64.signatures) == 1


def test_kernels_do_the_same_without_the_jit() -> None:
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore:overflow:RuntimeWarning",
        "-k",
        "zeros or sum_to or checksum_and_row",
    ]
    command = [sys.executable, "-m", "pytest", *options, __file__]
    without_jit = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(command, env=without_jit, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
