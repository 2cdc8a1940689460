"""Negative numbers among a command's arguments: looked up as raw values, or refused as numbers; no `--` is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from embcache.cli.numbers import arguments_last
from tests.commands import Run

VALUED = {"--config", "-c"}


@pytest.mark.parametrize(
    ("words", "sorted_"),
    [
        ("item 1 2", "item 1 2"),
        ("item -1", "-- item -1"),
        ("item -1 5 --values -2", "--values -- item -1 5 -2"),
        ("--config a item -1 -y", "--config a -y -- item -1"),
        ("-c a item -.5", "-c a -- item -.5"),
        ("--config=a item -1e3", "--config=a -- item -1e3"),
        ("--config -1 item", "--config -1 item"),
        ("item -1 -- -red --values", "-- item -1 -red --values"),
        ("item -- -1", "item -- -1"),
        ("item - -1", "-- item - -1"),
        ("item -red", "item -red"),
        ("", ""),
    ],
)
def test_arguments_go_behind_the_options_where_one_is_a_negative_number(words: str, sorted_: str) -> None:
    assert arguments_last(words.split(), VALUED) == sorted_.split()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    folder = tmp_path_factory.mktemp("stopped")
    (folder / "config.toml").write_text('[warm]\ncapacity = "4MiB"\n[[table]]\nname = "item"\ndim = 2\n')
    return ["--config", folder / "config.toml"]


def test_raw_values_may_be_negative_numbers(run: Run, here: list[object], tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("2 2\n-3 1 2\n-red 3 4\n")
    assert run("import", "item", file, "--format", "word2vec-text", *here).code == 0
    for words, count in ((["item", "--values", "-3"], 1), (["item", "-3", "--values", *here, "--", "-red"], 2)):
        found = run("lookup", *words, *(here if "--" not in words else []))
        assert (found.code, "missing" in found.out) == (0, False)
        assert [line.split()[1] in ("warm", "cold") for line in found.out.splitlines()[1:]] == [True] * count


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (["lookup", "item", "-1"], "'-1' is no feature ID (0 to 2^64-1); --values looks up raw values"),
        (["plan", "-5", "4"], "-5"),
        (["plan", "5", "-4"], "Invalid value for 'DIM'"),
        (["quarantine", "limit", "item", "-1"], "max_norm"),
        (["quarantine", "show", "-1"], "Invalid value for 'POSITION'"),
        (["quarantine", "drop", "-1", "--yes"], "Invalid value for 'POSITION'"),
        (["quarantine", "release", "-1"], "Invalid value for 'POSITION'"),
    ],
)
def test_what_may_not_be_negative_is_said_so(run: Run, here: list[object], command: list[str], complaint: str) -> None:
    done = run(*command, *([] if command[0] == "plan" else here))
    assert done.code in (1, 2)
    assert complaint in " ".join(done.err.split())
    assert "No such option" not in done.err


@pytest.mark.parametrize("command", [["lookup", "item", "1", "--vlaues"], ["quarantine", "show", "-n"]])
def test_options_that_there_are_not_are_refused_still(run: Run, command: list[str]) -> None:
    assert "No such option" in run(*command).err
