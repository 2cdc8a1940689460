"""What the service says about itself: alive, ready, limits, position, metrics. Answers fast and changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import APIRouter, Response

from embcache import metrics, updatecalls
from embcache.errors import EmbcacheError, NotReady
from embcache.hot.tier import HotTier
from embcache.metrics import Gauge
from embcache.service.context import Service, TheService, needs
from embcache.service.requests import MAX_QUERIES
from embcache.spec import DTYPES

router = APIRouter(tags=["introspection"])

_FIGURES_WITHIN_S = 1.0  # the owner's, for metrics: a scrape must not wait for a process that stands still


@router.get("/healthz")
async def alive() -> dict[str, bool]:
    """This front is alive, whether or not it can answer lookups."""
    return {"alive": True}


@router.get("/readyz")
async def ready(service: TheService) -> dict[str, Any]:
    """200 when lookups will be served, and so many rows are in memory again as `warm.ready_share` says, else 503 with
    what is missing. `hot`: whether a GPU helps, and why not."""
    service.reader.check()
    await service.warm_gate.check(service.reader.cache().ready_attachment())
    hot = service.reader.hot
    state = hot.state if isinstance(hot, HotTier) else hot
    return {"ready": True, "hot": state._asdict()}


@router.get("/v1/limits", dependencies=[needs("read")])
async def limits(service: TheService) -> dict[str, Any]:
    """What a client must keep to."""
    server = service.settings.server
    return {
        "max_body_bytes": server.max_body_bytes,
        "max_queries_per_request": MAX_QUERIES,
        "max_ids_per_request": server.max_ids_per_request,
        "max_reply_bytes": server.reply_pool,
        "deadline_ms": server.deadline_ms,
        "body_timeout_s": server.body_timeout_s,
        "dtypes": list(DTYPES),
    }


@router.get("/v1/position", dependencies=[needs("read")])
async def position(service: TheService) -> dict[str, Any]:
    """How far the service is: up to where updates are durable and applied, and for how long the oldest has waited."""
    service.reader.check()
    now = await updatecalls.progress(service.reader.cache().ready_attachment())
    return {"durable": str(now.durable), "applied": str(now.applied), "history": now.history, "lag_s": now.lag_s}


@router.get("/metrics")
async def prometheus(service: TheService) -> Response:
    """Counts and gauges, in Prometheus's text format; without the owner's where it does not answer within 1 s."""
    stats: dict[str, Any] = {}
    with contextlib.suppress(EmbcacheError, TimeoutError):  # the fronts' own counts are told all the same
        async with asyncio.timeout(_FIGURES_WITHIN_S):
            stats = await service.reader.cache().stats_async()
    text = metrics.exposition(service.blocks, _gauges(service, stats))
    return Response(text, media_type=metrics.CONTENT_TYPE)


def _gauges(service: Service, stats: dict[str, Any]) -> Iterator[Gauge]:
    pool = service.lookups.pool
    yield Gauge("ready", "Whether lookups are served", (), [((), float(_is_ready(service)))])
    yield Gauge("owner_answers", "Whether the owner told its figures in time", (), [((), float(bool(stats)))])
    yield Gauge("reply_buffer_bytes", "Reply buffers", ("use",), [(("lent",), pool.lent), (("kept",), pool.kept)])
    resident = [(("front",), metrics.resident_bytes())]
    if stats:
        resident.append((("owner",), metrics.resident_bytes(stats["owner"]["pid"])))
        yield from _table_gauges(stats["tables"])
        memory = [((use,), count) for use, count in stats["memory"].items()]
        yield Gauge("owner_memory_bytes", "Memory of the owner by use; the arena is shared", ("use",), memory)
        yield from _update_gauges(stats["updates"])
        for name, what, key in (
            ("cold_rows_read", "Rows read from the cold tier", "rows_read"),
            ("prefetched_rows", "Rows of them read for prefetches", "rows_prefetched"),
            ("prefetch_ids", "Ids whose rows are still to be read for prefetches", "prefetch_ids"),
        ):
            yield Gauge(name, what, (), [((), stats["owner"][key])])
    yield Gauge("resident_bytes", "Memory that a process holds, shared pages included", ("process",), resident)


def _is_ready(service: Service) -> bool:
    try:
        service.reader.check()
    except NotReady:
        return False
    return True


def _update_gauges(updates: dict[str, Any]) -> Iterator[Gauge]:
    positions = [((kind,), updates[kind]) for kind in ("accepted", "durable", "applied")]
    yield Gauge("position", "Positions of updates and changes of tables", ("of",), positions)
    for name, what, key in (
        ("update_lag_seconds", "How long the oldest update that is not applied has waited", "lag_s"),
        ("update_waiting_bytes", "Updates that are accepted and not applied", "waiting_bytes"),
        ("update_log_bytes", "The update log on disk", "log_bytes"),
        ("update_rows", "Rows that updates changed since the owner started", "rows_applied"),
        ("update_saturated_values", "Values of them beyond the dtype's range", "values_saturated"),
        ("swept_rows", "Rows removed since they had expired", "rows_swept"),
        ("update_damaged_rows", "Adds to rows that cannot be read, which stay so", "rows_damaged"),
        ("update_batches_set_aside", "Batches over a limit that were set aside since the owner started", "set_aside"),
        ("quarantine_batches", "Batches that are set aside", "quarantined"),
        ("quarantine_bytes", "What they take of updates.quarantine_bytes", "quarantine_bytes"),
        ("producers", "Producers that are known", "producers"),
        ("feeds", "Readers that keep rows of their own and are told what changes", "feeds"),
        ("feed_bytes", "Changes that they were told and have not acknowledged", "feed_bytes"),
        ("feeds_revoked", "Readers that were shut out since they did not acknowledge in time", "feeds_revoked"),
    ):
        yield Gauge(name, what, (), [((), updates[key])])


def _table_gauges(tables: list[dict[str, Any]]) -> Iterator[Gauge]:
    def by_tier(warm: str, cold: str) -> list[tuple[tuple[str, ...], float]]:
        return _summed(
            ((table["table"], tier), table[key]) for table in tables for tier, key in (("warm", warm), ("cold", cold))
        )

    yield Gauge(
        "table_rows",
        "Rows of a table in a tier; in the cold one about so many once it is updated",
        ("table", "tier"),
        by_tier("warm_rows", "rows"),
    )
    yield Gauge("table_bytes", "Bytes of a table in a tier", ("table", "tier"), by_tier("warm_bytes", "cold_bytes"))
    start = _summed(
        ((table["table"], of), table[f"start_{of}"]) for table in tables for of in ("kept", "wanted", "back")
    )
    what = "Rows of the last owner's memory: kept, those that can come back, and those that did"
    yield Gauge("warm_start_rows", what, ("table", "of"), start)
    evicted = _summed(((table["table"],), table["warm_evicted"]) for table in tables)
    yield Gauge("table_evicted_rows", "Rows that others pushed out of the warm tier", ("table",), evicted)


def _summed(values: Iterable[tuple[tuple[str, ...], float]]) -> list[tuple[tuple[str, ...], float]]:
    """One value for each set of labels: all versions of a table together."""
    sums: dict[tuple[str, ...], float] = {}
    for labels, value in values:
        sums[labels] = sums.get(labels, 0) + value
    return list(sums.items())
