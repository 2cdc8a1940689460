"""Accepting connections from sockets that all fronts share, so that each front gets its part of them.

Whoever's loop wakes first would take all that wait, and one front would have the connections that come together. So a
front takes one at a time, and leaves it for a moment to the others while one of them has fewer: how many each has
stands in memory that they share. A front that is busy or dead takes none in that moment, and the connection is taken
anyhow.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Sequence, Sized
from typing import Final, Protocol

from embcache.metrics import Counters

logger = logging.getLogger("embcache.service")

LEAVE_S: Final = 0.005  # to a front with fewer connections
_PAUSE_S: Final = 1.0  # where none can be accepted, mostly for want of file descriptors


class Share(Protocol):
    """Who has how many connections. `beginning`: of this front, which it has taken and not begun to serve yet."""

    def is_fair(self, beginning: int) -> bool:
        """Whether this front may take another one: no other front has fewer."""
        ...

    def took(self, beginning: int) -> None:
        """This front has taken another one."""
        ...


class FairShare:
    """By what each front last noted in memory that they share (metrics.py)."""

    def __init__(self, fronts: Sequence[Counters], index: int, connections: Sized) -> None:
        """Of front number `index`, which serves `connections` now."""
        self._mine = fronts[index]
        self._others = [front for place, front in enumerate(fronts) if place != index]
        self._connections = connections

    def is_fair(self, beginning: int) -> bool:
        mine = len(self._connections) + beginning
        return all(front.connections >= mine for front in self._others)

    def took(self, beginning: int) -> None:
        self._mine.connections = len(self._connections) + beginning


class Acceptor:
    """Accepts from one socket for one front. In place of asyncio's server: it is closed as that is."""

    def __init__(self, listener: socket.socket, make: Callable[[], asyncio.Protocol], share: Share) -> None:
        """On the running loop. `make` makes the protocol of a connection."""
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._make = make
        self._share = share
        self._timer: asyncio.TimerHandle | None = None
        self._beginning: set[asyncio.Task[object]] = set()
        listener.setblocking(False)
        self._loop.add_reader(listener, self._waits)

    def close(self) -> None:
        """Accept no more; the socket stays open. A second call does nothing."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._listener)

    async def wait_closed(self) -> None:
        """Until connections that were accepted have begun."""
        if self._beginning:
            await asyncio.wait(self._beginning)

    def _waits(self) -> None:
        """A connection waits, here and at every other front."""
        if self._share.is_fair(len(self._beginning)):
            self._take()
        else:
            self._pause(LEAVE_S)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._timer = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._timer = None
        self._loop.add_reader(self._listener, self._waits)
        self._take()

    def _take(self) -> None:
        """Take a connection, unless another front was sooner."""
        try:
            accepted, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            logger.error("no connection can be accepted for now: %s", error)
            self._pause(_PAUSE_S)
            return
        accepted.setblocking(False)
        if accepted.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):  # it may be gone already
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        beginning = self._loop.create_task(self._begin(accepted))
        self._beginning.add(beginning)
        beginning.add_done_callback(self._beginning.discard)
        self._share.took(len(self._beginning))

    async def _begin(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make, accepted)
        except Exception:
            logger.exception("a connection could not begin")
            accepted.close()
