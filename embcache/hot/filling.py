"""What fills a hot tier beside lookups: pinned tables, all of them; of the others what is in use, where it is empty."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from embcache.gpu.pools import Pool
from embcache.hot.pinning import Pinning
from embcache.hot.refill import Refill

if TYPE_CHECKING:
    from embcache.attachment import Attachment
    from embcache.views import TableView


class HandOn(Protocol):
    """Brings rows of ids u64 [n] up from the warm arena, when it is their turn, then calls `done()`.

    pinned, use: as in Change (gpu/table.py).
    """

    def __call__(
        self,
        view: TableView,
        ids: NDArray[np.uint64],
        done: Callable[[], None],
        *,
        pinned: bool = False,
        use: int | None = None,
    ) -> None: ...


class Filling:
    """For one thread."""

    def __init__(self, pinned: frozenset[str]) -> None:
        """`pinned`: names of tables."""
        self._pinned = pinned
        self._pinning: Pinning | None = None
        self._refill: Refill | None = None

    def begin(
        self, attachment: Attachment, views: Collection[TableView], pools: Mapping[int, Pool], hand_on: HandOn
    ) -> None:
        """The tier is empty: fill it. pools: {row_bytes: pool}."""
        self.stop()
        self.pin(attachment, views, hand_on)
        others = [view for view in views if view.live and view.spec.name not in self._pinned and not view.spec.expires]
        tables = [(view, pools[view.spec.row_bytes]) for view in others if view.spec.row_bytes in pools]
        if tables:
            self._refill = Refill(attachment, tables, hand_on)

    def pin(self, attachment: Attachment, views: Collection[TableView], hand_on: HandOn) -> None:
        """Have the rows of pinned tables brought up, all of them."""
        if self._pinning is not None:
            self._pinning.stop()
            self._pinning = None
        pinned = [view for view in views if view.spec.name in self._pinned and view.live]
        if pinned:
            self._pinning = Pinning(attachment, pinned, partial(hand_on, pinned=True))

    def stop(self) -> None:
        """Bring up nothing more. Waits for nothing."""
        for filling in (self._pinning, self._refill):
            if filling is not None:
                filling.stop()
        self._pinning = self._refill = None
