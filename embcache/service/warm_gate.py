"""Whether so many rows of the last owner's memory are back that GET /readyz says so: `warm.ready_share`."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from embcache import tablecalls
from embcache.attachment import Attachment
from embcache.errors import NotReady

_WITHIN_S: Final = 1.0
_RETRY_MS: Final = 500
_NAMED: Final = 5


class WarmGate:
    """One front's. Once it has let an owner pass, that one passes for good."""

    def __init__(self, share: float) -> None:
        """`share` of each table's rows that can come back; at 0 every owner passes."""
        self._share = share
        self._passed: Attachment | None = None

    async def check(self, attachment: Attachment) -> None:
        """NotReady, and what is missing, while rows of this owner are on their way."""
        if not self._share or self._passed is attachment:
            return
        try:
            async with asyncio.timeout(_WITHIN_S):
                tables = await tablecalls.warm_start(attachment)
        except TimeoutError:
            message = f"warm_start: the owner did not say within {_WITHIN_S:g} s how far it is"
            raise NotReady(message, {"missing": "warm_start", "retry_after_ms": _RETRY_MS}) from None
        missing = [each for each in tables if self._is_missing(each)]
        if missing:
            raise NotReady(self._told(missing), _detail(missing))
        self._passed = attachment

    def _is_missing(self, table: dict[str, Any]) -> bool:
        listed = table["state"] != "listing"
        return table["state"] != "done" and not (listed and table["back"] >= self._share * table["wanted"])

    def _told(self, missing: list[dict[str, Any]]) -> str:
        named = [
            f"of {each['table']} its list has yet to be read"
            if each["state"] == "listing"
            else f"{each['back']} of {each['wanted']} rows of {each['table']} are in memory again"
            for each in missing[:_NAMED]
        ]
        more = f", and {len(missing) - _NAMED} more tables" if len(missing) > _NAMED else ""
        return f"warm_start: {', '.join(named)}{more}; warm.ready_share wants {self._share:g} of each"


def _detail(missing: list[dict[str, Any]]) -> dict[str, Any]:
    rows = {name: sum(each[name] for each in missing) for name in ("back", "wanted")}
    return {"missing": "warm_start", **rows, "retry_after_ms": _RETRY_MS}
