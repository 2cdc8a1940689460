"""Counting who is inside, so that what they use goes away only after the last of them left. Touches nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType


class Gate:
    """Calls enter and leave; `shut` keeps new ones out and waits for those inside. Never opens again.

    Whoever is inside must not shut the same gate.
    """

    def __init__(self, refusal: Callable[[], Exception]) -> None:
        """`refusal` makes the exception for whoever comes after the gate was shut."""
        self._refusal = refusal
        self._changed = threading.Condition(threading.Lock())
        self._inside = 0
        self._shut = False

    def __enter__(self) -> None:
        with self._changed:
            if self._shut:
                raise self._refusal()
            self._inside += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._inside -= 1
            if self._shut and not self._inside:
                self._changed.notify_all()

    def shut(self) -> bool:
        """Returns True to the one caller that shut it, at once to the others, with False."""
        with self._changed:
            if self._shut:
                return False
            self._shut = True
            self._changed.wait_for(lambda: not self._inside)
            return True
