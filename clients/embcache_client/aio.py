"""AsyncClient: the client for asyncio applications. Only the moving of bytes differs from Client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self

from numpy.typing import ArrayLike

from embcache_client import admin, quarantine_calls
from embcache_client.aio_transport import AsyncTransport
from embcache_client.call import DEFAULT_TIMEOUT_S, MAX_REPLY_BYTES, Call, Endpoint, RetryPolicy
from embcache_client.client import is_unavailable
from embcache_client.errors import ClientError
from embcache_client.lookup import Ids, Versions, lookup_bags_call, lookup_call
from embcache_client.lookups import Lookups
from embcache_client.prefetch import prefetch_call
from embcache_client.results import ChangedIds, LookupResult, Prefetched, RowPage


class AsyncClient:
    """Client for asyncio: the same arguments, methods, results and errors, with `await` before each call.

    It stays with the event loop of its first call. A call that is cancelled closes its connection.
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
        self._transport = AsyncTransport(Endpoint(url, token, timeout, retry, max_reply_bytes))
        self._lookups = Lookups(self._transport.buffers, connections, near_cache_rows, max_staleness_s)

    async def lookup(
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
        """As Client.lookup."""
        conditions: dict[str, Any] = {
            "strict": strict,
            "min_position": min_position,
            "history": history,
            "deadline_ms": deadline_ms,
        }
        if self._lookups.take_one_call:
            return await self._transport.run(lookup_call(tables, dtype=dtype, version=version, **conditions))
        return await self._transport.run_lookup(self._lookups.steps(tables, dtype, version, conditions))

    async def lookup_bags(
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
        """As Client.lookup_bags."""
        return await self._transport.run(
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

    async def prefetch(self, tables: Mapping[str, Ids], *, version: Versions = None) -> Prefetched:
        """As Client.prefetch."""
        return await self._transport.run(prefetch_call(tables, version))

    async def tables(self) -> list[dict[str, Any]]:
        """As Client.tables."""
        return await self._transport.run(admin.tables_call())

    async def table(self, name: str) -> dict[str, Any]:
        """As Client.table."""
        return await self._transport.run(admin.table_call(name))

    async def create_table(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """As Client.create_table."""
        return await self._transport.run(admin.create_table_call(spec))

    async def drop_table(self, name: str) -> None:
        """As Client.drop_table."""
        await self._transport.run(admin.drop_table_call(name))

    async def limit(self, table: str, max_norm: float | None) -> dict[str, Any]:
        """As Client.limit."""
        return await self._transport.run(admin.limit_call(table, max_norm))

    async def stage(
        self,
        table: str,
        version: str,
        spec: Mapping[str, Any] | None = None,
        *,
        follow: bool = False,
        source: str | None = None,
    ) -> dict[str, Any]:
        """As Client.stage."""
        return await self._transport.run(admin.stage_call(table, version, spec, follow, source))

    async def switch(
        self, tables: Mapping[str, str], *, follow: bool | None = None, warm_s: float = admin.WARM_S
    ) -> dict[str, Any]:
        """As Client.switch."""
        return await self._transport.run(admin.switch_call(tables, follow, warm_s))

    async def drop_version(self, table: str, version: str) -> None:
        """As Client.drop_version."""
        await self._transport.run(admin.drop_version_call(table, version))

    def importing(
        self, table: str, spec: Mapping[str, Any] | None = None, *, dtype: str = "f32", version: str | None = None
    ) -> AsyncImport:
        """As Client.importing, with `async with` and `await load.write(ids, rows)`."""
        return AsyncImport(self._transport, admin.ImportCalls(table, spec, dtype, version))

    async def pages(
        self,
        table: str,
        *,
        version: str | None = None,
        start: int = 0,
        limit: int = admin.EXPORT_PAGE_ROWS,
        dtype: str = "f32",
    ) -> AsyncIterator[RowPage]:
        """As Client.pages, with `async for`."""
        next_id: int | None = start
        while next_id is not None:
            page = await self._transport.run(admin.page_call(table, version, next_id, limit, dtype))
            version, next_id = page.version, page.next_id
            yield page

    async def changed(self, table: str, since: int, *, history: str | None = None) -> AsyncIterator[ChangedIds]:
        """As Client.changed, with `async for`."""
        upto = None
        while upto is None or since < upto:
            told = await self._transport.run(admin.changed_call(table, since, history))
            since, upto = told.position, told.applied if upto is None else upto
            yield told

    async def fetch_rows(
        self, table: str, ids: ArrayLike, *, version: str | None = None, dtype: str = "f32"
    ) -> RowPage:
        """As Client.fetch_rows."""
        return await self._transport.run(admin.fetch_call(table, ids, version, dtype))

    async def position(self) -> dict[str, Any]:
        """As Client.position."""
        return await self._transport.run(admin.progress_call())

    async def quarantine(self, after: int = 0, limit: int = 100) -> dict[str, Any]:
        """As Client.quarantine."""
        return await self._transport.run(quarantine_calls.page_call(after, limit))

    async def quarantined(self, position: int) -> dict[str, Any]:
        """As Client.quarantined."""
        return await self._transport.run(quarantine_calls.show_call(position))

    async def release(self, position: int) -> dict[str, Any]:
        """As Client.release."""
        return await self._transport.run(quarantine_calls.release_call(position))

    async def drop_quarantined(self, position: int) -> None:
        """As Client.drop_quarantined."""
        await self._transport.run(quarantine_calls.drop_call(position))

    async def health(self) -> bool:
        """As Client.health."""
        return await self._answers(admin.health_call())

    async def ready(self) -> bool:
        """As Client.ready."""
        return await self._answers(admin.ready_call())

    async def _answers(self, call: Call[None]) -> bool:
        try:
            await self._transport.run(call)
        except ClientError as error:
            if is_unavailable(error):
                return False
            raise
        return True

    async def close(self) -> None:
        """Close the connections; results stay as they are."""
        self._transport.close()
        await asyncio.sleep(0)  # asyncio closes a socket one turn of its loop after it was told to

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()


class AsyncImport:
    """A new version of a table under way; see AsyncClient.importing."""

    def __init__(self, transport: AsyncTransport, calls: admin.ImportCalls) -> None:
        self._transport = transport
        self._calls = calls
        self.version: str | None = None

    async def write(self, ids: ArrayLike, rows: ArrayLike) -> int:
        """As Import.write."""
        total = 0
        for call in self._calls.pages(ids, rows):
            total = await self._transport.run(call)
        return total

    async def __aenter__(self) -> Self:
        self.version = self._calls.began(await self._transport.run(self._calls.begin()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            await self._transport.run(self._calls.commit())
            return
        with contextlib.suppress(ClientError):
            await self._transport.run(self._calls.abort())
