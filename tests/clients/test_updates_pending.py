"""What waits to be sent, against a dict that takes every call's rows one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embcache_client import updates
from embcache_client.pending import Pending
from embcache_client.updates import Change

DIM = {"a": 1, "b": 3}
DEFAULT = 100.0  # of an absent row's elements
Model = dict[tuple[str, int], list[float]]

# Ids that meet in a small table, and the ends; the rows are small integers, whose sums are exact in any order.
some_ids = st.lists(st.sampled_from([0, 1, 2, 3, 5, 8, 2**32, 2**63, 2**64 - 1]), max_size=12)
calls = st.lists(
    st.tuples(
        st.sampled_from(["assign", "add", "delete", "take"]), st.sampled_from(["a", "b"]), some_ids, st.integers()
    ),
    max_size=25,
)


def apply(model: Model, table: str, op: str, ids: list[int], rows: Any) -> None:
    """What the service does, row by row."""
    for at, feature_id in enumerate(ids):
        key = (table, feature_id)
        if op == "delete":
            model.pop(key, None)
        elif op == "assign":
            model[key] = [float(x) for x in rows[at]]
        else:
            old = model.get(key, [DEFAULT] * len(rows[at]))
            model[key] = [x + float(y) for x, y in zip(old, rows[at], strict=True)]


def apply_changes(model: Model, changes: list[Change]) -> None:
    for change in changes:
        apply(model, change.table, change.op, change.ids.tolist(), change.rows)


def u64(*ids: int) -> Any:
    return np.array(ids, np.uint64)


def f32(*rows: list[float]) -> Any:
    return np.array(rows, np.float32)


def drain(pending: Pending, max_bytes: int = 1 << 30) -> list[Change]:
    changes: list[Change] = []
    while taken := pending.take(max_bytes):
        changes += taken
    return changes


@settings(max_examples=200, deadline=None)
@given(calls, st.integers(0, 1000), st.sampled_from([{}, {("a", 1): [7.0], ("b", 2**63): [1.0, 2.0, 3.0]}]))
def test_the_effect_is_that_of_the_calls(made: list[Any], max_bytes: int, before: Model) -> None:
    pending, wanted, got = Pending(), dict(before), dict(before)
    for op, table, ids, seed in made:
        if op == "take":
            apply_changes(got, pending.take(max_bytes))
            continue
        rows = np.random.default_rng(abs(seed)).integers(-9, 9, (len(ids), DIM[table])).astype(np.float32)
        array = np.array(ids, np.uint64)
        if op == "delete":
            pending.delete(table, array)
        else:
            getattr(pending, op)(table, array, rows)
        apply(wanted, table, op, ids, rows)
    apply_changes(got, drain(pending, max_bytes))
    assert got == wanted
    assert (pending.row_count, pending.byte_count) == (0, 0)


@settings(max_examples=100, deadline=None)
@given(calls)
def test_the_counts_are_those_of_what_is_taken(made: list[Any]) -> None:
    pending = Pending("q8")
    for op, table, ids, _ in made:
        rows = np.ones((len(ids), DIM[table]), np.float32)
        if op == "take":
            pending.take(updates.BATCH_BYTES + 200)
        elif op == "delete":
            pending.delete(table, np.array(ids, np.uint64))
        else:
            getattr(pending, op)(table, np.array(ids, np.uint64), rows)
    row_count, byte_count = pending.row_count, pending.byte_count
    changes = drain(pending)
    assert row_count == sum(len(change.ids) for change in changes)
    assert byte_count == sum(
        len(change.ids) * (8 if change.rows is None else 16 + DIM[change.table]) for change in changes
    )


def test_an_id_is_sent_once() -> None:
    pending = Pending()
    pending.add("a", u64(1, 2, 1), f32([1], [2], [4]))
    pending.add("a", u64(2), f32([8]))
    (change,) = pending.take(1 << 20)
    assert (change.table, change.op, change.dtype) == ("a", "add", "f32")
    assert change.rows is not None
    assert dict(zip(change.ids.tolist(), change.rows.tolist(), strict=True)) == {1: [5.0], 2: [10.0]}


def test_sums_are_float32() -> None:
    pending = Pending()
    pending.assign("a", u64(1), f32([2**24]))
    for _ in range(3):
        pending.add("a", u64(1), np.array([[1.0]]))  # float64 is narrowed first
    (change,) = pending.take(1 << 20)
    assert change.op == "assign"
    assert change.rows is not None
    assert change.rows.dtype == np.float32
    assert change.rows.tolist() == [[2.0**24]]


def test_an_add_after_a_delete_stays_after_it() -> None:
    pending = Pending()
    pending.add("a", u64(1), f32([50]))
    pending.delete("a", u64(1))
    pending.add("a", u64(1), f32([2]))
    assert [(c.op, c.ids.tolist(), None if c.rows is None else c.rows.tolist()) for c in pending.take(1 << 20)] == [
        ("delete", [1], None),
        ("add", [1], [[2.0]]),
    ]


@pytest.mark.parametrize("seed", range(3))
def test_many_ids_over_many_calls(seed: int) -> None:
    """Growth of the index and of the rows; half the ids follow each other, half are anywhere."""
    random = np.random.default_rng(seed)
    pool = np.concatenate([np.arange(15_000, dtype=np.uint64), random.integers(0, 2**64, 15_000, np.uint64)])
    pending, wanted = Pending(), dict.fromkeys(pool.tolist(), 0)
    for _ in range(20):
        ids = random.choice(pool, 3000)
        pending.add("a", ids, np.ones((3000, 2), np.float32))
        for feature_id in ids.tolist():
            wanted[feature_id] += 1
    (change,) = pending.take(1 << 30)
    assert change.rows is not None
    assert len(np.unique(change.ids)) == len(change.ids)
    got = dict(zip(change.ids.tolist(), change.rows.tolist(), strict=True))
    assert got == {feature_id: [count, count] for feature_id, count in wanted.items() if count}


@pytest.mark.parametrize("dtype", ["f32", "bf16", "q8"])
@pytest.mark.parametrize("max_bytes", [700, 1000, 5000, 50_000])
def test_a_batch_is_no_larger_than_asked_for(dtype: str, max_bytes: int) -> None:
    pending = Pending(dtype)
    random = np.random.default_rng(0)
    for table in ("a", "t" * 64):
        pending.assign(table, np.arange(500, dtype=np.uint64), random.random((500, 3), np.float32))
        pending.delete(table, np.arange(400, 900, dtype=np.uint64))
        pending.add(table, np.arange(800, 1000, dtype=np.uint64), random.random((200, 3), np.float32))
    sizes, rows = [], pending.row_count
    while changes := pending.take(max_bytes):
        mark = bytes(updates.MAX_MARK_BYTES)
        body = updates.encode_update("p" * 64, 2**64 - 1, 2**64 - 1, mark, changes, "durable")
        sizes.append(len(body))
        rows -= sum(len(change.ids) for change in changes)
    assert rows == 0
    assert max(sizes) <= max_bytes
    if max_bytes > 4000:
        assert min(sizes[:-1], default=max_bytes) > max_bytes - 1000  # and it is filled


def test_a_batch_has_no_more_rows_than_asked_for() -> None:
    pending = Pending()
    pending.assign("a", np.arange(25), np.ones((25, 2)))
    pending.delete("b", np.arange(12))
    batches = []
    while changes := pending.take(1 << 20, 10):
        batches.append([(change.table, len(change.ids)) for change in changes])
    assert batches == [[("a", 10)], [("a", 10)], [("a", 5), ("b", 5)], [("b", 7)]]


def test_a_row_that_fits_nowhere_goes_alone() -> None:
    pending = Pending()
    pending.assign("a", u64(1, 2), np.ones((2, 100)))
    assert [[len(change.ids) for change in pending.take(100, 0)] for _ in range(3)] == [[1], [1], []]


def test_a_batch_has_no_more_changes_than_one_may() -> None:
    pending = Pending()
    for at in range(300):
        pending.delete(f"t{at}", u64(1))
    assert [len(pending.take(1 << 20)) for _ in range(3)] == [256, 44, 0]


def test_what_was_passed_in_may_be_written_to_afterwards() -> None:
    pending, ids, rows = Pending(), u64(1, 2), f32([1], [2])
    pending.assign("a", ids, rows)
    ids[:], rows[:] = 9, 9
    (change,) = pending.take(1 << 20)
    assert change.rows is not None
    assert (change.ids.tolist(), change.rows.tolist()) == ([1, 2], [[1.0], [2.0]])


@pytest.mark.parametrize(
    ("ids", "rows", "error", "said"),
    [
        ([-1], [[1, 2]], ValueError, "negative"),
        (["x"], [[1, 2]], TypeError, "hash_values"),
        ([1.5], [[1, 2]], TypeError, "1.5"),
        ([[1]], [[1, 2]], ValueError, "dimensions"),
        ([1, 2], [[1, 2]], ValueError, "shape"),
        ([1], [1, 2], ValueError, "shape"),
        ([1], [[]], ValueError, "shape"),
        ([1], [["x", "y"]], TypeError, "not numbers"),
        ([1], [[1]], ValueError, "rows of 1 elements; earlier ones have 2"),
        ([1, 8, 9], [[1, 2], [np.nan, 1], [1, -np.inf]], ValueError, "2 of 3 rows: ids 8, 9"),
        ([1], [[1e300, 0]], ValueError, "ids 1"),
    ],
)
@pytest.mark.parametrize("op", ["assign", "add"])
def test_what_can_never_be_right_changes_nothing(
    op: str, ids: Any, rows: Any, error: type[Exception], said: str
) -> None:
    pending = Pending()
    pending.assign("a", u64(1), f32([3, 4]))
    with pytest.raises(error, match=said):
        getattr(pending, op)("a", ids, rows)
    assert pending.row_count == 1
    (change,) = pending.take(1 << 20)
    assert change.rows is not None
    assert (change.ids.tolist(), change.rows.tolist()) == ([1], [[3.0, 4.0]])


def test_a_sum_that_overflows_is_refused_and_the_rest_stays() -> None:
    pending = Pending()
    pending.add("a", u64(1, 2), f32([3e38], [1]))
    with pytest.raises(ValueError, match=r"1 of 2 rows: ids 1$"):
        pending.add("a", u64(2, 1), f32([1], [3e38]))
    (change,) = pending.take(1 << 20)
    assert change.rows is not None
    assert change.rows.tolist() == f32([3e38], [1]).tolist()


def test_only_rows_that_wait_settle_the_dim() -> None:
    pending = Pending()
    pending.delete("a", u64(1))
    with pytest.raises(ValueError, match="ids 1"):
        pending.add("a", u64(1), f32([1, np.nan]))
    pending.add("a", u64(1, 2), f32([1, 2, 3], [4, 5, 6]))
    with pytest.raises(ValueError, match="rows of 2 elements; earlier ones have 3"):
        pending.add("a", u64(1), f32([1, 2]))
    pending.delete("a", u64(1, 2))
    pending.assign("a", u64(1), f32([7]))
    assert [(c.op, c.ids.tolist(), None if c.rows is None else c.rows.tolist()) for c in pending.take(1 << 20)] == [
        ("delete", [2], None),
        ("assign", [1], [[7.0]]),
    ]


def test_empty_calls_leave_nothing() -> None:
    pending = Pending()
    pending.add("a", [], np.zeros((0, 4)))
    pending.delete("b", [])
    assert (pending.row_count, pending.byte_count, pending.take(1 << 20)) == (0, 0, [])
