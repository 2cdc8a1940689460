"""A service of our own that is killed with -9, whole or one process of it, and comes back on the same port."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Final

import numpy as np

from loadtest.processes import Process, ProcessFailed, free_port
from loadtest.served import START_TIMEOUT_S, config_text, ready

ALL, OWNER, FRONT = "all", "owner", "front"
VICTIMS: Final = (ALL, OWNER, FRONT)
_MODULES: Final = {OWNER: b"embcache.owner", FRONT: b"embcache.service.front"}
_LOOK_S: Final = 0.01


class Mortal:
    """A service in a folder, with so many fronts; `random` says which of them dies."""

    def __init__(self, folder: Path, fronts: int, random: np.random.Generator) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._fronts = fronts
        self._random = random
        self._config = folder / "config.toml"
        text = config_text(self.port, "64MiB").replace("[server]", f"[server]\nworkers = {fronts}")
        self._config.write_text(text, encoding="utf-8")
        self._log = folder / "service.log"
        self._process: Process | None = None

    def start(self) -> float:
        """Start it; -> seconds until it is ready."""
        self._process = Process([sys.executable, "-m", "embcache", "serve", str(self._config)], self._log)
        return self._process.wait_until(lambda: ready(self.port), START_TIMEOUT_S)

    def kill(self, victim: str) -> float:
        """SIGKILL for one of VICTIMS; -> seconds until all is there again and ready."""
        if victim == ALL:
            self._kill_all()
            return self.start()
        dead = int(self._random.choice(self._await_children(victim)))
        with contextlib.suppress(ProcessLookupError):
            os.kill(dead, signal.SIGKILL)
        began = time.perf_counter()
        self._await_children(victim, dead)
        assert self._process is not None
        self._process.wait_until(lambda: ready(self.port), START_TIMEOUT_S)
        return time.perf_counter() - began

    def stop(self) -> None:
        """Stop it, unless it is dead."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def _kill_all(self) -> None:
        assert self._process is not None
        for pid in [*_descendants(self._process.pid), self._process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.stop()

    def _await_children(self, kind: str, dead: int = 0) -> list[int]:
        """The owner, or all fronts, once they are there, without one that is dead. ProcessFailed if they never are."""
        process, end = self._process, time.perf_counter() + START_TIMEOUT_S
        assert process is not None
        while True:
            alive = [pid for pid in _children(process.pid) if pid != dead and _MODULES[kind] in _command(pid)]
            if len(alive) == (1 if kind == OWNER else self._fronts):
                return alive
            if not process.running or time.perf_counter() > end:
                raise ProcessFailed(f"the service has no other {kind} for one that was killed: {process.last_words()}")
            time.sleep(_LOOK_S)


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _children(pid: int) -> list[int]:
    """The processes that a process started, whichever of its threads did."""
    children: list[str] = []
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            children += (thread / "children").read_text(encoding="ascii").split()
    return [int(child) for child in children]


def _descendants(pid: int) -> list[int]:
    """The processes that a process started, and those that they did."""
    return [found for child in _children(pid) for found in (*_descendants(child), child)]
