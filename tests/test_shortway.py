"""Lookups of one table whose rows are all in memory go a shorter way: the same answers, and never older ones."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embcache import EmbeddingCache
from embcache.config import Cold, Settings, Warm
from embcache.errors import EmbcacheError, MalformedRequest, NotReady, UnknownTable, UnsupportedDtype
from embcache.shortway import ShortWay
from embcache.updatecalls import Change
from embcache_client.results import MISSING, WARM, LookupResult

IDS = np.arange(1, 2001, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
WAIT = 20.0


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[EmbeddingCache]:
    settings = Settings(warm=Warm(capacity=16 << 20), cold=Cold(path=tmp_path / "data"))
    with EmbeddingCache.open(settings) as opened:
        yield opened


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each lookup that tried the short way was answered by it."""
    answered: list[bool] = []
    right = ShortWay.answer

    def answer(way: ShortWay, *args: Any) -> LookupResult | None:
        result = right(way, *args)
        answered.append(result is not None)
        return result

    monkeypatch.setattr(ShortWay, "answer", answer)
    return answered


def fill(cache: EmbeddingCache, name: str, salt: float = 0.0, dim: int = 6, **spec: Any) -> Any:
    """All rows in memory -> rows f32 [n, dim], in the order of IDS."""
    rows = np.random.default_rng(dim).standard_normal((IDS.size, dim), dtype=np.float32) + np.float32(salt)
    order = np.argsort(IDS)
    with cache.importing(name, {"name": name, "dim": dim, **spec} if name not in cache.tables() else None) as filling:
        filling.write(IDS[order], rows[order])
    for _ in range(2):
        cache.lookup({name: IDS})
    return rows


def test_it_answers_as_the_usual_way_does(cache: EmbeddingCache, short: list[bool]) -> None:
    rows = fill(cache, "item")
    usual = cache.lookup({"item": IDS}, strict=True)
    short.clear()
    found = cache.lookup({"item": IDS})
    assert short == [True]
    assert (found.position, found.history) == (usual.position, usual.history)
    one, other = found["item"], usual["item"]
    assert (one.version, one.dtype, one.raw.shape) == (other.version, other.dtype, other.raw.shape)
    np.testing.assert_array_equal(one.rows, rows)
    assert (one.status == WARM).all()
    assert one.rows.flags.writeable == other.rows.flags.writeable


def test_what_it_cannot_answer_goes_the_usual_way(cache: EmbeddingCache, short: list[bool]) -> None:
    rows = fill(cache, "item")
    fill(cache, "half", dtype="f16")
    fill(cache, "coded", dtype="q8")
    fill(cache, "uniform", default={"uniform": 0.5})
    short.clear()
    for asked in ({"item": IDS.tolist()[:5]}, {"item": IDS[::2]}, {"item": IDS[:0]}, {"coded": IDS}, {"uniform": IDS}):
        cache.lookup(asked)
    cache.lookup({"item": IDS, "half": IDS})
    cache.lookup({"half": IDS})  # as f32
    assert short == [False] * 7
    unknown = cache.lookup({"item": np.append(IDS, np.uint64(5))})["item"]
    assert unknown.status.tolist() == [WARM] * IDS.size + [MISSING]
    np.testing.assert_array_equal(unknown.rows[:-1], rows)
    assert cache.lookup({"half": IDS}, dtype="f16")["half"].raw.dtype == np.float16
    with pytest.raises(UnknownTable, match="'itme'"):
        cache.lookup({"itme": IDS})
    with pytest.raises(UnsupportedDtype):
        cache.lookup({"item": IDS}, dtype="f64")
    with pytest.raises(MalformedRequest, match="deadline_ms"):
        cache.lookup({"item": IDS}, deadline_ms=-1)


def test_results_are_not_written_over_by_later_ones(cache: EmbeddingCache, short: list[bool]) -> None:
    rows = fill(cache, "item")
    short.clear()
    kept = [cache.lookup({"item": IDS[at : at + 100]})["item"] for at in range(0, 2000, 100)]
    assert all(short)
    np.testing.assert_array_equal(np.concatenate([each.rows for each in kept]), rows)
    first, status = kept[0].rows, kept[0].status
    del kept
    for _ in range(10):
        cache.lookup({"item": IDS[500:600]})
    np.testing.assert_array_equal(first, rows[:100])
    assert (status == WARM).all()


def test_updates_versions_and_other_tables_of_the_name_are_seen_at_once(
    cache: EmbeddingCache, short: list[bool]
) -> None:
    rows = fill(cache, "item")
    epoch = cache.open_producer("p").epoch
    for seq in range(1, 30):
        rows[seq] = seq
        change = Change("item", "assign", IDS[seq : seq + 1], rows[seq : seq + 1].view(np.uint8))
        pushed = cache.update("p", epoch, seq, [change], applied_within_s=WAIT)
        found = cache.lookup({"item": IDS})
        assert found.position >= pushed.position
        np.testing.assert_array_equal(found["item"].rows, rows)
    assert short[-29:] == [True] * 29
    cache.stage("item", "next")
    with cache.importing("item", version="next") as filling:
        filling.write(np.sort(IDS), rows[np.argsort(IDS)] + 1)
    cache.switch({"item": "next"})
    switched = cache.lookup({"item": IDS})["item"]
    assert switched.version == "next"
    np.testing.assert_array_equal(switched.rows, rows + 1)
    cache.drop_table("item")
    with pytest.raises(UnknownTable):
        cache.lookup({"item": IDS})
    other = fill(cache, "item", dim=9)
    np.testing.assert_array_equal(cache.lookup({"item": IDS})["item"].rows, other)


def test_many_threads_take_it_while_rows_change(cache: EmbeddingCache, short: list[bool]) -> None:
    """A row's elements are all the same number, and never one that was there before the last."""
    fill(cache, "item")
    epoch, done, errors = cache.open_producer("p").epoch, threading.Event(), list[str]()
    newest = [0]
    seen = [0] * 4

    def push(number: int) -> None:
        rows = np.full((IDS.size, 6), number, np.float32)
        change = Change("item", "assign", IDS, rows.view(np.uint8))
        cache.update("p", epoch, number, [change], applied_within_s=WAIT)
        newest[0] = number

    push(1)

    def look(place: int) -> None:
        while not done.is_set():
            least = newest[0]
            rows = cache.lookup({"item": IDS[place::4].copy()})["item"].rows
            if (rows != rows[:, :1]).any() or rows.min() < least:
                errors.append(f"torn or older than {least}: {rows}")
            seen[place] += 1

    threads = [threading.Thread(target=look, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for number in range(2, 40):
        push(number)
    done.set()
    for thread in threads:
        thread.join()
    assert not errors
    assert all(seen)
    assert any(short)


def test_a_dead_owner_and_a_closed_cache_are_noticed(cache: EmbeddingCache, short: list[bool]) -> None:
    rows = fill(cache, "item")
    os.kill(cache.stats()["owner"]["pid"], signal.SIGKILL)
    end = time.monotonic() + WAIT
    while True:
        try:
            found = cache.lookup({"item": IDS}, deadline_ms=5000)
            np.testing.assert_array_equal(found["item"].rows, rows)
            if not short[-1]:
                break
        except EmbcacheError:
            assert time.monotonic() < end
    for _ in range(3):
        found = cache.lookup({"item": IDS})
    assert short[-1]
    np.testing.assert_array_equal(found["item"].rows, rows)
    cache.close()
    with pytest.raises(NotReady, match="closed"):
        cache.lookup({"item": IDS})
