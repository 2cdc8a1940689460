"""What passes between an owner and the process that started it, over a socket pair. Imports neither store nor arena.

parent -> owner   the settings as one line of JSON; later its end of file, which means that the parent is dead
owner -> parent   one line of JSON: {"ready": true} once readers can connect, or {"error": {...}}
"""

from __future__ import annotations

import json
import socket
from typing import Any

from embcache.errors import ConfigError, EmbcacheError

_MAX_LINE = 256 << 20


def send_line(line: socket.socket, text: str) -> None:
    """One message. JSON of one line holds no line break."""
    line.sendall(text.encode() + b"\n")


def receive_line(line: socket.socket) -> bytes | None:
    """The next message, None at the end of file; OSError as the socket says."""
    data = bytearray()
    while not data.endswith(b"\n"):
        piece = line.recv(1 << 16)
        if not piece or len(data) > _MAX_LINE:
            return None
        data += piece
    return bytes(data)


def ready() -> str:
    """Readers can connect."""
    return json.dumps({"ready": True})


def failed(error: EmbcacheError | ConfigError) -> str:
    """The owner cannot serve, and why."""
    if isinstance(error, ConfigError):
        return json.dumps({"error": {"code": "config", "message": str(error)}})
    return json.dumps({"error": error.to_dict()})


def raise_failure(message: bytes) -> None:
    """Raises what `failed` told; returns when the message was `ready`."""
    told: dict[str, Any] = json.loads(message)
    error = told.get("error")
    if error is None:
        return
    if error["code"] == "config":
        raise ConfigError(error["message"])
    raise EmbcacheError.from_dict(error)
