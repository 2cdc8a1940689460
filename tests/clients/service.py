"""A small service under uvicorn that answers by its own account of the protocol, one value at a time.

The row of id x holds x % 1000 + j / 64 at element j, which f16 and bf16 round; ids from 2^63 on have no row.
Tables, imports and pages live in dicts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

import msgpack
import numpy as np
import uvicorn
import xxhash

DIM = 4
MSGPACK, JSON = b"application/msgpack", b"application/json"


def row_of(feature_id: int) -> list[float]:
    """The row of an id: zeros where it has none."""
    return [0.0] * DIM if is_missing(feature_id) else [feature_id % 1000 + j / 64 for j in range(DIM)]


def is_missing(feature_id: int) -> bool:
    return feature_id >= 1 << 63


def id_of(feature: str, value: str | bytes | int) -> int:
    raw = value.encode() if isinstance(value, str) else value
    raw = raw.to_bytes(8, "little", signed=True) if isinstance(raw, int) else raw
    return xxhash.xxh3_64_intdigest(raw, xxhash.xxh3_64_intdigest(feature.encode()))


def pool(ids: list[int], weights: list[float], pooling: str) -> list[float]:
    """The pooled row of one bag."""
    there = [(row_of(x), weight) for x, weight in zip(ids, weights, strict=True) if not is_missing(x)]
    sums = [sum(row[j] * weight for row, weight in there) for j in range(DIM)]
    return [value / max(1, len(there)) for value in sums] if pooling == "mean" else sums


def lookup(request: dict[str, Any]) -> bytes:
    results = [answer_query(query, request["dtype"]) for query in request["queries"]]
    return bytes(msgpack.packb({"position": request.get("min_position", 0) + 5, "history": "h", "results": results}))


def answer_query(query: dict[str, Any], dtype: str) -> dict[str, Any]:
    if "values" in query:
        ids = [id_of(query["table"], value) for value in query["values"]]
    else:
        ids = [int(x) for x in np.frombuffer(query["ids"], "<u8")]
    rows = [row_of(x) for x in ids]
    if "lengths" in query:
        weights = list(np.frombuffer(query["weights"], "<f4")) if "weights" in query else [1.0] * len(ids)
        ends = np.cumsum(np.frombuffer(query["lengths"], "<u4")).tolist()
        bags = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        rows = [pool(ids[bag], weights[bag], query["pooling"]) for bag in bags]
    return {
        "table": query["table"],
        "version": query.get("version", "1"),
        "shape": [len(rows), DIM],
        "status": bytes(0 if is_missing(x) else 3 for x in ids),
    } | encoded(rows, dtype)


def encoded(rows: list[list[float]], dtype: str) -> dict[str, Any]:
    """The keys dtype, rows, scale and bias."""
    values = np.array(rows, np.float32).reshape(-1, DIM)
    if dtype == "q8":  # scale 1 keeps a row's first element, floored, in each of its codes' places
        codes = np.zeros(values.shape, np.uint8)
        return {"dtype": dtype, "rows": codes.tobytes()} | {
            "scale": np.ones(len(rows), "<f4").tobytes(),
            "bias": values[:, 0].copy().tobytes(),
        }
    if dtype == "bf16":
        return {"dtype": dtype, "rows": (values.view("<u4") >> 16).astype("<u2").tobytes()}
    return {"dtype": dtype, "rows": values.astype("<f2" if dtype == "f16" else "<f4").tobytes()}


def prefetch(request: dict[str, Any]) -> bytes:
    ids = sum(len(query["ids"]) // 8 for query in request["queries"])
    packed: bytes = msgpack.packb({"ids": ids, "queued": 0})
    return packed


DATA = {"lookup": lookup, "prefetch": prefetch}


class Service:
    """The ASGI application and its state."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, Any]] = {}
        self.imports: dict[str, dict[str, Any]] = {}
        self.authorizations: set[str] = set()
        self.applied = 7
        self.step = 1

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        self.authorizations.add(dict(scope["headers"]).get(b"authorization", b"").decode())
        await asyncio.sleep(0)  # let calls of other connections come between
        try:
            status, media_type, content = 200, *self.answer(scope, body)
        except KeyError as error:
            unknown = {"error": {"code": "unknown_table", "message": f"no table {error}", "detail": {}}}
            status, media_type, content = 404, JSON, json.dumps(unknown).encode()
        headers = [(b"content-type", media_type), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def answer(self, scope: dict[str, Any], body: bytes) -> tuple[bytes, bytes]:
        match scope["method"], scope["path"].strip("/").split("/"):
            case "POST", ["v1", "lookup" | "prefetch" as what]:
                return MSGPACK, DATA[what](msgpack.unpackb(body))
            case _, ["v1", "tables", name, "rows" | "changes" as what]:
                return MSGPACK, self.read(scope, name, what, body)
            case "POST", ["v1", "imports", key, "rows"]:
                return MSGPACK, self.take_rows(self.imports[key], msgpack.unpackb(body))
            case "GET", ["v1", "position"]:
                told = {"durable": str(self.applied), "applied": str(self.applied), "history": "h", "lag_s": 0.0}
                return JSON, json.dumps(told).encode()
            case method, ["v1", *path]:
                return JSON, json.dumps(self.administer(method, path, body)).encode()
        return JSON, b"{}"

    def administer(self, method: str, path: list[str], body: bytes) -> object:
        match method, path:
            case "GET", ["tables"]:
                return {"tables": [self.describe(name) for name in sorted(self.tables)]}
            case "GET", ["tables", name]:
                return self.describe(name)
            case "PUT", ["tables", name]:
                self.tables[name] = {"spec": json.loads(body), "version": "1", "rows": {}, "pages": 0}
                return self.describe(name)
            case "DELETE", ["tables", name]:
                del self.tables[name]
            case "POST", ["tables", name, "imports"]:
                spec = json.loads(body)["spec"] or self.tables[name]["spec"]
                self.imports["i1"] = {"spec": spec, "version": "2", "rows": {}, "pages": 0, "table": name}
                return {"import": "i1", "version": "2"}
            case "POST", ["imports", key, "commit"]:
                done = self.imports.pop(key)
                self.tables[done["table"]] = done
                return {"table": done["table"], "version": done["version"], "rows": len(done["rows"])}
            case "DELETE", ["imports", key]:
                del self.imports[key]
        return {}

    def read(self, scope: dict[str, Any], name: str, what: str, body: bytes) -> bytes:
        query = {key: values[0] for key, values in parse_qs(scope["query_string"].decode()).items()}
        if what == "changes":
            return self.changed(name, int(query["since"]))
        return self.page(name, query) if scope["method"] == "GET" else self.fetch(name, msgpack.unpackb(body))

    def changed(self, name: str, since: int) -> bytes:
        """One position a piece, which changed the id that is it; what is applied grows while it is asked."""
        position = min(since + self.step, self.applied)
        ids = np.arange(since + 1, position + 1, dtype="<u8")
        reply = {"table": name, "version": self.tables[name]["version"], "history": "h", "ids": ids.tobytes()}
        self.applied += 1
        return bytes(msgpack.packb(reply | {"position": position, "applied": self.applied - 1}))

    def fetch(self, name: str, asked: dict[str, Any]) -> bytes:
        table = self.tables[name]
        ids = [x for x in np.frombuffer(asked["ids"], "<u8").tolist() if x in table["rows"]]
        rows = np.array([table["rows"][x] for x in ids], np.float32).reshape(len(ids), DIM)
        reply = {"table": name, "version": asked.get("version", table["version"]), "shape": list(rows.shape)}
        reply |= {"ids": np.array(ids, "<u8").tobytes(), "next": None} | encoded(rows.tolist(), asked["dtype"])
        return bytes(msgpack.packb(reply))

    def describe(self, name: str) -> dict[str, Any]:
        table = self.tables[name]
        return {"spec": table["spec"], "version": table["version"], "rows": len(table["rows"])}

    def take_rows(self, into: dict[str, Any], page: dict[str, Any]) -> bytes:
        """f32 or q8; a page that does not ascend is an assertion that fails the test through a 500."""
        ids = [int(x) for x in np.frombuffer(page["ids"], "<u8")]
        assert ids == sorted(set(ids))
        assert not into["rows"] or ids[0] > max(into["rows"])
        if page["dtype"] == "q8":
            scale, bias = (np.frombuffer(page[key], "<f4")[:, None] for key in ("scale", "bias"))
            rows = np.frombuffer(page["rows"], np.uint8).reshape(len(ids), -1) * scale + bias
        else:
            rows = np.frombuffer(page["rows"], "<f4").reshape(len(ids), -1)
        into["rows"] |= dict(zip(ids, rows.tolist(), strict=True))
        into["pages"] += 1
        return bytes(msgpack.packb({"rows": len(into["rows"])}))

    def page(self, name: str, query: dict[str, str]) -> bytes:
        table, limit = self.tables[name], int(query["limit"])
        ids = [x for x in sorted(table["rows"]) if x >= int(query["start"])]
        rows = np.array([table["rows"][x] for x in ids[:limit]], np.float32)
        version = query.get("version", table["version"])
        reply = {"table": name, "version": version, "shape": list(rows.shape) if ids else [0, DIM]}
        reply |= {"dtype": "f32", "rows": rows.tobytes(), "ids": np.array(ids[:limit], "<u8").tobytes()}
        return bytes(msgpack.packb(reply | {"next": str(ids[limit]) if len(ids) > limit else None}))


@contextlib.contextmanager
def served(service: Service) -> Iterator[str]:
    """Serves it from a thread; yields its URL."""
    # asyncio sets TCP_NODELAY only on sockets that were made with this protocol number.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        config = uvicorn.Config(service, lifespan="off", log_level="critical", loop="asyncio", http="httptools")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
