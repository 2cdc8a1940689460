"""Starting an owner and ending it, from the process that wants one. Imports neither the store nor the owner's parts."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from embcache.config import Settings, shown_size
from embcache.errors import ConfigError, NotReady
from embcache.host.arena import Arena
from embcache.owner.hotline import raise_failure, receive_line, send_line


class OwnerProcess:
    """A running owner and its arena.

    The arena is dead from the moment at which this object notices that the owner is: ask `poll` often, and before
    another owner is started. When this process dies, the owner ends too.
    """

    def __init__(self, process: subprocess.Popen[bytes], line: socket.socket, arena: Arena, settings: Settings) -> None:
        """Use `start`, or `begin`."""
        self.arena = arena
        self._process = process
        self._line = line
        self._folder = settings.cold.path
        self._limit_s = settings.owner.start_timeout_s
        self._began = time.monotonic()

    @classmethod
    def start(cls, settings: Settings, *, claimed: bool = False) -> OwnerProcess:
        """Start an owner of `settings.cold.path` and wait until readers can connect.

        Raises what the owner says is wrong: ConfigError for a bad path, a locked folder or a table declared otherwise
        than it is, StorageCorrupt for damaged files; NotReady when it ends or takes longer than
        `owner.start_timeout_s`. ConfigError, too, for a warm tier that the system does not give.
        claimed: the folder is ours (claim.py): another owner there is about to close it, and is waited for.
        """
        owner = cls.begin(settings, claimed=claimed)
        owner.await_ready()
        return owner

    @classmethod
    def begin(cls, settings: Settings, *, claimed: bool = False) -> OwnerProcess:
        """Start an owner and wait for nothing: `await_ready` comes next, or `stop`."""
        arena = _arena(settings.warm.capacity)
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = _spawn(arena.fd, theirs.fileno(), claimed)
            except BaseException:
                ours.close()
                raise
        owner = cls(process, ours, arena, settings)
        try:
            owner._tell(settings)
        except BaseException:
            owner.kill()
            raise
        return owner

    def await_ready(self) -> None:
        """Wait until readers can connect. Raises what `start` does, and the owner is dead then."""
        try:
            self._await_ready()
        except BaseException:
            self.kill()
            raise

    def fileno(self) -> int:
        """What can be read, or is at its end, once `await_ready` would not wait any more."""
        return self._line.fileno()

    @property
    def pid(self) -> int:
        """The owner's process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """The exit status of an owner that is dead, negative for a signal; None while it lives."""
        status = self._process.poll()
        if status is not None:
            self._bury()
        return status

    def wait(self, timeout: float | None = None) -> int | None:
        """As `poll`, but waits up to `timeout` seconds for the owner's end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        return self.poll()

    def stop(self, grace_s: float) -> int:
        """Have the owner finish and close its store; kill it if that takes longer than `grace_s` -> its exit status."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        status = self.wait(grace_s)
        return status if status is not None else self.kill()

    def kill(self) -> int:
        """End the owner at once, as a power cut would -> its exit status."""
        self._process.kill()
        status = self._process.wait()
        self._bury()
        return status

    def abandon(self) -> None:
        """In a forked child: the owner is not ours, and must not live for our sake."""
        self._line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(10.0)

    def _bury(self) -> None:
        self.arena.kill()
        self._line.close()

    def _tell(self, settings: Settings) -> None:
        self._line.settimeout(self._limit_s)
        try:
            send_line(self._line, settings.without_tokens().to_json())
        except TimeoutError:
            raise self._too_late() from None
        except ConnectionError:  # it died before it read all; its status says more
            pass

    def _await_ready(self) -> None:
        self._line.settimeout(max(0.001, self._limit_s - (time.monotonic() - self._began)))
        message = None
        try:
            message = receive_line(self._line)
        except TimeoutError:
            raise self._too_late() from None
        except ConnectionError:  # it died before it wrote all
            pass
        if message is None:
            raise NotReady(f"the owner of {self._folder} ended while it started, with status {self._process.wait()}")
        raise_failure(message)

    def _too_late(self) -> NotReady:
        return NotReady(
            f"the owner of {self._folder} did not open it within {self._limit_s:g} s (owner.start_timeout_s); "
            "if it was compiling kernels, start it again, since what is compiled is kept; else allow it more"
        )


def _arena(capacity: int) -> Arena:
    try:
        return Arena.create(capacity)
    except OSError as error:
        raise ConfigError(
            f"warm.capacity: {shown_size(capacity)} cannot be had ({error.strerror}): 8 times the capacity is mapped, "
            "as address space; make it smaller, or raise the limit on address space"
        ) from error


def _spawn(arena_fd: int, parent_fd: int, claimed: bool) -> subprocess.Popen[bytes]:
    """Starts the child. It finds its modules where we do, and has a group of its own: Ctrl-C is not meant for it."""
    fds = ["--arena-fd", str(arena_fd), "--parent-fd", str(parent_fd)]
    command = [sys.executable, "-P", "-m", "embcache.owner", *fds, *(["--claimed"] if claimed else [])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)}
    return subprocess.Popen(
        command, pass_fds=(arena_fd, parent_fd), stdin=subprocess.DEVNULL, env=environment, process_group=0
    )
