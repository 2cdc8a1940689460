"""Tables as the commands see them: through a running service, or in a stopped one's data folder. The only seam of the
two; whoever uses it need not know which it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from embcache.cache import EmbeddingCache
from embcache.cli.pushing import LocalPush, Push, RemotePush
from embcache.cli.words import counted
from embcache.config import Settings
from embcache.errors import MalformedRequest, UnknownTable
from embcache.spec import TableSpec
from embcache.validation import nearest
from embcache_client import Client, TableRows
from embcache_client.call import Endpoint
from embcache_client.errors import ProtocolError

Ids = NDArray[np.uint64]
Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TableInfo:
    """A version of a table, mostly the live one: rows in all, rows in host memory, bytes in each tier.

    `rows` is an estimate unless `rows_exact`; `hot_bytes` are those of the GPU of the front that was asked. `state` is
    live, staged or retired; `follow`: updates go to it while it is not live. live_since: the position from which on it
    is the live one; it tells a time of that from another.
    """

    spec: TableSpec
    version: str
    rows: int
    rows_exact: bool
    warm_rows: int
    warm_bytes: int
    cold_bytes: int
    hot_bytes: int = 0
    state: str = "live"
    follow: bool = False
    live_since: int | None = None

    @property
    def shown_rows(self) -> str:
        """How many rows, for people."""
        return f"{self.rows:,}" if self.rows_exact else f"about {self.rows:,}"

    @property
    def counted_rows(self) -> str:
        """The same with the word: "3 rows", "about 3 rows"."""
        return counted(self.rows, "row") if self.rows_exact else f"about {counted(self.rows, 'row')}"


class Since(NamedTuple):
    """A position in a history, from which on changes can be asked for; shown as the options of the next export."""

    position: int
    history: str

    def __str__(self) -> str:
        return f"--since {self.position} --history {self.history}"


class ChangedPiece(NamedTuple):
    """IDs u64 [n] whose rows changed; all up to `upto` are told with it."""

    upto: Since
    ids: Ids


class Load(Protocol):
    """A new version on its way in: ids u64 [n] ascending over all writes, rows float [n, dim]."""

    @property
    def version(self) -> str | None: ...

    def write(self, ids: Ids, rows: NDArray[Any], /) -> object: ...


class Tables(Protocol):
    """What the commands do with tables. Raises EmbcacheError or ClientError."""

    def list(self) -> list[TableInfo]:
        """All tables by name."""
        ...

    def versions(self, table: str) -> Sequence[TableInfo]:
        """All versions of a table, the live one first; UnknownTable where there is none."""
        ...

    def limit(self, table: str, max_norm: float | None) -> object:
        """Give a table another limit for the norm of its rows, None for none."""
        ...

    def stage(self, table: str, version: str, spec: Mapping[str, Any], follow: bool, source: str | None) -> None:
        """Add a version, empty or with the rows of `source`; `spec` is what it has of its own."""
        ...

    def switch(self, tables: Mapping[str, str], follow: bool | None, warm_s: float) -> dict[str, dict[str, int]]:
        """Make versions live, all at once -> "ids" and "warmed" of each table that had another one before."""
        ...

    def drop_version(self, table: str, version: str) -> None:
        """Drop a version that is not live."""
        ...

    def importing(self, table: str, spec: TableSpec | None, version: str | None) -> AbstractContextManager[Load]:
        """A new version of a table, which goes live when the block ends, or the named one, which does not; gone when it
        raises."""
        ...

    def pages(self, table: str, version: str, limit: int) -> Iterator[tuple[Ids, Rows]]:
        """All rows of a version by ascending id, at most `limit` at a time."""
        ...

    def since(self) -> Since:
        """The position that is applied: rows that are read from now on are as of there, or newer."""
        ...

    def changed(self, table: str, since: Since) -> Iterator[ChangedPiece]:
        """IDs whose rows changed since a position, in pieces, up to the one that is applied. A history of "" is any.
        Conflict, HistoryChanged."""
        ...

    def fetch(self, table: str, version: str, ids: Ids) -> tuple[Ids, Rows]:
        """Rows as they are on disk, of those ids that have one, in their order."""
        ...

    def pushing(self, producer: str) -> AbstractContextManager[Push]:
        """A producer, opened: whoever pushed under its name before does no more."""
        ...

    def drop(self, table: str) -> None:
        """Drop a table and its rows; UnknownTable where there is none."""
        ...

    def lookup(self, table: str, ids: Sequence[int] | Sequence[str]) -> TableRows:
        """Rows of feature IDs (int) or raw values (str)."""
        ...


def existing(tables: Tables, name: str) -> TableInfo:
    """The table of that name; UnknownTable says which is nearest."""
    infos = {info.spec.name: info for info in tables.list()}
    if name not in infos:
        hint = f"the nearest is {nearest(name, infos)}" if infos else "none yet"
        raise UnknownTable(f"there is no table {name!r}; {hint}")
    return infos[name]


def find(tables: Tables, name: str) -> TableInfo | None:
    """The table of that name."""
    return next((info for info in tables.list() if info.spec.name == name), None)


@contextmanager
def opened(config: Path | None, url: str | None, token: str | None) -> Iterator[Tables]:
    """The tables of a running service (`url`) or of a stopped one's data (`config`)."""
    if url is not None:
        try:
            client = Client(url, token=token)
        except ValueError as error:
            raise MalformedRequest(f"--url: {error}") from None
        with client:
            yield RemoteTables(client, lambda: RemotePush.endpoint(url, token))
    elif config is not None:
        with EmbeddingCache.open(Settings.load(config)) as cache:
            yield LocalTables(cache)


class LocalTables:
    """Tables in a data folder that no service has open."""

    def __init__(self, cache: EmbeddingCache) -> None:
        self._cache = cache

    def list(self) -> list[TableInfo]:
        counts = {entry["table"]: entry for entry in self._cache.stats()["tables"] if entry["live"]}
        return [_local_info(counts[name]) for name in sorted(counts)]

    def versions(self, table: str) -> Sequence[TableInfo]:
        existing(self, table)
        return [_local_info(entry) for entry in self._cache.stats()["tables"] if entry["table"] == table]

    def limit(self, table: str, max_norm: float | None) -> object:
        return self._cache.limit(table, max_norm)

    def stage(self, table: str, version: str, spec: Mapping[str, Any], follow: bool, source: str | None) -> None:
        self._cache.stage(table, version, spec, follow=follow, source=source)

    def switch(self, tables: Mapping[str, str], follow: bool | None, warm_s: float) -> dict[str, dict[str, int]]:
        return self._cache.switch(tables, follow=follow, warm_s=warm_s)

    def drop_version(self, table: str, version: str) -> None:
        self._cache.drop_version(table, version)

    def importing(self, table: str, spec: TableSpec | None, version: str | None) -> AbstractContextManager[Load]:
        return self._cache.importing(table, spec, version)

    def since(self) -> Since:
        progress = self._cache.progress()
        return Since(progress.applied, progress.history)

    def changed(self, table: str, since: Since) -> Iterator[ChangedPiece]:
        position, upto, history = since.position, None, since.history or None
        while upto is None or position < upto:
            told = self._cache.changed(table, position, history)
            position, upto = told.position, told.applied if upto is None else upto
            yield ChangedPiece(Since(position, told.history), told.ids)

    def fetch(self, table: str, version: str, ids: Ids) -> tuple[Ids, Rows]:
        page = self._cache.fetch_rows(table, ids, version)
        return page.ids, page.rows

    def pushing(self, producer: str) -> AbstractContextManager[Push]:
        return nullcontext(LocalPush(self._cache, producer))

    def drop(self, table: str) -> None:
        self._cache.drop_table(table)

    def pages(self, table: str, version: str, limit: int) -> Iterator[tuple[Ids, Rows]]:
        start: int | None = 0
        while start is not None:
            page = self._cache.scan_rows(table, start, limit, version)
            yield page.ids, page.rows
            start = page.next

    def lookup(self, table: str, ids: Sequence[int] | Sequence[str]) -> TableRows:
        return self._cache.lookup({table: ids})[table]


class RemoteTables:
    """Tables of a running service."""

    def __init__(self, client: Client, endpoint: Callable[[], Endpoint]) -> None:
        """endpoint: of the service, for connections of their own."""
        self._client = client
        self._endpoint = endpoint

    def list(self) -> list[TableInfo]:
        return sorted(map(_remote_info, self._client.tables()), key=lambda info: info.spec.name)

    def versions(self, table: str) -> Sequence[TableInfo]:
        return [_remote_info(entry) for entry in self._client.table(table)["versions"]]

    def limit(self, table: str, max_norm: float | None) -> object:
        return self._client.limit(table, max_norm)

    def stage(self, table: str, version: str, spec: Mapping[str, Any], follow: bool, source: str | None) -> None:
        self._client.stage(table, version, spec, follow=follow, source=source)

    def switch(self, tables: Mapping[str, str], follow: bool | None, warm_s: float) -> dict[str, dict[str, int]]:
        warmed: dict[str, dict[str, int]] = self._client.switch(tables, follow=follow, warm_s=warm_s)["warmed"]
        return warmed

    def drop_version(self, table: str, version: str) -> None:
        self._client.drop_version(table, version)

    def importing(self, table: str, spec: TableSpec | None, version: str | None) -> AbstractContextManager[Load]:
        return self._client.importing(table, None if spec is None else spec.to_json(), version=version)

    def since(self) -> Since:
        progress = self._client.position()
        return Since(progress["applied"], progress["history"])

    def changed(self, table: str, since: Since) -> Iterator[ChangedPiece]:
        for told in self._client.changed(table, since.position, history=since.history or None):
            yield ChangedPiece(Since(told.position, told.history), told.ids)

    def fetch(self, table: str, version: str, ids: Ids) -> tuple[Ids, Rows]:
        page = self._client.fetch_rows(table, ids, version=version)
        return page.ids, page.rows

    def pushing(self, producer: str) -> AbstractContextManager[Push]:
        return RemotePush(self._endpoint(), producer)

    def drop(self, table: str) -> None:
        self._client.drop_table(table)

    def pages(self, table: str, version: str, limit: int) -> Iterator[tuple[Ids, Rows]]:
        for page in self._client.pages(table, version=version, limit=limit):
            yield page.ids, page.rows

    def lookup(self, table: str, ids: Sequence[int] | Sequence[str]) -> TableRows:
        return self._client.lookup({table: ids})[table]


def _local_info(entry: Mapping[str, Any]) -> TableInfo:
    counts = (entry[key] for key in ("rows", "rows_exact", "warm_rows", "warm_bytes", "cold_bytes"))
    info = TableInfo(TableSpec.parse(entry["spec"]), entry["label"], *counts)
    return replace(info, state=entry["state"], follow=entry["follow"], live_since=entry["live_since"])


def _remote_info(entry: Mapping[str, Any]) -> TableInfo:
    try:
        hot, warm, cold = (entry["tiers"][tier] for tier in ("hot", "warm", "cold"))
        spec = TableSpec.parse(entry["spec"])
        rows, exact = entry["rows"], entry["rows_exact"]
        counts = (rows, exact, warm["rows"], warm["bytes"], cold["bytes"], hot["bytes"])
        info = TableInfo(spec, entry["version"], *counts)
        told = {"state": entry.get("state", "live"), "follow": entry.get("follow", False)}
        since = entry.get("live_since")
        return replace(info, **told, live_since=None if since is None else int(since))
    except (KeyError, TypeError, ValueError, MalformedRequest) as error:
        raise ProtocolError(
            f"the service describes its tables in a way that this release does not know: {error!r}"
        ) from None
