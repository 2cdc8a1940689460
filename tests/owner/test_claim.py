"""One process has a data folder for as long as it lives, and longer than any of its owners does."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from embcache.cache import EmbeddingCache
from embcache.config import Cold, Settings, Warm
from embcache.errors import ConfigError
from embcache.owner import errands
from embcache.owner.claim import FILE, Claim, FolderTaken
from tests.owner.support import WAIT

OPEN = """
import sys
from embcache.cache import EmbeddingCache
from embcache.config import Settings
from embcache.errors import ConfigError
try:
    with EmbeddingCache.open(Settings.from_json(sys.argv[1])) as cache:
        print("opened", flush=True)
        sys.stdin.read()
except ConfigError as error:
    print(error, flush=True)
"""
CLAIM = """
import os, sys, time
from pathlib import Path
from embcache.owner.claim import Claim
claim = Claim(Path(sys.argv[1]))
if sys.argv[2:] and os.fork() == 0:
    print("forked", flush=True)
    time.sleep(1000)
if not sys.argv[2:]:
    print("claimed", flush=True)
time.sleep(1000)
"""


def settings(folder: Path) -> Settings:
    return Settings(warm=Warm(capacity=8 << 20), cold=Cold(path=folder))


def said_by_another(folder: Path) -> str:
    """What a process that opens the folder has to say."""
    command = [sys.executable, "-c", OPEN, settings(folder).to_json()]
    return subprocess.run(command, stdout=subprocess.PIPE, input="", text=True, check=True).stdout.strip()


def test_a_folder_is_its_openers_while_no_owner_has_it(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    with EmbeddingCache.open(settings(folder)) as cache:
        owner = cache._owner
        assert owner is not None
        os.kill(owner.pid, signal.SIGKILL)
        assert owner.wait(WAIT) == -signal.SIGKILL
        said = said_by_another(folder)
        with pytest.raises(FolderTaken, match="this process has it open"):
            EmbeddingCache.open(settings(folder))
        with pytest.raises(ConfigError, match=rf"process {os.getpid()} has it open: stop the service first"):
            errands.run("restore", {"cold": Cold(path=folder).model_dump_json(), "source": str(a_copy(tmp_path))})
        assert cache.attached().alive, "and goes on with another owner"
    assert said.startswith(f"cold.path {folder}: process {os.getpid()} has it open; stop that one, attach to it")
    assert said_by_another(folder) == "opened"


def a_copy(tmp_path: Path) -> Path:
    """What looks like a snapshot."""
    (tmp_path / "copy" / "rocksdb").mkdir(parents=True)
    (tmp_path / "copy" / "rocksdb" / "CURRENT").touch()
    return tmp_path / "copy"


@pytest.mark.parametrize("forked", [False, True], ids=["alone", "with a forked child that lives on"])
def test_a_claim_ends_with_its_process_whatever_it_dies_of(tmp_path: Path, forked: bool) -> None:
    command = [sys.executable, "-c", CLAIM, str(tmp_path), *(["fork"] if forked else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, process_group=0) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == (b"forked\n" if forked else b"claimed\n")
            with pytest.raises(FolderTaken, match=rf"process {process.pid} has it open"):
                Claim(tmp_path)
            process.kill()
            process.wait(WAIT)
            Claim(tmp_path).release()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_no_child_has_the_claim(tmp_path: Path) -> None:
    """Else it would be the folder's, too, after its parent died."""
    with EmbeddingCache.open(settings(tmp_path)) as cache:
        assert cache._owner is not None
        assert tmp_path / FILE in opened_by(os.getpid())
        assert tmp_path / FILE not in opened_by(cache._owner.pid)
    assert tmp_path / FILE not in opened_by(os.getpid())


def opened_by(pid: int) -> set[Path]:
    return {link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}


def test_the_holder_is_told_as_far_as_it_is_known(tmp_path: Path) -> None:
    claim = Claim(tmp_path)
    assert (tmp_path / FILE).read_text() == f"{os.getpid()} {socket.gethostname()}\n"
    for told, holder in (
        ("4711 there\n", "process 4711 on there"),
        ("", "another process"),
        ("\xff", "another"),
    ):
        (tmp_path / FILE).write_text(told)
        with pytest.raises(FolderTaken, match=rf"cold\.path {tmp_path}: {holder}"):
            Claim(tmp_path)
    claim.release()
    claim.release()
    assert (tmp_path / FILE).read_text() == ""
    (tmp_path / FILE).write_text("4711 of one that was killed")
    Claim(tmp_path).release()


def test_a_folder_that_fails_to_open_is_free_again(tmp_path: Path) -> None:
    (tmp_path / "rocksdb").write_bytes(b"a file where the store's folder should be")
    with pytest.raises(ConfigError, match="cannot be"):
        EmbeddingCache.open(settings(tmp_path))
    Claim(tmp_path).release()


def test_paths_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "data", Path("/proc/nowhere")):
        with pytest.raises(ConfigError, match=rf"cold\.path {path}: cannot be used"):
            Claim(path)
