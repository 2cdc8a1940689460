"""Keeping a front running: a thread for each, that starts it, waits for its end, and starts another."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Sequence

from embcache.config import Settings
from embcache.errors import ConfigError, NotReady
from embcache.service.process import FrontProcess

logger = logging.getLogger("embcache.supervisor")


class Backoff:
    """How long to wait before a child is started again, and when to give up: it dies again and again as it starts."""

    FIRST_S, CAP_S, TRIES, STEADY_S = 0.05, 5.0, 5, 30.0

    def __init__(self) -> None:
        self._deaths = 0  # since one last lived for STEADY_S
        self._false_starts = 0  # in a row

    def pause_after(self, lived_s: float, was_ready: bool) -> float | None:
        """Seconds to wait after a life of `lived_s`, none at all after the first death; None: give up."""
        self._deaths = 1 if lived_s >= self.STEADY_S else self._deaths + 1
        self._false_starts = 0 if was_ready else self._false_starts + 1
        if self._false_starts >= self.TRIES:
            return None
        return 0.0 if self._deaths == 1 else min(self.CAP_S, self.FIRST_S * 2.0**self._deaths)


class FrontKeeper:
    """Front number `index`, whichever process that is at the moment."""

    def __init__(
        self, settings: Settings, index: int, listeners: Sequence[socket.socket], counters_fd: int, news_fd: int
    ) -> None:
        """On sockets that listen already. `news_fd`: an eventfd to write when it is ready, or given up."""
        self._settings = settings
        self._index = index
        self._listeners = listeners
        self._counters_fd = counters_fd
        self._news_fd = news_fd
        self.ready = False  # whether it has served since it was started first
        self._error: NotReady | ConfigError | None = None
        self._last_words: NotReady | ConfigError = NotReady(f"front {index} never started")
        self._lock = threading.Lock()  # over the next two
        self._front: FrontProcess | None = None
        self._stopping = threading.Event()
        self._owner_is_there = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"front-{index}", daemon=True)

    def start(self) -> None:
        """Start the front, and another whenever it dies."""
        self._thread.start()

    def owner_is_there(self) -> None:
        """Let it attach. Before that it answers `not_ready`."""
        self._owner_is_there.set()

    def check(self) -> None:
        """Raise NotReady when it was given up, ConfigError when it can never start."""
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Ask it to finish what is under way."""
        with self._lock:
            self._stopping.set()
            if self._front is not None:
                self._front.stop()
        self._owner_is_there.set()

    def await_end(self, deadline: float) -> None:
        """Wait for its end after `stop`; kill it when time.monotonic() is `deadline`."""
        if not self._thread.ident:
            return
        self._thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            if self._thread.is_alive() and self._front is not None:
                logger.warning("front %d did not end within its grace: killed", self._index)
                self._front.kill()
        self._thread.join()

    def _keep(self) -> None:
        backoff = Backoff()
        while (front := self._started()) is not None:
            began = time.monotonic()
            was_ready = self._see_ready(front)
            status = front.wait()
            front.close()
            if self._stopping.is_set():
                break
            pause = backoff.pause_after(time.monotonic() - began, was_ready)
            if pause is None or (isinstance(self._last_words, ConfigError) and not self.ready):
                self._error = self._last_words
                os.eventfd_write(self._news_fd, 1)
                break
            logger.error("front %d (process %d) ended with status %s; starting another", self._index, front.pid, status)
            self._stopping.wait(pause)

    def _started(self) -> FrontProcess | None:
        with self._lock:
            if self._stopping.is_set():
                return None
            self._front = FrontProcess.start(
                self._settings, self._index, self._listeners, self._counters_fd, again=self.ready
            )
            return self._front

    def _see_ready(self, front: FrontProcess) -> bool:
        """Whether it came to serve before it ended."""
        self._owner_is_there.wait()
        front.go()
        try:
            front.await_ready()
        except (NotReady, ConfigError) as error:
            self._last_words = error
            return False
        self.ready = True
        os.eventfd_write(self._news_fd, 1)
        return True
