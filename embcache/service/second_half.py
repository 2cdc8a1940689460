"""The second half of a large reply, looked for while the first is on its way to the client.

Its head has said 200 by then. So what is missing is still waited for, as for any lookup, and late rows are told as
such; but what would have been an error ends the connection in the middle of the reply, and the client asks again.
"""

from __future__ import annotations

import time

import numpy as np

from embcache.errors import EmbcacheError, NotReady
from embcache.lookup import VersionGoneError
from embcache.metrics import Counters
from embcache.service import failures
from embcache.service.reader import Reader
from embcache.service.repeats import Answered


class SecondHalf:
    """See connection.Rest. Of an answer whose first half is final."""

    def __init__(
        self, answered: Answered, reader: Reader, counters: Counters, arrived: float, patience_s: float
    ) -> None:
        """arrived: when the request did, by time.monotonic(); patience_s: where it names no deadline itself."""
        self._answered = answered
        self._reader = reader
        self._counters = counters
        self._arrived = arrived
        asked_ms = answered.kind.deadline_ms
        self._deadline = arrived + (patience_s if asked_ms is None else asked_ms / 1000)

    def now(self) -> memoryview | None:
        """What the arena alone can answer; None, and nothing was done, where it lacks something."""
        end = self._answered.end
        try:
            if not self._answered.go_on(self._answered.count):
                return None
        except EmbcacheError:
            return None
        return self._ended(end)

    async def later(self) -> memoryview | None:
        """The same the usual way, from the same version and history; None where that cannot be."""
        try:
            await self._look_up()
        except Exception as error:
            self._counters.failed(failures.of(error).code)
            return None
        end, self._answered.done = self._answered.end, self._answered.count
        return self._ended(end)

    async def _look_up(self) -> None:
        query, place = self._answered.left()
        cache = await self._reader.current()
        begun = self._answered.kind.lookup
        views = cache.ready_attachment().views
        view = views.versions.get((begun.view.spec.name, begun.view.label))
        if views.history != begun.history or view is None or view.number != begun.view.number:
            raise NotReady("the tables are others than those of which the reply's first half is")
        lookup = cache.prepare([query], self._answered.kind.dtype, use_hot=False)
        for _ in lookup.steps(np.frombuffer(self._answered.reply.body, np.uint8), [place]):
            raise AssertionError("a lookup without the hot tier has nothing to wait for")
        try:
            if lookup.left:
                await lookup.finish_async(self._deadline)
        except VersionGoneError:
            raise NotReady("the version of which the reply's first half is was dropped") from None

    def _ended(self, begin: int) -> memoryview:
        self._counters.answered(self._answered.table, self._answered.status)
        self._counters.looked_up(time.monotonic() - self._arrived)
        return self._answered.reply.body[begin:]
