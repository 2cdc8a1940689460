"""`embcache tables`, `drop` and `lookup`, and which service they ask."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.commands import Run
from tests.service.running import Running


def test_a_lookup_says_where_each_row_came_from(run: Run, there: list[object], tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.arange(20, dtype=np.float32).reshape(2, 10))
    assert run("import", "shown", tmp_path / "rows.npy", *there).code == 0
    found = run("lookup", "shown", 1, 9, *there)
    one, nine = found.out.splitlines()[1:]
    assert one.split() == ["1", "cold", *map(str, range(10, 18)), "...", "2", "more"]
    assert nine.split()[:3] == ["9", "missing", "0"]
    whole = run("lookup", "shown", 0, "--whole", *there).out.splitlines()[1]
    assert whole.split()[2:] == [str(value) for value in range(10)]


def test_raw_values_are_hashed(run: Run, service: Running, there: list[object], tmp_path: Path) -> None:
    red = 15910152883037974434  # of the feature "item", see docs/protocol.md
    np.savez(tmp_path / "in.npz", ids=np.array([red], np.uint64), rows=np.ones((1, 6), np.float32))
    with service.client() as client:
        client.create_table({"name": "hashed", "dim": 6, "feature": "item"})
    assert run("import", "hashed", tmp_path / "in.npz", *there).code == 0
    found = run("lookup", "hashed", "red", "blue", "--values", *there).out.splitlines()[1:]
    assert [line.split()[:2] for line in found] == [["red", "cold"], ["blue", "missing"]]


def test_a_value_may_begin_with_a_dash(run: Run, stopped: list[object]) -> None:
    found = run("lookup", "empty", "--values", *stopped, "--", "-1")
    assert found.out.splitlines()[1].split()[:2] == ["-1", "missing"]
    assert "lookup item --values -- -red" in " ".join(run("lookup", "--help").out.split())


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


def test_data_in_use_is_left_alone(run: Run, service: Running) -> None:
    failed = run("tables", "--config", service.folder / "config.toml")
    assert failed.code == 1
    assert re.fullmatch(
        rf"embcache: cold.path .*data: process {service.process.pid} has it open;.* or give --url http://.*\n",
        failed.err,
    )
    assert failed.err.count("has it open") == 1
    assert "LOCK" not in failed.err


def test_the_url_may_come_from_the_environment(
    run: Run, service: Running, stopped: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBCACHE_URL", service.url)
    assert run("tables").out == run("tables", "--url", service.url).out
    monkeypatch.setenv("EMBCACHE_URL", "http+unix:///nowhere.sock")
    assert run("tables").code == 1
    assert run("tables", "--url", service.url).code == 0
    assert run("tables", *stopped).code == 0
