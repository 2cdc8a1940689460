"""Answers that the owner still owes, to be waited for by a thread or awaited by an event loop alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Generic, TypeVar

from embcache.errors import DeadlineExceeded, EmbcacheError, NotReady
from embcache.local.link import Reply

T = TypeVar("T")

TIMEOUT_S = 600.0  # an import's commit or a drop may wait for a slow disk, but not for ever
STATE_S = 5.0  # what the owner knows without any work: later it is stopped, or stuck


class Pending(Generic[T]):
    """`result()` waits for it, `await` awaits it; both raise the owner's error.

    state: it is about how things are, or is a hint, and may as well not have been asked: NotReady after STATE_S. Else
    DeadlineExceeded after TIMEOUT_S, when nobody knows whether it was done.
    """

    def __init__(self, future: Future[Reply], read: Callable[[Reply], T], *, state: bool = False) -> None:
        self._future = future
        self._read = read
        self._state = state

    def result(self) -> T:
        try:
            return self._read(self._future.result(self._within_s))
        except TimeoutError:
            raise self._late() from None

    def __await__(self) -> Generator[object, None, T]:
        return self._wait().__await__()

    async def _wait(self) -> T:
        try:
            async with asyncio.timeout(self._within_s):
                return self._read(await asyncio.wrap_future(self._future))
        except TimeoutError:
            raise self._late() from None

    @property
    def _within_s(self) -> float:
        return STATE_S if self._state else TIMEOUT_S

    def _late(self) -> EmbcacheError:
        message = f"the owner did not answer within {self._within_s:g} s"
        if self._state:
            return NotReady(f"{message}: it stands still, or waits for its disk", {"retry_after_ms": 1000})
        return DeadlineExceeded(message)
