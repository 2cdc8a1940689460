"""A front's hold on the owner: an EmbeddingCache that is attached when there is an owner, and anew after each death.

Knows no HTTP. Whoever answers a request asks `cache()` first: it never waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from embcache.cache import EmbeddingCache
from embcache.errors import EmbcacheError, NotReady
from embcache.hot.tier import HotState, HotTier

logger = logging.getLogger("embcache.service")

_CHECK_EVERY_S = 0.02  # two loads of memory
_TRY_EVERY_S = 0.1


class Reader:
    """One front's cache. For the front's event loop."""

    def __init__(self, folder: Path) -> None:
        """Of the owner of a data folder, which need not be there yet; `keep` attaches to it."""
        self._folder = folder
        self.hot: HotTier | HotState = HotState(False, "", "this front is starting")  # set before `keep`
        self._cache: EmbeddingCache | None = None
        self._missing = "this front is starting"

    def cache(self) -> EmbeddingCache:
        """The cache; NotReady, and why, before the first owner. Its own calls say NotReady when the owner was lost."""
        if self._cache is None:
            raise NotReady(self._missing)
        return self._cache

    async def current(self) -> EmbeddingCache:
        """The cache with the catalogue as it is now, fetched if need be."""
        cache = self.cache()
        if cache.stale:
            await cache.refresh_async()
        return cache

    def check(self) -> None:
        """Raise NotReady unless lookups would be answered now."""
        if not self.cache().ready:
            raise NotReady(f"the owner of the rows is gone; {self._missing}")

    async def keep(self, attached: Callable[[], None]) -> None:
        """Attach, and attach again whenever the owner is lost, for ever. Calls `attached` after each time.

        Meanwhile the catalogue is kept current, also while nobody asks: no lookup waits for it then, nor for an owner
        that stands still soon after a change.
        """
        while True:
            await self._attach()
            attached()
            while self._cache is not None and self._cache.ready:
                if self._cache.stale:
                    with contextlib.suppress(EmbcacheError):  # who asks for something hears of it
                        await self._cache.refresh_async()
                await asyncio.sleep(_CHECK_EVERY_S)
            logger.warning("lost the owner of %s", self._folder)

    def close(self) -> None:
        """Leave the owner."""
        if self._cache is not None:
            self._cache.close()

    async def _attach(self) -> None:
        self._missing = "waiting for the owner of the rows"
        while True:
            try:
                if self._cache is None:
                    self._cache = await asyncio.to_thread(EmbeddingCache, self._folder, None, self.hot)
                else:
                    await asyncio.to_thread(self._cache.attached)
            except (EmbcacheError, OSError) as error:
                self._missing = str(error)
                await asyncio.sleep(_TRY_EVERY_S)
            else:
                return
