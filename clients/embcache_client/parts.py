"""Large lookups of one table in parts, over several connections at once. Does no I/O: see call.Steps.

The rows of all parts are received into one buffer, each part's to its place: an answer of embcache ends with its rows
and their statuses, so it is known which bytes go there; the others, which tell what they are, go elsewhere (http1's
Place). What the parts tell of table, version and history must be the same, and the position told is the smallest: so
the result is one that a single lookup could have had. Whatever does not fit, or fails, is asked for again as a whole,
in one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embcache_client import rowtypes, wire
from embcache_client.buffers import BufferPool
from embcache_client.call import Call, Steps
from embcache_client.errors import ClientError, ProtocolError, Timeout
from embcache_client.http1 import Place, Response
from embcache_client.lookup import MEDIA_TYPES, TARGET, body_of, call_of
from embcache_client.results import LookupResult, TableRows
from embcache_client.wire import Query

LEAST_PART: Final = 4096  # ids; a smaller part is not worth a request of its own
MAX_CONNECTIONS: Final = 64
_MAX_WIDTHS: Final = 1024
# The last keys, each of a bin whose length takes four bytes.
_ROWS: Final = b"rows\xc6"
_STATUS: Final = b"\xa6status\xc6"
_LENGTH_BYTES: Final = 4


class PartAnswer(NamedTuple):
    """What an answer tells of its rows, which are not in it."""

    position: int
    history: str
    table: str
    version: str
    dim: int
    status: NDArray[np.uint8]
    scale: NDArray[np.float32] | None
    bias: NDArray[np.float32] | None


class Parts:
    """How a client asks for much: at most `connections` parts at a time. Safe to use from many threads."""

    def __init__(self, connections: int, buffers: BufferPool) -> None:
        self._connections = connections
        self._buffers = buffers
        self._widths: dict[tuple[str, str], int] = {}  # elements of a row, by table and dtype, as they were last

    def ask(self, queries: Sequence[Query], dtype: str, conditions: dict[str, Any]) -> Steps[LookupResult]:
        """Look up the queries, in parts where that is to be had and they are large enough."""
        whole = call_of(queries, dtype, **conditions)
        count = min(self._connections, queries[0].id_count // LEAST_PART) if len(queries) == 1 else 0
        dim = self._widths.get((queries[0].table, dtype))
        if count > 1 and dim and queries[0].ids is not None and queries[0].lengths is None:
            result = yield from self._in_parts(queries[0], dtype, conditions, dim, count)
            if result is not None:
                return result
        answers: list[LookupResult] = yield [whole]
        self._note_widths(answers[0])
        return answers[0]

    def _note_widths(self, result: LookupResult) -> None:
        if len(self._widths) >= _MAX_WIDTHS:
            self._widths.clear()
        for rows in result.results:
            self._widths[rows.table, rows.dtype] = rows.raw.shape[1]

    def _in_parts(
        self, query: Query, dtype: str, conditions: dict[str, Any], dim: int, count: int
    ) -> Steps[LookupResult | None]:
        assert query.ids is not None
        element = rowtypes.ELEMENTS[rowtypes.code_of(dtype)]
        width = dim * element.itemsize
        total = len(query.ids)
        room = self._buffers.take(total * width)
        bounds = [total * part // count for part in range(count + 1)]
        calls = []
        for first, past in pairwise(bounds):
            part = Query(query.table, query.ids[first:past], version=query.version)
            rows = room.data[first * width : past * width]
            calls.append(_part_call(part, dtype, conditions, rows, dim))
        try:
            answers: list[PartAnswer] = yield calls
        except Timeout:
            raise  # there is no time left for another call
        except ClientError:
            return None
        return _joined(answers, dtype, room.view(element).reshape(total, dim))


def _part_call(query: Query, dtype: str, conditions: dict[str, Any], rows: memoryview, dim: int) -> Call[PartAnswer]:
    def read(response: Response) -> PartAnswer:
        if not response.placed or response.media_type not in MEDIA_TYPES:
            raise ProtocolError("the answer to a part of a lookup is not one whose rows could be placed")
        return read_part(bytes(response.body), len(rows), (query.table, dtype, query.id_count, dim))

    body = body_of([query], dtype, **conditions)
    return Call("POST", TARGET, read, body, wire.MEDIA_TYPE, place=Place(rows, bytes_behind(query.id_count)))


def bytes_behind(count: int) -> int:
    """How many bytes follow the rows of so many ids in an answer: their statuses."""
    return len(_STATUS) + _LENGTH_BYTES + count


def read_part(around: bytes, rows_bytes: int, asked: tuple[str, str, int, int]) -> PartAnswer:
    """What stands around the rows. asked: table, dtype, rows, elements of a row.

    Raises ProtocolError where it is not laid out so, or where it is not what was asked for.
    """
    table, dtype, count, dim = asked
    rows_at = len(around) - bytes_behind(count)
    before, behind = around[: max(rows_at, 0)], around[max(rows_at, 0) :]
    if not (before.endswith(_ROWS + rows_bytes.to_bytes(_LENGTH_BYTES, "big")) and behind.startswith(_STATUS)):
        raise ProtocolError("the answer does not end with its rows and their statuses")
    reply = wire.decode_map(before[:-_LENGTH_BYTES] + bytes(_LENGTH_BYTES) + behind)  # the same with rows of no bytes
    results, position, history = reply.get("results"), reply.get("position"), reply.get("history")
    entry = results[0] if type(results) is list and len(results) == 1 else None
    if type(entry) is not dict or type(position) is not int or type(history) is not str:
        raise ProtocolError("the answer to a part of a lookup has not one result, a position and a history")
    answered = (entry.get("table"), entry.get("dtype"), entry.get("shape"))
    if answered != (table, dtype, [count, dim]) or entry.get("rows") != b"" or type(entry.get("version")) is not str:
        raise ProtocolError(f"asked for (table, dtype, rows, dim) {asked}, answered with {answered}")
    status = wire.array(entry, "status", np.dtype("u1"), (count,))
    if rowtypes.code_of(dtype) != rowtypes.Q8:
        return PartAnswer(position, history, table, entry["version"], dim, status, None, None)
    scale, bias = (wire.array(entry, key, np.dtype("<f4"), (count,)) for key in ("scale", "bias"))
    return PartAnswer(position, history, table, entry["version"], dim, status, scale, bias)


def _joined(answers: Sequence[PartAnswer], dtype: str, raw: NDArray[Any]) -> LookupResult | None:
    """One result of all parts; None where they are not of one version and history."""
    first = answers[0]
    if any((answer.version, answer.history) != (first.version, first.history) for answer in answers):
        return None
    status = np.concatenate([answer.status for answer in answers])
    rows = TableRows(first.table, first.version, dtype, raw, status)
    if first.scale is not None:
        rows.scale = np.concatenate([answer.scale for answer in answers if answer.scale is not None])
        rows.bias = np.concatenate([answer.bias for answer in answers if answer.bias is not None])
    return LookupResult([rows], min(answer.position for answer in answers), first.history)
