"""Starting a front and ending it, from the supervisor."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from embcache.config import Settings
from embcache.errors import NotReady
from embcache.owner.hotline import raise_failure, receive_line, send_line

_GO = "go"


class FrontProcess:
    """A running front. When this process dies, it ends too."""

    def __init__(self, process: subprocess.Popen[bytes], line: socket.socket) -> None:
        """Use `start`."""
        self._process = process
        self._line = line

    @classmethod
    def start(
        cls, settings: Settings, index: int, listeners: Sequence[socket.socket], counters_fd: int, *, again: bool
    ) -> Self:
        """Start front number `index` on sockets that listen already. It serves at once, `not_ready` before `go`.

        again: whether one of this number has served before. Then a GPU that cannot be used is no reason not to.
        """
        ours, theirs = socket.socketpair()
        fds = [listener.fileno() for listener in listeners]
        command = [sys.executable, "-P", "-m", "embcache.service.front", "--parent-fd", str(theirs.fileno())]
        command += ["--counters-fd", str(counters_fd), "--index", str(index), *["--again"] * again]
        for fd in fds:
            command += ["--listen-fd", str(fd)]
        with theirs:
            # It finds its modules where we do. A group of its own: Ctrl-C is not meant for it.
            path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
            process = subprocess.Popen(
                command,
                pass_fds=(theirs.fileno(), counters_fd, *fds),
                stdin=subprocess.PIPE,  # not the command line, which everybody can read: settings hold tokens
                env=os.environ | {"PYTHONPATH": path},
                process_group=0,
            )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin as told:  # if it died, whoever waits for it finds out
            told.write(settings.to_json().encode())
        return cls(process, ours)

    @property
    def pid(self) -> int:
        """The front's process id."""
        return self._process.pid

    def go(self) -> None:
        """Tell it that the owner is there."""
        with contextlib.suppress(OSError):
            send_line(self._line, _GO)

    def await_ready(self) -> None:
        """Wait until it serves lookups; NotReady when it ends before that, ConfigError where it says so."""
        message = None
        with contextlib.suppress(OSError):
            message = receive_line(self._line)
        if message is not None:
            raise_failure(message)
            return
        raise NotReady(f"a front ended while it started, with status {self._process.wait()}; its log says more")

    def wait(self, timeout: float | None = None) -> int | None:
        """Its exit status, negative for a signal; None while it lives after `timeout` seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout)
        return None

    def stop(self) -> None:
        """Ask it to finish what is under way and end."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def close(self) -> None:
        """Give up its line, after its end."""
        self._line.close()
