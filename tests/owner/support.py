"""An owner in a thread of the test's process, with real sockets, and the calls that tests make of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import uvloop
from numpy.typing import NDArray

from embcache.config import Cold, Settings, Updates, Warm
from embcache.config import Owner as OwnerSection
from embcache.host.arena import Arena
from embcache.local.link import Link, Reply
from embcache.owner.owner import Owner
from embcache.spec import TableSpec
from embcache_storage.store import RowStore
from tests.host.reader import Reader

WAIT = 20.0  # seconds before a test gives up on something that must happen
ITEM = TableSpec(name="item", dim=4)
CAPACITY = 8 << 20

Ids = NDArray[np.uint64]
Rows = NDArray[np.uint8]
T = TypeVar("T")


class OwnerThread:
    """An owner of `store` in `folder`, running on a loop of its own until the block ends."""

    def __init__(
        self,
        store: RowStore,
        folder: Path,
        declared: Sequence[TableSpec] = (),
        import_idle_s: float = 600.0,
        updates: Updates | None = None,
        warm: Warm | None = None,
    ) -> None:
        self.folder = folder
        warm = warm or Warm(capacity=CAPACITY)
        self.arena = Arena.create(warm.capacity)
        self._declared = declared
        self._store = store
        self._settings = Settings(
            cold=Cold(path=folder),
            owner=OwnerSection(import_idle_s=import_idle_s),
            updates=updates or Updates(),
            warm=warm,
        )
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._links: list[Link] = []

    def __enter__(self) -> Self:
        self._thread.start()

        async def start() -> Owner:
            owner = Owner(self._store, self.arena, self._settings)
            await owner.start(self._declared)
            return owner

        try:
            self.owner = self.run(start())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run(self._check())
        self.run(self.owner.stop(5.0))
        for link in self._links:
            link.close()
        self._end()

    def link(self) -> Link:
        """A new link, closed with the owner."""
        self._links.append(Link.connect(self.folder, WAIT))
        return self._links[-1]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs `work` on the owner's loop."""
        return self.begin(work).result(WAIT)

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begins `work` on the owner's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def when(self, condition: Callable[[], bool]) -> bool:
        """Waits, step by step of the owner's loop, until the condition holds there; False when it never does."""

        async def look() -> bool:
            end = self._loop.time() + WAIT / 2
            while not condition() and self._loop.time() < end:
                await asyncio.sleep(0)
            return condition()

        return self.run(look())

    def warm(self, number: int, ids: Ids) -> tuple[Rows, Rows]:
        """What a reader of the arena finds: (rows u8 [n, row_bytes], status u8 [n], 0xEE for ids it does not know)."""

        async def look() -> tuple[Rows, Rows]:
            tables = self.owner.parts.memory.tables
            held = tables.get(number)
            assert held is not None
            rows, status, _ = Reader(self.arena).lookup(held, np.ascontiguousarray(ids))
            return rows, status

        return self.run(look())

    async def _check(self) -> None:
        self.owner.parts.memory.check()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Live(NamedTuple):
    """A version as the catalogue tells of it, mostly the live one."""

    number: int
    label: str
    entry: int
    rows: int
    row_bytes: int


def catalogue(link: Link) -> dict[str, Live]:
    """The live version of each table."""
    found = versions(link, "live")
    assert len({name for name, _ in found}) == len(found), "one version of a table is live"
    return {name: version for (name, _), version in found.items()}


def versions(link: Link, *states: str) -> dict[tuple[str, str], Live]:
    """The versions by table and label, those of some states, or all of them."""
    found = {}
    for entry in link.call("catalogue").result(WAIT).meta["versions"]:
        if not states or entry["state"] in states:
            spec = TableSpec.parse(entry["spec"])
            told = (entry["number"], entry["label"], entry["entry"], entry["rows"], spec.row_bytes)
            found[spec.name, entry["label"]] = Live(*told)
    return found


def ask(link: Link, *parts: tuple[int, int, Ids]) -> Future[Reply]:
    """Begins a read of (version, row_bytes, ids) parts."""
    shapes = [[version, len(ids), row_bytes] for version, row_bytes, ids in parts]
    return link.call("read", {"parts": shapes}, [ids for _, _, ids in parts])


def answer(reply: Future[Reply]) -> list[tuple[Rows, Rows]]:
    """(state u8 [n], rows u8 [n, row_bytes]) of each part, taken apart by the written layout."""
    meta, payload = reply.result(WAIT)
    data = np.frombuffer(payload, np.uint8)
    parts = []
    place = 0
    for _, n, row_bytes in meta["parts"]:
        state = data[place : place + n]
        place += n + -n % 8
        rows = data[place : place + n * row_bytes].reshape(n, row_bytes)
        place += n * row_bytes + -(n * row_bytes) % 8
        parts.append((state, rows))
    assert place == data.size
    return parts


def read(link: Link, live: Live, ids: Ids) -> tuple[Rows, Rows]:
    """State and rows of ids of one version."""
    [part] = answer(ask(link, (live.number, live.row_bytes, ids)))
    return part


def fill(link: Link, table: str, ids: Ids, rows: Rows, spec: TableSpec | None = None) -> Reply:
    """Imports rows in two pieces and commits."""
    import_id = begin(link, table, spec)
    half = len(ids) // 2
    for piece in (slice(None, half), slice(half, None)):
        add(link, import_id, ids[piece], rows[piece]).result(WAIT)
    return link.call("import_commit", {"import": import_id}).result(WAIT)


def begin(link: Link, table: str, spec: TableSpec | None = None) -> str:
    """Begins an import."""
    meta = {"table": table, "spec": None if spec is None else spec.to_json()}
    return str(link.call("import_begin", meta).result(WAIT).meta["import"])


def add(link: Link, import_id: str, ids: Ids, rows: Rows) -> Future[Reply]:
    """Sends a piece of an import."""
    return link.call("import_rows", {"import": import_id, "n": len(ids)}, [ids, rows])


def some_ids(count: int, seed: int = 1) -> Ids:
    """Ascending ids, the smallest and the largest of all among them."""
    ids = np.random.default_rng(seed).integers(1, 2**64 - 1, count - 2, dtype=np.uint64)
    return np.unique(np.concatenate([ids, np.array([0, 2**64 - 1], np.uint64)]))


def rows_of(ids: Ids, row_bytes: int, salt: int = 0) -> Rows:
    """Rows u8 [n, row_bytes] that say in every byte whose they are; another `salt`, other rows."""
    seeds = (ids * np.uint64(0x9E3779B97F4A7C15) + np.uint64(salt))[:, None]
    columns = np.arange(row_bytes, dtype=np.uint64)[None, :]
    return np.ascontiguousarray(((seeds >> (columns % np.uint64(56))) + columns).astype(np.uint8))
