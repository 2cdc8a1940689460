"""What is asked of the owner about batches that are set aside, see docs/protocol.md. Each call returns a Pending."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embcache.attachment import Attachment
from embcache.pending import Pending


def page(attachment: Attachment, after: int, limit: int) -> Pending[dict[str, Any]]:
    """The oldest behind a position: {"count", "bytes", "batches": [...], "next": position to go on after, or None}."""
    call = attachment.link.call("quarantine", {"after": after, "limit": limit})
    return Pending(call, lambda reply: _told(reply.meta), state=True)


def show(attachment: Attachment, position: int) -> Pending[dict[str, Any]]:
    """One of them, with its "changes": [{"table", "op", "rows", "skipped"}, ...]."""
    call = attachment.link.call("quarantined", {"position": position})
    return Pending(call, lambda reply: _told(reply.meta), state=True)


def release(attachment: Attachment, position: int) -> Pending[dict[str, Any]]:
    """Apply what is left of one -> {"position": of the new batch, "rows", "skipped"}."""
    return Pending(attachment.link.call("quarantine_release", {"position": position}), lambda reply: _told(reply.meta))


def drop(attachment: Attachment, position: int) -> Pending[None]:
    """Forget one for good."""
    return Pending(attachment.link.call("quarantine_drop", {"position": position}), lambda reply: None)


def _told(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in meta.items() if key != "ok"}
