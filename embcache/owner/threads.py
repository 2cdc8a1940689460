"""Where store calls run: threads, so that the loop never waits for a disk; and what a store's errors become.

Reads have threads of their own, changes of the catalogue, the update log and applying have one each: none of them waits
behind an import or a scan.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from embcache.errors import EmbcacheError, Internal, NotReady, StorageCorrupt, StorageFull, UnknownTable
from embcache_storage import store

log = logging.getLogger("embcache.owner")

READ_THREADS = 4
_BULK_THREADS = 3

P = ParamSpec("P")
T = TypeVar("T")


class StoreThreads:
    """Pools of threads, and one way to call the store in each."""

    def __init__(self, stuck: Callable[[], None] = lambda: None) -> None:
        """`stuck` is called, on the loop, when the store writes nothing more until it is opened anew."""
        self._stuck = stuck
        self._reads = ThreadPoolExecutor(READ_THREADS, "embcache-read")
        self._bulk = ThreadPoolExecutor(_BULK_THREADS, "embcache-bulk")
        self._changes = ThreadPoolExecutor(1, "embcache-change")
        self._log = ThreadPoolExecutor(1, "embcache-log")
        self._apply = ThreadPoolExecutor(1, "embcache-apply")

    async def read(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a lookup's read of the store."""
        return await self._run(self._reads, lambda: call(*args, **kwargs))

    async def bulk(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs something that may take long: a piece of an import, a scan."""
        return await self._run(self._bulk, lambda: call(*args, **kwargs))

    async def change(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a change of the catalogue or of the versions that it names; one at a time."""
        return await self._run(self._changes, lambda: call(*args, **kwargs))

    async def append(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a call of the update log; one at a time."""
        return await self._run(self._log, lambda: call(*args, **kwargs))

    async def apply(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs the store's part of applying updates; one piece at a time."""
        return await self._run(self._apply, lambda: call(*args, **kwargs))

    async def _run(self, pool: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, call)
        except store.StoreStuck:
            self._stuck()
            raise

    def close(self) -> None:
        """Waits for what runs."""
        for pool in (self._reads, self._bulk, self._changes, self._log, self._apply):
            pool.shutdown(wait=True)


def service_error(error: Exception) -> EmbcacheError:
    """What a caller is told of an error below the owner. What nobody foresaw is logged under an id."""
    match error:
        case EmbcacheError():
            return error
        case store.StoreFull() | store.StoreStuck():
            return StorageFull(str(error))
        case store.StoreCorrupt():
            return StorageCorrupt(str(error), {"ids": [str(feature_id) for feature_id in error.ids[:16]]})
        case store.VersionGone():
            return UnknownTable(str(error))
        case store.StoreClosed() | store.StoreTimeout() | store.StoreLocked():
            return NotReady(str(error), {"retry_after_ms": 1000})
        case _:
            error_id = secrets.token_hex(4)
            log.error("error %s", error_id, exc_info=error)
            return Internal(f"unforeseen in the owner: {error} (error {error_id})", {"error_id": error_id})
