"""When updates can be seen: a lookup from an update's position on, which is answered when lookups see it."""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import Final, NamedTuple

import numpy as np

from embcache_client.call import Call
from embcache_client.errors import ClientError
from embcache_client.lookup import lookup_call
from embcache_client.results import LookupResult
from embcache_client.transport import Transport
from loadtest.load.asking import Target, code_of
from loadtest.load.counting import Counting
from loadtest.load.schedule import clock_ns

_LOOK_S: Final = 0.1
_DEADLINE_SHARE: Final = 0.9  # of the client's timeout, so that the service's answer comes first


class Update(NamedTuple):
    """An update that was answered: one of its ids, where lookups see it, when it was due and when it was answered."""

    table: str
    id: int
    position: int
    history: str
    due_ns: int
    done_ns: int


class Sightings:
    """Looks for updates, one at a time: those that are told meanwhile are not looked for."""

    def __init__(self, target: Target, counting: Counting) -> None:
        self._target, self._counting = target, counting
        self._next: queue.Queue[Update] = queue.Queue(1)
        self._over = threading.Event()

    def tell(self, update: Update) -> None:
        """An update was answered. Returns at once."""
        with contextlib.suppress(queue.Full):
            self._next.put_nowait(update)

    def end(self) -> None:
        """No more updates are told; `run` returns once there is none left to look for."""
        self._over.set()

    def run(self) -> None:
        """Look for updates until the end."""
        transport = self._target.transport()
        try:
            while True:
                try:
                    update = self._next.get(timeout=_LOOK_S)
                except queue.Empty:
                    if self._over.is_set():
                        return
                else:
                    self._look_for(update, transport)
        finally:
            transport.close()

    def _look_for(self, update: Update, transport: Transport) -> None:
        try:
            transport.run(self._lookup(update))
        except ClientError as error:
            self._counting.missed_update(update.due_ns, code_of(error))
        else:
            self._counting.saw_update(update.due_ns, update.done_ns, clock_ns())

    def _lookup(self, update: Update) -> Call[LookupResult]:
        return lookup_call(
            {update.table: np.array([update.id], np.uint64)},
            dtype="f32",
            strict=False,
            min_position=update.position,
            history=update.history,
            deadline_ms=max(round(self._target.timeout_s * 1000 * _DEADLINE_SHARE), 1),
            version=None,
        )
