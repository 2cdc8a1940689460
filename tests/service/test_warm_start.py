"""A whole service that starts warm: stopped or killed, and started again on the same data."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from embcache.host.warm import warm_readers, warm_writer
from embcache.owner.kept_ids import HEADER_BYTES
from embcache_client import RetryPolicy, Trainer
from embcache_client.results import MISSING, WARM
from tests.naive import NaiveTable
from tests.owner.stores import WatchedStore
from tests.owner.support import ITEM, OwnerThread, catalogue, read, some_ids
from tests.owner.support import fill as import_rows
from tests.owner.support import rows_of as bytes_of
from tests.service.fronts import front_of
from tests.service.running import FILLED, TABLES, Running, fill, rows_of, running
from tests.service.wires import Answer, connect, get, receive

PATIENCE_S = 60.0
PATIENT = RetryPolicy(attempts=1000, cap_s=0.1)
CONFIG = """
[server]
port = 0
[warm]
capacity = "32MiB"
keep_every_s = 0.1
ready_share = 0.95
[cold]
path = "data"
"""
SOME = FILLED[::4].copy()


def await_that(condition: Callable[[], bool], service: Running) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, service.log()
        time.sleep(0.02)


def kept(service: Running) -> int:
    """How many ids are on the lists."""
    sizes = [path.stat().st_size for path in (service.folder / "data" / "kept").glob("[0-9]*.ids")]
    return sum((size - HEADER_BYTES) // 8 for size in sizes)


def is_ready(service: Running) -> bool:
    answer = service.ask(get("/readyz"))
    if answer.status == 503:
        error = answer.json()["error"]
        assert error["code"] == "not_ready"
        assert int(answer.headers["retry-after"]) >= 1
        assert "warm_start: " in error["message"] or error["detail"].get("missing") is None
    return answer.status == 200


def look_up(service: Running, ids: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Statuses; the rows are right."""
    with service.client() as client:
        found = client.lookup({"item": ids}, deadline_ms=5000)["item"]
    np.testing.assert_array_equal(found.rows, rows_of(ids))
    return found.status


def test_what_was_warm_is_warm_after_the_next_start(tmp_path: Path) -> None:
    """After a kill of all processes, and after a clean stop."""
    (tmp_path / "config.toml").write_text(CONFIG + TABLES)
    with running(tmp_path) as service:
        assert is_ready(service), "nothing was kept, and nothing is waited for"
        with service.client() as client:
            fill(client, "item", FILLED)
        look_up(service, SOME)
        await_that(lambda: kept(service) == SOME.size, service)
        children = [service.child("owner"), service.child("front")]
        service.process.kill()
        await_that(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), service)
    with running(tmp_path) as service:
        comes_back(service, SOME)
        others = np.setdiff1d(FILLED, SOME)
        assert not (look_up(service, others[:400]) == WARM).any()
        assert service.stop() == 0
        assert kept(service) == SOME.size + 400
    with running(tmp_path) as service:
        comes_back(service, np.union1d(SOME, others[:400]))
    assert "Traceback" not in service.log()


def comes_back(service: Running, ids: NDArray[np.uint64]) -> None:
    await_that(lambda: is_ready(service), service)
    await_that(lambda: b'of="back",table="item"} %.1f' % ids.size in service.ask(get("/metrics")).body, service)
    assert (look_up(service, ids) == WARM).all()


def test_readyz_says_what_is_missing_until_it_is_back(tmp_path: Path) -> None:
    """With an owner that a test holds back, since a small table is back before anybody can ask."""
    warm_writer()  # before anything waits for an owner that uses these kernels
    warm_readers()
    (tmp_path / "config.toml").write_text(CONFIG)
    data = tmp_path / "data"
    data.mkdir()
    store, ids = WatchedStore(data / "rocksdb"), some_ids(500)
    with OwnerThread(store, data, [ITEM]) as owner:
        import_rows(owner.link(), "item", ids, bytes_of(ids, 16))
        read(owner.link(), catalogue(owner.link())["item"], ids)
    store.reading = threading.Semaphore(0)
    with store.held_back(), OwnerThread(store, data, [ITEM]) as owner:
        try:
            assert store.reading.acquire(timeout=PATIENCE_S)
            with front_of(cast(Running, SimpleNamespace(folder=tmp_path))) as front, connect(front.port) as client:

                def ready() -> Answer:
                    client.sendall(get("/readyz"))
                    return receive(client)

                answer = ready()
                error = answer.json()["error"]
                assert (answer.status, error["code"], error["detail"]["missing"]) == (503, "not_ready", "warm_start")
                assert (error["detail"]["back"], error["detail"]["wanted"]) == (0, 500)
                assert (
                    "0 of 500 rows of item are in memory again; warm.ready_share wants 0.95 of each"
                    in (error["message"])
                )
                store._gate.set()
                until = time.monotonic() + PATIENCE_S
                while ready().status != 200:
                    assert time.monotonic() < until
                assert (owner.warm(catalogue(owner.link())["item"].number, ids)[1] == WARM).all()
        finally:
            store._gate.set()


def test_lookups_and_updates_beside_it_get_right_rows(tmp_path: Path) -> None:
    """The owner dies and comes back warm again and again, while a trainer changes rows."""
    (tmp_path / "config.toml").write_text(CONFIG + TABLES)
    table, rng = NaiveTable(12, add=True, default={"uniform": 0.25}), np.random.default_rng(7)
    table.load(FILLED.tolist(), rows_of(FILLED))
    with running(tmp_path) as service:
        patient = service.client(timeout=PATIENCE_S, retry=PATIENT)
        with patient as client, Trainer(service.url, producer="warm") as trainer:
            fill(client, "item", FILLED)
            client.lookup({"item": FILLED}, deadline_ms=5000)
            await_that(lambda: kept(service) == FILLED.size, service)
            for turn in range(12):
                if turn % 6 == 0:
                    killed = service.child("owner")
                    os.kill(killed, signal.SIGKILL)
                changed = rng.choice(FILLED, 30, replace=False)
                values = rng.integers(-9, 9, (30, 12)).astype(np.float32)
                trainer.assign("item", changed[:10], values[:10])
                trainer.add("item", changed[10:20], values[10:20])
                trainer.delete("item", changed[20:])
                for op, part in (("assign", slice(10)), ("add", slice(10, 20)), ("delete", slice(20, 30))):
                    table.change(op, changed[part].tolist(), values[part])
                position = trainer.flush()
                asked = np.concatenate([changed, rng.choice(FILLED, 300)])
                found = client.lookup({"item": asked}, min_position=position, deadline_ms=20_000)["item"]
                wanted = np.stack([table.served(identifier) for identifier in asked.tolist()])
                np.testing.assert_array_equal(found.rows, wanted)
                there = [identifier in table.rows for identifier in asked.tolist()]
                np.testing.assert_array_equal(found.status != MISSING, there)
            await_that(lambda: is_ready(service), service)
            everything = client.lookup({"item": FILLED}, deadline_ms=20_000)["item"]
            wanted = np.stack([table.served(identifier) for identifier in FILLED.tolist()])
            np.testing.assert_array_equal(everything.rows, wanted)
        assert service.stop() == 0
    assert "are there again after" in service.log()
