"""How many bytes may move in a second."""

from __future__ import annotations

import time

_BURST_S = 0.05


class Allowance:
    """A bucket that fills at a rate: what was spent beyond it is waited for. For one thread."""

    def __init__(self, bytes_per_s: int) -> None:
        self._rate = bytes_per_s
        self._free_at = 0.0

    def spend(self, nbytes: int) -> None:
        """Note that so many bytes were moved."""
        self._free_at = max(self._free_at, time.monotonic() - _BURST_S) + nbytes / self._rate

    def wait_s(self) -> float:
        """How long to wait before the next move."""
        return max(0.0, self._free_at - time.monotonic())
