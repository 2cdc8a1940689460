"""Every pair runs, on little data: both sides answer, and nothing is remarked upon. No test looks at how fast."""

from __future__ import annotations

from contextlib import ExitStack
from types import ModuleType

import numpy as np
import pytest

from loadtest.pairs import (
    cold_lookup,
    cold_small,
    http_clients,
    http_lookup,
    http_small,
    lookup_while_updating,
    memory,
    startup,
    update_apply,
    update_durable,
    update_sustained,
    update_visible,
    warm_lookup,
)
from loadtest.pairs.base import Outcome, enter_peer
from loadtest.pairs.host_table import BareTable, Reader
from loadtest.pairs.producers import Producer
from loadtest.peers.redis_server import redis_with_rows
from loadtest.replay import RowsDiffer
from loadtest.workloads import random_ids, rows_from_ids


def measured(monkeypatch: pytest.MonkeyPatch, pair: ModuleType, **sizes: float) -> Outcome:
    for name, size in sizes.items():
        monkeypatch.setattr(pair, name, size)
    outcome: Outcome = pair.measure(3)
    assert all(figure > 0 for figure in outcome.ours.slices + outcome.theirs.slices)
    return outcome


def test_bare_table_answers_with_its_rows() -> None:
    ids = random_ids(5_000, np.random.default_rng(1))
    rows = rows_from_ids(ids, 64)
    reader = Reader(BareTable(ids, rows), 300)
    assert reader.lookup(ids[1000:1300]) == 0
    np.testing.assert_array_equal(reader.rows, rows[1000:1300])
    assert (reader.status == 2).all()
    strangers = ids[:300] ^ np.uint64(1)
    assert reader.lookup(strangers) == np.count_nonzero(~np.isin(strangers, ids))


def test_warm_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = measured(monkeypatch, warm_lookup, ROWS=20_000, CALLS_A_SLICE=2)
    assert len(outcome.ours.slices) == len(outcome.theirs.slices) == 3
    assert outcome.note == ""


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = measured(monkeypatch, memory, SIZE=4 << 20)
    assert outcome.theirs.median < outcome.ours.median <= 1.15 * outcome.theirs.median


def test_cold_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = measured(monkeypatch, cold_lookup, ROWS=70_000, CALLS_A_SLICE=2)
    assert len(outcome.theirs.slices) == 3
    assert outcome.note == ""


def test_cold_small(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = measured(monkeypatch, cold_small, ROWS=70_000, CALLS_A_SLICE=5)
    assert len(outcome.ours.slices) == 3
    assert outcome.note == ""


def test_http_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = measured(monkeypatch, http_clients, ROWS=8_000, CALLS_A_SLICE=5)
    assert len(outcome.theirs.slices) == 3


def test_http_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = measured(monkeypatch, http_lookup, ROWS=8_000, OUR_CALLS=2, THEIR_CALLS=1)
    assert len(outcome.ours.slices) == 3
    if outcome.absent:
        pytest.skip(f"our side ran; {outcome.absent}")
    assert len(outcome.theirs.slices) == 3


def test_update_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = measured(monkeypatch, update_durable, ROWS=8_000, BATCH_IDS=256, OUR_BATCHES=16, THEIR_BATCHES=8)
    assert len(outcome.ours.slices) == 3
    if outcome.absent:
        pytest.skip(f"our side ran; {outcome.absent}")
    assert len(outcome.theirs.slices) == 3


def test_update_sustained(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = measured(monkeypatch, update_sustained, ROWS=8_000, BATCH_IDS=256, THEIR_BATCHES=8, SECONDS_A_ROUND=0.2)
    assert len(outcome.ours.slices) == 1
    assert outcome.note.startswith("for 0.6 s")
    if outcome.absent:
        pytest.skip(f"our side ran; {outcome.absent}")
    assert len(outcome.theirs.slices) == 4


def test_update_sustained_does_not_count_what_fell_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_sustained, "MOST_BEHIND_S", 0.0)
    assert measured(monkeypatch, update_sustained, ROWS=8_000, BATCH_IDS=256, SECONDS_A_ROUND=0.1).failed


def test_update_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = measured(monkeypatch, update_visible, ROWS=8_000, PEAK_S=0.2, SLICE_S=0.2)
    assert len(outcome.ours.slices) == 3
    assert "lookups/s" in outcome.note


def test_update_visible_compares_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Producer, "push", lambda producer, body: producer.position)
    with pytest.raises(RowsDiffer):
        measured(monkeypatch, update_visible, ROWS=8_000, PEAK_S=0.1, SLICE_S=0.1)


def test_lookup_while_updating(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = measured(monkeypatch, lookup_while_updating, ROWS=8_000, BATCH_IDS=256, PEAK_S=0.2, SLICE_S=0.2)
    assert len(outcome.ours.slices) == len(outcome.theirs.slices) == 3


def test_update_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = measured(monkeypatch, update_apply, ROWS=8_000, BATCH_IDS=256, BATCHES=2)
    assert len(outcome.theirs.slices) == 3


def test_absent_peer_is_a_remark_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with ExitStack() as stack:
        peer, absent = enter_peer(stack, redis_with_rows(np.empty(0, np.uint64), np.empty((0, 4), np.float32)))
    assert peer is None
    assert absent.startswith("no redis-server on PATH")


def test_http_small(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = measured(monkeypatch, http_small, ROWS=8_000, CALLS_A_SLICE=5)
    assert len(outcome.theirs.slices) == 3


def test_startup_with_a_warm_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    def seconds(kernels: str) -> float:
        started.append(kernels)
        return float(len(started))

    monkeypatch.setattr(startup, "_seconds", seconds)
    assert startup.measure_warm(3).ours.slices == (2.0, 3.0, 4.0)
    assert len(set(started)) == 1
    assert startup.measure_first(3).ours.slices == (5.0,)
    assert len(set(started)) == 2
