"""`embcache serve`: the process that starts the others, watches them, starts anew what dies, and stops all in order.

    supervisor -- owner (one)       embcache.owner.process: rows on disk, the arena's only writer
               -- front (workers)   embcache.service.process: answers requests

Sockets are bound first, so that nothing is begun where nobody could reach it. Fronts outlive owners: when one dies, its
arena is marked dead before another is started, and the fronts attach to that by themselves. Holds no rows and opens no
store; whatever ends it ends its children, by the end of file on their lines to it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Iterator
from types import FrameType

from embcache.config import Settings
from embcache.errors import ConfigError, EmbcacheError
from embcache.host.memory import new_memfd
from embcache.metrics import BLOCK_BYTES
from embcache.owner.process import OwnerProcess
from embcache.service.keeper import Backoff, FrontKeeper
from embcache.service.listening import Listening

logger = logging.getLogger("embcache.supervisor")

_OWNER_GRACE_S = 10.0  # to close its store; requests have had theirs by then
_KILL_AFTER_S = 2.0  # beyond the grace: a front cuts off by itself what is under way by then


class _Stopped(BaseException):
    """SIGTERM or SIGINT came."""


def serve(settings: Settings) -> int:
    """Run the service until SIGTERM or SIGINT -> exit status 0. Prints one line with its addresses once it is ready.

    Raises ConfigError for what cannot be bound or opened, and the owner's or a front's error when it cannot start.
    """
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s", level=logging.INFO)
    with (
        contextlib.suppress(_Stopped),
        contextlib.closing(Listening(settings.server)) as listening,
        _raised_signals(),
    ):
        supervisor = Supervisor(settings, listening)
        try:
            supervisor.run()
        finally:
            supervisor.stop()
    return 0


class Supervisor:
    """Everything that `serve` runs, but for the sockets and the signals."""

    def __init__(self, settings: Settings, listening: Listening) -> None:
        self._settings = settings
        self._listening = listening
        self._owner: OwnerProcess | None = None
        self._announced = False
        self._news = os.eventfd(0, os.EFD_CLOEXEC)  # written by a keeper whose front is ready, or that gave up
        counters = new_memfd("embcache-counters", settings.server.workers * BLOCK_BYTES)
        self._fronts = [
            FrontKeeper(settings, index, listening.sockets, counters, self._news)
            for index in range(settings.server.workers)
        ]

    def run(self) -> None:
        """Start everything and keep it running, for ever. Raises what ends that."""
        for front in self._fronts:
            front.start()
        self._owner = OwnerProcess.start(self._settings)
        for front in self._fronts:
            front.owner_is_there()
        backoff = Backoff()
        while True:
            began = time.monotonic()
            status = self._await_owners_end(self._owner)
            logger.error("the owner ended with status %d; starting another", status)
            self._restart_owner(backoff, time.monotonic() - began)

    def stop(self) -> None:
        """Stop accepting, let fronts finish what is under way within the grace, then close the store."""
        _hold_signals()
        logger.info("stopping")
        deadline = time.monotonic() + self._settings.server.grace_s + _KILL_AFTER_S
        for front in self._fronts:
            front.stop()
        self._listening.close()
        for front in self._fronts:
            front.await_end(deadline)
        if self._owner is not None:
            self._owner.stop(_OWNER_GRACE_S)

    def _await_owners_end(self, owner: OwnerProcess) -> int:
        """The exit status of the owner, whose arena is dead from then on. Meanwhile, sees to what keepers have to tell.

        Raises the error of a front that was given up.
        """
        ends = select.poll()
        with contextlib.closing(_Descriptor(os.pidfd_open(owner.pid))) as process:
            ends.register(process.fd, select.POLLIN)
            ends.register(self._news, select.POLLIN)
            while True:
                happened = {fd for fd, _ in ends.poll()}
                if self._news in happened:
                    self._hear_news()
                if process.fd in happened and (status := owner.wait(1.0)) is not None:
                    return status

    def _hear_news(self) -> None:
        os.eventfd_read(self._news)
        for front in self._fronts:
            front.check()
        if not self._announced and all(front.ready for front in self._fronts):
            with contextlib.suppress(OSError):  # nobody may listen any more
                print(f"embcache is ready at {' and '.join(self._listening.urls)}", flush=True)
            self._announced = True

    def _restart_owner(self, backoff: Backoff, lived_s: float) -> None:
        pause: float | None = backoff.pause_after(lived_s, was_ready=True)
        while pause is not None:
            time.sleep(pause)
            try:
                self._owner = OwnerProcess.start(self._settings)
            except (EmbcacheError, ConfigError) as error:
                pause = backoff.pause_after(0.0, was_ready=False)
                if pause is None:
                    raise
                logger.error("the owner could not start again: %s", error)
            else:
                return


class _Descriptor:
    """A file descriptor that is closed with its block."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        os.close(self.fd)


@contextlib.contextmanager
def _raised_signals() -> Iterator[None]:
    """SIGTERM and SIGINT raise _Stopped inside the block, whatever it waits for."""

    def stop(signum: int, frame: FrameType | None) -> None:
        _hold_signals()
        raise _Stopped

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _hold_signals() -> None:
    """While everything is stopped in order, another SIGTERM changes nothing, and another Ctrl-C ends it all at once."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
