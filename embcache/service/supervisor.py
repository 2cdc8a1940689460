"""`embcache serve`: the process that starts the others, watches them, starts anew what dies, and stops all in order.

    supervisor -- owner (one)       embcache.owner.process: rows on disk, the arena's only writer
               -- front (workers)   embcache.service.process: answers requests

Sockets are bound first, so that nothing is begun where nobody could reach it; then the data folder is claimed, for as
long as this process lives, since it has no owner now and then. Fronts outlive owners: when one dies, its
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
from collections.abc import Sequence
from types import FrameType

from embcache.config import Settings
from embcache.errors import ConfigError, EmbcacheError
from embcache.host.memory import new_memfd
from embcache.metrics import BLOCK_BYTES
from embcache.owner.claim import Claim
from embcache.owner.process import OwnerProcess
from embcache.service.forewarning import forewarn
from embcache.service.keeper import Backoff, FrontKeeper
from embcache.service.listening import Listening
from embcache.service.placement import fronts_of

logger = logging.getLogger("embcache.supervisor")

_OWNER_GRACE_S = 10.0  # to close its store; requests have had theirs by then
_KILL_AFTER_S = 2.0  # beyond the grace: a front cuts off by itself what is under way by then


class _Stopped(Exception):
    """SIGTERM or SIGINT came, and one of the supervisor's waits noticed. No signal handler ever raises it."""


def serve(settings: Settings) -> int:
    """Run the service until SIGTERM or SIGINT -> exit status 0. Prints one line with its addresses once it is ready.

    Raises ConfigError for what cannot be bound or opened, and the owner's or a front's error when it cannot start.
    """
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s", level=logging.INFO)
    with (
        contextlib.suppress(_Stopped),
        contextlib.closing(Listening(settings.server)) as listening,
        contextlib.closing(StopSignals()) as signals,
    ):
        claim = Claim(settings.cold.path)  # until the last owner has closed the store, whatever becomes of the others
        try:
            forewarn(settings)
            supervisor = Supervisor(settings, listening, signals)
            try:
                supervisor.run()
            finally:
                supervisor.stop()
        finally:
            claim.release()
    return 0


class StopSignals:
    """SIGTERM and SIGINT, noted when they come, from the making of this object until `close`; noticed by `wait`.

    The handler raises nothing: the signal may come while code runs that was called from C, such as the loader of
    compiled kernels, and there an exception is printed and dropped.
    """

    def __init__(self) -> None:
        """In the main thread, where Python runs signal handlers."""
        self._came = os.eventfd(0, os.EFD_CLOEXEC)
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}

    def wait(self, fds: Sequence[int], timeout_s: float | None = None) -> set[int]:
        """Those of `fds` that can be read, none of them after `timeout_s`. Raises _Stopped once a signal came."""
        ends = select.poll()
        for fd in (self._came, *fds):
            ends.register(fd, select.POLLIN)
        happened = {fd for fd, _ in ends.poll(None if timeout_s is None else 1000 * timeout_s)}
        if self._came in happened:
            raise _Stopped
        return happened

    def close(self) -> None:
        """Have signals handled as they were before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._came)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        _hold_signals()
        os.eventfd_write(self._came, 1)


class Supervisor:
    """Everything that `serve` runs, but for the sockets and the signals."""

    def __init__(self, settings: Settings, listening: Listening, signals: StopSignals) -> None:
        self._settings = settings
        self._listening = listening
        self._signals = signals
        self._owner: OwnerProcess | None = None
        self._announced = False
        self._news = os.eventfd(0, os.EFD_CLOEXEC)  # written by a keeper whose front is ready, or that gave up
        fronts = fronts_of(settings.server.workers, settings.hot.device)
        counters = new_memfd("embcache-counters", fronts * BLOCK_BYTES)
        settings = settings.model_copy(update={"server": settings.server.model_copy(update={"workers": fronts})})
        self._fronts = [
            FrontKeeper(settings, index, listening.sockets, counters, self._news) for index in range(fronts)
        ]

    def run(self) -> None:
        """Start everything and keep it running until a signal comes (_Stopped). Raises what else ends that."""
        for front in self._fronts:
            front.start()
        owner = self._start_owner()
        for front in self._fronts:
            front.owner_is_there()
        backoff = Backoff()
        while True:
            began = time.monotonic()
            status = self._await_owners_end(owner)
            logger.error("the owner ended with status %d; starting another", status)
            owner = self._restart_owner(backoff, time.monotonic() - began)

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
        if self._owner is not None and self._owner.stop(_OWNER_GRACE_S) == -signal.SIGKILL:
            logger.warning("the owner did not end within its grace: killed")

    def _await_owners_end(self, owner: OwnerProcess) -> int:
        """The exit status of the owner, whose arena is dead from then on. Meanwhile, sees to what keepers have to tell.

        Raises the error of a front that was given up.
        """
        with contextlib.closing(_Descriptor(os.pidfd_open(owner.pid))) as process:
            while True:
                happened = self._signals.wait((process.fd, self._news))
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

    def _start_owner(self) -> OwnerProcess:
        self._owner = OwnerProcess.begin(self._settings, claimed=True)
        self._signals.wait((self._owner.fileno(),), self._settings.owner.start_timeout_s)
        self._owner.await_ready()
        return self._owner

    def _restart_owner(self, backoff: Backoff, lived_s: float) -> OwnerProcess:
        pause = backoff.pause_after(lived_s, was_ready=True)
        assert pause is not None  # no false start yet
        while True:
            self._signals.wait((), pause)
            try:
                return self._start_owner()
            except (EmbcacheError, ConfigError) as error:
                pause = backoff.pause_after(0.0, was_ready=False)
                if pause is None:
                    raise
                logger.error("the owner could not start again: %s", error)


class _Descriptor:
    """A file descriptor that is closed with its block."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        os.close(self.fd)


def _hold_signals() -> None:
    """While everything is stopped in order, another SIGTERM changes nothing, and another Ctrl-C ends it all at once."""
    signal.signal(signal.SIGTERM, _do_nothing)  # SIG_IGN would be passed on to a child that is just being started
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _do_nothing(signum: int, frame: FrameType | None) -> None:
    pass
