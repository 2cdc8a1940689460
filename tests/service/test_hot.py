"""A whole service with a hot tier, on the emulated device: rows, bags, updates, and what it says of itself."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import numpy as np
import pytest

from embcache_client import Trainer
from embcache_client.results import HOT
from tests.service.running import FILLED, TABLES, Running, fill, rows_of, running
from tests.service.wires import get

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the kernels with")

HOT_TIER = '[hot]\ndevice = "emulated"\ncapacity = "8MiB"\ncrossover_ids = 0\npinned = ["item"]\n'
SOME = FILLED[:300]
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def hot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with a hot tier in which `item` is pinned."""
    with running(tmp_path_factory.mktemp("hot"), HOT_TIER + TABLES) as service:
        with service.client() as client:
            fill(client, "item", SOME)
            end = time.monotonic() + PATIENCE_S
            while not (client.lookup({"item": SOME}, deadline_ms=5000)["item"].status == HOT).all():
                assert time.monotonic() < end, service.log()
                time.sleep(0.05)
        yield service


def test_it_says_that_it_is_there(hot: Running) -> None:
    ready = hot.ask(get("/readyz")).json()
    assert ready["hot"]["on"] is True
    assert "emulated" in ready["hot"]["device"]
    end = time.monotonic() + PATIENCE_S
    while b"embcache_hot_on 1.0" not in hot.ask(get("/metrics")).body:
        assert time.monotonic() < end
        time.sleep(0.1)
    metrics = hot.ask(get("/metrics")).body.decode()
    assert 'embcache_ids_total{table="item",tier="hot"}' in metrics


def test_it_says_how_many_rows_of_a_table_are_there(hot: Running) -> None:
    tiers = hot.ask(get("/v1/tables/item")).json()["tiers"]
    assert tiers["hot"] == {"rows": SOME.size, "bytes": SOME.size * 12 * 4}


@pytest.mark.parametrize("dtype", ["f32", "q8"])
def test_rows_and_bags_come_from_the_device(hot: Running, dtype: str) -> None:
    with hot.client() as client:
        result = client.lookup({"item": SOME}, dtype=dtype)["item"]
        assert (result.status == HOT).all()
        np.testing.assert_allclose(result.rows, rows_of(SOME), atol=0 if dtype == "f32" else 0.01)
        lengths = np.full(30, 10, np.uint32)
        pooled = client.lookup_bags({"item": (SOME, lengths)})["item"]
        wanted = np.add.reduce(rows_of(SOME).reshape(30, 10, 12), axis=1, dtype=np.float32)
        np.testing.assert_allclose(pooled.rows, wanted, rtol=1e-5)


def test_what_a_trainer_pushed_is_served_at_its_position(hot: Running) -> None:
    with hot.client() as client, Trainer(hot.url, producer="hot") as trainer:
        for turn in range(10):
            rows = np.full((100, 12), turn, np.float32)
            trainer.assign("item", SOME[:100], rows)
            position = trainer.flush()
            result = client.lookup({"item": SOME[:110]}, min_position=position, deadline_ms=20_000)["item"]
            np.testing.assert_array_equal(result.rows[:100], rows)
            np.testing.assert_array_equal(result.rows[100:], rows_of(SOME[100:110]))
