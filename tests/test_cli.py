"""The commands, as a user meets them: what they print, their exit codes, and that nothing is left half-done."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pyarrow
import pytest
from pyarrow import feather, parquet
from rich.console import Console
from safetensors.numpy import load_file, save_file

from embcache import __version__
from embcache.cli.plan import need, parse_rows
from embcache.cli.tables import opened
from embcache.cli.transfer import TableFormat, import_file
from embcache_client import Client, hash_values
from embcache_storage.files import FORMATS
from embcache_storage.rocks import RocksOptions, RocksStore
from tests.commands import Run


@pytest.fixture(scope="module")
def rows() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(7).normal(size=(500, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """The option for a service that is not running."""
    folder = tmp_path_factory.mktemp("stopped")
    (folder / "config.toml").write_text('[warm]\ncapacity = "4MiB"\n[[table]]\nname = "empty"\ndim = 2\n')
    return ["--config", folder / "config.toml"]


class Service(NamedTuple):
    url: str
    config: Path
    pid: int


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    config = tmp_path_factory.mktemp("running") / "config.toml"
    config.write_text('[warm]\ncapacity = "4MiB"\n[[table]]\nname = "empty"\ndim = 2\n')
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environment = {**os.environ, "EMBCACHE_SERVER__PORT": str(port)}
    command = [sys.executable, "-m", "embcache", "serve", str(config)]
    log = config.with_name("log")
    with log.open("wb") as output, subprocess.Popen(command, env=environment, stderr=output) as process:
        try:
            _await_ready(f"http://127.0.0.1:{port}/readyz", process, log)
            yield Service(f"http://127.0.0.1:{port}", config, process.pid)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


@pytest.fixture
def running(service: Service) -> list[object]:
    """The option for a service that is running."""
    return ["--url", service.url]


def _await_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:  # nobody there, not ready, or busy compiling
            time.sleep(0.05)
    raise AssertionError(f"{url} was not ready in time")


@pytest.fixture(params=["stopped", "running"])
def place(request: pytest.FixtureRequest) -> list[object]:
    """Where the tables are: every command does the same in both."""
    option: list[object] = request.getfixturevalue(request.param)
    return option


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_table_comes_out_as_it_went_in(
    run: Run, place: list[object], tmp_path: Path, rows: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> None:
    ids = np.random.default_rng(8).permutation(10**6)[: len(rows)].astype(np.uint64)
    np.savez(tmp_path / "in.npz", ids=ids, rows=rows)
    imported = run("import", "item", tmp_path / "in.npz", *place)
    assert imported.code == 0, imported.err
    assert re.match(r"item: 500 rows in .* s \(.* rows/s\) imported, now version \d+\n$", imported.out)
    exported = run("export", "item", tmp_path / "out.npz", *place)
    assert exported.code == 0, exported.err
    with np.load(tmp_path / "out.npz") as out:
        order = np.argsort(ids)
        assert np.array_equal(out["ids"], ids[order])
        assert np.array_equal(out["rows"], rows[order])
    assert _files(tmp_path) == ["in.npz", "out.npz"]


def test_a_created_table_has_the_shape_of_the_file(run: Run, running: list[object], tmp_path: Path) -> None:
    np.save(tmp_path / "half.npy", np.ones((3, 5), np.float16))
    np.save(tmp_path / "full.npy", np.ones((4, 2), np.float32))
    assert run("import", "half", tmp_path / "half.npy", *running).code == 0
    assert run("import", "small", tmp_path / "full.npy", "--dtype", "q8", *running).code == 0
    other = run("import", "small", tmp_path / "full.npy", "--dtype", "f16", *running)
    assert (other.code, other.out) == (1, "")
    assert "table 'small' keeps q8" in other.err
    assert "'small' takes no `add`" in run("import", "small", tmp_path / "full.npy", "--add", *running).err
    for _ in range(2):
        assert run("import", "learns", tmp_path / "full.npy", "--dtype", "bf16", "--add", *running).code == 0
    listed = [line.split() for line in run("tables", *running).out.splitlines()]
    said = {line[0]: line[2:5] for line in listed[1:]}
    assert said["half"] == ["f16", "5", "3"]
    assert said["small"] == ["q8", "2", "4"]
    assert said["empty"] == ["f32", "2", "0"]


def test_a_lookup_says_where_each_row_came_from(run: Run, running: list[object], tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.arange(20, dtype=np.float32).reshape(2, 10))
    assert run("import", "shown", tmp_path / "rows.npy", *running).code == 0
    found = run("lookup", "shown", 1, 9, *running)
    one, nine = found.out.splitlines()[1:]
    assert one.split() == ["1", "cold", *map(str, range(10, 18)), "...", "2", "more"]
    assert nine.split()[:3] == ["9", "missing", "0"]
    whole = run("lookup", "shown", 0, "--whole", *running).out.splitlines()[1]
    assert whole.split()[2:] == [str(value) for value in range(10)]


def test_raw_values_are_hashed(run: Run, running: list[object], tmp_path: Path) -> None:
    red = 15910152883037974434  # of the feature "item", see docs/protocol.md
    np.savez(tmp_path / "in.npz", ids=np.array([red], np.uint64), rows=np.ones((1, 6), np.float32))
    assert run("import", "item", tmp_path / "in.npz", *running).code == 0
    found = run("lookup", "item", "red", "blue", "--values", *running).out.splitlines()[1:]
    assert [line.split()[:2] for line in found] == [["red", "cold"], ["blue", "missing"]]


def test_a_bad_file_changes_nothing(run: Run, running: list[object], tmp_path: Path) -> None:
    np.save(tmp_path / "good.npy", np.ones((3, 2), np.float32))
    np.save(tmp_path / "bad.npy", np.array([[1, 2], [3, np.nan]], np.float32))
    np.save(tmp_path / "wide.npy", np.ones((3, 4), np.float32))
    assert run("import", "kept", tmp_path / "good.npy", *running).code == 0
    for file, complaint in (
        ("bad.npy", "id 1 .* nan in column 1"),
        ("wide.npy", "table 'kept' has rows of 2, .*wide.npy has rows of 4"),
        ("absent.npy", "absent.npy: No such file or directory"),
    ):
        failed = run("import", "kept", tmp_path / file, *running)
        assert failed.code == 1
        assert re.fullmatch(rf"embcache: .*{complaint}.*\n", failed.err)
    assert run("import", "new", tmp_path / "bad.npy", *running).code == 1
    listed = run("tables", *running).out
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
    running: list[object],
    tmp_path: Path,
    suffix: str,
    rows: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> None:
    ids = np.random.default_rng(9).permutation(10**6)[: len(rows)].astype(np.uint64)
    _write_out(tmp_path / f"in{suffix}", ids, rows.astype(np.float32))
    assert run("import", "formats", tmp_path / f"in{suffix}", "--dtype", "f32", *running).code == 0
    format = ["--format", "hps"] if suffix == ".model" else []
    exported = run("export", "formats", tmp_path / f"out{suffix}", *format, *running)
    assert exported.code == 0, exported.err
    read_ids, read_rows = _read_back(tmp_path / f"out{suffix}")
    order = np.argsort(ids)
    assert np.array_equal(read_ids, ids[order])
    assert np.array_equal(read_rows, rows[order])
    assert _files(tmp_path) == [f"in{suffix}", f"out{suffix}"]


def test_a_table_keeps_the_dtype_of_its_file(run: Run, running: list[object], tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(4, 3)).astype(ml_dtypes.bfloat16)
    save_file({"emb.weight": rows}, tmp_path / "in.safetensors")
    assert run("import", "brains", tmp_path / "in.safetensors", *running).code == 0
    assert re.search(r"brains +\d+ +bf16 +3 +4 ", run("tables", *running).out)
    assert run("export", "brains", tmp_path / "out.safetensors", "--ids", "-", "--rows", "w", *running).code == 0
    tensors = load_file(tmp_path / "out.safetensors")
    assert list(tensors) == ["w"]
    assert np.array_equal(tensors["w"], rows)


@pytest.mark.parametrize("kind", ["text", "binary"])
def test_words_are_found_by_value(run: Run, service: Service, running: list[object], tmp_path: Path, kind: str) -> None:
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
        imported = run("import", "words", tmp_path / "w", *running)
        assert imported.code == 0, imported.err
        found = client.lookup({"words": [*vectors, "blue"]})["words"]
        assert found.found.tolist() == [True, True, True, False]
        assert found.rows[:3].tolist() == list(vectors.values())
        by_id = client.lookup({"words": hash_values("word", list(vectors))})["words"]
        assert by_id.rows.tolist() == list(vectors.values())
    failed = run("export", "words", tmp_path / "out.vec", *running)
    assert failed.code == 1
    assert "a table keeps the hashes alone" in failed.err
    assert _files(tmp_path) == ["w"]


def test_what_comes_last_in_a_file_may_still_end_the_import(
    run: Run, running: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows before it are on their way by then, and go nowhere."""
    monkeypatch.setattr("embcache.cli.transfer.CHUNK_BYTES", 80)
    rows = np.arange(2000, dtype=np.float32).reshape(1000, 2)
    parquet.write_table(pyarrow.table({"ids": np.arange(1000), "rows": rows.tolist()}), tmp_path / "good.parquet")
    assert run("import", "last", tmp_path / "good.parquet", *running).code == 0
    rows[-1, 1] = np.inf
    parquet.write_table(pyarrow.table({"ids": np.arange(1000), "rows": (rows + 1).tolist()}), tmp_path / "bad.parquet")
    failed = run("import", "last", tmp_path / "bad.parquet", *running)
    assert failed.code == 1
    assert re.fullmatch(r"embcache: .*bad.parquet: id 999 \(row 999\) has inf in column 1: not finite\n", failed.err)
    assert run("import", "fresh", tmp_path / "bad.parquet", *running).code == 1
    assert "fresh" not in run("tables", *running).out
    shown = run("lookup", "last", 0, 998, *running).out.splitlines()[1:]
    assert [line.split()[2:] for line in shown] == [["0", "1"], ["1996", "1997"]]


def test_progress_is_told_where_no_terminal_shows_it(
    run: Run, running: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "in.npz", ids=np.arange(500)[::-1], rows=np.ones((500, 2), np.float32))
    assert run("import", "spoken", tmp_path / "in.npz", *running).err == ""  # it is done too soon for that
    monkeypatch.setattr("embcache.cli.transfer.LINE_SECONDS", 0.0)
    lines = run("import", "spoken", tmp_path / "in.npz", *running).err.splitlines()
    assert lines == [f"{what}: 500 of 500 rows (100%)" for what in ("sort in.npz", "import spoken")]
    lines = run("export", "spoken", tmp_path / "out.npz", *running).err.splitlines()
    assert lines == ["export spoken: 500 of 500 rows (100%)"]


def test_progress_is_a_bar_on_a_terminal(stopped: list[object], tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", ids=np.arange(500)[::-1], rows=np.ones((500, 2), np.float32))
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=120)
    with opened(Path(str(stopped[1])), None, None) as tables:
        import_file(tables, "barred", tmp_path / "in.npz", TableFormat(), None, False, console)
    assert re.search(r"sort in.npz.*100%.*500 of 500", shown.getvalue())
    assert re.search(r"import barred.*100%.*500 of 500", shown.getvalue())


def test_help_names_every_format(run: Run) -> None:
    for command in ("import", "export"):
        said = " ".join(run(command, "--help").out.split())
        assert all(re.search(rf"\b{format.name}\b", said) for format in FORMATS), command


def test_a_failed_export_leaves_no_file(run: Run, running: list[object], tmp_path: Path) -> None:
    ids = np.array([5, 6], np.uint64)
    np.savez(tmp_path / "in.npz", ids=ids, rows=np.ones((2, 3), np.float32))
    assert run("import", "gaps", tmp_path / "in.npz", *running).code == 0
    failed = run("export", "gaps", tmp_path / "out.npy", *running)
    assert (failed.code, failed.out) == (1, "")
    assert "there is no row for id 0" in failed.err
    unknown = run("export", "gasp", tmp_path / "out.npz", *running)
    assert unknown.code == 1
    assert unknown.err == "embcache: there is no table 'gasp'; the nearest is gaps\n"
    assert _files(tmp_path) == ["in.npz"]


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["tables"], 2, "give either --config CONFIG .* EMBCACHE_URL"),
        (["drop", "item"], 2, "give either --config CONFIG"),
        (["tables", "--config", "a.toml", "--url", "http://localhost"], 2, "give either --config CONFIG"),
        (["lookup", "item", "x", "--url", "http://localhost"], 2, "'x' is no feature ID"),
        (["lookup", "item", str(2**64), "--url", "http://localhost"], 2, "is no feature ID"),
        (["import", "item", "x.csv", "--format", "csv", "--url", "http://localhost"], 2, "'csv' is none of npy, npz"),
        (["export", "item", "x", "--format", "csv", "--url", "http://localhost"], 2, "'csv' is none of npy, npz"),
        (["tables", "--config", "nowhere.toml"], 1, "nowhere.toml: cannot be read: No such file"),
        (["serve", "nowhere.toml"], 1, "nowhere.toml: cannot be read: No such file"),
        (["tables", "--url", "ftp://host"], 1, "--url: 'ftp://host' is neither http://"),
        (["tables", "--url", "http+unix:///nowhere.sock"], 1, "no connection to http[+]unix:///nowhere.sock"),
        (["plan", "many", "64"], 2, "'many' is no number of rows"),
        (["plan", "1.5", "64"], 2, "'1.5' is no number of rows"),
        (["plan", "10", "64", "q8", "--dtype", "q8"], 2, "give it once"),
        (["plan", "10", "64", "f64"], 2, "'f64' is none of f32, f16, bf16, q8"),
        (["imprt", "item"], 2, "No such command 'imprt'"),
    ],
)
def test_a_mistake_is_one_clear_line(run: Run, arguments: list[str], code: int, complaint: str) -> None:
    failed = run(*arguments)
    assert (failed.code, failed.out) == (code, "")
    assert re.search(complaint, failed.err.splitlines()[-1])
    assert "Traceback" not in failed.err
    if code == 1:
        assert failed.err.startswith("embcache: ")
        assert failed.err.count("\n") == 1


def test_data_in_use_is_left_alone(run: Run, service: Service) -> None:
    failed = run("tables", "--config", service.config)
    assert failed.code == 1
    assert re.fullmatch(
        rf"embcache: cold.path .*data: process {service.pid} has it open;.* or give --url http://.*\n", failed.err
    )
    assert failed.err.count("has it open") == 1
    assert "LOCK" not in failed.err


def test_the_url_may_come_from_the_environment(
    run: Run, service: Service, stopped: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBCACHE_URL", service.url)
    assert run("tables").out == run("tables", "--url", service.url).out
    monkeypatch.setenv("EMBCACHE_URL", "http+unix:///nowhere.sock")
    assert run("tables").code == 1
    assert run("tables", "--url", service.url).code == 0
    assert run("tables", *stopped).code == 0


def test_a_table_is_dropped_when_that_was_confirmed(
    run: Run, place: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "rows.npy", np.ones((3, 2), np.float32))
    assert run("import", "old", tmp_path / "rows.npy", *place).code == 0
    for answer in ("n\n", "\n", ""):
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        refused = run("drop", "old", *place)
        assert refused.code == 1
        assert "drop old and its 3 rows?" in refused.err
    assert "old" in run("tables", *place).out
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert run("drop", "old", *place).out.strip() == "old: dropped, with 3 rows"
    assert run("import", "old", tmp_path / "rows.npy", *place).code == 0
    assert run("drop", "old", "--yes", *place).code == 0
    assert "old" not in run("tables", *place).out
    absent = run("drop", "old", "--yes", *place)
    assert (absent.code, absent.out) == (1, "")
    assert "there is no table 'old'" in absent.err
    assert "EMBCACHE" not in absent.err


def test_the_version_is_told(run: Run) -> None:
    assert run("--version") == (0, f"embcache {__version__}\n", "")


def test_a_value_may_begin_with_a_dash(run: Run, stopped: list[object]) -> None:
    found = run("lookup", "empty", "--values", *stopped, "--", "-1")
    assert found.out.splitlines()[1].split()[:2] == ["-1", "missing"]
    assert "lookup item --values -- -red" in " ".join(run("lookup", "--help").out.split())


def test_an_unforeseen_error_is_one_line_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(text: str) -> int:
        raise RuntimeError("the unforeseen")

    monkeypatch.setattr("embcache.cli.plan.parse_rows", broken)
    failed = run("plan", "10", "64")
    assert failed.code == 1
    assert failed.err == "embcache: unforeseen: RuntimeError('the unforeseen') (EMBCACHE_TRACEBACK=1 shows where)\n"


def test_the_module_is_the_command() -> None:
    shown = subprocess.run([sys.executable, "-m", "embcache", "--help"], capture_output=True, text=True, check=True)
    for command in ("serve", "import", "export", "tables", "drop", "lookup", "plan"):
        assert re.search(rf"^  {command} ", shown.stdout, re.MULTILINE)


def test_plan_says_what_fits(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[warm]\ncapacity = "1GiB"')
    planned = run("plan", "100M", 64, "--config", tmp_path / "config.toml").out.splitlines()
    assert [line.split()[:3] for line in planned[1:5]] == [
        ["f32", "256", "B"],
        ["f16", "128", "B"],
        ["bf16", "128", "B"],
        ["q8", "72", "B"],
    ]
    share = re.search(r"([\d.]+)% \(([\d,]+)\)", planned[1])
    assert share
    assert 3.5 < float(share[1]) < 4.2  # 1 GiB of 25.6 GB of rows
    hot = re.match(r"hot \(GPU memory\): 8.0 GiB hold ([\d,]+) as f32, ", planned[5])
    assert hot
    assert 0.9 < int(hot[1].replace(",", "")) / (8 * 2**30 / 274) <= 1.0  # 256 bytes, and 18 beside them
    coded = run("plan", "1000", 64, "q8", "--config", tmp_path / "config.toml").out
    assert " all " in coded
    assert run("plan", "1000", 64, "--dtype", "q8", "--config", tmp_path / "config.toml").out == coded


@pytest.mark.parametrize(
    ("text", "rows"), [("1_000", 1000), ("1e6", 10**6), ("2.5M", 2_500_000), ("2.3m", 2_300_000), ("1B", 10**9)]
)
def test_numbers_of_rows(text: str, rows: int) -> None:
    assert parse_rows(text) == rows


@pytest.mark.parametrize("text", ["", "M", "-1", "0", "1.5", "0.0001K", "1e30", "1e999999999B", "nan", "ten"])
def test_what_is_no_number_of_rows(text: str) -> None:
    with pytest.raises(ValueError, match="is no number of rows"):
        parse_rows(text)


@pytest.mark.parametrize(("add", "row_bytes"), [(False, 128), (True, 256)])
def test_the_plan_for_the_disk_is_what_the_disk_takes(tmp_path: Path, add: bool, row_bytes: int) -> None:
    wanted = need(50_000, 64, "f16", add=add)
    store = RocksStore(tmp_path, RocksOptions())
    try:
        load = store.bulk(1, row_bytes)
        load.add(np.arange(wanted.rows, dtype=np.uint64) * 977, np.ones((wanted.rows, row_bytes), np.uint8))
        load.commit()
        assert 0.9 < store.disk_bytes(1) / wanted.cold < 1.1
    finally:
        store.close()


def test_the_readme_is_true(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python and its commands, in their order, against a service as it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    text = (Path(__file__).parent.parent / "README.md").read_text().replace("http://127.0.0.1:7070", service.url)
    text = text.replace('attach("data")', f"attach({str(service.config.with_name('data'))!r})")
    with Client(service.url) as client:
        client.drop_table("item")  # of the tests above
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```|((?:^    (?:embcache|curl) [^\n]*\n)+)", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 6
    for code, commands in blocks:
        exec(code, names)
        for command in commands.splitlines():
            if command.split()[1] != "serve" and shutil.which(command.split()[0]):
                done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
                assert done.returncode == 0, (command, done.stderr)
                assert not done.stdout.startswith('{"error"'), (command, done.stdout)
    result = names["result"]
    assert result["item"].found.tolist() == [True, True, False]  # type: ignore[index]


def test_the_page_on_files_is_true(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python and its commands, in their order; those with PyTorch files where PyTorch is installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    text = (Path(__file__).parent.parent / "docs/files.md").read_text().replace("http://127.0.0.1:7070", service.url)
    with Client(service.url) as client:
        client.drop_table("item")  # of the tests above
    python = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert python
    exec(python[1], {})
    has_torch = find_spec("torch") is not None
    if has_torch:
        torch = import_module("torch")
        torch.save({"state_dict": {"item_embedding.weight": torch.ones(5, 8)}, "epoch": 1}, "model.pt")
    commands = re.findall(r"^    (embcache [^\n]*)$", text, re.MULTILINE)
    assert len(commands) == 8
    for command in commands:
        if has_torch or ".pt " not in command:
            done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
            assert done.returncode == 0, (command, done.stderr)
    assert _files(tmp_path / "copy.model") == ["emb_vector", "key"]


def test_the_page_on_tables_is_true(
    run: Run, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Python and its commands, in their order; and its options are there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMBCACHE_URL", service.url)
    text = (Path(__file__).parent.parent / "docs/tables.md").read_text().replace("http://127.0.0.1:7070", service.url)
    text = re.sub(r"\bitem\b", "life", text)  # a name that no test has used, since versions are numbered by name
    blocks = re.findall(r"```python\n(.*?)```|^    (embcache [^\n]*)$", text, re.DOTALL | re.MULTILINE)
    assert sum(bool(command) for _, command in blocks) == 15
    names: dict[str, Any] = {}
    since = ""
    with contextlib.ExitStack() as stack:
        for code, command in blocks:
            exec(code, names)
            if "client" in names and not command:
                stack.callback(names["client"].close)
            if command:
                done = run(*shlex.split(command.replace("--since 6", since))[1:])
                assert done.code == 0, (command, done.err)
                told = re.search(r"--since \d+", done.out)
                since = told[0] if told else since
    commands = ("stage", "switch", "import", "drop-version", "export", "apply")
    helps = " ".join(run(command, "--help").out for command in commands)
    assert set(re.findall(r"--[a-z-]+", text)) <= set(re.findall(r"--[a-z-]+", helps))


def test_the_page_on_files_names_every_format() -> None:
    text = (Path(__file__).parent.parent / "docs/files.md").read_text()
    table = text.split("## Formats")[1].split("\n\n")[1]
    said = {name for line in table.splitlines()[2:] for name in re.findall(r"`([^`]*)`", line.split("|")[1])}
    assert said == {format.name for format in FORMATS}
    for suffix in (suffix for format in FORMATS for suffix in format.suffixes if format.sink):
        assert suffix in table


def test_operations_names_every_metric(service: Service) -> None:
    with urllib.request.urlopen(f"{service.url}/metrics") as answer:
        there = set(re.findall(r"^# TYPE (\S+)", answer.read().decode(), re.MULTILINE))
    said = (Path(__file__).parent.parent / "docs/operations.md").read_text()
    assert there == set(re.findall(r"`(embcache_[a-z_]+)`", said))


def test_versions_are_staged_filled_switched_and_dropped(
    run: Run, running: list[object], tmp_path: Path, rows: np.ndarray[Any, Any]
) -> None:
    np.save(tmp_path / "one.npy", rows)
    np.save(tmp_path / "two.npy", rows + 1)

    def first(version: str) -> str:
        """What row 0 begins with, once `versions` says that this one is live."""
        listed = [line.split() for line in run("versions", "versed", *running).out.splitlines()[1:]]
        assert [line[0] for line in listed if line[1] == "live"] == [version]
        return run("lookup", "versed", 0, *running).out.splitlines()[1].split()[2]

    assert run("import", "versed", tmp_path / "one.npy", *running).code == 0
    told = run("import", "versed", tmp_path / "two.npy", "--version", "two", "--no-switch", *running)
    assert "imported into version two" in told.out
    assert first("1") == f"{rows[0, 0]:.6g}"
    told = run("switch", "versed=two", *running)
    assert told.out.startswith("versed: two is live")
    assert first("two") == f"{rows[0, 0] + 1:.6g}"
    assert run("switch", "versed=two", *running).out == "versed: two is live already\n"
    assert run("switch", "versed=1", "--warm", 0, "--no-follow", *running).out == "versed: 1 is live\n"
    assert first("1") == f"{rows[0, 0]:.6g}"
    staged = run("stage", "versed", "half", "--dtype", "f16", "--default", '{"uniform": 0.5}', "--follow", *running)
    assert staged.out == "versed: half is staged, and follows\n"
    told = run("import", "versed", tmp_path / "two.npy", "--version", "half", *running)
    assert told.out.splitlines()[1].startswith("versed: half is live")
    listed = run("versions", "versed", *running).out.splitlines()
    assert [line.split()[:5] for line in listed] == [
        ["version", "state", "follows", "dtype", "rows"],
        ["half", "live", "yes", "f16", "500"],
        ["two", "retired", "no", "f32", "500"],
        ["1", "retired", "no", "f32", "500"],
    ]
    told = run(
        "import", "versed", tmp_path / "one.npy", "--version", "brief", "--dtype", "bf16", "--no-switch", *running
    )
    assert told.code == 0
    assert ["brief", "staged", "no", "bf16"] in [
        line.split()[:4] for line in run("versions", "versed", *running).out.splitlines()
    ]
    copied = run("stage", "versed", "again", "--source", "two", "--dtype", "f32", *running)
    assert copied.out == "versed: again is staged with the rows of two\n"
    listed = run("versions", "versed", *running).out.splitlines()
    assert ["again", "staged", "no", "f32", "500"] in [line.split()[:5] for line in listed]
    for version in ("two", "1", "brief", "again"):
        assert (
            run("drop-version", "versed", version, "--yes", *running).out == f"versed: version {version} is dropped\n"
        )
    assert run("drop", "versed", "--yes", *running).code == 0


def test_versions_of_a_stopped_service(run: Run, stopped: list[object], rows: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", rows)
    for version in ("one", "two"):
        assert run("import", "still", tmp_path / "one.npy", "--version", version, *stopped).code == 0
    assert run("versions", "still", *stopped).out.splitlines()[1].split()[:5] == ["two", "live", "no", "f32", "500"]
    assert run("switch", "still=one", *stopped).out == "still: one is live\n"
    assert run("drop-version", "still", "two", "--yes", *stopped).out == "still: version two is dropped\n"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["versions", "nowhere"], 1, "no table 'nowhere'"),
        (["stage", "empty", "Next"], 1, "is no name of a version"),
        (["stage", "empty", "1"], 1, "has a version '1', which is live"),
        (["stage", "empty", "next", "--dtype", "f15"], 2, "'f15' is none of"),
        (["stage", "empty", "next", "--default", "ones"], 2, "neither zeros nor JSON"),
        (["switch", "empty"], 2, "'empty' is not TABLE=VERSION"),
        (["switch", "empty=1", "empty=2"], 2, "empty is there twice"),
        (["switch", "empty=next"], 1, "no version 'next'; the nearest is 1"),
        (["drop-version", "empty", "1", "--yes"], 1, "'1' of table 'empty' is live"),
        (["drop-version", "empty", "2", "--yes"], 1, "no version '2'"),
        (["import", "empty", "x.npy", "--no-switch"], 2, "needs --version"),
    ],
)
def test_what_is_wrong_with_a_version_is_said(
    run: Run, running: list[object], arguments: list[str], code: int, words: str
) -> None:
    told = run(*arguments, *running)
    assert told.code == code
    assert words in re.sub(r"[\s│]+", " ", told.err)
