"""Tables and their versions as calls: listing, creating, switching, dropping, and moving whole tables in and out by
pages. Does no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

import numpy as np
from numpy.typing import ArrayLike, NDArray

from embcache_client import rowtypes, wire
from embcache_client.call import Call, json_call
from embcache_client.errors import ProtocolError
from embcache_client.http1 import Response
from embcache_client.lookup import feature_ids
from embcache_client.results import ChangedIds, RowPage

IMPORT_PAGE_BYTES: Final = 4 << 20  # of rows in one request; writes are cut into pieces of it
EXPORT_PAGE_ROWS: Final = 8192
WARM_S: Final = 30.0
SWITCH_TIMEOUT_S: Final = 60.0  # beside the time for warming
COMMIT_TIMEOUT_S: Final = 600.0  # the cold tier takes in all files of a large table at once


def tables_call() -> Call[list[dict[str, Any]]]:
    return json_call("GET", "/v1/tables", lambda reply: [dict(table) for table in reply["tables"]])


def table_call(name: str) -> Call[dict[str, Any]]:
    return json_call("GET", _table(name), dict)


def create_table_call(spec: Mapping[str, Any]) -> Call[dict[str, Any]]:
    if not isinstance(spec.get("name"), str):
        raise ValueError("a table's spec needs its name, a str, under the key 'name'")
    return json_call("PUT", _table(spec["name"]), dict, dict(spec))


def drop_table_call(name: str) -> Call[None]:
    return json_call("DELETE", _table(name), lambda reply: None, idempotent=False)


def limit_call(name: str, max_norm: float | None) -> Call[dict[str, Any]]:
    return json_call("PATCH", _table(name), dict, {"max_norm": max_norm})


def stage_call(
    table: str, version: str, spec: Mapping[str, Any] | None, follow: bool, source: str | None
) -> Call[dict[str, Any]]:
    content: dict[str, Any] = {"version": version, "spec": dict(spec or {}), "follow": follow}
    least_s = 0.0
    if source is not None:
        content["source"], least_s = source, COMMIT_TIMEOUT_S
    return json_call("POST", f"{_table(table)}/versions", dict, content, idempotent=False, least_timeout_s=least_s)


def switch_call(tables: Mapping[str, str], follow: bool | None, warm_s: float) -> Call[dict[str, Any]]:
    """Sent again, it finds that done which it asks for."""
    content = {"tables": dict(tables), "follow": follow, "warm_s": warm_s}
    return json_call("PUT", "/v1/active", dict, content, least_timeout_s=warm_s + SWITCH_TIMEOUT_S)


def drop_version_call(table: str, version: str) -> Call[None]:
    target = f"{_table(table)}/versions/{quote(version, safe='')}"
    return json_call("DELETE", target, lambda reply: None, idempotent=False)


def health_call() -> Call[None]:
    return Call("GET", "/healthz", lambda response: None, once=True)


def ready_call() -> Call[None]:
    return Call("GET", "/readyz", lambda response: None, once=True)


def page_call(table: str, version: str | None, start: int, limit: int, dtype: str) -> Call[RowPage]:
    """A page of rows from id `start` on; RowPage.next_id says where the next one starts."""
    rowtypes.code_of(dtype)
    if limit < 1:
        raise ValueError(f"a page of {limit} rows has none; 1 is the least")
    query = {"start": str(start), "limit": str(limit), "dtype": dtype} | ({"version": version} if version else {})

    def read(response: Response) -> RowPage:
        page = wire.decode_page(response.body)
        if page.next_id is not None and not (len(page) and page.next_id > int(page.ids[-1]) >= start):
            raise ProtocolError(f"the page of table {table} from id {start} leads to id {page.next_id}, not onwards")
        return page

    return Call("GET", f"{_table(table)}/rows?{urlencode(query)}", read)


def changed_call(table: str, since: int, history: str | None) -> Call[ChangedIds]:
    """IDs that changed after a position; ChangedIds.position says from where to go on."""
    query = {"since": str(since)} | ({"history": history} if history else {})

    def read(response: Response) -> ChangedIds:
        told = wire.decode_changed(response.body)
        if not since <= told.position <= told.applied or (told.position == since < told.applied):
            raise ProtocolError(f"changes of table {table} since {since} lead to position {told.position}, not onwards")
        return told

    return Call("GET", f"{_table(table)}/changes?{urlencode(query)}", read)


def fetch_call(table: str, ids: ArrayLike, version: str | None, dtype: str) -> Call[RowPage]:
    """Rows of ids; of those that have one, in their order."""
    rowtypes.code_of(dtype)
    body = wire.encode_fetch(np.ascontiguousarray(feature_ids(table, np.asarray(ids), ids)), dtype, version)
    return Call(
        "POST", f"{_table(table)}/rows", lambda response: wire.decode_page(response.body), body, wire.MEDIA_TYPE
    )


def progress_call() -> Call[dict[str, Any]]:
    """How far updates are: "durable", "applied", "history", "lag_s"."""
    return json_call("GET", "/v1/position", _progress)


class ImportCalls:
    """The calls that fill a version of a table, which nobody sees before commit(). IDs must ascend over all writes.

    begin() comes first; its answer is the id of the import, which goes to began().
    """

    def __init__(self, table: str, spec: Mapping[str, Any] | None, dtype: str, version: str | None = None) -> None:
        rowtypes.code_of(dtype)
        self.table = table
        self.dtype = dtype
        self._content: dict[str, Any] = {"spec": None if spec is None else dict(spec)}
        if version is not None:
            self._content["version"] = version
        self._path = ""
        self._last_id = -1

    def begin(self) -> Call[Mapping[str, str]]:
        """The answer has the keys "import" and "version"."""
        return json_call("POST", f"{_table(self.table)}/imports", _import_reply, self._content, idempotent=False)

    def began(self, reply: Mapping[str, str]) -> str:
        """Take the answer to begin(); returns the version that is being filled."""
        self._path = f"/v1/imports/{quote(reply['import'], safe='')}"
        return reply["version"]

    def pages(self, ids: ArrayLike, rows: ArrayLike) -> Iterator[Call[int]]:
        """The calls that write ids [n] and rows [n, dim], in order; each answers with the rows written so far.

        A page counts once or not at all, so that it is not sent again where an answer was lost.
        Raises ValueError for ids that do not ascend, and rows that are not [n, dim] of finite numbers.
        """
        ids_array, rows_array = self._checked(ids, rows)
        step = max(1, IMPORT_PAGE_BYTES // (4 * rows_array.shape[1]))
        for start in range(0, len(ids_array), step):
            piece = slice(start, start + step)
            body = wire.encode_page(ids_array[piece], rows_array[piece], self.dtype)
            yield Call("POST", f"{self._path}/rows", _rows_so_far, body, wire.MEDIA_TYPE, idempotent=False)

    def commit(self) -> Call[dict[str, Any]]:
        """A new version goes live at once, unless it was named. The answer has the keys "table", "version", "rows"."""
        return json_call("POST", f"{self._path}/commit", dict, idempotent=False, least_timeout_s=COMMIT_TIMEOUT_S)

    def abort(self) -> Call[None]:
        return json_call("DELETE", self._path, lambda reply: None, idempotent=False)

    def _checked(self, ids: ArrayLike, rows: ArrayLike) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        ids_array = feature_ids(self.table, np.asarray(ids), ids)
        rows_array = np.ascontiguousarray(rows, np.float32)
        if rows_array.ndim != 2 or len(rows_array) != len(ids_array) or rows_array.shape[1] == 0:
            raise ValueError(f"table {self.table}: rows of shape {rows_array.shape} for {len(ids_array)} ids")
        if not len(ids_array):
            return ids_array, rows_array
        falls = np.flatnonzero(ids_array[1:] <= ids_array[:-1])
        if falls.size or int(ids_array[0]) <= self._last_id:
            at = int(falls[0]) + 1 if falls.size else 0
            before = int(ids_array[at - 1]) if at else self._last_id
            raise ValueError(f"table {self.table}: id {ids_array[at]} at {at} follows {before}; ids must ascend")
        if not np.isfinite(rows_array).all():
            at = int(np.argmin(np.isfinite(rows_array).all(axis=1)))
            raise ValueError(f"table {self.table}: the row at {at}, of id {ids_array[at]}, holds NaN or infinity")
        self._last_id = int(ids_array[-1])
        return ids_array, rows_array


def _table(name: str) -> str:
    return f"/v1/tables/{quote(name, safe='')}"


def _progress(reply: Any) -> dict[str, Any]:
    return {**reply, "durable": int(reply["durable"]), "applied": int(reply["applied"])}


def _import_reply(reply: Any) -> Mapping[str, str]:
    return {"import": str(reply["import"]), "version": str(reply["version"])}


def _rows_so_far(response: Response) -> int:
    total = wire.decode_map(response.body).get("rows")
    if type(total) is not int:
        raise ProtocolError(f"key 'rows' is {total!r}, not the number of rows written so far")
    return total
