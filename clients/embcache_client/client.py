"""Client: the blocking client. Everything but the sockets is shared with AsyncClient (aio.py)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from numpy.typing import ArrayLike

from embcache_client import admin, quarantine_calls
from embcache_client.call import DEFAULT_TIMEOUT_S, MAX_REPLY_BYTES, Call, Endpoint, RetryPolicy
from embcache_client.errors import ClientError, ConnectFailed, ConnectionLost, NotReady, ServiceError, Timeout
from embcache_client.lookup import Ids, Versions, lookup_bags_call, lookup_call
from embcache_client.lookups import Lookups
from embcache_client.prefetch import prefetch_call
from embcache_client.results import ChangedIds, LookupResult, Prefetched, RowPage
from embcache_client.transport import Transport


class Client:
    """A service, seen from here. Safe to use from many threads; each call under way has a connection of its own.

    url: http://host:port, or http+unix:///path/of/socket.
    token: where the service asks for one.
    timeout: seconds that a call may take in all, tries and pauses included.
    retry: how often and at what pace a call is tried again where that is safe.
    max_reply_bytes: a larger answer is refused before it is received.
    connections: a lookup of 8,192 ids or more of one table is split over up to so many connections.
    near_cache_rows, max_staleness_s: keep up to so many rows of each table and dtype here, and answer from them for so
        many seconds, in which updates of them are not seen; off by default. Their status is 6, `near`. Lookups with
        `strict`, `min_position`, `history` or `version`, of raw values, and of bags always ask the service.

    All methods raise the errors of embcache_client.errors, and ValueError or TypeError for arguments that can never be
    right. Arrays in results are theirs for good: receive buffers are used again only once no array looks into them.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        retry: RetryPolicy | None = None,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        connections: int = 1,
        near_cache_rows: int = 0,
        max_staleness_s: float = 0.0,
    ) -> None:
        self._transport = Transport(Endpoint(url, token, timeout, retry, max_reply_bytes))
        self._lookups = Lookups(self._transport.buffers, connections, near_cache_rows, max_staleness_s)

    def lookup(
        self,
        tables: Mapping[str, Ids],
        *,
        dtype: str = "f32",
        strict: bool = False,
        min_position: int = 0,
        history: str | None = None,
        deadline_ms: int | None = None,
        version: Versions = None,
    ) -> LookupResult:
        """The rows of some ids of some tables.

        tables: for each table its ids: a uint64 array, integers >= 0, or raw feature values, which the service hashes:
            lists of str or bytes, or Values([...]) for integers too. Repeats are fine.
        dtype: of the rows on the wire: "f32", "f16", "bf16" or "q8". `.rows` is float32 in any case.
        strict: raise MissingRows rather than return a default row in place of one that is missing.
        min_position, history: wait until updates up to this position are applied; raise HistoryChanged where positions
            of `history` no longer count.
        deadline_ms: how long the service may take: rows that it has not found by then come as status 4, `late`.
        version: of each table, or of all, rather than the live one.
        """
        conditions: dict[str, Any] = {
            "strict": strict,
            "min_position": min_position,
            "history": history,
            "deadline_ms": deadline_ms,
        }
        if self._lookups.take_one_call:
            return self._transport.run(lookup_call(tables, dtype=dtype, version=version, **conditions))
        return self._transport.run_lookup(self._lookups.steps(tables, dtype, version, conditions))

    def lookup_bags(
        self,
        tables: Mapping[str, tuple[Any, ...]],
        *,
        pooling: str = "sum",
        dtype: str = "f32",
        strict: bool = False,
        min_position: int = 0,
        history: str | None = None,
        deadline_ms: int | None = None,
        version: Versions = None,
    ) -> LookupResult:
        """One pooled row for each bag of ids.

        tables: for each table (ids, lengths) or (ids, lengths, weights): bag 0 is the first lengths[0] ids, and so on;
            weights, float32 [n], only with pooling "sum".
        pooling: "sum" or "mean". IDs without a row add nothing and do not count; a bag without any gives zeros.

        The rest is as in lookup(). `.rows` has a row for each bag, `.status` still one status for each id.
        """
        return self._transport.run(
            lookup_bags_call(
                tables,
                pooling=pooling,
                dtype=dtype,
                strict=strict,
                min_position=min_position,
                history=history,
                deadline_ms=deadline_ms,
                version=version,
            )
        )

    def prefetch(self, tables: Mapping[str, Ids], *, version: Versions = None) -> Prefetched:
        """Have rows that will be looked up soon brought up a tier, in the background; returns at once.

        tables, version: as of a lookup. Says of how many ids the rows were not in memory. Raises Overloaded, after its
        tries, where too many wait for theirs already.
        """
        return self._transport.run(prefetch_call(tables, version))

    def tables(self) -> list[dict[str, Any]]:
        """All tables, each as table() gives it."""
        return self._transport.run(admin.tables_call())

    def table(self, name: str) -> dict[str, Any]:
        """A table's spec, version, row counts, and bytes in each tier."""
        return self._transport.run(admin.table_call(name))

    def create_table(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Create a table: {"name": ..., "dim": ..., "dtype": ..., "default": ..., "feature": ...}.

        The same spec again changes nothing; another one of the same name raises Conflict.
        """
        return self._transport.run(admin.create_table_call(spec))

    def drop_table(self, name: str) -> None:
        """Drop a table with all its rows."""
        self._transport.run(admin.drop_table_call(name))

    def limit(self, table: str, max_norm: float | None) -> dict[str, Any]:
        """Give a table another limit for the L2 norm of its rows, None for none; returns it, and "position", from which
        on updates are judged by it. Rows that are over it stay."""
        return self._transport.run(admin.limit_call(table, max_norm))

    def stage(
        self,
        table: str,
        version: str,
        spec: Mapping[str, Any] | None = None,
        *,
        follow: bool = False,
        source: str | None = None,
    ) -> dict[str, Any]:
        """Add a version to a table, beside the live one, empty for importing(version=...) to fill; returns what it is.

        spec: the keys in which it differs from the live one: "dtype", "default", "add", "ttl_s", "max_norm". follow:
        updates of the table go to it, too. source: it begins with the rows of that version, as of the "position" of
        the answer. Raises Conflict for a name that is taken.
        """
        return self._transport.run(admin.stage_call(table, version, spec, follow, source))

    def switch(
        self, tables: Mapping[str, str], *, follow: bool | None = None, warm_s: float = admin.WARM_S
    ) -> dict[str, Any]:
        """Make versions live, {table: version}, all at once for every lookup; and back again, the same way.

        follow: whether updates go on to the versions that were live; None: as they were staged.
        warm_s: for how long, at most, rows that those have in memory are brought there for the new ones before.
        Returns "position", from which on it counts, and "warmed", for each table {"ids", "warmed"}: of how many ids
        rows were to be in memory, and of how many they were.
        """
        return self._transport.run(admin.switch_call(tables, follow, warm_s))

    def drop_version(self, table: str, version: str) -> None:
        """Drop a version with its rows; the live one is a Conflict."""
        self._transport.run(admin.drop_version_call(table, version))

    def importing(
        self, table: str, spec: Mapping[str, Any] | None = None, *, dtype: str = "f32", version: str | None = None
    ) -> Import:
        """Replace all rows of a table: `with client.importing("item") as load: load.write(ids, rows)`.

        The rows go into a new version, which goes live, whole, when the block ends, and is dropped when it raises. Rows
        that were in the table before and are not written are gone then.
        spec: creates the table where it does not exist yet. dtype: of the rows on the wire. version: fill the version
        of that name, which is staged, or is by this; lookups get it once switch() makes it live.
        """
        return Import(self._transport, admin.ImportCalls(table, spec, dtype, version))

    def pages(
        self,
        table: str,
        *,
        version: str | None = None,
        start: int = 0,
        limit: int = admin.EXPORT_PAGE_ROWS,
        dtype: str = "f32",
    ) -> Iterator[RowPage]:
        """All rows of a table from id `start` on, in the order of their ids, at most `limit` a page.

        All pages are of one version: the one given, or the one that was live at the first page.
        """
        next_id: int | None = start
        while next_id is not None:
            page = self._transport.run(admin.page_call(table, version, next_id, limit, dtype))
            version, next_id = page.version, page.next_id
            yield page

    def changed(self, table: str, since: int, *, history: str | None = None) -> Iterator[ChangedIds]:
        """IDs whose rows changed after position `since`, in pieces, up to the position that is applied now.

        The last piece's `position` is what to give as `since` the next time; rows that are fetched after it are as of
        there, or newer. An id may come in several pieces. history: in which `since` counts. Conflict says why it is not
        known: `since` is older than the update log, or all rows of the table were replaced since (then read pages()).
        """
        upto = None
        while upto is None or since < upto:
            told = self._transport.run(admin.changed_call(table, since, history))
            since, upto = told.position, told.applied if upto is None else upto
            yield told

    def fetch_rows(self, table: str, ids: ArrayLike, *, version: str | None = None, dtype: str = "f32") -> RowPage:
        """Rows of ids as they are on disk: of those that have one, in their order. At most 16 MiB of float32.

        Unlike a lookup it brings none to the service's memory, and rounds none of a table whose rows are wider on disk.
        """
        return self._transport.run(admin.fetch_call(table, ids, version, dtype))

    def position(self) -> dict[str, Any]:
        """How far updates are: "durable" and "applied" positions, their "history", "lag_s" of the oldest waiting."""
        return self._transport.run(admin.progress_call())

    def quarantine(self, after: int = 0, limit: int = 100) -> dict[str, Any]:
        """Batches of updates that were over their table's max_norm and are set aside, the oldest behind position
        `after` first: {"count", "bytes", "batches": [...], "next"}; go on after "next", until it is None."""
        return self._transport.run(quarantine_calls.page_call(after, limit))

    def quarantined(self, position: int) -> dict[str, Any]:
        """One of them, and in "changes" how many of its rows were changed since, which a release would leave alone."""
        return self._transport.run(quarantine_calls.show_call(position))

    def release(self, position: int) -> dict[str, Any]:
        """Apply one after all, as a new batch, but for rows changed since: {"position", "rows", "skipped"}."""
        return self._transport.run(quarantine_calls.release_call(position))

    def drop_quarantined(self, position: int) -> None:
        """Forget one for good."""
        self._transport.run(quarantine_calls.drop_call(position))

    def health(self) -> bool:
        """True if the service is alive; asks once."""
        return self._answers(admin.health_call())

    def ready(self) -> bool:
        """True if the service would serve a lookup now; asks once."""
        return self._answers(admin.ready_call())

    def _answers(self, call: Call[None]) -> bool:
        try:
            self._transport.run(call)
        except ClientError as error:
            if is_unavailable(error):
                return False
            raise
        return True

    def close(self) -> None:
        """Close the connections; results stay as they are."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Import:
    """A new version of a table under way; see Client.importing."""

    def __init__(self, transport: Transport, calls: admin.ImportCalls) -> None:
        self._transport = transport
        self._calls = calls
        self.version: str | None = None

    def write(self, ids: ArrayLike, rows: ArrayLike) -> int:
        """Add rows [n, dim] of ids [n], which ascend over all writes. Returns how many rows there are so far."""
        total = 0
        for call in self._calls.pages(ids, rows):
            total = self._transport.run(call)
        return total

    def __enter__(self) -> Self:
        self.version = self._calls.began(self._transport.run(self._calls.begin()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._transport.run(self._calls.commit())
            return
        with contextlib.suppress(ClientError):  # what went wrong first matters more; a silent import ends by itself
            self._transport.run(self._calls.abort())


def is_unavailable(error: ClientError) -> bool:
    """Nobody there, or there and not yet able."""
    if isinstance(error, ConnectFailed | ConnectionLost | Timeout | NotReady):
        return True
    return isinstance(error, ServiceError) and error.http_status == 503
