"""EmbeddingCache: the whole hierarchy in the caller's process. The service's front is a thin layer on this class.

Knows neither HTTP nor RocksDB: warm rows are found in the owner's arena, the rest is asked of the owner.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from embcache import prefetching, quarantinecalls, tablecalls, updatecalls
from embcache.answers import Terms, deadline_after, on_device, on_host
from embcache.attachment import Attachment
from embcache.config import Hot, Settings
from embcache.errors import MalformedRequest, NotReady
from embcache.features import hash_values
from embcache.gpu.device import DeviceError
from embcache.host.warm import warm_readers
from embcache.hot.tier import HotState, HotTier, open_tier
from embcache.lookup import Lookup, Query, VersionGoneError
from embcache.owner.claim import Claim
from embcache.owner.process import OwnerProcess
from embcache.shortway import ShortWay
from embcache.spec import TableSpec
from embcache.tablecalls import ChangedIds, Import, ScanPage, Staged, Switched
from embcache.updatecalls import Change, Producer, Progress, Pushed
from embcache_client.buffers import BufferPool
from embcache_client.lookup import Ids, Versions, bag_query_of, items_of, query_of
from embcache_client.results import LookupResult, Prefetched
from embcache_client.wire import Query as ClientQuery

ATTACH_TIMEOUT_S = 5.0
WARM_S = 30.0  # how long a switch warms the versions that it makes live, at most
_STOP_GRACE_S = 10.0
_VERSION_TRIES = 8  # how many commits may overtake one lookup
_APPLY_S = 60.0  # for a position that a lookup without a deadline waits for

NO_HOT_TIER = HotState(False, "", "none was asked for")

_caches: weakref.WeakSet[EmbeddingCache] = weakref.WeakSet()


def _leave_all_behind() -> None:
    for cache in list(_caches):
        cache.leave_behind()


os.register_at_fork(after_in_child=_leave_all_behind)


class EmbeddingCache:
    """Lookups in this process. `open` one with an owner of its own, or `attach` to a running one. Safe for threads.

    A forked child cannot use its parent's: there, `attach` another one.

    with EmbeddingCache.open("config.toml") as cache:
        rows = cache.lookup({"item": ids})["item"].rows      # float32 [n, dim]
    """

    def __init__(self, folder: Path, settings: Settings | None = None, hot: HotTier | HotState = NO_HOT_TIER) -> None:
        """Use `open` or `attach`. Takes over the hot tier."""
        self.hot = hot
        self._folder = folder
        self._settings = settings
        self._claim = None if settings is None else Claim(folder)
        self._owner: OwnerProcess | None = None
        self._lock = threading.Lock()  # over who (re)connects
        self._closed = False
        self._forked = False
        self._buffers = BufferPool()
        self._short_way = ShortWay(self._buffers)
        # Compiled, or loaded, while the owner starts: the first lookup should not be the one that waits for it.
        warming = threading.Thread(target=warm_readers, name="embcache-warm")
        warming.start()
        try:
            self._attachment = self._connect()
        except BaseException:
            self._end_owner()
            raise
        finally:
            warming.join()
        _caches.add(self)

    @classmethod
    def open(cls, config: str | os.PathLike[str] | Settings) -> Self:
        """Start an owner of the configured data folder as a child process, which ends with this one.

        Raises ConfigError where another process has the folder, and ConfigError, StorageCorrupt or NotReady with what
        the owner says is wrong.
        """
        settings = config if isinstance(config, Settings) else Settings.load(config)
        return cls._with(Path(settings.cold.path), settings, open_tier(settings.hot))

    @classmethod
    def attach(cls, folder: str | os.PathLike[str], hot: Hot | None = None) -> Self:
        """Join the running owner of a data folder on this host; NotReady where none answers.

        hot: a hot tier for this process, see [hot] in config.toml; none unless it is asked for.
        """
        return cls._with(Path(folder), None, NO_HOT_TIER if hot is None else open_tier(hot))

    @classmethod
    def _with(cls, folder: Path, settings: Settings | None, hot: HotTier | HotState) -> Self:
        try:
            return cls(folder, settings, hot)
        except BaseException:
            if isinstance(hot, HotTier):
                hot.close()
            raise

    def close(self) -> None:
        """Leave; an owner of our own is stopped, and its store closed cleanly. A second call does nothing."""
        _caches.discard(self)
        with self._lock:
            self._closed = True
            if isinstance(self.hot, HotTier):
                self.hot.close()
                self._attachment.hot = None
            self._attachment.close()
            self._end_owner()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- lookups -------------------------------------------------------------------------------------------------

    def lookup(
        self,
        tables: Mapping[str, Ids],
        *,
        dtype: str = "f32",
        strict: bool = False,
        deadline_ms: float | None = None,
        version: Versions = None,
        min_position: int = 0,
        history: str | None = None,
        device: str | None = None,
        out: Mapping[str, Any] | None = None,
    ) -> LookupResult:
        """Rows of feature IDs: a mapping from table to its rows, with a status for each id.

        tables: for each table u64 ids, ints, or raw values (str, bytes, or `Values` of ints). Unknown ids get the
        table's default row and status 0; with `strict` they are an error (MissingRows). What the deadline (from now)
        overtakes has status 4. `version`: other versions than the live ones, one label for all or by table.
        min_position: wait until it is applied; DeadlineExceeded when that takes longer than the deadline, or a minute.
        history: in which that position counts; HistoryChanged where it is another.
        device: "cuda" for results that stay on the hot tier's device: CuPy arrays, ready for what the calling thread's
        current stream is given afterwards; torch.from_dlpack takes them over without a copy. Statuses are the host's.
        out: by table, arrays there to write to, of the result's shape and dtype; for q8 (codes, scale, bias). What was
        given to the current stream before may still use them: the lookup waits for it. Whatever the lookup then raises,
        they are left with rows or without; after NotReady for a lost device they must not be used again.
        """
        deadline = deadline_after(deadline_ms)
        if not (strict or min_position or version or history or device or out or self._closed):
            result = self._short_way.answer(self._attachment, tables, dtype)
            if result is not None:
                return result
        queries = [query_of(table, ids, version) for table, ids in items_of(tables, "ids")]
        return self._answer(queries, Terms(dtype, strict, deadline, min_position, history, device, out))

    def lookup_bags(
        self,
        tables: Mapping[str, tuple[Any, ...]],
        *,
        pooling: str = "sum",
        dtype: str = "f32",
        strict: bool = False,
        deadline_ms: float | None = None,
        version: Versions = None,
        min_position: int = 0,
        history: str | None = None,
        device: str | None = None,
        out: Mapping[str, Any] | None = None,
    ) -> LookupResult:
        """One pooled row for each bag: for each table (ids, lengths) or, for sums, (ids, lengths, weights f32)."""
        queries = [bag_query_of(table, bags, pooling, version) for table, bags in items_of(tables, "(ids, lengths)")]
        deadline = deadline_after(deadline_ms)
        return self._answer(queries, Terms(dtype, strict, deadline, min_position, history, device, out))

    def prefetch(self, tables: Mapping[str, Ids], *, version: Versions = None) -> Prefetched:
        """Have rows that will soon be looked up brought up a tier, in the background: from disk to memory, from memory
        to this process's hot tier.

        tables, version: as of a lookup. Returns at once; Overloaded where too many ids wait already.
        """
        attachment = self.attached()
        queries = [query_of(table, ids, version) for table, ids in items_of(tables, "ids")]
        return prefetching.prefetch(attachment, [self._query(query) for query in queries]).result()

    # --- tables --------------------------------------------------------------------------------------------------

    def tables(self) -> dict[str, TableSpec]:
        """The tables there are now, by name."""
        return {name: view.spec for name, view in self.attached().views.live.items()}

    def create_table(self, spec: TableSpec | Mapping[str, Any]) -> bool:
        """Create a table -> whether it is new. The same spec again is fine, another one a Conflict."""
        return tablecalls.create(self.attached(), _spec(spec)).result()[0]

    async def create_table_async(self, spec: TableSpec | Mapping[str, Any]) -> tuple[bool, int]:
        return await tablecalls.create(self.ready_attachment(), _spec(spec))

    def drop_table(self, table: str) -> None:
        """Drop a table and its rows; UnknownTable where there is none."""
        tablecalls.drop(self.attached(), table).result()

    async def drop_table_async(self, table: str) -> int:
        return await tablecalls.drop(self.ready_attachment(), table)

    def limit(self, table: str, max_norm: float | None) -> int:
        """Give a table another limit for the norm of its rows, None for none -> the position from which on updates are
        judged by it."""
        return tablecalls.limit(self.attached(), table, max_norm).result()

    async def limit_async(self, table: str, max_norm: float | None) -> int:
        return await tablecalls.limit(self.ready_attachment(), table, max_norm)

    def stage(
        self,
        table: str,
        version: str,
        spec: Mapping[str, Any] | None = None,
        *,
        follow: bool = False,
        source: str | None = None,
    ) -> TableSpec:
        """Add a version to a table, beside the live one -> what it is. It is empty, and `importing` fills it.

        spec: keys in which it differs from the live one: dtype, default, add. follow: updates of the table go to it
        too. source: begin with the rows of that version, as of when this one is there. UnknownTable; Conflict for a
        name that is taken.
        """
        return tablecalls.stage(self.attached(), table, version, spec or {}, follow, source).result().spec

    async def stage_async(
        self, table: str, version: str, spec: Mapping[str, Any], follow: bool, source: str | None = None
    ) -> Staged:
        return await tablecalls.stage(self.ready_attachment(), table, version, spec, follow, source)

    def switch(
        self, tables: Mapping[str, str], *, follow: bool | None = None, warm_s: float = WARM_S
    ) -> dict[str, dict[str, int]]:
        """Make versions live, {table: version}, all of them at once for every lookup, and back again.

        warm_s: for so many seconds at most, rows that the versions before have in memory are brought there for the new
        ones -> for each table {"ids", "warmed"}: how many that would be, and how many were. follow: whether versions
        that are retired by it get updates from now on; None: as they were staged. UnknownTable, Conflict.
        """
        switched = tablecalls.switch(self.attached(), tables, follow, warm_s).result()
        return {table: dict(counts) for table, counts in switched.warmed.items()}

    async def switch_async(self, tables: Mapping[str, str], follow: bool | None, warm_s: float) -> Switched:
        return await tablecalls.switch(self.ready_attachment(), tables, follow, warm_s)

    def drop_version(self, table: str, version: str) -> None:
        """Drop a version and its rows; UnknownTable where there is none, Conflict for the live one."""
        tablecalls.drop_version(self.attached(), table, version).result()

    async def drop_version_async(self, table: str, version: str) -> int:
        return await tablecalls.drop_version(self.ready_attachment(), table, version)

    def importing(
        self, table: str, spec: TableSpec | Mapping[str, Any] | None = None, version: str | None = None
    ) -> Import:
        """Begin to fill a new version of a table, ids ascending; it goes live as a whole, when the `with` body ends.

        version: the staged one to fill, or a new one to stage; lookups get it once it is switched to.
        """
        own = None if spec is None else _spec(spec)
        return tablecalls.begin_import(self.attached(), table, own, version).result()

    async def importing_async(
        self, table: str, spec: TableSpec | Mapping[str, Any] | None = None, version: str | None = None
    ) -> Import:
        own = None if spec is None else _spec(spec)
        return await tablecalls.begin_import(self.ready_attachment(), table, own, version)

    def scan_rows(self, table: str, start: int = 0, limit: int = 1 << 16, version: str | None = None) -> ScanPage:
        """Rows in the order of their ids from `start` on; go on from the page's `next`, naming its version."""
        attachment = self.attached()
        return tablecalls.scan(attachment, attachment.views.find(table, version), start, limit).result()

    async def scan_rows_async(self, table: str, start: int, limit: int, version: str | None = None) -> ScanPage:
        attachment = self.ready_attachment()
        return await tablecalls.scan(attachment, attachment.views.find(table, version), start, limit)

    def changed(self, table: str, since: int, history: str | None = None) -> ChangedIds:
        """Ids whose rows changed after a position, as far as one answer tells: go on from its `position` until that is
        its `applied`. Conflict, HistoryChanged.
        """
        return tablecalls.changed(self.attached(), table, since, history).result()

    async def changed_async(self, table: str, since: int, history: str | None) -> ChangedIds:
        return await tablecalls.changed(self.ready_attachment(), table, since, history)

    def fetch_rows(self, table: str, ids: NDArray[np.uint64], version: str | None = None) -> ScanPage:
        """Rows as they are on disk, of those ids that have one, in their order; none comes to memory by that."""
        attachment = self.attached()
        return tablecalls.fetch(attachment, attachment.views.find(table, version), ids).result()

    async def fetch_rows_async(self, table: str, ids: NDArray[np.uint64], version: str | None) -> ScanPage:
        attachment = self.ready_attachment()
        return await tablecalls.fetch(attachment, attachment.views.find(table, version), ids)

    def progress(self) -> Progress:
        """How far updates are, and the history in which positions count."""
        return updatecalls.progress(self.attached()).result()

    def producer(self, name: str) -> Producer:
        """A producer as it is; epoch 0 for one that never opened."""
        return updatecalls.show_producer(self.attached(), name).result()

    def stats(self) -> dict[str, Any]:
        """Counts of tables, memory and reads, from the owner."""
        return tablecalls.stats(self.attached()).result()

    async def stats_async(self) -> dict[str, Any]:
        return await tablecalls.stats(self.ready_attachment())

    def feature_of(self, table: str) -> str:
        """The feature as which raw values of a table are hashed; UnknownTable where there is none."""
        return self._attachment.views.find(table, None).spec.feature_name

    # --- updates -------------------------------------------------------------------------------------------------

    def open_producer(self, name: str) -> Producer:
        """Open a producer before it pushes: it gets an epoch, and any older process under its name is shut out."""
        return updatecalls.open_producer(self.attached(), name).result()

    def update(
        self,
        producer: str,
        epoch: int,
        seq: int,
        changes: Sequence[Change],
        *,
        mark: bytes = b"",
        applied_within_s: float | None = None,
    ) -> Pushed:
        """Push a batch of changes, all or none; returns once it is durable. The same batch again counts once.

        epoch: of the opening. seq: the producer's number for the batch, one more than its last. mark: its own place in
        its input, given back by the next opening. applied_within_s: wait for so long until lookups see it.
        """
        pending = updatecalls.push(self.attached(), producer, epoch, seq, changes, mark, applied_within_s)
        return pending.result()

    def quarantine(self, after: int = 0, limit: int = 100) -> dict[str, Any]:
        """Batches that were over their table's max_norm and are set aside, the oldest behind position `after` first:
        {"count", "bytes", "batches": [...], "next"}; go on after `next`, until it is None."""
        return quarantinecalls.page(self.attached(), after, limit).result()

    def quarantined(self, position: int) -> dict[str, Any]:
        """One of them, and in "changes" how many rows a release would leave alone; UnknownTable where none is there."""
        return quarantinecalls.show(self.attached(), position).result()

    def release(self, position: int) -> dict[str, Any]:
        """Apply one after all, but for rows of which there is something newer -> {"position", "rows", "skipped"}."""
        return quarantinecalls.release(self.attached(), position).result()

    def drop_quarantined(self, position: int) -> None:
        """Forget one for good."""
        quarantinecalls.drop(self.attached(), position).result()

    # --- for the service -----------------------------------------------------------------------------------------

    @property
    def attachment(self) -> Attachment:
        """The attachment as it is, whether its owner is there or not."""
        return self._attachment

    @property
    def ready(self) -> bool:
        """Whether lookups would be answered now."""
        return not self._closed and self._attachment.alive

    @property
    def stale(self) -> bool:
        """Whether the catalogue must be fetched anew before a lookup is prepared."""
        return self._attachment.stale

    @property
    def position(self) -> int:
        """The applied position."""
        return self._attachment.arena.position

    @property
    def history(self) -> str:
        """The history in which positions count."""
        return self._attachment.views.history

    def refresh(self) -> None:
        self._attachment.refresh()

    async def refresh_async(self) -> None:
        await self._attachment.refresh_async()

    def prepare(self, queries: Sequence[Query], dtype: str, *, use_hot: bool = True) -> Lookup:
        """A lookup of the versions that are live now; NotReady and UnknownTable before any work."""
        attachment = self.ready_attachment()
        now = attachment.views  # once: all tables of a lookup are of one catalogue
        views = [now.find(query.table, query.version) for query in queries]
        return Lookup(attachment, queries, views, dtype, use_hot=use_hot)

    def attached(self) -> Attachment:
        """A live attachment with the current catalogue, made anew if the owner was lost. Blocks; may be NotReady."""
        attachment = self._attachment
        if self._forked:
            raise NotReady("this cache was opened before a fork, in another process: attach one in this process")
        if self._closed:
            raise NotReady("the cache is closed")
        if not attachment.alive:
            with self._lock:
                if not self._attachment.alive and not self._closed:
                    self._attachment.close()
                    self._attachment = self._connect()
                attachment = self._attachment
        attachment.check()
        if attachment.stale:
            attachment.refresh()
        return attachment

    def ready_attachment(self) -> Attachment:
        """The attachment as it is, without waiting; NotReady where its owner is gone."""
        if self._closed:
            raise NotReady("the cache is closed")
        self._attachment.check()
        return self._attachment

    # --- inside --------------------------------------------------------------------------------------------------

    def leave_behind(self) -> None:
        """After a fork, in the child: everything is still the parent's."""
        self._lock = threading.Lock()  # somebody may have held the other one
        self._closed = self._forked = True
        self._attachment.link.abandon()
        if self._owner is not None:
            self._owner.abandon()
            self._owner = None
        self._claim = None  # it was abandoned, too (claim.py)

    def _end_owner(self) -> None:
        """End our own, close its store, and let others have the folder."""
        if self._owner is not None:
            self._owner.stop(_STOP_GRACE_S)
            self._owner = None
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    def _connect(self) -> Attachment:
        """Attach to the owner; where it is our own and dead, start another first."""
        if self._settings is not None and (self._owner is None or self._owner.wait(ATTACH_TIMEOUT_S) is not None):
            self._owner = OwnerProcess.start(self._settings, claimed=True)
        attachment = Attachment.connect(self._folder, ATTACH_TIMEOUT_S)
        if isinstance(self.hot, HotTier):
            attachment.hot = self.hot
            self.hot.attach(attachment)
        return attachment

    def _answer(self, asked: list[ClientQuery], terms: Terms) -> LookupResult:
        terms.check()
        hot = None if terms.device is None else self._device_tier()
        use_hot = True
        for _ in range(_VERSION_TRIES):
            attachment = self.attached()
            lookup = self.prepare([self._query(query) for query in asked], terms.dtype, use_hot=use_hot)
            lookup.check_history(terms.history)
            if terms.min_position > lookup.position:
                left = _APPLY_S if terms.deadline is None else max(0.0, terms.deadline - time.monotonic())
                updatecalls.wait_applied(attachment, terms.min_position, left).result()
                continue  # on the way there the tables may have changed, too
            try:
                result = on_host(lookup, terms, self._buffers) if hot is None else on_device(lookup, terms, hot)
            except (VersionGoneError, DeviceError):
                continue
            if result is not None:
                return result
            use_hot = False
        raise NotReady("the tables changed with every try to look them up", {"retry_after_ms": 50})

    def _device_tier(self) -> HotTier:
        """The hot tier, for results that stay on its device."""
        if isinstance(self.hot, HotTier):
            return self.hot
        raise MalformedRequest(f'device: "cuda" needs a hot tier, and there is none: {self.hot.why}')

    def _query(self, query: ClientQuery) -> Query:
        ids = query.ids
        if ids is None:
            ids = hash_values(self.feature_of(query.table), query.values or ())
        return Query(query.table, ids, query.version, query.lengths, query.pooling, query.weights)


def _spec(spec: TableSpec | Mapping[str, Any]) -> TableSpec:
    return spec if isinstance(spec, TableSpec) else TableSpec.parse(dict(spec))
