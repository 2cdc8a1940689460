"""The click data is read as it is written, AUC is what pairs say, and the command tells what it lacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from loadtest.criteo_data import auc, read_clicks
from loadtest.datasets import DataError
from tests.loadtest.criteo_rows import HEAD, line, write_lines


def test_rows_are_read(tmp_path: Path) -> None:
    clicks = read_clicks(write_lines(tmp_path / "some.csv", line("0", "", "x"), line("1", "3", ""), line("1", "-2")))
    assert clicks.clicked.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(clicks.numbers[:, 12], np.log1p(np.array([0, 3, 0], np.float64)).astype(np.float32))
    assert clicks.numbers.shape == (3, 13)
    assert clicks.values == (["x", "", "ab"],) * 26


def test_the_real_file_is_read(real_data: Path) -> None:
    clicks = read_clicks(real_data / "criteo_tiny.csv")
    assert (len(clicks), int(clicks.clicked.sum())) == (1999, 418)
    assert clicks.values[0][0] == "68fd1e64"
    assert clicks.numbers[0, 1] == np.float32(np.log1p(1))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file"),
        ("", r"no column Label, I1, I2, I3, I4, \.\.\. in its first line"),
        (",".join(HEAD[:-1]) + "\n", "no column C26 in its first line"),
        (",".join(HEAD) + "\n", "no rows below"),
        (",".join(HEAD) + "\n" + line("2"), "line 2: Label is '2', not 0 or 1"),
        (",".join(HEAD) + "\n" + line() + "\n" + line("1", "x"), "line 3: could not convert string to float: 'x'"),
        (",".join(HEAD) + "\n" + line("1", "inf"), "line 2: one of I1 to I13 is not finite"),
        (",".join(HEAD) + "\n" + line() + ",y", "line 2: it has not as many fields"),
        (",".join(HEAD) + "\n1,1,3", "line 2: it has not as many fields"),
        ("\udcff", "codec"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "clicks.csv"
    if text is not None:
        path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=rf"clicks\.csv.*{words}"):
        read_clicks(path)


def test_auc_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(1)
    clicked = (rng.random(60) > 0.7).astype(np.float32)
    scores = rng.integers(0, 12, 60).astype(np.float32)  # with ties
    pairs = [
        1.0 if one > zero else 0.5 if one == zero else 0.0
        for one in scores[clicked == 1]
        for zero in scores[clicked == 0]
    ]
    assert auc(clicked, scores) == pytest.approx(sum(pairs) / len(pairs))
    assert np.isnan(auc(np.ones(3, np.float32), np.zeros(3, np.float32)))


def test_without_torch_the_command_says_what_it_needs(tmp_path: Path) -> None:
    program = "import sys; sys.modules['torch'] = None; sys.argv[0] = 'loadtest'; from loadtest.cli import app; app()"
    command = [sys.executable, "-c", program, "criteo", "--data", str(write_lines(tmp_path / "some.csv", line()))]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "loadtest: embcache_client.torch needs PyTorch: pip install 'embcache-client[torch]'" in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr
