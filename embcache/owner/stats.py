"""What the owner can say about itself: counts of tables, memory and reads. Changes nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from embcache.owner.catalogue import LIVE, Version
from embcache.owner.parts import Parts
from embcache_storage.store import VersionGone


class Stats:
    """Collects the answer of the op `stats`."""

    def __init__(
        self,
        parts: Parts,
        links: Callable[[], int],
        misses: Callable[[int], dict[str, Any] | None] = lambda number: None,
    ) -> None:
        """Looks at the owner's parts; owns none. `links()` is how many links there are, `misses` see Payoffs.told."""
        self._parts = parts
        self._misses = misses
        self._links = links
        self._started = time.monotonic()

    async def collect(self) -> dict[str, Any]:
        """{"tables": [{"table", "label", "number", "live", "state", "follow", "live_since", "spec", "rows",
        "cold_bytes", "warm_...": ..., "start_...": ..., "misses"}], "memory", "owner"}, an entry for each version.

        `rows` and `cold_bytes` are on disk, the first an estimate unless `rows_exact`; `warm_rows` and `warm_bytes` in
        the arena, `start_...` see warm_start.py; `memory` is bytes by use; `updates` is positions, what waits, and
        counts since the owner started.
        """
        store = await self._parts.threads.bulk(self._parts.store.memory)
        sizes = await self._sizes()
        # Nothing is waited for from here on: the entries are of one catalogue, in which each table has a live version.
        tables = [self._version(version, sizes[version.number]) for version in self._parts.tables.versions()]
        memory = {**store, **_named("arena", self._parts.memory.totals())}
        return {"tables": tables, "memory": memory, "owner": self._owner(), "updates": self._updates()}

    async def _sizes(self) -> dict[int, int]:
        """Bytes on disk of all versions that there are when it ends, by number."""
        sizes: dict[int, int] = {}
        while new := [version.number for version in self._parts.tables.versions() if version.number not in sizes]:
            for number in new:
                try:
                    sizes[number] = await self._parts.threads.bulk(self._parts.store.disk_bytes, number)
                except VersionGone:  # while others were looked at
                    sizes[number] = 0
        return sizes

    def _version(self, version: Version, cold_bytes: int) -> dict[str, Any]:
        return {
            "table": version.spec.name,
            "label": version.label,
            "number": version.number,
            "live": version.state == LIVE,
            "state": version.state,
            "follow": version.follow,
            "live_since": self._parts.tables.named(version.spec.name).since if version.state == LIVE else None,
            "spec": version.spec.to_json(),
            "rows": self._parts.tables.rows(version.number),
            "rows_exact": self._parts.store.is_counted(version.number),
            "cold_bytes": cold_bytes,
            **_named("warm", self._parts.memory.stats(version.number)),
            "misses": self._misses(version.number),
            **_named("start", self._parts.warm_start.counts(version.number)),
        }

    def _updates(self) -> dict[str, Any]:
        intake, feeds = self._parts.intake, self._parts.feeds
        return {
            "accepted": intake.committer.accepted,
            "durable": intake.committer.durable,
            "applied": intake.applier.applied,
            "lag_s": intake.oldest_wait_s,
            "waiting_bytes": intake.applier.waiting_bytes,
            "log_bytes": self._parts.store.log.nbytes,
            "producers": len(intake.producers.accepted),
            "rows_applied": intake.applier.rows_applied,
            "rows_damaged": intake.applier.rows_damaged,
            "rows_swept": intake.applier.rows_swept,
            "values_saturated": intake.applier.values_saturated,
            "set_aside": intake.quarantine.count,
            "quarantined": len(intake.quarantine),
            "quarantine_bytes": intake.quarantine.nbytes,
            "feeds": len(feeds),
            "feed_bytes": feeds.unacked_bytes,
            "feeds_revoked": feeds.revoked,
        }

    def _owner(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "uptime_s": time.monotonic() - self._started,
            "generation": self._parts.tables.generation,
            "history": self._parts.tables.history,
            "links": self._links(),
            "imports": len(self._parts.imports),
            "rows_read": self._parts.reads.rows_read,
            "rows_joined": self._parts.reads.rows_joined,
            "rows_prefetched": self._parts.prefetches.rows,
            "prefetch_ids": self._parts.prefetches.waiting,
        }


def _named(prefix: str, counts: dict[str, int]) -> dict[str, int]:
    return {f"{prefix}_{name}": count for name, count in counts.items()}
