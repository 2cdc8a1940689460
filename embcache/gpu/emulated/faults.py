"""Faults that tests inject into an emulated device: what a GPU does when it fails, which seldom happens by itself."""

from __future__ import annotations

import threading

from embcache.gpu.device import DeviceError


class Faults:
    """Those that were asked for. Safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failing: dict[str, list[str]] = {}
        self._hanging: set[str] = set()
        self._lost: str | None = None

    def fail_next(self, kernel: str, error: str) -> None:
        with self._lock:
            self._failing.setdefault(kernel, []).append(error)

    def hang(self, kernel: str) -> None:
        with self._lock:
            self._hanging.add(kernel)

    def release(self) -> None:
        with self._lock:
            self._hanging.clear()

    def lose(self, reason: str) -> None:
        self._lost = reason

    def check(self) -> None:
        """DeviceError if the device is lost."""
        if self._lost is not None:
            raise DeviceError(self._lost)

    def of_launch(self, kernel: str) -> bool:
        """Whether this launch hangs; DeviceError if it fails."""
        self.check()
        with self._lock:
            failing = self._failing.get(kernel)
            if failing:
                raise DeviceError(failing.pop(0))
            return kernel in self._hanging
