"""A service that does as it is told: counts what comes, answers like embcache, stands still, refuses.

It counts by itself, so that what a load tester says of its own requests can be held against something.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgpack
import numpy as np

DIM = 4


class Scripted:
    """stall: (number of the lookup before which everything stands still, seconds). refuse_every: each n-th lookup is
    answered `overloaded`. statuses: of the ids of a lookup, over and over. visible_s: how long a lookup waits that
    gives a position. `asked` counts requests by path.
    """

    def __init__(
        self,
        stall: tuple[int, float] | None = None,
        refuse_every: int = 0,
        statuses: bytes = b"\2",
        visible_s: float = 0.0,
    ) -> None:
        self.stall, self.refuse_every, self.statuses, self.visible_s = stall, refuse_every, statuses, visible_s
        self.asked: Counter[str] = Counter()
        self.ids: Counter[int] = Counter()
        self.refused = 0
        self.body_bytes = self.reply_bytes = 0
        self.lock = threading.Lock()  # held while it stands still
        self.url = ""

    def answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        """(status, body) of the answer."""
        path = path.partition("?")[0]
        if path == "/v1/lookup" and msgpack.unpackb(body).get("min_position"):
            time.sleep(self.visible_s)
        with self.lock:
            self.asked[path] += 1
            if path == "/v1/lookup":
                return self._lookup(body)
            if path.startswith("/v1/producers/"):
                state = {"epoch": 1, "last_seq": 0, "last_epoch": 0, "mark": b"", "position": 0, "history": "h"}
                return 200, msgpack.packb(state)
            if path == "/v1/updates":
                position = self.asked[path]
                reply = {"position": position, "history": "h", "durable": position, "duplicate": False}
                return 200, msgpack.packb(reply)
            if path.startswith("/v1/tables/"):
                spec = {"name": path.rpartition("/")[2], "dim": DIM}
                return 200, json.dumps({"spec": spec, "rows": 1000}).encode()
            return 404, json.dumps({"error": {"code": "not_found", "message": path, "detail": {}}}).encode()

    def _lookup(self, body: bytes) -> tuple[int, bytes]:
        number = self.asked["/v1/lookup"]
        if self.stall is not None and number == self.stall[0]:
            time.sleep(self.stall[1])
        if self.refuse_every and number % self.refuse_every == 0:
            self.refused += 1
            return 503, msgpack.packb({"error": {"code": "overloaded", "message": "no", "detail": {}}})
        results = [self._result(query) for query in msgpack.unpackb(body)["queries"]]
        reply = msgpack.packb({"position": self.asked["/v1/updates"], "history": "h", "results": results})
        self.body_bytes += len(body)
        self.reply_bytes += len(reply)
        return 200, reply

    def _result(self, query: dict[str, Any]) -> dict[str, Any]:
        ids = np.frombuffer(query["ids"], np.uint64)
        self.ids.update(ids.tolist())
        count = len(ids)
        return {
            "table": query["table"],
            "version": "1",
            "dtype": "f32",
            "shape": [count, DIM],
            "rows": bytes(4 * DIM * count),
            "status": (self.statuses * count)[:count],
        }


@contextmanager
def scripted(**script: Any) -> Iterator[Scripted]:
    """The service, listening on a free port, for the block."""
    service = Scripted(**script)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            status, reply = service.answer(self.path, body)
            kind = "application/json" if self.path.startswith("/v1/tables") else "application/msgpack"
            head = f"HTTP/1.1 {status} -\r\nContent-Type: {kind}\r\nContent-Length: {len(reply)}\r\n\r\n"
            self.wfile.write(head.encode() + reply)

        def do_GET(self) -> None:
            status, reply = service.answer(self.path, b"")
            head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(reply)}\r\n\r\n"
            self.wfile.write(head.encode() + reply)

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        service.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()
