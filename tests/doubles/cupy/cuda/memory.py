"""Device memory."""

from __future__ import annotations

from . import runtime


class Memory:
    def __init__(self, size: int) -> None:
        self.size = size
        self.ptr = runtime.malloc(size)

    def __del__(self) -> None:
        if hasattr(self, "ptr"):
            runtime.free(self.ptr)
