"""One client of a generator: sends requests over a connection of its own, one at a time, each once.

Nothing is tried again behind the scenes: what fails is counted as an error, with its code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embcache_client import STATUS_NAMES, LookupResult
from embcache_client.call import MAX_REPLY_BYTES, Call, Endpoint, RetryPolicy
from embcache_client.errors import (
    ClientError,
    ConnectFailed,
    ConnectionLost,
    Overloaded,
    ProtocolError,
    ServiceError,
    Timeout,
)
from embcache_client.http1 import Response
from embcache_client.lookup import lookup_bags_call, lookup_call
from embcache_client.producer_calls import open_call, push_call
from embcache_client.transport import Transport
from embcache_client.updates import Change, UpdateReply, encode_update
from loadtest.load.asked import Workload
from loadtest.load.requests import Request
from loadtest.load.tally import Answer

_REFUSED: Final = (400, 401, 403, 404, 413, 415, 429, 507)  # nothing of the batch was accepted
_SPARE_ROWS: Final = 8


@dataclass(frozen=True, slots=True)
class Target:
    """A service and how to speak with it."""

    url: str
    token: str | None = None
    timeout_s: float = 10.0
    deadline_ms: int | None = None

    def transport(self) -> Transport:
        """Connections on which every call is made once."""
        return Transport(Endpoint(self.url, self.token, self.timeout_s, RetryPolicy(attempts=1), MAX_REPLY_BYTES))


class Prepared(NamedTuple):
    """A request, encoded, so that nothing is left to do when it is due but to send it."""

    request: Request
    call: Call[Any] | None
    error: str | None = None  # why it cannot be sent


class Asker:
    """Sends a workload's requests. For one thread at a time. producer: the name under which it pushes updates."""

    def __init__(self, target: Target, workload: Workload, producer: str) -> None:
        self._target, self._workload = target, workload
        self._transport = target.transport()
        self._producer = producer
        self._epoch: int | None = None
        self._last_seq = 0
        rng = np.random.default_rng(workload.seed)
        rows = workload.update_rows + _SPARE_ROWS if workload.updates else 0
        self._rows = {
            table.name: (rng.random((rows, table.dim), np.float32) - np.float32(0.5)) for table in workload.tables
        }
        self._steps = {name: rows * np.float32(2**-10) for name, rows in self._rows.items()}

    def prepare(self, request: Request) -> Prepared:
        """Encode a request; an update first opens its producer where nobody knows how the last one ended."""
        if request.op == "lookup":
            return Prepared(request, self._lookup(request))
        try:
            if self._epoch is None:
                self._open()
        except ClientError as error:
            return Prepared(request, None, code_of(error))
        return Prepared(request, push_call(self._batch(request)))

    def send(self, prepared: Prepared) -> Answer:
        """Send it and wait for the answer, or for what comes in its place."""
        request, call, failed = prepared
        if call is None:
            return Answer(request.op, failed)
        try:
            if request.op == "lookup":
                answer: Answer = self._transport.run(call)
                return answer
            return self._pushed(request, call, self._transport.run(call))
        except ClientError as error:
            if request.op != "lookup" and not _is_refusal(error):
                self._epoch = None
            return Answer(request.op, code_of(error))

    def close(self) -> None:
        self._transport.close()

    def _lookup(self, request: Request) -> Call[Any]:
        options: dict[str, Any] = {"dtype": self._workload.dtype, "strict": False, "min_position": 0, "history": None}
        options |= {"deadline_ms": self._target.deadline_ms, "version": None}
        if request.lengths is None:
            call = lookup_call(request.ids, **options)
        else:
            bags = {table: (ids, request.lengths[table]) for table, ids in request.ids.items()}
            call = lookup_bags_call(bags, pooling=self._workload.pooling or "sum", **options)
        return _counted(call)

    def _open(self) -> None:
        opened = self._transport.run(open_call(self._producer))
        self._epoch, self._last_seq = opened.epoch, opened.last_seq

    def _batch(self, request: Request) -> bytes:
        assert self._epoch is not None
        changes = [
            Change(table, request.op, ids, self._rows_for(request.op, table, len(ids)))
            for table, ids in request.ids.items()
        ]
        return encode_update(self._producer, self._epoch, self._last_seq + 1, None, changes)

    def _rows_for(self, op: str, table: str, count: int) -> NDArray[np.float32] | None:
        """f32 [count, dim], not always the same; what an `add` adds is small, so that no sum runs away."""
        if op == "delete":
            return None
        first = self._last_seq % _SPARE_ROWS
        return (self._steps if op == "add" else self._rows)[table][first : first + count]

    def _pushed(self, request: Request, call: Call[Any], reply: UpdateReply) -> Answer:
        self._last_seq += 1
        rows = sum(len(ids) for ids in request.ids.values())
        return Answer(request.op, ids=rows, sent=len(call.body), position=reply.position, history=reply.history)


def code_of(error: ClientError) -> str:
    """The service's own code, or what kept it from giving one."""
    if isinstance(error, ServiceError):
        return error.code
    kinds = {ConnectFailed: "connect_failed", ConnectionLost: "connection_lost", Timeout: "timeout"}
    for kind, code in {**kinds, ProtocolError: "protocol_error"}.items():
        if isinstance(error, kind):
            return code
    return "client_error"


def _is_refusal(error: ClientError) -> bool:
    """Whether nothing of a batch was accepted, so that its number is free; a fenced producer stays shut out."""
    if isinstance(error, ServiceError):
        return error.http_status in _REFUSED or isinstance(error, Overloaded) or error.code == "fenced"
    return isinstance(error, ConnectFailed)


def _counted(call: Call[LookupResult]) -> Call[Any]:
    """The same call, whose result is an Answer; the rows are decoded as for any caller, and let go."""
    read = call.decode

    def count(response: Response) -> Answer:
        result = read(response)
        tiers = np.zeros(len(STATUS_NAMES), np.int64)
        ids = 0
        for rows in result.results:
            ids += len(rows.status)
            tiers += np.bincount(rows.status, minlength=len(STATUS_NAMES))
        return Answer("lookup", None, ids, len(call.body), len(response.body), tiers)

    return Call(call.method, call.target, count, call.body, call.media_type, call.idempotent)
