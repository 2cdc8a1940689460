"""Snapshots and audits over HTTP."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from embcache_storage.rocks import RocksStore
from tests.service.running import FILLED, Running

WAIT_S = 60.0


def asked(service: Running, method: str, path: str, body: object = None) -> tuple[int, Any]:
    data = b"" if body is None else json.dumps(body).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    answer = service.ask(head.encode() + data)
    return answer.status, json.loads(answer.body)


def ended(service: Running, snapshot: str) -> dict[str, Any]:
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        status, told = asked(service, "GET", f"/v1/snapshots/{snapshot}")
        assert status == 200
        if told["state"] != "running":
            return dict(told)
        time.sleep(0.05)
    raise AssertionError("the snapshot does not end")


def test_a_snapshot_is_begun_asked_about_and_never_overwritten(service: Running, tmp_path: Path) -> None:
    target = tmp_path / "snapshot"
    status, told = asked(service, "POST", "/v1/snapshots", {"path": str(target)})
    assert status == 202
    assert asked(service, "POST", "/v1/snapshots", {"path": str(tmp_path / "two")})[1]["error"]["code"] == "overloaded"
    done = ended(service, told["snapshot"])
    assert (done["state"], done["error"], done["result"]["path"]) == ("done", None, str(target))
    about = json.loads((target / "snapshot.json").read_text())
    assert done["result"]["position"] == str(about["position"])
    assert done["result"]["history"] == asked(service, "GET", "/v1/position")[1]["history"]
    store = RocksStore(target / "rocksdb")
    assert len(FILLED) in {store.count(version) for version in store.versions()}
    store.close()
    again = ended(service, asked(service, "POST", "/v1/snapshots", {"path": str(target)})[1]["snapshot"])
    assert (again["state"], again["error"]["code"]) == ("failed", "conflict")
    assert [path.name for path in tmp_path.iterdir()] == ["snapshot"]


def test_one_that_is_stopped_leaves_nothing(service: Running, tmp_path: Path) -> None:
    begun = asked(service, "POST", "/v1/snapshots", {"path": str(tmp_path / "stopped")})[1]["snapshot"]
    assert asked(service, "DELETE", f"/v1/snapshots/{begun}") == (200, {"stopped": begun})
    told = ended(service, begun)
    assert (told["state"], told["error"]["code"]) == ("failed", "not_ready")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_order_of_a_snapshot_is_told(service: Running, tmp_path: Path) -> None:
    bodies: tuple[object, ...] = (None, [], {}, {"path": 7}, {"path": "/x", "more": 1})
    for body in bodies:
        assert asked(service, "POST", "/v1/snapshots", body)[0] == 400
    told = ended(
        service, asked(service, "POST", "/v1/snapshots", {"path": str(tmp_path / "no" / "folder")})[1]["snapshot"]
    )
    assert (told["state"], told["error"]["code"]) == ("failed", "malformed_request")
    for method in ("GET", "DELETE"):
        assert asked(service, method, "/v1/snapshots/none")[0] == 404
    assert asked(service, "GET", "/v1/check?start=x")[0] == 400


def test_all_rows_in_memory_are_compared_piece_by_piece(service: Running) -> None:
    with service.client() as client:
        for _ in range(2):
            status = client.lookup({"item": FILLED}, deadline_ms=30_000)["item"].status
    warm = int(np.count_nonzero(status == 2))
    assert warm
    rows, start = 0, "0-0"
    while start is not None:
        told = asked(service, "GET", f"/v1/check?start={start}")[1]
        assert told["findings"] == []
        assert told["done"] <= told["total"]
        rows, start = rows + told["rows"], told["next"]
    assert rows >= warm
