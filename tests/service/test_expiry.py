"""Rows that expire, over HTTP: pushed by a trainer, served until then, and in no answer from then on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from embcache_client import Trainer
from embcache_client.errors import ServiceError
from embcache_client.results import MISSING
from embcache_client.wire import Query, decode_lookup_reply, encode_lookup
from tests.clock import StoppedClock
from tests.service.running import Running, rows_of, running
from tests.service.wires import connect, get, post, receive

IDS = np.arange(500, dtype=np.uint64)
CONFIG = """
[updates]
sweep_every_s = 0.05
[[table]]
name = "seen"
dim = 12
ttl_s = 100
[[table]]
name = "kept"
dim = 12
"""


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoppedClock]:
    with StoppedClock(tmp_path_factory.mktemp("clock") / "now") as clock:
        yield clock


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, clock: StoppedClock) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("expiry"), CONFIG) as started:
        yield started


def test_a_trainer_says_after_what_time_rows_expire(service: Running, clock: StoppedClock) -> None:
    ones = np.ones((100, 12), np.float32)
    with service.client() as client, Trainer(service.url, producer="a", dtype="f16", max_age_s=60.0) as trainer:
        trainer.assign("seen", IDS[:400], rows_of(IDS[:400]))
        trainer.assign("seen", IDS[100:200], ones, ttl_s=200)
        trainer.assign("seen", IDS[200:300], ones, ttl_s=0)
        trainer.add("seen", IDS[300:400], ones)  # one assign with what came before
        trainer.add("seen", IDS[400:], ones, ttl_s=300)
        position = trainer.flush()
        for seconds, there in ((0, 500), (99, 500), (1, 300), (100, 200), (100, 100), (10_000, 100)):
            clock.now += 1000 * seconds
            found = client.lookup({"seen": IDS}, min_position=position)["seen"]
            assert int((found.status != MISSING).sum()) == there
            assert (found.rows[found.status == MISSING] == 0).all()
        assert (found.rows[200:300] == 1).all()
        trainer.delete("seen", IDS)


def test_a_lookup_that_was_answered_before_is_not_answered_from_habit(service: Running, clock: StoppedClock) -> None:
    with Trainer(service.url, producer="b") as trainer:
        trainer.assign("seen", IDS[:16], rows_of(IDS[:16]))
        position = trainer.flush()
    body = encode_lookup([Query("seen", IDS[:16])])
    with service.client() as client:
        client.lookup({"seen": IDS[:16]}, min_position=position)
    with connect(service.port) as connection:

        def statuses() -> list[int]:
            connection.sendall(post("/v1/lookup", body))
            status: list[int] = decode_lookup_reply(receive(connection).body).results[0].status.tolist()
            return status

        for _ in range(4):
            assert MISSING not in statuses()
        clock.now += 99_999
        assert MISSING not in statuses()
        clock.now += 1
        assert statuses() == [MISSING] * 16


def test_what_has_expired_is_swept_and_counted(service: Running, clock: StoppedClock) -> None:
    before = swept(service)
    with Trainer(service.url, producer="c") as trainer:
        trainer.assign("seen", IDS, rows_of(IDS), ttl_s=7)
        trainer.flush()
        clock.now += 7000
        end = time.monotonic() + 60
        while swept(service) < before + len(IDS):
            assert time.monotonic() < end
            time.sleep(0.02)


def swept(service: Running) -> int:
    lines = service.ask(get("/metrics")).body.decode().splitlines()
    return next(int(float(line.split()[1])) for line in lines if line.startswith("embcache_swept_rows "))


def test_an_export_has_what_is_there(service: Running, clock: StoppedClock, tmp_path: Path) -> None:
    with Trainer(service.url, producer="d") as trainer:
        trainer.assign("seen", IDS[:300], rows_of(IDS[:300]))
        trainer.assign("seen", IDS[300:], rows_of(IDS[300:]), ttl_s=0)
        position = trainer.flush()
    with service.client() as client:
        client.lookup({"seen": IDS}, min_position=position)
        clock.now += 100_000
        file = tmp_path / "rows.npz"
        command = [sys.executable, "-m", "embcache", "export", "seen", str(file), "--url", service.url]
        subprocess.run(command, check=True, capture_output=True)
        with np.load(file) as held:
            assert held["ids"].tolist() == IDS[300:].tolist()
        row = json.loads(service.ask(get("/v1/tables/seen/rows/3")).body)
        assert row["tier"] == "missing"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ttl_s": -1}, "changes[0].ttl_s: is an integer -1; it should be whole seconds from 0 to 4294967295"),
        ({"ttl_s": 1.5}, "it should be whole seconds"),
        ({"ttl_s": "5"}, "changes[0].ttl_s"),
        ({"ttl_s": 1 << 32}, "changes[0].ttl_s: is an integer 4294967296"),
        ({"table": "kept", "ttl_s": 5}, "rows of table 'kept' cannot expire: give its spec a ttl_s"),
        ({"op": "delete", "dtype": None, "rows": None, "ttl_s": 5}, "changes[0].ttl_s: a delete has no rows"),
    ],
)
def test_a_ttl_that_cannot_be_is_refused_with_what_would_be_right(
    service: Running, change: dict[str, Any], words: str
) -> None:
    producer = msgpack.unpackb(service.ask(post("/v1/producers/e", msgpack.packb({}))).body)
    whole = {"table": "seen", "op": "assign", "ids": IDS[:1].tobytes(), "dtype": "f32", "rows": bytes(48)} | change
    asked = {
        "producer": "e",
        "epoch": producer["epoch"],
        "seq": 1,
        "changes": [{key: value for key, value in whole.items() if value is not None}],
    }
    answer = service.ask(post("/v1/updates", msgpack.packb(asked)))
    error = msgpack.unpackb(answer.body)["error"]
    assert (answer.status, error["code"]) == (400, "malformed_request")
    assert words in error["message"]


def test_a_trainer_refuses_what_the_service_would(service: Running) -> None:
    with Trainer(service.url, producer="f") as trainer:
        for wrong in (-1, 1.5, "5", True, 1 << 32):
            with pytest.raises(ValueError, match=r"ttl_s is .*, not whole seconds from 0 to 4294967295"):
                trainer.assign("seen", IDS[:1], rows_of(IDS[:1]), ttl_s=wrong)  # type: ignore[arg-type]


def test_a_table_that_is_there_gets_a_time_by_a_version(service: Running, clock: StoppedClock) -> None:
    with service.client() as client:
        with client.importing("kept") as filling:
            filling.write(IDS, rows_of(IDS))
        with pytest.raises(ServiceError, match="is there with ttl_s None, not 50"):
            client.create_table({"name": "kept", "dim": 12, "ttl_s": 50})
        client.stage("kept", "short", {"ttl_s": 50})
        with client.importing("kept", version="short") as filling:
            filling.write(IDS, rows_of(IDS))
        position = int(client.switch({"kept": "short"})["position"])
        clock.now += 49_999
        assert MISSING not in client.lookup({"kept": IDS}, min_position=position)["kept"].status
        clock.now += 1
        assert (client.lookup({"kept": IDS})["kept"].status == MISSING).all()
        assert client.table("kept")["spec"]["ttl_s"] == 50
