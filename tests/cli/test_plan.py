"""`embcache plan`: what a table takes, and numbers of rows as people write them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from embcache.cli.plan import need, parse_rows
from embcache_storage.rocks import RocksOptions, RocksStore
from tests.commands import Run


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
