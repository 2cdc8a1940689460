"""Processes that a load test starts and stops by itself, and the ports they listen on."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType


class ProcessFailed(RuntimeError):
    """A process ended, or was not ready in time; the message ends with what it last wrote."""


def free_port() -> int:
    """A TCP port of the loopback that nobody listened on a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that processes are stopped and their files removed."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Process:
    """A child in a session of its own, so that Ctrl-C reaches us alone and we stop it in order.

    Its output goes to `log`. Leaving the `with` block stops it by SIGTERM, and by SIGKILL after `grace_s`.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        grace_s: float = 15.0,
    ) -> None:
        self.command = list(command)
        self.log = log
        self.grace_s = grace_s
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=pass_fds,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    def wait_until(self, ready: Callable[[], bool], timeout_s: float, interval_s: float = 0.01) -> float:
        """Seconds until `ready()` was true. ProcessFailed where the process ends before, or time runs out."""
        began = time.perf_counter()
        while not ready():
            if not self.running:
                raise ProcessFailed(f"{self._name} ended with status {self._child.returncode}: {self.last_words()}")
            if time.perf_counter() - began > timeout_s:
                raise ProcessFailed(f"{self._name} was not ready within {timeout_s:g} s: {self.last_words()}")
            time.sleep(interval_s)
        return time.perf_counter() - began

    def last_words(self, characters: int = 2000) -> str:
        """The end of its output."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-characters:].strip() or "(no output)"

    def stop(self) -> int:
        """End it and return its exit status; does nothing more where it has ended."""
        if self.running:
            self._child.send_signal(signal.SIGTERM)
            try:
                self._child.wait(self.grace_s)
            except subprocess.TimeoutExpired:
                self._child.kill()
        return self._child.wait()

    @property
    def _name(self) -> str:
        return " ".join(self.command[:4])

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
