"""Lists of ids in files: what is written is read, and nothing else is ever taken for one."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from embcache.owner import kept_ids
from embcache.owner.kept_ids import UselessListError, path_of
from tests.owner.support import Ids, some_ids

IDS = some_ids(1000)
CUTS = [10, 300, 300, 400, 400, 400, 999]
NEVER = threading.Event()


def write(folder: Path, version: int = 7, table: str = "item", ids: Ids = IDS) -> Path:
    """A list of eight uses, each in pieces and out of order."""
    path = path_of(folder, version)
    mixed = np.random.default_rng(3).permutation(ids)
    pieces = [np.array_split(some, 3) for some in np.split(mixed, CUTS)]
    kept_ids.write(path, version, table, pieces, NEVER)
    return path


def test_a_list_comes_back_by_use_each_in_order(tmp_path: Path) -> None:
    path = write(tmp_path)
    found = kept_ids.read(path, 7, "item")
    mixed = np.random.default_rng(3).permutation(IDS)
    for some, wanted in zip(found, np.split(mixed, CUTS), strict=True):
        assert some.tolist() == sorted(wanted.tolist())
    assert [entry.name for entry in path.parent.iterdir()] == ["7.ids"]


def test_a_list_has_the_form_that_is_written_down(tmp_path: Path) -> None:
    data = write(tmp_path).read_bytes()
    words = np.frombuffer(data[8:], "<u8").tolist()
    assert data[:8] == b"EMBKEPT1"
    assert (words[0], words[2:10], len(words) - 11) == (7, [10, 290, 0, 100, 0, 0, 599, 1], 1000)
    assert sorted(words[11:21]) == sorted(np.random.default_rng(3).permutation(IDS)[:10].tolist())


def test_every_flipped_bit_and_every_other_length_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path, ids=IDS[:402])
    data = path.read_bytes()
    for at in (*range(112), *range(112, len(data), 97)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        with pytest.raises(UselessListError):
            kept_ids.read(path, 7, "item")
    for other in (b"", data[:40], data[:96], data[:-8], data[:-1], data + bytes(8), b"no list of ids" * 99):
        path.write_bytes(other)
        with pytest.raises(UselessListError):
            kept_ids.read(path, 7, "item")


def test_a_list_of_something_else_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path)
    for version, table in ((8, "item"), (7, "user")):
        with pytest.raises(UselessListError, match="of another table or data folder"):
            kept_ids.read(path, version, table)
    with pytest.raises(FileNotFoundError):
        kept_ids.read(path_of(tmp_path, 9), 9, "item")


def test_what_is_stopped_or_fails_leaves_the_list_that_was_there(tmp_path: Path) -> None:
    path = write(tmp_path)
    stopped = threading.Event()
    stopped.set()
    kept_ids.write(path, 7, "item", [[IDS]] + [[]] * 7, stopped)
    with pytest.raises(AttributeError):
        kept_ids.write(path, 7, "item", [[IDS, None]] + [[]] * 7, NEVER)  # type: ignore[arg-type]
    assert kept_ids.read(path, 7, "item")[0].size == 10
    assert [entry.name for entry in path.parent.iterdir()] == ["7.ids"]


def test_lists_of_others_and_what_a_crash_left_are_removed(tmp_path: Path) -> None:
    kept_ids.tidy(tmp_path, ())
    for version in (7, 8, 9):
        write(tmp_path, version)
    (tmp_path / "kept" / ".7.ids.0123").write_bytes(b"half")
    kept_ids.tidy(tmp_path, [7, 9, 10])
    assert sorted(entry.name for entry in (tmp_path / "kept").iterdir()) == ["7.ids", "9.ids"]


def test_a_folder_gets_anothers_lists_in_place_of_its_own(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for folder, version in ((source, 7), (target, 8)):
        folder.mkdir()
        write(folder, version)
    (source / "kept" / ".7.ids.0123").write_bytes(b"half")
    kept_ids.copy(source, target)
    assert [entry.name for entry in (target / "kept").iterdir()] == ["7.ids"]
    assert kept_ids.read(path_of(target, 7), 7, "item")[0].size == 10
    kept_ids.copy(tmp_path, target)
    assert not (target / "kept").exists(), "whoever keeps none has none to give"
