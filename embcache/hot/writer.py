"""The hot tier's one writer: a thread that takes what the owner changed and what lookups asked for, in one order.

Truth. A promotion carries ids, and their rows are read from the warm arena when it is their turn; the owner writes the
arena before it feeds a change. So a row that was read too early is overtaken by a change that is still in line here: it
is written anew before the position is published that says so. A change is acknowledged, by asking for the next, once
nobody finds the rows that it overtakes.

When the feed is lost (revoked, or the owner is gone) nothing is served any more; the table is emptied and another feed
opened, if there is an owner to open one at.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embcache.errors import EmbcacheError
from embcache.feed import Bundle, Feed
from embcache.gpu.device import DeviceError
from embcache.gpu.launcher import Launcher
from embcache.gpu.pools import Pool, shares
from embcache.gpu.table import Change, GpuTable
from embcache.hot.allowance import Allowance
from embcache.hot.filling import Filling

if TYPE_CHECKING:
    from embcache.attachment import Attachment
    from embcache.config import Hot
    from embcache.views import TableView, Views

log = logging.getLogger("embcache.hot")

BATCH_IDS = 4096  # promoted at once
WAITING_IDS = 1 << 18  # that wait to be promoted; what comes beyond is forgotten
_RETRY_S = 0.1
_GROWN = 2.0  # a pool is worth dividing anew if its share would be so many times as large


class Division(NamedTuple):
    """How the table's memory is divided: a number, and {row_bytes: pool} of the tables that there are."""

    number: int
    pools: Mapping[int, Pool]


@dataclass(frozen=True, slots=True)
class _Promotion:
    view: TableView
    ids: NDArray[np.uint64]
    pinned: bool = False
    use: int | None = None  # of rows that are known to be in use: see Change
    done: Callable[[], None] = lambda: None


class Writer:
    """Made by HotTier. All writing happens on its thread; every call here only leaves word for it."""

    def __init__(self, table: GpuTable, launcher: Launcher, settings: Hot, lost: Callable[[DeviceError], None]) -> None:
        """`lost(error)`: the device has failed."""
        self._table = table
        self._launcher = launcher
        self._pinned = frozenset(settings.pinned)
        self._lost = lost
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lining_up = threading.Lock()  # over the next two
        self._promotions: deque[_Promotion] = deque()
        self._waiting_ids = 0
        self._allowance = Allowance(settings.promote_bytes_per_s)
        self._attachment: Attachment | None = None
        self._feed: Feed | None = None  # while the table serves
        self._opened: Feed | None = None
        self._views: dict[int, TableView] = {}
        self._generation = -1  # of the newest catalogue that they are of
        self._filling = Filling(self._pinned)
        self.division = Division(0, {})
        self.rows_updated = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="embcache-hot", daemon=True)
        self._thread.start()

    # --- for any thread ------------------------------------------------------------------------------------------

    @property
    def attached(self) -> bool:
        """Whether there is a feed."""
        feed = self._feed
        return feed is not None and feed.valid

    def serves(self, attachment: Attachment) -> bool:
        """Whether the table holds rows of this owner, none older than the position that was read before this call."""
        feed = self._feed
        return feed is not None and feed.attachment is attachment and feed.valid

    def attach(self, attachment: Attachment) -> None:
        """Hold rows of this owner from now on."""
        self._feed = None
        self._inbox.put(partial(self._attach, attachment))

    def catalogue_changed(self, views: Views) -> None:
        """There are other tables now."""
        self._inbox.put(partial(self._take_views, views))

    @property
    def waiting_ids(self) -> int:
        """How many ids wait to be brought up."""
        return self._waiting_ids

    def promote(self, view: TableView, ids: NDArray[np.uint64]) -> None:
        """Bring rows up, when it is their turn; forgotten where too many wait."""
        if self._waiting_ids < WAITING_IDS:
            self._line_up(_Promotion(view, ids))

    def census(self, versions: NDArray[np.uint32]) -> Future[NDArray[np.uint32]]:
        """How many rows are here of each of some table versions, ascending; never done where the thread has ended."""
        counts: Future[NDArray[np.uint32]] = Future()
        self._inbox.put(lambda: counts.set_result(self._table.census(versions)))
        return counts

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._inbox.put(None)
        self._thread.join()
        self._attachment, self._lost = None, _nobody  # who hold it, too, are let go with it

    # --- on the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._step():
                pass
        except DeviceError as error:
            self._let_go()
            self._lost(error)
        except Exception as error:  # the tier goes; lookups go on without it
            log.exception("the hot tier's writer failed")
            self._let_go()
            self._lost(DeviceError(f"its writer failed: {error!r}"))

    def _step(self) -> bool:
        """Do the next thing: what came, or a promotion when nothing else is there; False at the end."""
        try:
            todo = self._inbox.get(timeout=self._allowance.wait_s() if self._promotions else None)
        except queue.Empty:
            self._promote_some()
            return True
        if todo is None or self._closed:
            self._let_go()
            return False
        todo()
        return True

    def _let_go(self) -> None:
        """Serve nothing more, and hold nobody's positions up."""
        if self._opened is not None:
            self._opened.close()
        self._feed = self._opened = None
        self._filling.stop()

    def _attach(self, attachment: Attachment) -> None:
        self._attachment = attachment
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Empty the table, and open a feed; later, where that is not possible now."""
        self._let_go()
        attachment = self._attachment
        if attachment is None or not attachment.alive:
            return  # there will be another one
        with self._lining_up:
            self._promotions.clear()
            self._waiting_ids = 0
        self._divide(attachment.views)  # before the feed, whose changes must not wait
        try:
            feed = Feed.open(attachment)
        except EmbcacheError as error:
            log.warning("no feed for the hot tier yet: %s", error)
            retry = threading.Timer(_RETRY_S, self._inbox.put, (partial(self._attach, attachment),))
            retry.daemon = True
            retry.start()
            return
        self._feed = self._opened = feed
        self._ask_next(feed, 0)
        missing = self._pinned - {view.spec.name for view in self._views.values()}
        if missing:
            log.warning("hot.pinned: there is no table %s yet", ", ".join(sorted(missing)))
        self._filling.begin(attachment, self._views.values(), self.division.pools, self._hand_on)

    def _take_views(self, views: Views) -> None:
        if self._feed is None:
            return
        if self._is_worth_dividing(_rows(views)):
            self._divide(views)
            if self._attachment is not None:
                self._filling.begin(self._attachment, self._views.values(), self.division.pools, self._hand_on)
            return
        # Catalogues may come in any order, and one that is older lacks versions whose rows are here: those stay known
        # until the table is emptied, or what the owner tells of them would be passed over.
        new = {view.number: view for view in views.versions.values() if view.number not in self._views}
        self._views |= new
        went_live = False
        if views.generation > self._generation:  # it knows which versions are live
            now = {view.number: view for view in views.versions.values()}
            went_live = any(view.live and not self._views[number].live for number, view in now.items())
            self._views |= now
            self._generation = views.generation
        if (new or went_live) and self._attachment is not None:
            self._filling.pin(self._attachment, self._views.values(), self._hand_on)

    def _is_worth_dividing(self, rows: Mapping[int, int]) -> bool:
        if not rows.keys() <= self.division.pools.keys():
            return True
        wanted = shares(rows, self._table.capacity)
        return any(pool.nbytes * _GROWN < wanted.get(stride, 0) for stride, pool in self._table.pools.items())

    def _divide(self, views: Views) -> None:
        """Divide the memory among the widths of rows that there are. Lookups go without the tier meanwhile."""
        self._views = {view.number: view for view in views.versions.values()}
        self._generation = views.generation
        rows = _rows(views)
        self._launcher.close()
        self._table.divide(rows)
        pools = {row_bytes: pool for row_bytes in rows if (pool := self._table.pool_of(row_bytes)) is not None}
        self.division = Division(self.division.number + 1, pools)
        self._launcher.reopen(self.division.number)

    # --- what the owner changed ----------------------------------------------------------------------------------

    def _ask_next(self, feed: Feed, acked: int) -> None:
        """Acknowledge what came so far, and have what comes next put into the inbox."""
        future = feed.next(acked)
        future.add_done_callback(lambda came: self._inbox.put(partial(self._take_bundle, feed, came)))

    def _take_bundle(self, feed: Feed, came: Future[Bundle]) -> None:
        if feed is not self._feed:
            return  # of a feed before this one
        try:
            bundle = came.result()
        except EmbcacheError as error:
            log.warning("the hot tier begins anew: %s", error)
            self._begin_anew()
            return
        changes = []
        for version, ids, rows in bundle.changes:
            view = self._views.get(version)
            if view is not None:  # of a version that is not known here, nothing is here
                pinned = view.spec.name in self._pinned and rows is not None
                changes.append(Change(version, view.spec.row_bytes, ids, rows, insert=pinned, pinned=pinned))
                self.rows_updated += ids.size
        self._table.apply(changes, partial(self._ask_next, feed, bundle.number))

    # --- what lookups asked for ----------------------------------------------------------------------------------

    def _line_up(self, promotion: _Promotion) -> None:
        with self._lining_up:
            self._waiting_ids += promotion.ids.size
            self._promotions.append(promotion)
            alone = len(self._promotions) == 1
        if alone:
            self._inbox.put(lambda: None)  # it may be waiting for changes alone

    def _promote_some(self) -> None:
        """One promotion, as far as its allowance goes."""
        with self._lining_up:
            if not self._promotions:
                return
            promotion = self._promotions.popleft()
            self._waiting_ids -= promotion.ids.size
        view, attachment = promotion.view, self._attachment
        if self._feed is None or attachment is None or view.number not in self._views:
            promotion.done()
            return
        ids, rest = np.unique(promotion.ids[:BATCH_IDS]), promotion.ids[BATCH_IDS:]
        there, rows = attachment.warm_rows(view, ids)
        if there.size:
            # What is here already was kept up to date; a row that is to be pinned has yet to be marked so.
            pinned, use = promotion.pinned, promotion.use
            self._table.insert(view.number, there, rows, keep=not pinned, pinned=pinned, use=use)
            self._allowance.spend(rows.nbytes)
        if rest.size:
            with self._lining_up:
                self._promotions.appendleft(replace(promotion, ids=rest))
                self._waiting_ids += rest.size
        else:
            promotion.done()

    def _hand_on(
        self,
        view: TableView,
        ids: NDArray[np.uint64],
        done: Callable[[], None],
        *,
        pinned: bool = False,
        use: int | None = None,
    ) -> None:
        self._line_up(_Promotion(view, ids, pinned, use, done))


def _nobody(_error: DeviceError) -> None:
    """Is told of a device that has failed, after all."""


def _rows(views: Views) -> dict[int, int]:
    """{row_bytes: rows that tables of that width have}."""
    rows: dict[int, int] = {}
    for view in views.versions.values():
        rows[view.spec.row_bytes] = rows.get(view.spec.row_bytes, 0) + view.rows
    return rows
