"""The commands snapshot, restore and check, of data with an owner and without."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from embcache_storage.rocks import RocksStore
from tests.commands import Run
from tests.owner.support import ITEM, OwnerThread, fill, rows_of, some_ids
from tests.owner.test_snapshots import put

IDS = some_ids(100)


def test_there_and_back(run: Run, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (tmp_path / "config.toml").write_text('[cold]\npath = "data"\n')
    there = ["--config", tmp_path / "config.toml"]
    with OwnerThread(RocksStore(data / "rocksdb"), data, [ITEM]) as owner:
        fill(owner.link(), "item", IDS, rows_of(IDS, 16) & np.uint8(0x3F))
        code, out, err = run("snapshot", tmp_path / "live", *there)
        assert code == 0, err
        assert re.fullmatch(
            r".*/live: snapshot at position \d+ of history \w+, [\d.]+ KiB in \d+ files, [\d.]+ s\n", out
        )
        code, out, _ = run("check", "--data", data)
        assert (code, out) == (
            0,
            f"nothing is wrong: looked at {len(IDS)} rows of 1 table and 2 entries of the log and 0 rows in memory\n",
        )
    store = RocksStore(data / "rocksdb")
    put(store, store.versions()[-1], int(IDS[3]), b"damaged")
    store.close()
    code, out, _ = run("check", *there)
    assert code == 1
    first, mend, verdict = out.splitlines()
    assert first == f"table item, version 2: the row of id {IDS[3]} has -1 bytes, not 16"
    assert "import the table again" in mend
    assert verdict.startswith("1 finding: looked at")
    code, out, err = run("restore", tmp_path / "live", *there)
    assert code == 0, err
    restored, kept = out.splitlines()
    assert re.fullmatch(rf"restored {len(IDS)} rows, as of position \d+; a new history begins", restored)
    assert Path(re.findall(r"kept in (\S+):", kept)[0]).is_dir()


def test_it_has_to_be_said_which_data(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (["check"], ["snapshot", "x"], ["check", "--data", tmp_path, "--url", "http://127.0.0.1:1"]):
        assert run(*command)[0] == 2
    assert run("restore", tmp_path)[0] == 2
    assert "is no snapshot" in run("restore", tmp_path / "none", "--data", tmp_path)[2]
    monkeypatch.setenv("EMBCACHE_URL", "http://127.0.0.1:1")
    code, _, err = run("snapshot", tmp_path / "x")
    assert (code, "127.0.0.1:1" in err) == (1, True)
