"""safetensors, PyTorch state dicts and HPS folders: the libraries' own readers and writers are the oracle, or NumPy."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file, save_file

from embcache_storage.files import FileError, Names, open_table
from tests.storage.tablefiles import IDS, expect_error, make_rows, read_all, write

try:
    import torch
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed here")

Save = Callable[[dict[str, npt.NDArray[Any]], Path], None]


def _save_torch(arrays: dict[str, npt.NDArray[Any]], path: Path) -> None:
    torch.save({name: _tensor(array) for name, array in arrays.items()}, path)


def _tensor(array: npt.NDArray[Any]) -> Any:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


@pytest.fixture(params=["safetensors", pytest.param("torch", marks=needs_torch)])
def save(request: pytest.FixtureRequest) -> Save:
    saves: dict[str, Save] = {"safetensors": save_file, "torch": _save_torch}
    return saves[request.param]


# --- safetensors and torch: tensors by name -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_tensors_of_ids_and_rows(tmp_path: Path, save: Save, dtype: Any, kind: Any) -> None:
    rows = make_rows(4).astype(dtype)
    save({"rows": rows, "ids": np.array([9, 100, 0, 7], kind), "step": np.array([3])}, tmp_path / "t")
    source = open_table(tmp_path / "t")
    names = {np.float16: "f16", ml_dtypes.bfloat16: "bf16"}
    assert (source.count, source.dim, source.dtype) == (4, 4, names.get(dtype, "f32"))
    ids, read = read_all(source)
    assert ids.tolist() == [0, 7, 9, 100]
    np.testing.assert_array_equal(read, rows[[2, 3, 0, 1]].astype(np.float32))


def test_the_only_weight_of_a_model_is_its_rows_by_number(tmp_path: Path, save: Save) -> None:
    rows = make_rows(5)
    save({"emb.weight": rows, "bias": rows[0].copy()}, tmp_path / "t")
    ids, read = read_all(open_table(tmp_path / "t"))
    assert ids.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(read, rows)


def test_of_several_weights_one_is_named(tmp_path: Path, save: Save) -> None:
    save({"user.weight": make_rows(5), "item.weight": make_rows(3)}, tmp_path / "t")
    expect_error(tmp_path / "t", "`item.weight` [3, 4]", "`user.weight` [5, 4]", "--rows")
    expect_error(tmp_path / "t", "no tensor `tag.weight`", "`item.weight`", names=Names(rows="tag.weight"))
    read = read_all(open_table(tmp_path / "t", names=Names(rows="item.weight")))[1]
    np.testing.assert_array_equal(read, make_rows(3))


def test_what_may_be_ids_is_never_passed_over(tmp_path: Path, save: Save) -> None:
    keys = np.array([5, 3, 9])
    save({"weight": make_rows(3), "keys": keys, "shape": np.array([3, 4])}, tmp_path / "t")
    expect_error(tmp_path / "t", "no tensor `ids`, and `keys` may be the ids", "--ids")
    assert read_all(open_table(tmp_path / "t", names=Names("keys")))[0].tolist() == [3, 5, 9]
    assert read_all(open_table(tmp_path / "t", names=Names("-")))[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"rows": np.zeros((3, 4), np.int32), "ids": np.arange(3)}, ("`rows`", "int32", "float32")),
        ({"rows": np.zeros((3,), np.float32), "ids": np.arange(3)}, ("`rows`", "[3]", "[n, dim]")),
        ({"rows": np.zeros((3, 0), np.float32), "ids": np.arange(3)}, ("`rows`", "[3, 0]")),
        ({"rows": make_rows(3), "ids": np.arange(2)}, ("2 ids for 3 rows",)),
        ({"rows": make_rows(3), "ids": np.arange(3.0)}, ("`ids`", "float64", "integers")),
        ({"rows": make_rows(3), "ids": np.zeros((3, 1), int)}, ("`ids`", "[3, 1]")),
        ({"rows": make_rows(3), "ids": np.array([1, -2, 3])}, ("`ids`", "-2 in row 1")),
        ({"rows": make_rows(3), "ids": np.array([1, 2, 1])}, ("id 1 is in row 0 and again in row 2",)),
        ({"bias": np.zeros(3, np.float32)}, ("no tensor `rows`", "`bias`")),
        ({"rows": np.full((3, 4), np.inf, np.float32), "ids": np.arange(3)}, ("id 0 (row 0)", "inf", "column 0")),
    ],
)
def test_tensors_that_are_no_table(
    tmp_path: Path, save: Save, tensors: dict[str, npt.NDArray[Any]], words: tuple[str, ...]
) -> None:
    save(tensors, tmp_path / "t")
    expect_error(tmp_path / "t", *words)


def test_a_truncated_file_of_tensors_at_every_length(tmp_path: Path, save: Save) -> None:
    save({"rows": make_rows(5), "ids": IDS.astype(np.int64)}, tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    path = tmp_path / ("t.safetensors" if save is save_file else "t.pt")
    for length in range(0, len(data), 13):
        path.write_bytes(data[:length])
        expect_error(path)


# --- safetensors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("dim", [3, 4])
def test_safetensors_reads_what_is_written(tmp_path: Path, dtype: str, dim: int) -> None:
    kind = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}[dtype]
    rows = make_rows(5, dim).astype(kind)
    write(tmp_path / "t.safetensors", IDS, rows.astype(np.float32), dtype)
    tensors = load_file(tmp_path / "t.safetensors")
    assert sorted(tensors) == ["ids", "rows"]
    assert (tensors["ids"].dtype, tensors["rows"].dtype) == (np.uint64, kind)
    np.testing.assert_array_equal(tensors["ids"], IDS)
    np.testing.assert_array_equal(tensors["rows"], rows)
    header = int.from_bytes((tmp_path / "t.safetensors").read_bytes()[:8], "little")
    assert header % 8 == 0  # so that the ids, which come first, are aligned


def test_rows_between_two_bfloat16_are_rounded_to_the_nearest(tmp_path: Path) -> None:
    rows = make_rows(100, 50)
    write(tmp_path / "t.safetensors", np.arange(100, dtype=np.uint64), rows, "bf16")
    np.testing.assert_array_equal(load_file(tmp_path / "t.safetensors")["rows"], rows.astype(ml_dtypes.bfloat16))


def test_safetensors_of_types_that_are_no_floats_here(tmp_path: Path) -> None:
    save_file({"rows": np.zeros((3, 4), ml_dtypes.float8_e4m3fn), "ids": np.arange(3)}, tmp_path / "t")
    expect_error(tmp_path / "t", "`rows`", "F8_E4M3", "BF16")
    save_file({"rows": np.zeros((3, 4), bool), "ids": np.arange(3)}, tmp_path / "t")
    expect_error(tmp_path / "t", "`rows`", "bool")


def test_every_flipped_bit_of_a_safetensors_header_is_an_error_or_means_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    rows = make_rows(5)
    write(path, IDS, rows)
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    for bit in range(8 * header):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(flipped)
        try:
            ids, read = read_all(open_table(path))
        except FileError:
            continue
        # what is left of the header is JSON that says something else of the same bytes: another name or type
        assert len(ids) == 5
        assert read.shape[0] == 5
    entries = {"ids": {"dtype": "U64", "shape": [5], "data_offsets": [0, 48]}}
    text = json.dumps(entries).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(40))
    expect_error(path, "safetensors", "damaged")


# --- torch --------------------------------------------------------------------------------------------------------


@needs_torch
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_torch_reads_what_is_written(tmp_path: Path, dtype: str) -> None:
    kind = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    rows = torch.from_numpy(make_rows(4)).to(kind)
    write(tmp_path / "t.pt", IDS[:4] // 2, rows.float().numpy(), dtype)
    tensors = torch.load(tmp_path / "t.pt", weights_only=True)
    assert sorted(tensors) == ["ids", "rows"]
    assert (tensors["ids"].dtype, tensors["rows"].dtype) == (torch.int64, kind)
    assert tensors["ids"].tolist() == (IDS[:4] // 2).tolist()
    assert torch.equal(tensors["rows"], rows)


@needs_torch
def test_a_models_state_dict_and_a_checkpoint_around_it(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.EmbeddingBag(7, 3), torch.nn.Linear(3, 1))
    weight = model[0].weight.detach().numpy()
    torch.save(model.state_dict(), tmp_path / "t.pt")
    np.testing.assert_array_equal(read_all(open_table(tmp_path / "t.pt", names=Names(rows="0.weight")))[1], weight)
    torch.save({"model": model.state_dict(), "epoch": 3, "name": "x"}, tmp_path / "t.pt")
    expect_error(tmp_path / "t.pt", "`model.0.weight` [7, 3]", "--rows")
    source = open_table(tmp_path / "t.pt", names=Names(rows="model.0.weight"))
    np.testing.assert_array_equal(read_all(source)[1], weight)
    torch.save(model[0].weight, tmp_path / "t.pt")
    np.testing.assert_array_equal(read_all(open_table(tmp_path / "t.pt"))[1], weight)


@needs_torch
def test_what_torch_saved_before_it_used_archives(tmp_path: Path) -> None:
    rows = make_rows(5)
    torch.save({"rows": torch.from_numpy(rows)}, tmp_path / "t", _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(read_all(open_table(tmp_path / "t"))[1], rows)


class _Evil:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('this ran')",)


@needs_torch
def test_code_in_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    torch.save({"rows": torch.zeros(3, 4), "evil": _Evil()}, tmp_path / "t.pt")
    expect_error(tmp_path / "t.pt", "weights_only")


@needs_torch
def test_torch_tensors_that_are_no_table(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that sparse tensors are in beta
        sparse = torch.eye(3).to_sparse()
    for saved, words in (
        ({"rows": sparse}, ("no tensor `rows`",)),
        ({"rows": torch.zeros(3, 4, dtype=torch.complex64)}, ("`rows`", "complex64")),
        ({"rows": torch.zeros(3, 4).to(torch.float8_e4m3fn)}, ("`rows`", "float8_e4m3fn", "bfloat16")),
        ({"rows": torch.tensor(1.0)}, ("`rows`", "[]")),
        ([torch.zeros(3, 4)], ("list", "state dict")),
        ({}, ("no tensor `rows`", "nothing")),
    ):
        torch.save(saved, tmp_path / "t.pt")
        expect_error(tmp_path / "t.pt", *words)


@needs_torch
def test_columns_of_a_larger_tensor(tmp_path: Path) -> None:
    wide = torch.from_numpy(make_rows(6, 8))
    torch.save({"rows": wide[:, 2:5], "ids": torch.arange(12)[::2]}, tmp_path / "t.pt")
    ids, read = read_all(open_table(tmp_path / "t.pt"))
    assert ids.tolist() == [0, 2, 4, 6, 8, 10]
    np.testing.assert_array_equal(read, wide[:, 2:5].numpy())


# --- HPS ----------------------------------------------------------------------------------------------------------


def make_hps(folder: Path, keys: npt.NDArray[Any], rows: npt.NDArray[Any]) -> Path:
    folder.mkdir(exist_ok=True)
    keys.astype("<i8").tofile(folder / "key")
    rows.astype("<f4").tofile(folder / "emb_vector")
    return folder


def test_an_hps_folder(tmp_path: Path) -> None:
    rows = make_rows(4, 6)
    source = open_table(make_hps(tmp_path / "m", np.array([9, 100, 0, 2**63 - 1]), rows))
    assert (source.format, source.count, source.dim, source.dtype) == ("hps", 4, 6, "f32")
    ids, read = read_all(source)
    assert ids.tolist() == [0, 9, 100, 2**63 - 1]
    np.testing.assert_array_equal(read, rows[[2, 0, 1, 3]])


def test_an_hps_folder_that_is_written(tmp_path: Path) -> None:
    rows = make_rows(4, 6)
    ids = np.array([0, 9, 100, 2**63 - 1], np.uint64)
    write(tmp_path / "m", ids, rows, format="hps")
    np.testing.assert_array_equal(np.fromfile(tmp_path / "m" / "key", "<i8"), ids.astype(np.int64))
    np.testing.assert_array_equal(np.fromfile(tmp_path / "m" / "emb_vector", "<f4").reshape(4, 6), rows)
    assert sorted(entry.name for entry in (tmp_path / "m").iterdir()) == ["emb_vector", "key"]
    with pytest.raises(FileError, match="is there already"):
        write(tmp_path / "m", ids, rows, format="hps")
    np.testing.assert_array_equal(np.fromfile(tmp_path / "m" / "key", "<i8"), ids.astype(np.int64))


def test_hps_folders_that_are_no_table(tmp_path: Path) -> None:
    folder = make_hps(tmp_path / "m", np.array([4, -1, 2]), make_rows(3))
    expect_error(folder, f"{folder}/key has -1 in row 1")
    make_hps(folder, np.array([4, 2, 4]), make_rows(3))
    expect_error(folder, "id 4 is in row 0 and again in row 2")
    for name, size, words in (
        ("key", 23, ("key is truncated", "23 bytes")),
        ("key", 0, ("key is empty",)),
        ("key", 16, ("60 bytes", "the 2 keys")),
        ("emb_vector", 47, ("47 bytes", "the 3 keys")),
        ("emb_vector", 0, ("0 bytes",)),
    ):
        make_hps(folder, np.arange(3), make_rows(3, 5))
        (folder / name).write_bytes((folder / name).read_bytes()[:size])
        expect_error(folder, *words)
    (folder / "emb_vector").unlink()
    expect_error(folder, "no file `emb_vector`", "`key` (int64)")
    make_hps(folder, np.arange(3), make_rows(3))
    expect_error(folder, "an HPS folder has its ids in `key`", names=Names("-"))
