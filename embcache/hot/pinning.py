"""Pinned tables: a thread that goes through all ids of some tables, has the owner bring their rows into the warm arena,
and hands them on, page by page, to the hot tier's writer."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from embcache.errors import EmbcacheError
from embcache.pending import TIMEOUT_S

if TYPE_CHECKING:
    from embcache.attachment import Attachment
    from embcache.views import TableView

log = logging.getLogger("embcache.hot")

PAGE_IDS = 1024
_LOOK_S = 0.1  # how long one wait for the writer takes at most, before it is looked whether to stop

Page = Callable[["TableView", NDArray[np.uint64], Callable[[], None]], None]


class Pinning:
    """Runs at once, until all is handed on or `stop`."""

    def __init__(self, attachment: Attachment, views: Sequence[TableView], hand_on: Page) -> None:
        """`hand_on(view, ids, done)`: bring the rows of ids up from the warm arena, then call `done()`."""
        self._attachment = attachment
        self._views = views
        self._hand_on = hand_on
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="embcache-pin", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Hand on nothing more. Waits for nothing."""
        self._stopped.set()

    def _run(self) -> None:
        for view in self._views:
            try:
                self._bring_up(view)
            except EmbcacheError as error:  # the version is gone, or the owner
                log.info(
                    "rows of %s, version %s, are not brought up any further: %s", view.spec.name, view.label, error
                )

    def _bring_up(self, view: TableView) -> None:
        start: int | None = 0
        while start is not None and not self._stopped.is_set():
            meta = {"version": view.number, "start": start, "limit": PAGE_IDS}
            page = self._attachment.link.call("scan", meta).result(TIMEOUT_S)
            ids = np.frombuffer(page.payload, np.uint64, int(page.meta["n"]))
            parts = [[view.number, ids.size, view.spec.row_bytes]]
            self._attachment.link.call("read", {"parts": parts}, [ids]).result(TIMEOUT_S)
            handed_on = threading.Event()
            self._hand_on(view, ids, handed_on.set)
            while not handed_on.wait(_LOOK_S) and not self._stopped.is_set():
                pass
            start = page.meta["next"]
