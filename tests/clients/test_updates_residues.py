"""What narrow adds leave out is sent later: against float64 sums of the deltas, and of what the encoded bodies say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import ml_dtypes
import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embcache_client import updates
from embcache_client.pending import Pending
from embcache_client.residues import Residues
from embcache_client.updates import Change

NARROW = ["f16", "bf16", "q8"]
PLENTY = 1 << 30
DIM = 3
Table = dict[int, Any]  # id -> float64 [dim]; absent rows are zeros


def u64(*ids: int) -> Any:
    return np.array(ids, np.uint64)


def f32(*rows: list[float]) -> Any:
    return np.array(rows, np.float32)


def apply(table: Table, op: str, ids: Iterable[int], rows: Any) -> None:
    """One change, in float64."""
    for at, feature_id in enumerate(ids):
        if op == "delete":
            table.pop(feature_id, None)
        else:
            old = table.get(feature_id, 0.0) if op == "add" else 0.0
            table[feature_id] = old + np.asarray(rows[at], np.float64)


def decoded(entry: dict[str, Any]) -> Any:
    """float64 [n, dim]: the rows of a change as they stand in a body."""
    kinds = {"f32": "<f4", "f16": "<f2", "bf16": ml_dtypes.bfloat16, "q8": np.uint8}
    rows = np.frombuffer(entry["rows"], kinds[entry["dtype"]]).reshape(len(entry["ids"]) // 8, -1).astype(np.float32)
    if entry["dtype"] == "q8":
        scale, bias = (np.frombuffer(entry[key], "<f4")[:, None] for key in ("scale", "bias"))
        rows = rows * scale + bias
    return rows.astype(np.float64)


def receive(table: Table, changes: list[Change]) -> None:
    """Applies a batch as its body says it."""
    if not changes:
        return
    for entry in msgpack.unpackb(updates.encode_update("p", 1, 1, None, changes))["changes"]:
        ids = np.frombuffer(entry["ids"], "<u8").tolist()
        apply(table, entry["op"], ids, None if entry["op"] == "delete" else decoded(entry))


def batch(pending: Pending) -> list[Change]:
    return pending.take(1 << 30)


@pytest.mark.parametrize(("dtype", "tiny"), [("f16", 1e-8), ("bf16", 1.001), ("q8", 3e-5)])
def test_a_thousand_deltas_that_are_rounded_the_same_way_each_time(dtype: str, tiny: float) -> None:
    pending, residues = Pending(dtype), Residues(PLENTY)
    carried: Table = {}
    plain: Table = {}
    delta = f32([tiny, 0.25, -0.25])
    for _ in range(1000):
        pending.add("item", u64(7), delta)
        changes = batch(pending)
        receive(plain, changes)
        receive(carried, residues.carry(changes))
    wanted = 1000 * delta[0].astype(np.float64)
    one_rounding = np.abs(plain[7] - wanted).max() / 1000
    assert one_rounding > tiny / 2000
    assert np.abs(carried[7] - wanted).max() < 100 * one_rounding  # one of the worst at most, not a thousand
    receive(carried, residues.take_all())
    np.testing.assert_allclose(carried[7], wanted, rtol=1e-6, atol=1e-6)


def test_deltas_below_the_smallest_value() -> None:
    residues = Residues(PLENTY)
    got: Table = {}
    tiny = 2.0**-30  # f16 has nothing between 0 and 2**-24
    for _ in range(64 * 5):
        receive(got, residues.carry([Change("item", "add", u64(1), f32([tiny]), "f16")]))
    assert got[1][0] == 5 * 2.0**-24


# Deltas whose float32 sums are exact, and which f16 and bf16 round.
deltas = st.lists(st.integers(-(2**14), 2**14).map(lambda n: n * 2.0**-12), min_size=4 * DIM, max_size=4 * DIM)
some_ids = st.lists(st.sampled_from([0, 1, 2, 2**63, 2**64 - 1]), min_size=1, max_size=4)
some_ops = st.sampled_from(["add", "add", "add", "delete", "assign", "send", "overflow"])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(some_ops, some_ids, deltas), max_size=30), st.sampled_from(NARROW))
def test_what_was_sent_and_the_residues_are_what_was_asked_for(made: list[Any], dtype: str) -> None:
    pending, residues = Pending(dtype), Residues(0)
    wanted: Table = {}
    got: Table = {}
    for op, ids, values in [*made, ("send", [], [])]:
        rows = np.array(values, np.float32).reshape(-1, DIM)[: len(ids)]
        if op == "assign":
            rows = np.sign(rows[:, :1] * np.ones(DIM, np.float32))  # a row of ones or zeros is not rounded
        if op in ("add", "assign"):
            getattr(pending, op)("item", np.array(ids, np.uint64), rows)
            apply(wanted, op, ids, rows)
        elif op == "delete":
            pending.delete("item", np.array(ids, np.uint64))
            apply(wanted, op, ids, None)
        elif op == "overflow":
            receive(got, residues.overflow())
            assert residues.memory_bytes == 0
        if op in ("send", "assign"):  # an assign that takes in an add is rounded with it: it goes alone
            receive(got, residues.carry(batch(pending)))
    left = residues.take_all()
    assert {change.op for change in left} <= {"add"}
    assert {change.dtype for change in left} <= {"f32"}
    receive(got, left)
    assert got.keys() == wanted.keys()
    for feature_id, row in wanted.items():
        np.testing.assert_allclose(got[feature_id], row, rtol=0, atol=1e-3 if dtype == "q8" else 0)


def test_an_assign_forgets_what_adds_left_out_and_leaves_nothing_itself() -> None:
    residues, third = Residues(PLENTY), f32([1 / 3])
    for op in ("add", "assign"):
        residues.carry([Change("item", op, u64(1), third, "f16")])
    assert residues.take_all() == []


def test_a_delete_before_an_add_in_one_batch_forgets_first() -> None:
    pending, residues = Pending("f16"), Residues(PLENTY)
    got: Table = {}
    pending.add("item", u64(1), f32([1 / 3]))
    residues.carry(batch(pending))
    pending.delete("item", u64(1))
    pending.add("item", u64(1), f32([0.5]))
    receive(got, residues.carry(batch(pending)))
    assert got[1].tolist() == [0.5]
    assert residues.take_all() == []


@pytest.mark.parametrize(("dtype", "value"), [("f16", 4e4), ("f16", 1e6), ("bf16", 2e38), ("q8", 1e38)])
def test_rows_that_the_dtype_cannot_hold_go_as_f32(dtype: str, value: float) -> None:
    pending, residues = Pending(dtype), Residues(PLENTY)
    got: Table = {}
    for _ in range(2):
        pending.add("item", u64(1, 2, 3), f32([value, 0], [0, -value], [1 / 3, 1 / 3]))
        receive(got, residues.carry(batch(pending)))
    np.testing.assert_allclose([got[1], got[2]], [[2 * value, 0], [0, -2 * value]], rtol=1e-6)
    assert {tuple(change.ids) for change in residues.take_all()} <= {(3,)}


def test_f32_leaves_nothing_out() -> None:
    residues = Residues(PLENTY)
    change = Change("item", "add", u64(1), f32([1 / 3]))
    assert residues.carry([change]) == [change]
    assert residues.memory_bytes == 0


def test_what_is_over_the_limit_is_handed_out_whole_tables_at_a_time() -> None:
    residues = Residues(1 << 20)
    ids = np.arange(5000, dtype=np.uint64)
    rows = np.random.default_rng(0).random((5000, 64), np.float32)
    residues.carry([Change("small", "add", ids[:5], rows[:5], "f16"), Change("large", "add", ids, rows, "f16")])
    held = residues.memory_bytes
    assert held > 5000 * (8 + 4 * 64) > 1 << 20
    [change] = residues.overflow()
    assert (change.table, change.op, change.dtype) == ("large", "add", "f32")
    np.testing.assert_array_equal(change.ids, ids)
    np.testing.assert_array_equal(change.rows, rows - rows.astype("<f2").astype(np.float32))
    assert residues.memory_bytes <= 1 << 20
    assert [change.table for change in residues.take_all()] == ["small"]
    assert residues.memory_bytes == 0


def test_a_table_of_another_dim_is_another_table() -> None:
    residues = Residues(PLENTY)
    residues.carry([Change("item", "add", u64(1), f32([1 / 3]), "f16")])
    residues.carry([Change("item", "add", u64(2), f32([1 / 3, 1 / 3]), "f16")])
    assert [change.ids.tolist() for change in residues.take_all()] == [[2]]
