"""Opening a store by the settings: what is wrong with a folder is said in the words of the settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from embcache.config import Cold
from embcache.errors import ConfigError
from embcache.owner.opening import open_store


def test_folders_are_made_where_there_are_none(tmp_path: Path) -> None:
    store = open_store(Cold(path=tmp_path / "new" / "data"))
    store.put_meta("key", b"value")
    store.close()
    store = open_store(Cold(path=tmp_path / "new" / "data"))
    assert store.get_meta("key") == b"value"
    store.close()


def test_paths_that_cannot_be(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    for path in (file, file / "data", Path("/proc/nowhere")):
        with pytest.raises(ConfigError, match=rf"cold\.path {path}: cannot be used"):
            open_store(Cold(path=path))


def test_a_folder_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "rocksdb").write_bytes(b"a file where the store's folder should be")
    with pytest.raises(ConfigError, match=rf"cold\.path {tmp_path}: cannot be"):
        open_store(Cold(path=tmp_path))


def test_a_folder_that_is_open_already(tmp_path: Path) -> None:
    store = open_store(Cold(path=tmp_path))
    with pytest.raises(ConfigError, match=rf"cold\.path {tmp_path}: another process has it open"):
        open_store(Cold(path=tmp_path))
    store.close()
