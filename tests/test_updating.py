"""Updates through EmbeddingCache: accepted once, seen by every lookup from the applied position on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embcache import EmbeddingCache
from embcache.config import Cold, Settings, Warm
from embcache.errors import (
    DeadlineExceeded,
    DimensionMismatch,
    Fenced,
    HistoryChanged,
    InvalidRows,
    MalformedRequest,
    UnknownTable,
    UnsupportedDtype,
)
from embcache.updatecalls import Change
from embcache_client.results import COLD, MISSING, WARM

IDS = np.arange(1, 101, dtype=np.uint64)
WAIT = 20.0


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddingCache]:
    settings = Settings(warm=Warm(capacity=8 << 20), cold=Cold(path=Path(tmp_path_factory.mktemp("updating"), "data")))
    with EmbeddingCache.open(settings) as opened:
        yield opened


def encoded(values: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.ascontiguousarray(values, np.float32).view(np.uint8)


def test_what_was_pushed_is_looked_up_and_counts_once(cache: EmbeddingCache) -> None:
    cache.create_table({"name": "item", "dim": 4, "default": {"constant": [1, 2, 3, 4]}})
    producer = cache.open_producer("trainer")
    deltas = np.arange(400, dtype=np.float32).reshape(100, 4)
    batch = [Change("item", "add", IDS, encoded(deltas)), Change("item", "delete", IDS[:10])]
    assert (cache.lookup({"item": IDS})["item"].status == MISSING).all()
    pushed = cache.update("trainer", producer.epoch, 1, batch, mark=b"here", applied_within_s=WAIT)
    assert pushed.applied == pushed.durable == pushed.position == cache.position
    again = cache.update("trainer", producer.epoch, 1, batch, mark=b"here")
    assert (again.position, again.duplicate) == (pushed.position, True)
    for tier in (COLD, WARM):
        found = cache.lookup({"item": IDS})
        assert found.position >= pushed.position
        assert found["item"].status.tolist() == [MISSING] * 10 + [tier] * 90
        np.testing.assert_array_equal(found["item"].rows[10:], np.add(deltas[10:], (1, 2, 3, 4)))
    assert not cache.stats()["tables"][0]["rows_exact"]
    reopened = cache.open_producer("trainer")
    assert (reopened.epoch, reopened.last_seq, reopened.mark) == (producer.epoch + 1, 1, b"here")
    with pytest.raises(Fenced):
        cache.update("trainer", producer.epoch, 2, batch)


def test_a_lookup_waits_for_the_position_that_it_is_given(cache: EmbeddingCache) -> None:
    cache.create_table({"name": "waits", "dim": 4})
    producer = cache.open_producer("waits")
    for seq in range(1, 11):
        rows = np.full((100, 4), seq, np.float32)
        pushed = cache.update("waits", producer.epoch, seq, [Change("waits", "assign", IDS, encoded(rows))])
        found = cache.lookup({"waits": IDS}, min_position=pushed.position, history=pushed.history)
        np.testing.assert_array_equal(found["waits"].rows, rows)
        assert found.position >= pushed.position
    bags = {"waits": (IDS, np.array([100], np.uint32))}
    with pytest.raises(DeadlineExceeded, match="never accepted"):
        cache.lookup_bags(bags, min_position=pushed.position + 1)
    with pytest.raises(HistoryChanged, match="'another' is not this service's"):
        cache.lookup_bags(bags, min_position=1, history="another")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (Change("nowhere", "add", IDS[:1], encoded([[0.0] * 4])), UnknownTable, "nowhere"),
        (
            Change("strict", "add", IDS[:2], encoded([[0.0] * 4])),
            DimensionMismatch,
            r"rows: uint8 \[1, 16\] for 2 ids",
        ),
        (Change("strict", "multiply", IDS[:1]), MalformedRequest, r"\[0\].op: 'multiply'"),  # type: ignore[arg-type]
        (Change("strict", "delete", np.array([1.5])), MalformedRequest, "ids: .* float64, not integers"),
        (Change("strict", "delete", np.array([-1])), MalformedRequest, "id -1 at 0 is negative"),
        (Change("strict", "add", IDS[:1], np.zeros((1, 4), np.float32)), DimensionMismatch, "rows are uint8"),
        (Change("strict", "add", IDS[:1], encoded([[0.0] * 4]), "f8"), UnsupportedDtype, "'f8' is none of"),
        (Change("strict", "assign", IDS[:1]), DimensionMismatch, r"rows: uint8 \[0, 0\] for 1 ids"),
        (Change("strict", "add", IDS[:2], encoded([[0.0] * 4, [np.nan] * 4])), InvalidRows, "first that of id 2"),
    ],
)
def test_what_cannot_be_pushed_is_said_and_takes_no_number(
    cache: EmbeddingCache, change: Change, error: type[Exception], words: str
) -> None:
    cache.create_table({"name": "strict", "dim": 4})
    producer = cache.open_producer("strict")
    with pytest.raises(error, match=words):
        cache.update("strict", producer.epoch, 1, [change])
    with pytest.raises(MalformedRequest, match="0 of them"):
        cache.update("strict", producer.epoch, 1, [])
    with pytest.raises(MalformedRequest, match="seq: 0 should"):
        cache.update("strict", producer.epoch, 0, [Change("strict", "delete", IDS[:1])])
    with pytest.raises(MalformedRequest, match="min_position: -1"):
        cache.lookup({"strict": IDS}, min_position=-1)
    assert cache.open_producer("strict").last_seq == 0
