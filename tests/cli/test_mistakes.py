"""What a user meets who makes a mistake, or has none to make: one line, an exit code, the version, the help."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from embcache import __version__
from tests.commands import Run


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


def test_the_version_is_told(run: Run) -> None:
    assert run("--version") == (0, f"embcache {__version__}\n", "")


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
