"""Answers that the owner still owes, to be waited for by a thread or awaited by an event loop alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Generic, TypeVar

from embcache.errors import DeadlineExceeded
from embcache.local.link import Reply

T = TypeVar("T")

TIMEOUT_S = 600.0  # an import's commit or a drop may wait for a slow disk, but not for ever


class Pending(Generic[T]):
    """`result()` waits for it, `await` awaits it; both raise the owner's error."""

    def __init__(self, future: Future[Reply], read: Callable[[Reply], T]) -> None:
        self._future = future
        self._read = read

    def result(self) -> T:
        try:
            return self._read(self._future.result(TIMEOUT_S))
        except TimeoutError:
            raise DeadlineExceeded(f"the owner did not answer within {TIMEOUT_S:g} s") from None

    def __await__(self) -> Generator[object, None, T]:
        return self._wait().__await__()

    async def _wait(self) -> T:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return self._read(await asyncio.wrap_future(self._future))
        except TimeoutError:
            raise DeadlineExceeded(f"the owner did not answer within {TIMEOUT_S:g} s") from None
