"""An empty hot tier fills with what is in use in the warm one: the most first, as far as there is room."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embcache import EmbeddingCache
from embcache.gpu.pools import Pool
from embcache.hot import refill
from embcache.hot.refill import Refill
from embcache.updatecalls import Change
from embcache_client.results import HOT
from tests.hot.support import IDS, PATIENCE_S, filled, hot_status, settings, tier

Ids = NDArray[np.uint64]


class Owner:
    """The calls of an owner with rows in sets of 4, each in use so much as `use` says; asked to wait `later` times."""

    def __init__(self, use: dict[int, dict[int, int]], later: int = 0) -> None:
        self.use = use
        self.later = later
        self.link = self

    def call(self, op: str, meta: dict[str, int]) -> Future[Any]:
        assert op == "in_use"
        self.later -= 1
        future: Future[Any] = Future()
        ids, first = list(self.use[meta["version"]].items()), 4 * meta["set"]
        wanted = [identifier for identifier, use in ids[first : first + 4] if use == meta["use"]]
        told = {"later": self.later >= 0, "next": meta["set"] + 1 if first + 4 < len(ids) else None}
        if told["later"]:
            wanted, told["next"] = [], meta["set"]
        future.set_result(SimpleNamespace(meta=told, payload=np.array(wanted, np.uint64).tobytes()))
        return future


def view(number: int) -> Any:
    return SimpleNamespace(number=number, spec=SimpleNamespace(name=f"t{number}"), label="1")


def brought(owner: Owner, *tables: tuple[int, Pool]) -> list[tuple[int, list[int]]]:
    """The pages that are handed on, as (version, ids)."""
    pages: list[tuple[int, list[int]]] = []
    use_of = {identifier: use for of in owner.use.values() for identifier, use in of.items()}

    def hand_on(of: Any, ids: Ids, done: Callable[[], None], *, use: int | None) -> None:
        pages.append((of.number, ids.tolist()))
        in_main = [use_of[each] - 4 if use_of[each] >= 4 else None for each in ids.tolist()]  # and how many hits
        assert in_main == [use] * ids.size
        done()

    running = Refill(owner, [(view(number), pool) for number, pool in tables], hand_on)  # type: ignore[arg-type]
    running._thread.join(PATIENCE_S)
    assert not running._thread.is_alive()
    return pages


def pool(index: int, ways: int) -> Pool:
    return Pool(index, 64, ways // 32, 0, 0)


def test_the_most_used_come_first_of_all_tables_and_none_of_no_use() -> None:
    draw = np.random.default_rng(1)
    use = {number: {100 * number + i: int(draw.integers(0, 8)) for i in range(50)} for number in (1, 2)}
    pages = brought(Owner(use), (1, pool(0, 320)), (2, pool(0, 320)))
    order = [use[number][identifier] for number, ids in pages for identifier in ids]
    assert order == sorted(order, reverse=True)
    wanted = {(number, identifier) for number in use for identifier, often in use[number].items() if often}
    assert sorted(wanted) == sorted((number, identifier) for number, ids in pages for identifier in ids)


def test_it_ends_where_the_room_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refill, "PAGE_IDS", 3)
    use = {1: {i: 7 - (i >= 40) for i in range(80)}, 2: {100 + i: 7 for i in range(200)}}
    pages = brought(Owner(use), (1, pool(0, 64)), (2, pool(1, 96)))
    assert max(len(ids) for _, ids in pages) == 3
    one = [identifier for number, ids in pages if number == 1 for identifier in ids]
    assert one == list(range(48)), "three quarters of its pool"
    assert sum(len(ids) for number, ids in pages if number == 2) == 72


def test_it_waits_for_what_a_warm_start_brings_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refill, "_LATER_S", 0.001)
    assert brought(Owner({1: {5: 7, 6: 1}}, later=5), (1, pool(0, 32))) == [(1, [5]), (1, [6])]


def test_what_is_stopped_hands_on_no_more() -> None:
    handed_on = threading.Event()
    running = Refill(
        Owner({1: dict.fromkeys(range(100), 7)}),  # type: ignore[arg-type]
        [(view(1), pool(0, 320))],
        lambda *of, **how: handed_on.set(),  # whose turn never comes
    )
    assert handed_on.wait(PATIENCE_S)
    running.stop()
    handed_on.clear()
    running._thread.join(PATIENCE_S)
    assert not running._thread.is_alive()
    assert not handed_on.is_set()


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the kernels with")
def test_a_process_begins_with_what_is_in_use_also_after_a_restart(tmp_path: Path) -> None:
    wanted = settings(tmp_path, crossover=1 << 40)
    without = wanted.model_copy(update={"hot": wanted.hot.model_copy(update={"device": "off"})})
    with EmbeddingCache.open(without) as opened:
        table = filled(opened, "item", 4, "f32")
        for _ in range(3):
            opened.lookup({"item": IDS[:60]})
        opened.lookup({"item": IDS[60:120]})  # they are read from disk, and not hit
        number = opened.attached().views.find("item", None).number
        wait_until(lambda: in_use(opened, number) == 60, "the owner has not heard of it")
        epoch = opened.open_producer("trainer").epoch
        with EmbeddingCache.attach(tmp_path, hot=wanted.hot) as other:
            wait_until(lambda: tier(other).rows_held([number]).get(number) == 60, "the rows did not come up")
            assert (hot_status(other, "item", IDS[:60]) == HOT).all(), "and nobody asked for them"
            rows = np.full((10, 4), 7, np.float32)
            changes = [Change("item", "assign", IDS[:10], rows.view(np.uint8)), Change("item", "delete", IDS[10:20])]
            opened.update("trainer", epoch, 1, changes, applied_within_s=PATIENCE_S)
            table.change("assign", IDS[:10].tolist(), rows)
            table.change("delete", IDS[10:20].tolist(), rows)
            found = other.lookup({"item": IDS})["item"]
            served = np.stack([table.served(each) for each in IDS.tolist()])
            np.testing.assert_array_equal(found.rows, served)
    with EmbeddingCache.open(wanted) as again:
        wait_until(lambda: tier(again).rows_held([number]).get(number, 0) >= 50, "nor after a start")
        np.testing.assert_array_equal(again.lookup({"item": IDS})["item"].rows, served)


def in_use(cache: EmbeddingCache, number: int) -> int:
    """How many rows of a version the owner knows to be in use: all stand in the first sets."""
    calls = [{"version": number, "use": use, "set": 0} for use in range(1, 8)]
    return sum(len(cache.attached().link.call("in_use", meta).result(PATIENCE_S).payload) // 8 for meta in calls)


def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.02)
