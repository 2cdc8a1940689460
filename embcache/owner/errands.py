"""Work on the files of a data folder in a process of its own: the parent's side. Imports no store.

Whoever wants it done is the owner, which must not stand still meanwhile, or the command line, which opens no store.

parent -> errand   a line of JSON, what is to be done; later the end of file, which means that the parent is dead
errand -> parent   lines of JSON: {"at": [what, done, total]} now and then; at last {"done": {...}} or {"error": {...}}
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from embcache.errors import NotReady
from embcache.owner.hotline import raise_failure

Tell: TypeAlias = Callable[[str, int, int], None]
"""What is being done, and how much of how much of it is: bytes, rows or entries, as the word says."""


class Errand:
    """One process that does one thing. `run` from one thread; `stop` from any."""

    def __init__(self, what: str, order: Mapping[str, Any]) -> None:
        """Starts it. `what` is a name of errand_process.py, `order` its arguments as plain values."""
        self._what = what
        command = [sys.executable, "-P", "-m", "embcache.owner.errand_process"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, process_group=0
        )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what it died of is told by its end
            self._process.stdin.write(json.dumps({"what": what, **order}).encode() + b"\n")
            self._process.stdin.flush()

    def run(self, tell: Tell = lambda what, done, total: None) -> dict[str, Any]:
        """Wait for its end -> what it tells. Raises what it raised; NotReady where it was killed."""
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        try:
            for line in self._process.stdout:
                told = json.loads(line)
                if "at" in told:
                    tell(*told["at"])
                    continue
                raise_failure(line)
                done: dict[str, Any] = told["done"]
                return done
            raise NotReady(f"the process of {self._what} ended with status {self._process.wait()} before it was done")
        finally:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()

    def stop(self) -> None:
        """Have it end, and clean up behind itself."""
        self._process.terminate()


def run(what: str, order: Mapping[str, Any], tell: Tell = lambda what, done, total: None) -> dict[str, Any]:
    """Do it and wait; whatever interrupts that ends the process too."""
    errand = Errand(what, order)
    try:
        return errand.run(tell)
    except BaseException:
        errand.stop()
        raise
