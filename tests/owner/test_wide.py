"""Tables that take `add` under a narrow dtype: f32 on disk, rounded once wherever they are looked up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from embcache.errors import MalformedRequest
from embcache.spec import Constant, TableSpec
from embcache_client import rowtypes
from embcache_client.updates import ADD, ASSIGN, DELETE
from tests.owner.stores import WatchedStore
from tests.owner.support import WAIT, OwnerThread, catalogue, fill, read, some_ids
from tests.owner.test_updates import Pusher

IDS = some_ids(50)
DIM = 8
DTYPES = ("f16", "bf16", "q8")


def wide(dtype: Any) -> TableSpec:
    return TableSpec(name="wide", dim=DIM, dtype=dtype, add=True, default=Constant(constant=(0.25,) * DIM))


def rounded(rows: Any, dtype: str) -> Any:
    """Encoded rows, by the client's own conversion."""
    wire = rowtypes.encode(np.asarray(rows, np.float32), rowtypes.code_of(dtype))
    columns = [wire.values.view(np.uint8)]
    if wire.scale is not None and wire.bias is not None:
        columns = [wire.scale.view(np.uint8).reshape(-1, 4), wire.bias.view(np.uint8).reshape(-1, 4), *columns]
    return np.concatenate(columns, axis=1)


def floats(seed: int) -> Any:
    return np.random.default_rng(seed).normal(size=(len(IDS), DIM)).astype(np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_small_deltas_add_up_and_every_tier_rounds_once(owner: OwnerThread, store: WatchedStore, dtype: str) -> None:
    link = owner.link()
    link.call("create", {"spec": wide(dtype).to_json()}).result(WAIT)
    live = catalogue(link)["wide"]
    pusher = Pusher(owner)
    expected = np.full((len(IDS), DIM), 0.25, np.float32)
    delta = np.full((len(IDS), DIM), 1e-4, np.float32)
    for turn in range(100):
        pusher.push(("wide", ADD, IDS, delta))
        expected += delta
        if turn in (0, 50):
            state, found = read(link, live, IDS)  # from disk, and into memory
            assert (state == 1).all()
            np.testing.assert_array_equal(found, rounded(expected, dtype))
    np.testing.assert_array_equal(owner.warm(live.number, IDS)[0], rounded(expected, dtype))
    cold, _ = store.read(live.number, 4 * DIM, IDS)
    np.testing.assert_array_equal(cold.view(np.float32), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_imported_assigned_and_deleted_is_f32_on_disk(
    owner: OwnerThread, store: WatchedStore, dtype: str
) -> None:
    link = owner.link()
    rows = floats(1)
    fill(link, "wide", IDS, rows.view(np.uint8), wide(dtype))
    live = catalogue(link)["wide"]
    np.testing.assert_array_equal(read(link, live, IDS)[1], rounded(rows, dtype))
    pusher = Pusher(owner)
    rows[:20] = floats(2)[:20]
    pusher.push(("wide", ASSIGN, IDS[:20], rows[:20]), ("wide", DELETE, IDS[40:], None))
    np.testing.assert_array_equal(owner.warm(live.number, IDS[:40])[0], rounded(rows[:40], dtype))
    meta, payload = link.call("scan", {"version": live.number, "start": 0, "limit": 100}).result(WAIT)
    assert (meta["n"], meta["row_bytes"]) == (40, 4 * DIM)
    np.testing.assert_array_equal(np.frombuffer(payload, np.uint64, 40), IDS[:40])
    np.testing.assert_array_equal(np.frombuffer(payload, np.float32, offset=320).reshape(40, DIM), rows[:40])


def test_a_row_on_disk_that_is_beyond_the_dtype_is_served_as_its_largest_and_counted(owner: OwnerThread) -> None:
    link = owner.link()
    link.call("create", {"spec": wide("f16").to_json()}).result(WAIT)
    pusher = Pusher(owner)
    large = np.full((len(IDS), DIM), 60_000.0, np.float32)
    pusher.push(("wide", ASSIGN, IDS, large))
    assert owner.owner.parts.intake.applier.values_saturated == 0
    pusher.push(("wide", ADD, IDS, large))
    assert owner.owner.parts.intake.applier.values_saturated == large.size
    assert (read(link, catalogue(link)["wide"], IDS)[1].view(np.float16) == np.float16(65504)).all()
    pusher.push(("wide", ADD, IDS, -large))
    assert (read(link, catalogue(link)["wide"], IDS)[1].view(np.float16) == np.float16(60_000)).all()


def test_a_narrow_table_takes_add_where_its_spec_says_so(owner: OwnerThread) -> None:
    link = owner.link()
    link.call("create", {"spec": {"name": "narrow", "dim": DIM, "dtype": "f16"}}).result(WAIT)
    state = link.call("open_producer", {"producer": "some"}).result(WAIT).meta
    meta = {"producer": "some", "epoch": state["epoch"], "seq": 1, "mark": b""}
    meta["changes"] = [["narrow", ADD, 0, 1, 4 * DIM]]
    with pytest.raises(MalformedRequest, match="add = true"):
        link.call("update", meta, [IDS[:1], np.zeros(4 * DIM, np.uint8)]).result(WAIT)
    with pytest.raises(MalformedRequest, match="always takes it"):
        link.call("create", {"spec": {"name": "f32", "dim": 1, "add": False}}).result(WAIT)
    assert TableSpec(name="a", dim=1, dtype="f16", add=True) != TableSpec(name="a", dim=1, dtype="f16")
    assert TableSpec(name="a", dim=1, add=True) == TableSpec(name="a", dim=1)
