"""Processes that start at once compile each kernel once, by locks in the kernels' folder that end with their holder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from embcache.host import jit, warm

HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""

pytestmark = pytest.mark.skipif(not jit.JIT_ENABLED, reason="nothing is compiled")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(jit, "_FOLDER", tmp_path)
    return tmp_path


@contextmanager
def another_compiles(folder: Path, what: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has the lock on some kernels, until it is killed."""
    command = [sys.executable, "-c", HOLDER, str(folder / f"{what}.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_what_another_compiles_is_waited_for_last_and_then_loaded(folder: Path) -> None:
    done: list[str] = []
    with another_compiles(folder, "first") as other:

        def second() -> None:
            done.append("second")
            other.kill()  # whatever it was at, it is not any more

        def noted(name: str) -> Callable[[], None]:
            return lambda: done.append(name)

        warm._warm("all.compiled", {"first": noted("first"), "second": second})
    assert done == ["second", "first"]
    assert jit.are_compiled("all.compiled")


def test_once_all_is_compiled_nobody_waits(folder: Path) -> None:
    jit.note_compiled("all.compiled")
    done: list[str] = []
    with another_compiles(folder, "first"):
        warm._warm("all.compiled", {"first": lambda: done.append("first")})
    assert done == ["first"]


def test_a_lock_is_free_once_its_block_has_ended() -> None:
    with jit.compiling("some", wait=False) as mine, jit.compiling("some", wait=False) as again:
        assert mine
        assert not again
    with jit.compiling("some", wait=False) as mine:
        assert mine


def test_without_a_folder_each_compiles_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "_FOLDER", None)
    with jit.compiling("some", wait=True) as mine, jit.compiling("some", wait=False) as again:
        assert mine
        assert again
    assert not jit.are_compiled("all.compiled")
