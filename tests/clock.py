"""A clock that stands still but for what a test lets pass, for the test's process and all that it starts."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest

_FOLDER: Final = Path(__file__).parent / "stopped_clock"
_START_MS: Final = 1_700_000_000_000


class StoppedClock:
    """Within its block `time.time_ns()` says `now`, also in processes that are started there."""

    def __init__(self, file: Path) -> None:
        """`file` is where the time stands."""
        file.write_bytes(bytes(8))
        self._file = file
        self._patch = pytest.MonkeyPatch()
        with file.open("r+b") as opened:
            self._memory = mmap.mmap(opened.fileno(), 8)
        self.now = _START_MS

    @property
    def now(self) -> int:
        """In ms since 1970."""
        return int.from_bytes(self._memory[:8], "little") // 1_000_000

    @now.setter
    def now(self, ms: int) -> None:
        self._memory[:8] = (ms * 1_000_000).to_bytes(8, "little")

    def __enter__(self) -> Self:
        path = os.pathsep.join(filter(None, (str(_FOLDER), os.environ.get("PYTHONPATH"))))
        self._patch.setenv("PYTHONPATH", path)
        self._patch.syspath_prepend(str(_FOLDER))  # what embcache starts finds its modules where we do
        self._patch.setenv("EMBCACHE_TESTS_CLOCK", str(self._file))
        self._patch.setattr("time.time_ns", lambda: int.from_bytes(self._memory[:8], "little"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patch.undo()
