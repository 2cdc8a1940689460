"""The calls of a link: what they take, checked, and what they answer. One method for each op of frames' meta.

Readers are other processes, of other releases perhaps: nothing in a call is trusted before it is checked here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from embcache.errors import DimensionMismatch, MalformedRequest, TooLarge
from embcache.local import frames
from embcache.owner.arguments import MAX_ROW_BYTES, U32, U64, get, integer, is_integer, text
from embcache.owner.changed import ChangedCalls
from embcache.owner.feed_calls import FeedCalls
from embcache.owner.flight import Ids, Rows
from embcache.owner.parts import Parts
from embcache.owner.quarantine_calls import QuarantineCalls
from embcache.owner.reads import Part
from embcache.owner.server import Answer, Handle
from embcache.owner.stats import Stats
from embcache.owner.update_calls import UpdateCalls
from embcache.owner.version_calls import VersionCalls
from embcache.owner.warm_calls import WarmCalls
from embcache.spec import TableSpec
from embcache.validation import gone

SCAN_BYTES = 32 << 20
_MAX_PARTS = 4096


class Operations:
    """Answers calls by their op."""

    def __init__(self, parts: Parts, stats: Stats) -> None:
        """Works on the owner's parts; owns none."""
        self._store = parts.store
        self._threads = parts.threads
        self._tables = parts.tables
        self._reads = parts.reads
        self._imports = parts.imports
        self._intake = parts.intake
        self._stats = stats
        updates = UpdateCalls(parts.intake, parts.tables)
        versions = VersionCalls(parts)
        changed = ChangedCalls(parts)
        quarantine = QuarantineCalls(parts)
        warm = WarmCalls(parts)
        self._ops: dict[str, Handle] = {
            "read": self.read,
            "prefetch": parts.prefetches.prefetch,
            "catalogue": self.catalogue,
            "create": self.create,
            "drop": self.drop,
            "stage": versions.stage,
            "switch": versions.switch,
            "drop_version": versions.drop_version,
            "limit": versions.limit,
            "import_begin": self.import_begin,
            "import_rows": self.import_rows,
            "import_commit": self.import_commit,
            "import_abort": self.import_abort,
            "scan": self.scan,
            "changed": changed.changed,
            "fetch": changed.fetch,
            "stats": self.stats,
            "warm_start": warm.warm_start,
            "in_use": warm.in_use,
            "producer": updates.producer,
            "open_producer": updates.open_producer,
            "update": updates.update,
            "position": updates.position,
            "wait": updates.wait,
            "quarantine": quarantine.page,
            "quarantined": quarantine.show,
            "quarantine_drop": quarantine.drop,
            "quarantine_release": quarantine.release,
        }

    def of(self, feed: FeedCalls) -> Handle:
        """What answers the calls of the link whose feed this is; any exception is a call's error."""
        ops = self._ops | {"feed_open": feed.open, "feed_next": feed.next, "feed_close": feed.close}

        async def answer(meta: Mapping[str, Any], payload: memoryview) -> Answer:
            op = ops.get(text(meta, "op"))
            if op is None:
                raise MalformedRequest(f"no op is named {meta['op']!r}; there are {', '.join(sorted(ops))}")
            return await op(meta, payload)

        return answer

    async def read(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"parts": [[version, n, row_bytes], ...]}, ids u64 of all parts -> for each part state and rows, padded to 8.

        State: 0 absent, 1 found, 2 damaged, 3 version gone; rows of other states than 1 are zeros.
        """
        parts = self._parts(meta, payload)
        answers = await self._reads.read(parts)
        pieces: list[frames.Buffer] = []
        for part, answer in zip(parts, answers, strict=True):
            pieces += [*answer.state, frames.padding(len(part.ids))]
            pieces += [*answer.rows, frames.padding(len(part.ids) * part.row_bytes)]
        return {"parts": meta["parts"]}, pieces

    def _parts(self, meta: Mapping[str, Any], payload: memoryview) -> list[Part]:
        shapes = get(meta, "parts", list)
        if len(shapes) > _MAX_PARTS:
            raise TooLarge(f"{len(shapes)} parts in one read, of which {_MAX_PARTS} are allowed")
        for shape in shapes:
            if not _is_shape(shape):
                raise MalformedRequest(f"a part of a read is [version, n, row_bytes], not {shape!r:.100}")
        ids = _ids(payload, sum(n for _, n, _ in shapes))
        ends = np.cumsum([n for _, n, _ in shapes], dtype=np.int64).tolist()
        parts = [Part(v, w, ids[end - n : end]) for (v, n, w), end in zip(shapes, ends, strict=True)]
        for part in parts:
            version = self._tables.find(part.version)
            if version is not None and version.row_bytes != part.row_bytes:
                raise MalformedRequest(
                    f"rows of version {part.version} have {version.row_bytes} bytes, not {part.row_bytes}"
                )
        if sum(part.nbytes for part in parts) > frames.MAX_REPLY_PAYLOAD // 2:
            raise TooLarge("the rows of one read have more than 1 GiB: ask for fewer ids at once")
        return parts

    async def catalogue(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{} -> {"generation", "history", "versions": [{"spec", "label", "number", "entry", "state", "rows"}, ...]}."""
        return self._tables.message(), ()

    async def create(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"spec"} -> {"created": whether the table is new, "position"}."""
        spec = TableSpec.parse(get(meta, "spec", dict))
        position = await self._tables.create(spec)
        return {"created": position is not None, "position": position or self._intake.applier.applied}, ()

    async def drop(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"table"} -> {"position"}."""
        return {"position": await self._tables.drop(text(meta, "table"))}, ()

    async def import_begin(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"table", "spec" or null, "version" or null} -> {"import", "version": label, "spec"}."""
        table = text(meta, "table")
        spec = None if meta.get("spec") is None else TableSpec.parse(get(meta, "spec", dict))
        if spec is not None and spec.name != table:
            raise MalformedRequest(f"the spec of an import into {table!r} is named {spec.name!r}")
        version = None if meta.get("version") is None else text(meta, "version")
        import_id, new = await self._imports.begin(table, spec, version)
        return {"import": import_id, "version": new.version.label, "spec": new.spec.to_json()}, ()

    async def import_rows(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"import", "n"}, ids u64 [n] then rows u8 [n, row_bytes] as on disk -> {"rows": of the import so far}."""
        import_id, n = text(meta, "import"), integer(meta, "n", U32)
        row_bytes = self._imports.row_bytes(import_id)
        if payload.nbytes != n * (8 + row_bytes):
            raise DimensionMismatch(
                f"{n} rows of {row_bytes} bytes and their ids take {n * (8 + row_bytes)} bytes, not {payload.nbytes}"
            )
        rows: Rows = np.frombuffer(payload[8 * n :], np.uint8).reshape(n, row_bytes)
        return {"rows": await self._imports.add(import_id, _ids(payload[: 8 * n], n), rows)}, ()

    async def import_commit(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"import"} -> {"table", "version": label, "rows", "position"}."""
        new, rows, position = await self._imports.commit(text(meta, "import"))
        return {"table": new.name, "version": new.version.label, "rows": rows, "position": position}, ()

    async def import_abort(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"import"} -> {}."""
        await self._imports.abort(text(meta, "import"))
        return {}, ()

    async def scan(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{"version": number, "start", "limit"} -> {"n", "row_bytes", "next": id or null}, ids u64 [n] then rows
        as they are on disk.

        n may be less than the limit, since answers are bounded: go on from `next` until it is null.
        """
        number, start, limit = integer(meta, "version", U32), integer(meta, "start", U64), integer(meta, "limit", U32)
        version = self._tables.find(number)
        if version is None:
            raise gone(number)
        if limit == 0:
            raise MalformedRequest("the limit of a scan is at least 1")
        row_bytes = version.spec.cold_row_bytes
        limit = min(limit, max(1, SCAN_BYTES // (8 + row_bytes)))
        ids, rows = await self._threads.bulk(self._store.scan, number, row_bytes, start, limit)
        last = int(ids[-1]) if len(ids) == limit else U64
        following = last + 1 if last < U64 else None
        return {"n": len(ids), "row_bytes": row_bytes, "next": following}, (ids, rows)

    async def stats(self, meta: Mapping[str, Any], payload: memoryview) -> Answer:
        """{} -> {"tables": [...], "memory": {...}, "owner": {...}}, see stats.py."""
        return await self._stats.collect(), ()


def _ids(payload: memoryview, n: int) -> Ids:
    if payload.nbytes != 8 * n:
        raise MalformedRequest(f"{n} ids take {8 * n} bytes, not {payload.nbytes}")
    return np.frombuffer(payload, np.uint64)


def _is_shape(shape: object) -> bool:
    if not isinstance(shape, list) or len(shape) != 3:
        return False
    version, n, row_bytes = shape
    return is_integer(version, 0, U32) and is_integer(n, 0, U32) and is_integer(row_bytes, 1, MAX_ROW_BYTES)
