"""Every pair runs, on little data: both sides answer, and nothing is remarked upon. No test looks at how fast."""

from __future__ import annotations

import re
import shutil
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embcache_client import Client
from embcache_client.results import LookupResult
from loadtest.datasets import Dataset
from loadtest.importing import import_table
from loadtest.pairs import (
    attach,
    cold_lookup,
    cold_small,
    curve_cost,
    dlrm_query,
    expiry_sweep,
    http_bags,
    http_clients,
    http_lookup,
    http_small,
    http_sockets,
    lookup_while_updating,
    memory,
    policy,
    shares,
    startup,
    update_apply,
    update_durable,
    update_sustained,
    update_visible,
    version_switch,
    warm_lookup,
    warm_service,
    whole_import,
    workers,
)
from loadtest.pairs.answers import same_rows
from loadtest.pairs.base import Outcome, Pair, enter_peer
from loadtest.pairs.host_table import BareTable, Reader, held_ids
from loadtest.pairs.producers import Producer
from loadtest.peers.blocking_sockets import Exchange
from loadtest.peers.redis_server import redis_with_rows
from loadtest.policies.accesses import made
from loadtest.replay import RowsDiffer
from loadtest.workloads import random_ids, rows_from_ids


def measured(monkeypatch: pytest.MonkeyPatch, module: ModuleType, pair: Pair | None = None, **sizes: float) -> Outcome:
    """What the module's pair gives on little data; which one, where it has several."""
    for name, size in sizes.items():
        monkeypatch.setattr(module, name, size)
    outcome: Outcome = (pair or module.PAIR).measure(3)
    assert all(figure > 0 for figure in outcome.ours.slices + outcome.theirs.slices)
    return outcome


def sides_held(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> list[str]:
    """The sides whose rows the module has held against those of the ids, once it has."""
    sides: list[str] = []

    def noting(side: str, answered: NDArray[Any], expected: NDArray[Any]) -> None:
        same_rows(side, answered, expected)
        assert np.abs(expected).max() > 0
        sides.append(side.partition(",")[0])

    monkeypatch.setattr(module, "same_rows", noting)
    return sides


def wrong_lookup(monkeypatch: pytest.MonkeyPatch, name: str = "lookup") -> None:
    """From now on, a client gives one element of each table that is not the row's."""
    right = getattr(Client, name)

    def lookup(client: Client, *args: Any, **options: Any) -> LookupResult:
        result: LookupResult = right(client, *args, **options)
        for rows in result.results:
            rows.raw[-1, -1] += 1
        return result

    monkeypatch.setattr(Client, name, lookup)


def test_bare_table_answers_with_its_rows() -> None:
    ids = random_ids(5_000, np.random.default_rng(1))
    rows = rows_from_ids(ids, 64)
    reader = Reader(BareTable(ids, rows), 300)
    assert reader.lookup(ids[1000:1300]) == 0
    np.testing.assert_array_equal(reader.rows, rows[1000:1300])
    assert (reader.status == 2).all()
    strangers = ids[:300] ^ np.uint64(1)
    assert reader.lookup(strangers) == np.count_nonzero(~np.isin(strangers, ids))


def test_held_ids_are_those_whose_rows_come_back() -> None:
    ids = random_ids(30_000, np.random.default_rng(1))
    rows = rows_from_ids(ids, 64)
    table = BareTable(ids, rows, size=4 << 20)
    held = held_ids(table, ids)
    assert 10_000 < len(held) == len(table.held.table) < len(ids)
    reader = Reader(table, len(held))
    assert reader.lookup(held) == 0
    np.testing.assert_array_equal(reader.rows, rows[np.isin(ids, held)])


def test_same_rows_are_the_same_in_every_bit() -> None:
    rows = np.array([[0.0, 1.0]], np.float32)
    same_rows("it", rows.copy(), rows)
    for others in (np.array([[-0.0, 1.0]], np.float32), rows.T, rows.astype(np.float64), rows[:0]):
        with pytest.raises(RowsDiffer, match="it answered with other rows"):
            same_rows("it", others, rows)


def test_warm_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = sides_held(monkeypatch, warm_lookup)
    outcome = measured(monkeypatch, warm_lookup, warm_lookup.NUMPY, ROWS=20_000, CALLS_A_SLICE=2)
    assert len(outcome.ours.slices) == len(outcome.theirs.slices) == 3
    assert outcome.note == ""
    assert sides == ["the table", "np.take"]


def test_warm_lookup_fbgemm(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = sides_held(monkeypatch, warm_lookup)
    outcome = measured(monkeypatch, warm_lookup, warm_lookup.FBGEMM, ROWS=20_000, CALLS_A_SLICE=2)
    assert len(outcome.ours.slices) == 3
    assert outcome.note == ""
    if outcome.absent:
        assert sides == ["the table"]
        pytest.skip(f"our side ran; {outcome.absent}")
    assert len(outcome.theirs.slices) == 3
    assert sides == ["the table", "FBGEMM"]


def test_warm_lookup_of_wrong_rows_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Reader.lookup

    def lookup(reader: Reader, ids: NDArray[np.uint64]) -> int:
        missed = right(reader, ids)
        reader.rows[-1, -1] += 1
        return missed

    monkeypatch.setattr(Reader, "lookup", lookup)
    with pytest.raises(RowsDiffer, match="the table answered"):
        measured(monkeypatch, warm_lookup, warm_lookup.NUMPY, ROWS=20_000, CALLS_A_SLICE=2)


def test_attach(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = sides_held(monkeypatch, attach)
    outcome = measured(monkeypatch, attach, ROWS=20_000, CALLS_A_SLICE=2)
    assert len(outcome.ours.slices) == len(outcome.theirs.slices) == 3
    assert (sides, outcome.note) == (["EmbeddingCache"], "")


def test_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("wrk") is None:
        outcome = workers.PAIR.measure(3)
        assert "apt-get install wrk" in outcome.absent
        pytest.skip("no wrk")
    outcome = measured(monkeypatch, workers, ROWS=2000, SLICE_S=1, BUDGET_S=1.0)
    assert len(outcome.ours.slices) == len(outcome.theirs.slices) == 3


def test_expiry_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = measured(monkeypatch, expiry_sweep, ROWS=2000, SLICE_S=0.5, PEAK_S=0.1, BUDGET_S=1.0)
    assert len(outcome.ours.slices) == len(outcome.theirs.slices) == 3
    assert re.search(r"\d+% of the rows were swept meanwhile", outcome.note)


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = measured(monkeypatch, memory, SIZE=4 << 20)
    assert outcome.theirs.median < outcome.ours.median <= 1.15 * outcome.theirs.median


def test_policy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATA", str(tmp_path))
    monkeypatch.setattr(policy, "made", partial(made, accesses=5000, ids=2000))
    outcome = measured(monkeypatch, policy, policy.POLICY)
    assert "scarab_recs_trace.npz is not there" in outcome.absent
    ids = np.random.default_rng(1).zipf(1.2, 20_000) % 2000
    np.savez(tmp_path / policy.TRACE, ids=ids.astype(np.uint64))
    outcome = measured(monkeypatch, policy, policy.POLICY)
    if "libcachesim" in outcome.absent:
        pytest.skip(f"our side ran; {outcome.absent}")
    assert len(outcome.ours.slices) == len(outcome.theirs.slices) == 1
    assert 0.9 < outcome.ours.median / outcome.theirs.median < 1.3


def test_policy_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = measured(monkeypatch, policy, policy.COST, ROWS=20_000, CALLS_A_SLICE=2)
    assert len(outcome.ours.slices) == len(outcome.theirs.slices) == 3


def test_curve_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = measured(monkeypatch, curve_cost, ROWS=20_000, CALLS_A_SLICE=20)
    assert len(outcome.ours.slices) == 3
    assert re.fullmatch(r"\S+% with one hit in 32 told, \S+% with every one", outcome.note)


def test_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"MOST_ROWS": 20_000, "SAMPLES": 8, "LOOK_EVERY": 20, "BEFORE": 240, "AFTER": 20}
    outcome = measured(monkeypatch, shares, None, **sizes)
    assert outcome.ours.median < outcome.theirs.median
    assert "memory was divided anew" in outcome.note


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


@pytest.mark.parametrize("pair", [http_lookup.TCP, http_lookup.UNIX], ids=lambda pair: pair.name)
def test_http_lookup(monkeypatch: pytest.MonkeyPatch, pair: Pair) -> None:
    sides = sides_held(monkeypatch, http_lookup)
    outcome = measured(monkeypatch, http_lookup, pair, ROWS=8_000, OUR_CALLS=2, THEIR_CALLS=1)
    assert len(outcome.ours.slices) == 3
    if outcome.absent:
        assert sides == ["the service"]
        pytest.skip(f"our side ran; {outcome.absent}")
    assert len(outcome.theirs.slices) == 3
    assert sides == ["the service", "Redis"]


def test_http_lookup_of_wrong_rows_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_service, "import_table", _import_with_a_wrong_row)
    with pytest.raises(RowsDiffer, match="the service answered"):
        measured(monkeypatch, http_lookup, http_lookup.TCP, ROWS=1_000, OUR_CALLS=2, THEIR_CALLS=1)


def _import_with_a_wrong_row(client: Client, dataset: Dataset) -> None:
    dataset.rows[17, 3] += 1
    import_table(client, dataset)
    dataset.rows[17, 3] -= 1


@pytest.mark.parametrize("pair", [http_sockets.LOOKUP, http_sockets.LARGE], ids=lambda pair: pair.name)
def test_http_sockets(monkeypatch: pytest.MonkeyPatch, pair: Pair) -> None:
    sides = sides_held(monkeypatch, http_sockets)
    outcome = measured(monkeypatch, http_sockets, pair, ROWS=8_000, CALLS_A_SLICE=2, LARGE_CALLS=2)
    assert len(outcome.ours.slices) == len(outcome.theirs.slices) == 3
    assert sides == ["the service", "the socket"]


def test_http_sockets_that_carry_other_bytes_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Exchange.__call__

    def call(exchange: Exchange, request: bytes) -> memoryview:
        reply = right(exchange, request)
        reply[len(reply) // 2] ^= 1
        return reply

    monkeypatch.setattr(Exchange, "__call__", call)
    with pytest.raises(RowsDiffer, match="the socket answered"):
        measured(monkeypatch, http_sockets, http_sockets.LOOKUP, ROWS=8_000)


def test_http_bags(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = sides_held(monkeypatch, http_bags)
    outcome = measured(monkeypatch, http_bags, ROWS=500, BAGS=8, BAG_IDS=5, OUR_CALLS=2)
    assert len(outcome.ours.slices) == len(outcome.theirs.slices) == 3
    assert sides == ["the service"] * 26 + ["NumPy"] * 26


def test_http_bags_that_are_wrong_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_lookup(monkeypatch, "lookup_bags")
    with pytest.raises(RowsDiffer, match="the service, table t00, answered"):
        measured(monkeypatch, http_bags, ROWS=100, BAGS=8, BAG_IDS=5)


def test_dlrm_query(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = sides_held(monkeypatch, dlrm_query)
    outcome = measured(monkeypatch, dlrm_query, ROWS=500, SAMPLES=10, CALLS_A_SLICE=2)
    assert len(outcome.ours.slices) == len(outcome.theirs.slices) == 3
    assert sides == ["the service", "np.take"] * 26


def test_dlrm_query_with_wrong_rows_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_lookup(monkeypatch)
    with pytest.raises(RowsDiffer, match="the service, table t00, answered"):
        measured(monkeypatch, dlrm_query, ROWS=100, SAMPLES=2)


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


def test_version_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = sides_held(monkeypatch, version_switch)
    outcome = measured(monkeypatch, version_switch, ROWS=8_000, PEAK_S=0.2, SLICE_S=0.4)
    assert len(outcome.ours.slices) == len(outcome.theirs.slices) == 3
    assert outcome.note.endswith("warmed 100% of the rows")
    assert sides == [f"version v{number}" for number in range(1, 5)]


def test_import(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = sides_held(monkeypatch, whole_import)
    outcome = measured(monkeypatch, whole_import, ROWS=20_000)
    assert len(outcome.ours.slices) == len(outcome.theirs.slices) == 3
    assert set(sides) == {"the table", "rocksdict"}


def test_update_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = measured(monkeypatch, update_apply, ROWS=8_000, BATCH_IDS=256, BATCHES=2)
    assert len(outcome.theirs.slices) == 3


def test_absent_peer_is_a_remark_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with ExitStack() as stack:
        peer, absent = enter_peer(stack, redis_with_rows(np.empty(0, np.uint64), np.empty((0, 4), np.float32)))
    assert peer is None
    assert absent.startswith("no redis-server on PATH")


@pytest.mark.parametrize("pair", [http_small.P50, http_small.P99], ids=lambda pair: pair.name)
def test_http_small(monkeypatch: pytest.MonkeyPatch, pair: Pair) -> None:
    sides = sides_held(monkeypatch, http_small)
    outcome = measured(monkeypatch, http_small, pair, ROWS=8_000, CALLS_A_SLICE=5, P99_CALLS=200)
    assert len(outcome.ours.slices) == len(outcome.theirs.slices) == 3
    assert sides == ["the service", "the bare app"]


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
