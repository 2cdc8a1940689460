"""What is the same for all formats of table files: how they are told apart, that they come back as they were written,
in what memory, and what happens when a library is missing or an option makes no sense."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from embcache_storage.files import FORMATS, FileError, Names, TableWriter, open_table
from tests.storage.tablefiles import make_rows, read_all, write

IDS = np.array([0, 3, 2**32, 2**40, 2**63 - 1], np.uint64)
TORCH = pytest.param(
    "torch", marks=pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed here")
)
WRITABLE = ["npz", "safetensors", "parquet", "arrow", "hps", TORCH]
NARROW = {"safetensors": ("f16", "bf16"), "torch": ("f16", "bf16"), "hps": ()}
"""What a format keeps as it is; others keep f16."""


@pytest.mark.parametrize("format", WRITABLE)
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8"])
@pytest.mark.parametrize("n", [0, 1, 5, 3000])
def test_a_table_comes_back_as_it_was_written(tmp_path: Path, format: str, dtype: str, n: int) -> None:
    ids = IDS[:n] if n <= len(IDS) else np.arange(n, dtype=np.uint64) * 7
    rows = (make_rows(n, 3).view(np.uint32) & 0xFFFF0000).view(np.float32)  # of bfloat16
    if dtype == "f16":
        rows = make_rows(n, 3, np.float16).astype(np.float32)
    write(tmp_path / "t", ids, rows, dtype, 1000, format=format)
    if n == 0 and format == "hps":
        with pytest.raises(FileError, match="empty"):
            open_table(tmp_path / "t")
        return
    source = open_table(tmp_path / "t")
    assert (source.format, source.count, source.dim) == (format, n, 3)
    assert source.dtype == (dtype if dtype in NARROW.get(format, ("f16",)) else "f32")
    read_ids, read_rows = read_all(source, 700)
    np.testing.assert_array_equal(read_ids, ids)
    np.testing.assert_array_equal(read_rows, rows)
    assert [entry.name for entry in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize("format", WRITABLE)
def test_ids_and_rows_may_have_other_names(tmp_path: Path, format: str) -> None:
    rows = make_rows(5)
    names = Names("keys", "weights")
    write(tmp_path / "t", IDS, rows, format=format, names=names)
    np.testing.assert_array_equal(read_all(open_table(tmp_path / "t", names=names))[1], rows)
    for wrong, named in ((Names("kyes", "weights"), "kyes"), (Names("keys", "wieghts"), "wieghts")):
        with pytest.raises(FileError) as caught:
            open_table(tmp_path / "t", names=wrong)
        assert f"`{named}`" in str(caught.value)
        assert str(tmp_path / "t") in str(caught.value)
    with pytest.raises(FileError, match="cannot both be called `x`"):
        TableWriter(tmp_path / "u", 4, format=format, names=Names("x", "x"))


@pytest.mark.parametrize("format", ["npy", "npz", "safetensors", "parquet", "arrow", TORCH])
def test_row_numbers_are_the_ids_where_that_is_asked_for(tmp_path: Path, format: str) -> None:
    rows = make_rows(5)
    numbered = Names(ids="-")
    write(tmp_path / "t", np.arange(5, dtype=np.uint64), rows, format=format, names=numbered)
    ids, read = read_all(open_table(tmp_path / "t", names=numbered))
    np.testing.assert_array_equal(ids, np.arange(5))
    np.testing.assert_array_equal(read, rows)
    with pytest.raises(FileError, match="no row for id 1"):
        write(tmp_path / "u", IDS, rows, format=format, names=numbered)
    assert [entry.name for entry in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize("format", WRITABLE)
@pytest.mark.parametrize("sort_bytes", [100, 1 << 20])
def test_ids_in_any_order(tmp_path: Path, format: str, sort_bytes: int) -> None:
    order = np.random.default_rng(0).permutation(500)
    ids, rows = np.arange(500, dtype=np.uint64) * 3, make_rows(500)
    _write_unsorted(tmp_path / "t", format, ids[order], rows[order])
    there: list[int] = []
    read_ids, read_rows = read_all(open_table(tmp_path / "t"), 60, sort_bytes=sort_bytes, sorting=there.append)
    np.testing.assert_array_equal(read_ids, ids)
    np.testing.assert_array_equal(read_rows, rows)
    assert sum(there) == 500
    order[10] = order[400]
    _write_unsorted(tmp_path / "t", format, ids[order], rows[order])
    with pytest.raises(
        FileError, match=rf"{tmp_path}/t: id {3 * order[10]} is in row 10 and again in row 400; ids must"
    ):
        read_all(open_table(tmp_path / "t"), 60, sort_bytes=sort_bytes)


def _write_unsorted(path: Path, format: str, ids: npt.NDArray[np.uint64], rows: npt.NDArray[Any]) -> None:
    """As the writer would, were ids not to ascend."""
    remove(path)
    with TableWriter(path, rows.shape[1], format=format) as writer:
        for start in range(0, len(ids), 90):
            writer._sink.write(ids[start : start + 90], rows[start : start + 90])


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("format", WRITABLE)
def test_a_value_that_is_not_finite_is_named(tmp_path: Path, format: str) -> None:
    rows = make_rows(5)
    rows[3, 2] = np.nan
    write(tmp_path / "t", IDS, rows, format=format)
    with pytest.raises(FileError, match=rf"{tmp_path}/t: id {2**40} \(row 3\) has nan in column 2: not finite"):
        read_all(open_table(tmp_path / "t"))


@pytest.mark.parametrize("format", WRITABLE)
def test_an_error_leaves_nothing(tmp_path: Path, format: str) -> None:
    with pytest.raises(ValueError, match="ascend"):
        write(tmp_path / "t", IDS[::-1], make_rows(5), format=format, step=1)
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileError, match="no folder"):
        TableWriter(tmp_path / "none" / "t", 4, format=format)


@pytest.mark.parametrize("format", ["hps", TORCH])
def test_ids_that_an_int64_cannot_hold_are_named(tmp_path: Path, format: str) -> None:
    with pytest.raises(FileError, match=rf"id {2**63} is more than.*int64.*write an? \."):
        write(tmp_path / "t", np.array([1, 2**63], np.uint64), make_rows(2), format=format)
    assert not list(tmp_path.iterdir())


def test_words_cannot_be_written(tmp_path: Path) -> None:
    for name, format in (("t.vec", None), ("t", "word2vec-text"), ("t", "word2vec-binary")):
        with pytest.raises(FileError, match="hashes alone; export it as one of npy, npz"):
            TableWriter(tmp_path / name, 4, format=format)


def test_an_unknown_format_is_told_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"")
    with pytest.raises(FileError, match="no format 'csv'; there are npy, npz, safetensors"):
        open_table(tmp_path / "t", "csv")
    with pytest.raises(FileError, match="no folder: hps takes one"):
        open_table(tmp_path / "t", "hps")
    with pytest.raises(FileError, match=r"is a folder: hps takes one, .* and parquet one of parts"):
        open_table(tmp_path, "npz")


@pytest.mark.parametrize("suffix", [suffix for format in FORMATS for suffix in format.suffixes])
def test_the_name_says_what_an_empty_file_should_have_been(tmp_path: Path, suffix: str) -> None:
    if suffix in (".pt", ".pth") and find_spec("torch") is None:
        pytest.skip("PyTorch is not installed here")
    (tmp_path / f"t{suffix}").write_bytes(b"")
    with pytest.raises(FileError, match=f"t{suffix}"):
        open_table(tmp_path / f"t{suffix}", names=Names(hashed=lambda words: np.empty(0, np.uint64)))


@pytest.mark.parametrize(
    ("name", "library", "install"),
    [
        ("t.parquet", "pyarrow", "embcache[io]"),
        ("t.feather", "pyarrow", "embcache[io]"),
        ("t.safetensors", "safetensors", "embcache[io]"),
        ("t.pt", "torch", "pytorch.org"),
    ],
)
def test_a_missing_library_is_named_with_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str, install: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(FileError) as caught:
        open_table(tmp_path / name)
    assert f"takes {library}, which is not installed here" in str(caught.value)
    assert install in str(caught.value)
    if library != "safetensors":  # which is written without it
        with pytest.raises(FileError, match=f"takes {library}, which is not"):
            TableWriter(tmp_path / name, 4)


_GROWTH = """
import sys
from pathlib import Path
import numpy as np
from embcache_storage.files import Names, TableWriter, open_table
from tests.storage.test_files_formats import _write_large, remove, resident

def opened(n):
    _write_large(path, format, order, n)
    return open_table(path, format, Names(hashed=lambda words: np.array(words, "S8").astype(np.uint64)))

path, format, order, n = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
assert len(list(opened(10).sorted_chunks(10))) == 1  # libraries are loaded, kernels compiled
before = resident()
remove(path)
source = opened(n)
most = 0
for ids, rows in source.sorted_chunks(5_000, sort_bytes=16 << 20):
    most = max(most, resident())
print(most - before, source.count)
"""
_LARGE = 250_000


def resident() -> int:
    """Bytes of this process's memory that are its own: what is mapped from a file gives way to others."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


def _write_large(path: Path, format: str, order: str, n: int) -> None:
    """A file of n rows of 64 float32, made piece by piece."""
    dim = 64
    row = np.ones((1, dim), np.float32)
    ids = np.arange(n, dtype=np.uint64)
    if order == "reversed":
        ids = ids[::-1]
    if format.startswith("word2vec"):
        vector = (b" ".join([b"0.125"] * dim) if format == "word2vec-text" else row.tobytes()) + b"\n"
        with path.open("wb") as file:
            file.write(b"%d %d\n" % (n, dim))
            for start in range(0, n, 1000):
                file.write(b"".join(b"%d %s" % (id, vector) for id in ids[start : start + 1000].tolist()))
    else:
        with TableWriter(path, dim, format=format) as writer:
            for start in range(0, n, 5000):
                piece = ids[start : start + 5000]
                writer._sink.write(piece, np.repeat(row, len(piece), 0))


@pytest.mark.parametrize("order", ["ascending", "reversed"])
@pytest.mark.parametrize("format", [*WRITABLE, "word2vec-text", "word2vec-binary"])
def test_memory_stays_flat(tmp_path: Path, format: str, order: str) -> None:
    command = [sys.executable, "-c", _GROWTH, str(tmp_path / "t"), format, order, str(_LARGE)]
    shown = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert not shown.returncode, shown.stderr
    growth, count = map(int, shown.stdout.split())
    assert count == _LARGE
    assert growth < 44 << 20, f"{growth >> 20} MiB more for a file of 61 MiB, of which sorting may take 16"
