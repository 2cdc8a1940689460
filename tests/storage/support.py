"""What the store's tests share: made-up rows, and a child process to kill."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from embcache_storage import rocks_open
from embcache_storage.rocks import RocksStore
from embcache_storage.store import FOUND, U8Array, U64Array

EDGE_IDS = np.array([0, 1, 255, 256, 2**32, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1], np.uint64)


def random_ids(n: int, seed: int = 0) -> U64Array:
    """n different ids, ascending."""
    drawn = np.random.default_rng(seed).integers(0, 2**64, 2 * n + 16, dtype=np.uint64)
    chosen: U64Array = np.sort(np.unique(drawn)[:n])
    return chosen


def rows_of(ids: U64Array, row_bytes: int, salt: int = 0) -> U8Array:
    """Rows that tell their id and salt."""
    words = -(-row_bytes // 8)
    with np.errstate(over="ignore"):
        mixed = (ids[:, None] + np.arange(1, words + 1, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15 + 2 * salt)
    rows: U8Array = np.ascontiguousarray(mixed.view(np.uint8)[:, :row_bytes])
    return rows


def fill(store: RocksStore, version: int, ids: U64Array, row_bytes: int, step: int = 1000) -> None:
    """Bulk load rows_of the ids."""
    rows = rows_of(ids, row_bytes)
    with store.bulk(version, row_bytes) as load:
        for start in range(0, len(ids), step):
            load.add(ids[start : start + step], rows[start : start + step])
        assert load.commit() == len(ids)


def assert_holds(store: RocksStore, version: int, ids: U64Array, row_bytes: int) -> None:
    """All rows are there and as `fill` made them."""
    rows, state = store.read(version, row_bytes, ids)
    assert np.all(state == FOUND)
    np.testing.assert_array_equal(rows, rows_of(ids, row_bytes))


def scan_all(store: RocksStore, version: int, row_bytes: int, limit: int = 700) -> tuple[U64Array, U8Array]:
    """The whole version, a page at a time."""
    pages = [store.scan(version, row_bytes, 0, limit)]
    while len(pages[-1][0]) == limit and pages[-1][0][-1] < 2**64 - 1:
        pages.append(store.scan(version, row_bytes, int(pages[-1][0][-1]) + 1, limit))
    return np.concatenate([ids for ids, _ in pages]), np.concatenate([rows for _, rows in pages])


@contextmanager
def hammer(call: Callable[[], object], end: type[Exception], threads: int = 3) -> Iterator[None]:
    """Threads that do nothing but `call`; after the block, waits until each was stopped by the exception `end`."""
    started = threading.Barrier(threads + 1)

    def work() -> str:
        started.wait()
        try:
            while True:
                call()
        except end:
            return "ended"

    with ThreadPoolExecutor(threads) as pool:
        workers = [pool.submit(work) for _ in range(threads)]
        started.wait()
        yield
        assert [worker.result() for worker in workers] == ["ended"] * threads


def run_until(word: str, script: str, path: Path) -> None:
    """Run a script, which finds its store's path in `path`, in a child; kill -9 it once it has printed `word`."""
    command = [sys.executable, "-c", f"path = {str(path)!r}\n{script}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as child:
        assert child.stdout is not None
        try:
            assert any(line.strip() == word for line in child.stdout), "the child ended before it came so far"
        finally:
            child.kill()


@contextmanager
def recovery_in_process() -> Iterator[None]:
    """Within the block stores replay what a crash left in this process: the same code, without a process to start.

    That makes 200 openings a matter of seconds. A replay that does not end ends the process, by SIGALRM.
    """
    with mock.patch.object(rocks_open, "subprocess", mock.Mock(wraps=subprocess, run=_run_in_process)):
        yield


def _run_in_process(command: list[str], *, input: str, **_: Any) -> subprocess.CompletedProcess[str]:
    assert command[-2:] == ["-m", rocks_open.__name__]
    output = io.StringIO()
    with mock.patch.multiple(sys, stdin=io.StringIO(input), stdout=output):
        status = rocks_open._main()
        signal.alarm(0)
    return subprocess.CompletedProcess(command, status, output.getvalue(), "")
