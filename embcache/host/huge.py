"""Huge pages for the arena, in the background and whatever the system's default for shared memory is.

A random read of a large table waits for address translation as much as for memory, and most systems give shared memory
pages of 4 KiB only. MADV_COLLAPSE (Linux 6.1) moves a piece of it to a page of 2 MiB on demand, for every process that
maps it, while they read and write: only what touches the piece just then waits, for well under a millisecond mostly.
Where the system has no such page to give, or no such call, the piece stays as it is.

Invariant: nothing is asked for after `forget` has returned, and never more than `limit` bytes stand in huge pages: a
region that will fit once another has gone waits for that.
"""

from __future__ import annotations

import errno
import threading
import weakref

from embcache.host.memory import COLLAPSE, HUGE_PAGE, Bytes, advise


class HugePages:
    """Moves ranges of a mapping to huge pages, one at a time, on a thread that lives while there are some to move."""

    def __init__(self, pages: Bytes, limit: int) -> None:
        """pages: the whole mapping, which begins at a multiple of HUGE_PAGE."""
        self._pages = pages
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting: list[int] = []  # where pieces begin, the next one last
        self._moved: set[int] = set()
        self._thread: threading.Thread | None = None
        self._supported = True

    @property
    def bytes(self) -> int:
        """How much was moved and not given back since."""
        return len(self._moved) * HUGE_PAGE

    def want(self, begin: int, size: int) -> None:
        """Move the pieces that lie wholly in a range, soon."""
        with self._lock:
            self._waiting[:0] = reversed(_pieces(begin, size))
            self._wake()

    def forget(self, begin: int, size: int) -> None:
        """Do not move this range any more: it is about to be given back."""
        gone = set(_pieces(begin, size))
        with self._lock:
            self._waiting = [piece for piece in self._waiting if piece not in gone]
            self._moved -= gone
            self._wake()

    def wait(self) -> None:
        """Until all that can be moved now has been."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def _wake(self) -> None:
        if self._may_move() and self._thread is None:
            self._thread = threading.Thread(target=_run, args=(weakref.ref(self),), name="huge-pages", daemon=True)
            self._thread.start()

    def _may_move(self) -> bool:
        return self._supported and bool(self._waiting) and self.bytes + HUGE_PAGE <= self._limit

    def _step(self) -> bool:
        """Move the next piece; -> whether there was one."""
        with self._lock:
            if not self._may_move():
                self._thread = None
                return False
            begin = self._waiting.pop()
            piece = self._pages[begin : begin + HUGE_PAGE]
            piece[0]  # a piece of which no page is there yet is none to the system: reading makes one
            try:
                advise(piece, COLLAPSE)
                self._moved.add(begin)
            except OSError as error:
                self._supported = error.errno != errno.EINVAL  # an older system; else only this piece is refused
            return True


def _run(pages: weakref.ref[HugePages]) -> None:
    """Move pieces while there are some, and somebody who wants them."""
    while (wanted := pages()) is not None and wanted._step():
        del wanted


def _pieces(begin: int, size: int) -> range:
    """Where the pieces begin that lie wholly in a range."""
    return range(-(-begin // HUGE_PAGE) * HUGE_PAGE, begin + size - HUGE_PAGE + 1, HUGE_PAGE)
