"""The calls of a producer: opening it, pushing a batch, and asking how far it and all updates are. Does no I/O."""

from __future__ import annotations

from typing import Final

from embcache_client import wire
from embcache_client.call import Call, json_call
from embcache_client.updates import ProducerState, UpdateReply, decode_producer, decode_update_reply

_EMPTY_MAP: Final = b"\x80"


def open_call(producer: str) -> Call[ProducerState]:
    target = f"/v1/producers/{producer}"
    return Call("POST", target, lambda response: decode_producer(response.body), _EMPTY_MAP, wire.MEDIA_TYPE)


def state_call(producer: str) -> Call[ProducerState]:
    """The same, of one that is open, or not."""
    return Call("GET", f"/v1/producers/{producer}", lambda response: decode_producer(response.body))


def push_call(body: bytes) -> Call[UpdateReply]:
    """body: as encode_update made it."""
    return Call("POST", "/v1/updates", lambda response: decode_update_reply(response.body), body, wire.MEDIA_TYPE)


def applied_call() -> Call[tuple[int, str]]:
    """The answer: the position up to which updates are applied, and its history."""
    return json_call("GET", "/v1/position", lambda reply: (int(reply["applied"]), str(reply["history"])))


def position_call() -> Call[tuple[int, str]]:
    """The answer: the position up to which updates are durable, and its history."""
    return json_call("GET", "/v1/position", lambda reply: (int(reply["durable"]), str(reply["history"])))
