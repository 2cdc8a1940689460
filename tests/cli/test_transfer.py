"""`embcache import` and `export`: what comes out is what went in, in every format, and nothing is left half-done."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow
import pytest
from numpy.typing import NDArray
from pyarrow import feather, parquet
from safetensors.numpy import load_file, save_file

from embcache_client import Client, hash_values
from embcache_storage.files import FORMATS
from tests.commands import Run
from tests.service.running import Running


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_table_comes_out_as_it_went_in(
    run: Run, place: list[object], tmp_path: Path, rows: NDArray[np.float32]
) -> None:
    ids = np.random.default_rng(8).permutation(10**6)[: len(rows)].astype(np.uint64)
    np.savez(tmp_path / "in.npz", ids=ids, rows=rows)
    imported = run("import", "round", tmp_path / "in.npz", *place)
    assert imported.code == 0, imported.err
    assert re.match(r"round: 500 rows in .* s \(.* rows/s\) imported, now version \d+\n$", imported.out)
    exported = run("export", "round", tmp_path / "out.npz", *place)
    assert exported.code == 0, exported.err
    with np.load(tmp_path / "out.npz") as out:
        order = np.argsort(ids)
        assert np.array_equal(out["ids"], ids[order])
        assert np.array_equal(out["rows"], rows[order])
    assert _files(tmp_path) == ["in.npz", "out.npz"]


def test_a_created_table_has_the_shape_of_the_file(run: Run, there: list[object], tmp_path: Path) -> None:
    np.save(tmp_path / "half.npy", np.ones((3, 5), np.float16))
    np.save(tmp_path / "full.npy", np.ones((4, 2), np.float32))
    assert run("import", "half", tmp_path / "half.npy", *there).code == 0
    assert run("import", "small", tmp_path / "full.npy", "--dtype", "q8", *there).code == 0
    other = run("import", "small", tmp_path / "full.npy", "--dtype", "f16", *there)
    assert (other.code, other.out) == (1, "")
    assert "table 'small' keeps q8" in other.err
    assert "'small' takes no `add`" in run("import", "small", tmp_path / "full.npy", "--add", *there).err
    for _ in range(2):
        assert run("import", "learns", tmp_path / "full.npy", "--dtype", "bf16", "--add", *there).code == 0
    listed = [line.split() for line in run("tables", *there).out.splitlines()]
    said = {line[0]: line[2:5] for line in listed[1:]}
    assert said["half"] == ["f16", "5", "3"]
    assert said["small"] == ["q8", "2", "4"]
    assert said["empty"] == ["f32", "2", "0"]


def test_a_bad_file_changes_nothing(run: Run, there: list[object], tmp_path: Path) -> None:
    np.save(tmp_path / "good.npy", np.ones((3, 2), np.float32))
    np.save(tmp_path / "bad.npy", np.array([[1, 2], [3, np.nan]], np.float32))
    np.save(tmp_path / "wide.npy", np.ones((3, 4), np.float32))
    assert run("import", "kept", tmp_path / "good.npy", *there).code == 0
    for file, complaint in (
        ("bad.npy", "id 1 .* nan in column 1"),
        ("wide.npy", "table 'kept' has rows of 2, .*wide.npy has rows of 4"),
        ("absent.npy", "absent.npy: No such file or directory"),
    ):
        failed = run("import", "kept", tmp_path / file, *there)
        assert failed.code == 1
        assert re.fullmatch(rf"embcache: .*{complaint}.*\n", failed.err)
    assert run("import", "new", tmp_path / "bad.npy", *there).code == 1
    listed = run("tables", *there).out
    assert "new" not in listed
    assert re.search(r"kept +\d+ +f32 +2 +3 ", listed)


def _read_back(path: Path) -> tuple[Any, Any]:
    """(ids, rows) by what other people read such a file with."""
    match path.suffix:
        case ".safetensors":
            tensors = load_file(path)
            return tensors["ids"], tensors["rows"]
        case ".parquet" | ".feather":
            table = (parquet if path.suffix == ".parquet" else feather).read_table(path)
            return np.array(table["ids"]), np.stack(table["rows"].to_numpy())
        case _:
            ids = np.fromfile(path / "key", "<i8")
            return ids, np.fromfile(path / "emb_vector", "<f4").reshape(len(ids), -1)


def _write_out(path: Path, ids: Any, rows: Any) -> None:
    """A file as other people write it."""
    match path.suffix:
        case ".safetensors":
            save_file({"ids": ids, "rows": rows}, path)
        case ".parquet":
            parquet.write_table(pyarrow.table({"ids": ids, "rows": rows.tolist()}), path)
        case ".feather":
            feather.write_feather(pyarrow.table({"ids": ids, "rows": rows.tolist()}), str(path))
        case _:
            path.mkdir()
            ids.astype("<i8").tofile(path / "key")
            rows.tofile(path / "emb_vector")


@pytest.mark.parametrize("suffix", [".safetensors", ".parquet", ".feather", ".model"])
def test_other_formats_come_out_as_they_went_in(
    run: Run,
    there: list[object],
    tmp_path: Path,
    suffix: str,
    rows: NDArray[np.float32],
) -> None:
    ids = np.random.default_rng(9).permutation(10**6)[: len(rows)].astype(np.uint64)
    _write_out(tmp_path / f"in{suffix}", ids, rows.astype(np.float32))
    assert run("import", "formats", tmp_path / f"in{suffix}", "--dtype", "f32", *there).code == 0
    format = ["--format", "hps"] if suffix == ".model" else []
    exported = run("export", "formats", tmp_path / f"out{suffix}", *format, *there)
    assert exported.code == 0, exported.err
    read_ids, read_rows = _read_back(tmp_path / f"out{suffix}")
    order = np.argsort(ids)
    assert np.array_equal(read_ids, ids[order])
    assert np.array_equal(read_rows, rows[order])
    assert _files(tmp_path) == [f"in{suffix}", f"out{suffix}"]


def test_a_table_keeps_the_dtype_of_its_file(run: Run, there: list[object], tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(4, 3)).astype(ml_dtypes.bfloat16)
    save_file({"emb.weight": rows}, tmp_path / "in.safetensors")
    assert run("import", "brains", tmp_path / "in.safetensors", *there).code == 0
    assert re.search(r"brains +\d+ +bf16 +3 +4 ", run("tables", *there).out)
    assert run("export", "brains", tmp_path / "out.safetensors", "--ids", "-", "--rows", "w", *there).code == 0
    tensors = load_file(tmp_path / "out.safetensors")
    assert list(tensors) == ["w"]
    assert np.array_equal(tensors["w"], rows)


@pytest.mark.parametrize("kind", ["text", "binary"])
def test_words_are_found_by_value(run: Run, service: Running, there: list[object], tmp_path: Path, kind: str) -> None:
    """Words become ids by the feature of the table, whose name need not be the table's."""
    vectors = {"red": [0.5, 2.0], "na\u00efve": [1.0, -3.0], "x": [0.0, 7.0]}
    with Client(service.url) as client:
        client.create_table({"name": "words", "dim": 2, "feature": "word"})
        with (tmp_path / "w").open("wb") as file:
            file.write(b"3 2\n")
            for word, vector in vectors.items():
                text = " ".join(map(str, vector)).encode()
                file.write(
                    word.encode() + b" " + (text if kind == "text" else np.array(vector, "<f4").tobytes()) + b"\n"
                )
        imported = run("import", "words", tmp_path / "w", *there)
        assert imported.code == 0, imported.err
        found = client.lookup({"words": [*vectors, "blue"]})["words"]
        assert found.found.tolist() == [True, True, True, False]
        assert found.rows[:3].tolist() == list(vectors.values())
        by_id = client.lookup({"words": hash_values("word", list(vectors))})["words"]
        assert by_id.rows.tolist() == list(vectors.values())
    failed = run("export", "words", tmp_path / "out.vec", *there)
    assert failed.code == 1
    assert "a table keeps the hashes alone" in failed.err
    assert _files(tmp_path) == ["w"]


def test_what_comes_last_in_a_file_may_still_end_the_import(
    run: Run, there: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows before it are on their way by then, and go nowhere."""
    monkeypatch.setattr("embcache.cli.transfer.CHUNK_BYTES", 80)
    rows = np.arange(2000, dtype=np.float32).reshape(1000, 2)
    parquet.write_table(pyarrow.table({"ids": np.arange(1000), "rows": rows.tolist()}), tmp_path / "good.parquet")
    assert run("import", "last", tmp_path / "good.parquet", *there).code == 0
    rows[-1, 1] = np.inf
    parquet.write_table(pyarrow.table({"ids": np.arange(1000), "rows": (rows + 1).tolist()}), tmp_path / "bad.parquet")
    failed = run("import", "last", tmp_path / "bad.parquet", *there)
    assert failed.code == 1
    assert re.fullmatch(r"embcache: .*bad.parquet: id 999 \(row 999\) has inf in column 1: not finite\n", failed.err)
    assert run("import", "fresh", tmp_path / "bad.parquet", *there).code == 1
    assert "fresh" not in run("tables", *there).out
    shown = run("lookup", "last", 0, 998, *there).out.splitlines()[1:]
    assert [line.split()[2:] for line in shown] == [["0", "1"], ["1996", "1997"]]


def test_help_names_every_format(run: Run) -> None:
    for command in ("import", "export"):
        said = " ".join(run(command, "--help").out.split())
        assert all(re.search(rf"\b{format.name}\b", said) for format in FORMATS), command


def test_a_failed_export_leaves_no_file(run: Run, there: list[object], tmp_path: Path) -> None:
    ids = np.array([5, 6], np.uint64)
    np.savez(tmp_path / "in.npz", ids=ids, rows=np.ones((2, 3), np.float32))
    assert run("import", "gaps", tmp_path / "in.npz", *there).code == 0
    failed = run("export", "gaps", tmp_path / "out.npy", *there)
    assert (failed.code, failed.out) == (1, "")
    assert "there is no row for id 0" in failed.err
    unknown = run("export", "gasp", tmp_path / "out.npz", *there)
    assert unknown.code == 1
    assert unknown.err == "embcache: there is no table 'gasp'; the nearest is gaps\n"
    assert _files(tmp_path) == ["in.npz"]
