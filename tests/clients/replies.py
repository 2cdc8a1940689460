"""Replies as a service would write them, made with msgpack alone, for the tests of this room."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray


def result(rows: NDArray[Any], status: list[int] | None = None, /, **changes: Any) -> dict[str, Any]:
    """A result of a lookup: f32 rows of the table "item", all `warm`, but for `changes`; None leaves a key out."""
    entry: dict[str, Any] = {
        "table": "item",
        "version": "3",
        "dtype": "f32",
        "shape": list(rows.shape),
        "rows": rows.tobytes(),
        "status": bytes(status if status is not None else [2] * len(rows)),
    }
    return {key: value for key, value in (entry | changes).items() if value is not None}


def reply(*results: Any, **changes: Any) -> bytes:
    """The body of an answer to a lookup."""
    whole = {"pad": None, "position": 9, "history": "h", "results": list(results)} | changes
    return bytes(msgpack.packb({key: value for key, value in whole.items() if value is not None}))


def aligned_reply(rows: NDArray[Any], **changes: Any) -> bytes:
    """The body of an answer with one result, padded so that its rows begin at a multiple of 64."""
    entry = result(rows, **changes)
    unpadded = reply(entry, pad=b"")
    return reply(entry, pad=bytes(-unpadded.index(entry["rows"]) % 64)) if len(rows) else unpadded


def numbers(count: int, dim: int) -> NDArray[np.float32]:
    """float32 [count, dim], all different."""
    return np.arange(count * dim, dtype=np.float32).reshape(count, dim)
