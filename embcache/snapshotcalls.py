"""What is asked of the owner about snapshots and audits. Each call returns a Pending."""

from __future__ import annotations

from typing import Any

from embcache.local.link import Link
from embcache.pending import Pending


def begin(link: Link, path: str) -> Pending[str]:
    """Begin a snapshot in a folder that is not there yet -> its id. Overloaded while another one is made."""
    return Pending(link.call("snapshot_begin", {"path": path}), lambda reply: str(reply.meta["snapshot"]))


def state(link: Link, snapshot: str) -> Pending[dict[str, Any]]:
    """{"state": "running", "done" or "failed", "at": [what, done, total], "done": {...}, "failure": {...}}."""
    return Pending(link.call("snapshot_state", {"snapshot": snapshot}), lambda reply: _told(reply.meta))


def stop(link: Link, snapshot: str) -> Pending[None]:
    """End one that is under way; nothing of it is left."""
    return Pending(link.call("snapshot_stop", {"snapshot": snapshot}), lambda reply: None)


def check(link: Link, version: int, first_set: int) -> Pending[dict[str, Any]]:
    """Audit a piece of what is in memory: {"findings", "rows", "done", "total", "next": [version, set] or None}."""
    return Pending(link.call("check", {"version": version, "set": first_set}), lambda reply: _told(reply.meta))


def _told(meta: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in meta.items() if key != "ok"}
