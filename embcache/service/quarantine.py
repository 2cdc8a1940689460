"""Batches of updates that are set aside, for admins, in JSON: list them, look at one, release it, drop it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query

from embcache import quarantinecalls
from embcache.attachment import Attachment
from embcache.errors import MalformedRequest
from embcache.service.context import Service, TheService, needs
from embcache.service.fields import MAX_U64

router = APIRouter(tags=["quarantine"])

_KEYS = ("producer", "epoch", "seq", "table", "version", "norm", "limit", "over", "rows", "bytes", "since")


@router.get("/v1/quarantine", dependencies=[needs("admin")])
async def list_quarantined(
    service: TheService,
    after: Annotated[str, Query(description="`next` of the page before")] = "0",
    limit: Annotated[int, Query(description="batches on a page, 1 to 1000")] = 100,
) -> dict[str, Any]:
    """Batches that were over their table's `max_norm`, the oldest first; `next` is null on the last page."""
    if not 1 <= limit <= 1000:
        raise MalformedRequest(f"limit: {limit} should be from 1 to 1000")
    page = await quarantinecalls.page(_owner(service), _position(after, "after"), limit)
    following = None if page["next"] is None else str(page["next"])
    batches = [_told(batch) for batch in page["batches"]]
    return {"count": page["count"], "bytes": page["bytes"], "batches": batches, "next": following}


@router.get("/v1/quarantine/{position}", dependencies=[needs("admin")])
async def show_quarantined(position: str, service: TheService) -> dict[str, Any]:
    """One batch. `skipped` of its changes' rows were changed since, and a release would leave them alone."""
    batch = await quarantinecalls.show(_owner(service), _position(position))
    return {**_told(batch), "changes": batch["changes"]}


@router.post("/v1/quarantine/{position}/release", dependencies=[needs("admin")])
async def release_quarantined(position: str, service: TheService) -> dict[str, Any]:
    """Apply a batch, as a new one, exempt from the limit, but for rows that were changed since."""
    told = await quarantinecalls.release(_owner(service), _position(position))
    return {"released": position, **told, "position": str(told["position"])}


@router.delete("/v1/quarantine/{position}", dependencies=[needs("admin")])
async def drop_quarantined(position: str, service: TheService) -> dict[str, Any]:
    """Forget a batch for good."""
    await quarantinecalls.drop(_owner(service), _position(position))
    return {"dropped": position}


def _told(batch: Mapping[str, Any]) -> dict[str, Any]:
    told = {key: batch[key] for key in _KEYS}
    return {"position": str(batch["position"]), **told, "id": str(batch["id"])}


def _position(text: str, where: str = "position") -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 20 and int(text) <= MAX_U64):
        raise MalformedRequest(f"{where}: {text[:40]!r} is no position")
    return int(text)


def _owner(service: Service) -> Attachment:
    return service.reader.cache().ready_attachment()
