"""Waiting for a word that another thread, or another process, writes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from embcache.host.memory import address_of, map_shared, new_memfd
from embcache.host.waiting import await_word, wait_word

ROOT = Path(__file__).parents[2]
LAST = 2**32 - 1


def words(*values: int) -> tuple[NDArray[np.uint32], int]:
    made = np.array(values, np.uint32)
    return made, address_of(made)


@pytest.mark.parametrize("value", [0, 1, 2**31, LAST])
def test_a_word_that_has_the_value_is_seen_at_once(value: int) -> None:
    _, address = words(7, value, 7)
    assert wait_word(address + 4, value, 1)
    assert await_word(address + 4, value, 0.0)


@pytest.mark.parametrize("limit", [-1.0, 0.0, 0.0003, 0.01])
def test_a_word_that_does_not_come_is_waited_for_as_long_as_was_asked(limit: float) -> None:
    _, address = words(5, 6, 5)
    began = time.monotonic()
    assert not await_word(address + 4, 5, limit)
    assert time.monotonic() >= began + limit
    assert not wait_word(address + 4, 5, 100)
    assert not wait_word(address + 4, 6, 0)


@pytest.mark.parametrize("delay", [0.0, 0.0005, 0.03])
def test_what_was_written_before_the_word_is_there_after_it(delay: float) -> None:
    made, address = words(0, 0)
    for turn in range(1, 20):

        def write(turn: int = turn) -> None:
            time.sleep(delay)
            made[1] = 3 * turn
            made[0] = turn

        writer = threading.Thread(target=write)
        writer.start()
        assert await_word(address, turn, 30.0)
        assert made[1] == 3 * turn
        writer.join()


def test_a_word_that_another_process_writes_is_seen() -> None:
    fd = new_memfd("words", 4096)
    word = map_shared(fd, writable=False)[64:]
    script = (
        "import sys; from embcache.host.memory import map_shared;"
        "memory = map_shared(int(sys.argv[1]), writable=True); sys.stdin.read(); memory[64:68] = 9"
    )
    command = [sys.executable, "-c", script, str(fd)]
    with subprocess.Popen(command, pass_fds=[fd], cwd=ROOT, stdin=subprocess.PIPE) as writer:
        assert not await_word(address_of(word), 0x09090909, 0.05)
        assert writer.stdin is not None
        writer.stdin.close()
        assert await_word(address_of(word), 0x09090909, 30.0)
    assert writer.returncode == 0
    os.close(fd)
