"""The demo as a process: it prints its table, checks rows, serves on, and leaves nothing behind."""

from __future__ import annotations

import re
import signal
import subprocess
import urllib.request
from contextlib import AbstractContextManager
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from loadtest.demo import say_results
from loadtest.replay import Replayed, RowsDiffer
from loadtest.workloads import rows_from_ids
from tests.loadtest.interrupted import leftovers, loadtest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A table of 500 rows with sequences, and a trace."""
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(1)
    np.save(folder / "shop_items.npy", rng.standard_normal((500, 8)).astype(np.float32))
    np.savez(folder / "shop_sequences.npz", ids=rng.integers(0, 500, 600, np.uint64), lengths=np.full(100, 6))
    np.savez(folder / "clicks_trace.npz", ids=rng.integers(0, 300, 2_000, np.uint64))
    (folder / "torn.npz").write_bytes(b"PK\x03\x04 and no more")
    return folder


def demo(tmp_path: Path, **variables: str) -> AbstractContextManager[subprocess.Popen[str]]:
    return loadtest(tmp_path, "demo", "--seconds", "3", **variables)


def test_once_prints_the_table_and_ends(tmp_path: Path, data: Path) -> None:
    with demo(tmp_path, DATA=str(data), DEMO_ONCE="1") as process:
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert re.search(r"shop_items +100 +[\d,]+ +[\d.]+ +[\d.]+ 0.0%", said), said
    assert re.search(r"clicks_trace +8 +[\d,]+ +[\d.]+ +[\d.]+ 0.0%", said), said
    assert "MADE UP from the key" in said
    assert "Passed over torn.npz: not a NumPy file that can be read" in said
    assert "replayed for at most 3 s" in said
    assert "All 2,600 rows were compared with their source bit for bit: no difference." in said
    assert leftovers(tmp_path) == []


def test_serves_on_until_interrupted_and_what_it_suggests_works(tmp_path: Path, data: Path) -> None:
    with demo(tmp_path, DATA=str(data), DEMO_ONCE="") as process:
        assert process.stdout is not None
        said = ""
        while "API reference" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        commands = said[said.index("another terminal:") :].split("\n\n")[1].replace("\\\n", "")
        answers = [subprocess.check_output(["sh", "-c", line], cwd=ROOT, text=True) for line in commands.splitlines()]
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert len(answers) == 5
    assert {"clicks_trace", "shop_items"} <= set(re.findall(r"\w+", answers[0]))
    first = str(abs(rows_from_ids(np.array([150], np.uint64), 64)[0, 0]))[:5]
    assert all(first in answer for answer in (answers[1], answers[3], answers[4])), answers
    assert process.returncode == 0, said
    assert "Stopping." in said
    assert leftovers(tmp_path) == []
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(commands.split()[1])


def test_bad_data_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "broken.npy").write_bytes(b"no table")
    with demo(tmp_path, DATA=str(tmp_path), DEMO_ONCE="1") as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "broken.npy: not a NumPy file that can be read" in said
    assert leftovers(tmp_path) == []


def test_rows_that_differ_fail_the_demo() -> None:
    seen = Replayed("t", lookups=3, ids=9, wrong=2, first_wrong="lookup 1, id 7, status warm")
    out = StringIO()
    with pytest.raises(RowsDiffer, match="2 rows of t are not those of the source; first: lookup 1, id 7, status warm"):
        say_results([Replayed("fine"), seen], Console(file=out))
    assert "no difference" not in out.getvalue()
