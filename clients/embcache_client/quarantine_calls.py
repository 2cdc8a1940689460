"""Batches that are set aside, as calls: listed, shown, released, dropped. Does no I/O.

In answers positions and ids are integers, as in the rest of this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from embcache_client.call import Call, json_call

RELEASE_TIMEOUT_S: Final = 90.0  # it waits for what was pushed before

_PATH: Final = "/v1/quarantine"


def page_call(after: int, limit: int) -> Call[dict[str, Any]]:
    """ "next" is None on the last page."""
    query = urlencode({"after": str(after), "limit": str(limit)})
    return json_call("GET", f"{_PATH}?{query}", _page)


def show_call(position: int) -> Call[dict[str, Any]]:
    return json_call("GET", f"{_PATH}/{position:d}", _batch)


def release_call(position: int) -> Call[dict[str, Any]]:
    target = f"{_PATH}/{position:d}/release"
    return json_call("POST", target, _released, idempotent=False, least_timeout_s=RELEASE_TIMEOUT_S)


def drop_call(position: int) -> Call[None]:
    return json_call("DELETE", f"{_PATH}/{position:d}", lambda reply: None, idempotent=False)


def _page(reply: Mapping[str, Any]) -> dict[str, Any]:
    following = None if reply["next"] is None else int(reply["next"])
    return {**reply, "batches": [_batch(batch) for batch in reply["batches"]], "next": following}


def _batch(reply: Mapping[str, Any]) -> dict[str, Any]:
    return {**reply, "position": int(reply["position"]), "id": int(reply["id"])}


def _released(reply: Mapping[str, Any]) -> dict[str, Any]:
    return {"position": int(reply["position"]), "rows": int(reply["rows"]), "skipped": int(reply["skipped"])}
