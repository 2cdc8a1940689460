"""How far a service has applied updates. Shared by the pairs that push some."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from embcache_client.call import MAX_REPLY_BYTES, Call, Endpoint
from embcache_client.transport import Transport

POLL_S = 0.01
_TIMEOUT_S = 60.0


class Reached(NamedTuple):
    """What is applied, and for how long the oldest batch that is not has waited, in seconds."""

    applied: int
    lag_s: float


class Progress:
    """Asks a service again and again how far it is, over one connection."""

    def __init__(self, url: str) -> None:
        self._transport = Transport(Endpoint(url, None, _TIMEOUT_S, None, MAX_REPLY_BYTES))

    def now(self) -> Reached:
        """The client's errors."""
        return self._transport.run(Call("GET", "/v1/position", lambda response: _reached(bytes(response.body))))

    def wait_applied(self, position: int) -> None:
        """Until a position is applied."""
        while self.now().applied < position:
            time.sleep(POLL_S)

    def close(self) -> None:
        self._transport.close()


@contextmanager
def progress_of(url: str) -> Iterator[Progress]:
    """The progress of the service at this URL, for the block."""
    progress = Progress(url)
    try:
        yield progress
    finally:
        progress.close()


def _reached(body: bytes) -> Reached:
    said = json.loads(body)
    return Reached(int(said["applied"]), float(said["lag_s"]))


class Behind:
    """How far what is applied is behind what was acknowledged: an upper bound, from outside.

    A batch counts as applied when an answer says so. So a service that stands still, and answers nobody meanwhile,
    hides nothing. `worst_s` is the longest that any batch took, or that the service itself said; `applied` counts
    batches. Times are of one clock, in seconds.
    """

    def __init__(self) -> None:
        self.applied = 0
        self.worst_s = 0.0
        self._waiting: dict[int, float] = {}
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Batches that were acknowledged and are not known to be applied."""
        return len(self._waiting)

    def acknowledged(self, position: int, at: float) -> None:
        """The batch at this position is durable."""
        with self._lock:
            self._waiting[position] = at

    def reached(self, reached: Reached, at: float) -> None:
        """The service said this at that time or before."""
        with self._lock:
            done = [position for position in self._waiting if position <= reached.applied]
            waited = [at - self._waiting.pop(position) for position in done]
        self.applied += len(done)
        self.worst_s = max(self.worst_s, reached.lag_s, *waited)
