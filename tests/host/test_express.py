"""Rows that change their form as they are found, against the oracle: what is done, what is kept, nothing torn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embcache.host import probe
from embcache.host.arena import Arena
from embcache.host.convert import decode_rows, encode_rows
from embcache.host.express import TILE_BYTES, address, tile_room
from embcache.host.jit import JIT_ENABLED
from embcache.host.memory import address_of
from embcache.host.pool import MEAN, SUM, pool_bags
from embcache.host.ring import MASK, private_ring
from embcache.host.rows import BF16, F16, F32, Q8, convert_rows
from embcache.host.segment import COLD, FORM, FORM_COLUMNS, KEPT, LEFT, MISSING, WARM
from embcache.host.tables import HostTables
from tests.host.reader import Asked
from tests.host.test_listed import between_sweep_and_proof
from tests.host.test_table import random_ids
from tests.naive import Naive, NaiveTable

NAMES = ["f32", "f16", "bf16", "q8"]
DIM = 21


class Filled:
    """A table with rows in memory (`warm`), on disk alone (`cold`), and ids that are marked absent."""

    def __init__(self, stored: int) -> None:
        ids = random_ids(400, seed=3)
        values = np.random.default_rng(4).standard_normal((ids.size, DIM)).astype(np.float32)
        self.stored = stored
        self.tables = HostTables(Arena.create(1 << 22))
        encoded, _ = encode_rows(values, stored)
        self.encoded = dict(zip(ids.tolist(), encoded, strict=True))
        self.held = self.tables.add(1, encoded.shape[1], 1 << 17)
        self.warm, self.cold, self.marked = ids[:200], ids[200:300], ids[300:350]
        self.held.table.insert(self.warm, encoded[:200])
        self.held.table.mark_absent(self.marked)
        self.naive = Naive()
        self.naive.tables["t"] = NaiveTable(DIM, NAMES[stored])
        self.naive.tables["t"].load(ids[:300].tolist(), values[:300])

    def draw(self, count: int, cold: float, marked: float) -> NDArray[np.uint64]:
        """Ids of all kinds."""
        random = np.random.default_rng(count)
        kinds = random.choice(3, count, p=[1 - cold - marked, cold, marked])
        drawn = [random.choice(ids, count) for ids in (self.warm, self.cold, self.marked)]
        return np.choose(kinds, drawn)


class Formed:
    """A lookup of one table's ids in another form. Results that nobody wrote are 0xEE."""

    def __init__(
        self,
        filled: Filled,
        ids: NDArray[np.uint64],
        wire: int,
        lengths: NDArray[np.uint32] | None = None,
        pooling: int = SUM,
        weights: NDArray[np.float32] | None = None,
    ) -> None:
        self.filled, self.ids, self.wire = filled, ids, wire
        self.lengths, self.pooling, self.weights = lengths, pooling, weights
        self.asked = Asked(filled.held.entry, 1, filled.held.table.row_bytes, ids)
        count = ids.size if lengths is None else lengths.size
        self.results = np.full((count, DIM * (4, 2, 2, 1)[wire]), 0xEE, np.uint8)
        self.scale, self.bias, self.done = np.zeros(count, np.float32), np.zeros(count, np.float32), self._unset(count)
        arrays = (lengths, weights, self.results, self.scale, self.bias, self.done)
        at = [0 if array is None else address_of(array) for array in arrays]
        self.tile = np.empty(tile_room(filled.held.table.row_bytes), np.uint8)
        last = (-1, address_of(self.tile), address())
        self.form = np.array([filled.stored, wire, DIM, pooling, count, *at, *last], np.int64)
        assert self.form.size == FORM_COLUMNS
        self.asked.segment[FORM] = address_of(self.form)
        self._ring = private_ring()

    def probe(self) -> int:
        segments = self.asked.segment.reshape(1, -1)
        arena = self.filled.tables.arena.address
        return int(probe.probe(arena, segments, self._ring.address, MASK, np.uint64(0)))

    def finish(self) -> None:
        """What is left comes from the owner; what is not done is made."""
        left = self.asked.left
        rows = np.array([self.filled.encoded[each] for each in self.ids[left].tolist()], np.uint8)
        if left.size:
            probe.settle_misses(self.asked.segment, address_of(rows), np.ones(left.size, np.uint8))
        form = (self.filled.stored, DIM, address_of(self.asked.rows))
        places = (address_of(self.results), address_of(self.scale), address_of(self.bias))
        status, done = address_of(self.asked.status), address_of(self.done)
        if self.lengths is None:
            stored, dim, at = form
            convert_rows(stored, self.wire, dim, at, self.ids.size, *places, done, 1)
        else:
            weights = 0 if self.weights is None else address_of(self.weights)
            pool_bags(*form, status, self.lengths, weights, self.pooling, self.wire, *places, done)

    def values(self) -> NDArray[np.float32]:
        """The results as they come off the wire."""
        encoded = self.results
        if self.wire == Q8:
            parts = (self.scale[:, None].view(np.uint8), self.bias[:, None].view(np.uint8), encoded)
            encoded = np.concatenate(parts, axis=1)
        return decode_rows(encoded, self.wire, DIM)

    def bags(self) -> list[list[int]]:
        assert self.lengths is not None
        return [bag.tolist() for bag in np.split(self.ids, np.cumsum(self.lengths)[:-1])]

    @staticmethod
    def _unset(count: int) -> NDArray[np.uint8]:
        return np.full(count, 0xEE, np.uint8)


def lengths_of(filled: Filled, longest: int) -> NDArray[np.uint32]:
    """Bags of many lengths: none, a few, and a tile's ids and more."""
    most = TILE_BYTES // filled.held.table.row_bytes
    edges = [0, 1, most - 1, 1, most, 0, most + 1, 2 * most + 3, 0] if longest > most else [0]
    return np.array([0, 3, 1, 0, *edges, *np.random.default_rng(7).integers(0, 40, 60), 0, 2, 0], np.uint32)


MOST = 1 << 20 if JIT_ENABLED else 0


@pytest.mark.parametrize("stored", [F32, F16, BF16, Q8])
@pytest.mark.parametrize("wire", [F32, F16, BF16, Q8])
@pytest.mark.parametrize("way", ["sum", "mean", "weighted"])
@pytest.mark.parametrize(("cold", "marked"), [(0.0, 0.0), (0.0, 0.2), (0.02, 0.1), (0.6, 0.2)])
def test_bags_are_pooled_as_their_rows_are_found(stored: int, wire: int, way: str, cold: float, marked: float) -> None:
    filled = Filled(stored)
    lengths = lengths_of(filled, MOST if stored == F32 else 0)
    ids = filled.draw(int(lengths.sum()), cold, marked)
    weights = np.random.default_rng(8).standard_normal(ids.size).astype(np.float32) if way == "weighted" else None
    formed = Formed(filled, ids, wire, lengths, MEAN if way == "mean" else SUM, weights)
    options: dict[str, Any] = {"pooling": "mean" if way == "mean" else "sum"}
    options["weights"] = None if weights is None else weights.tolist()
    wanted = filled.naive.lookup_bags("t", formed.bags(), options, NAMES[wire])
    is_cold = np.isin(ids, filled.cold)
    answered = np.array([not each.any() for each in np.split(is_cold, np.cumsum(lengths)[:-1])])
    assert formed.probe() == np.count_nonzero(is_cold)
    np.testing.assert_array_equal(formed.asked.left, np.flatnonzero(is_cold))
    np.testing.assert_array_equal(formed.done, answered)
    assert formed.form[KEPT] == np.count_nonzero(~answered)
    np.testing.assert_array_equal(formed.values()[answered], wanted[answered])
    assert (formed.results[~answered] == 0xEE).all()
    formed.finish()
    np.testing.assert_array_equal(formed.values(), wanted)
    status = np.where(is_cold, COLD, np.where(np.isin(ids, filled.marked), MISSING, WARM))
    np.testing.assert_array_equal(formed.asked.status, status)


@pytest.mark.parametrize("stored", [F32, F16, BF16, Q8])
@pytest.mark.parametrize("wire", [F32, F16, BF16, Q8])
@pytest.mark.parametrize(("cold", "marked"), [(0.0, 0.0), (0.1, 0.1)])
@pytest.mark.parametrize("count", [0, 1, 700 if JIT_ENABLED else 70, 5000 if JIT_ENABLED else 70])
def test_rows_are_converted_as_they_are_found(stored: int, wire: int, cold: float, marked: float, count: int) -> None:
    filled = Filled(stored)
    ids = filled.draw(count, cold, marked)
    formed = Formed(filled, ids, wire)
    is_warm, is_cold = np.isin(ids, filled.warm), np.isin(ids, filled.cold)
    assert formed.probe() == np.count_nonzero(is_cold)
    np.testing.assert_array_equal(formed.done, is_warm)
    assert formed.form[KEPT] == np.count_nonzero(~is_warm)
    wanted, _ = filled.naive.lookup("t", ids, NAMES[wire])
    np.testing.assert_array_equal(formed.values()[is_warm], wanted[is_warm])
    assert (formed.results[~is_warm] == 0xEE).all()
    assert (formed.asked.rows[~is_warm & ~is_cold] == formed.asked.default).all()  # kept, whatever becomes of it
    formed.asked.rows[~is_warm & ~is_cold] = encode_rows(np.zeros((1, DIM), np.float32), stored)[0]
    formed.finish()
    np.testing.assert_array_equal(formed.values(), wanted)


@pytest.mark.skipif(JIT_ENABLED, reason="steps into a kernel: test_without_jit.py runs it")
@pytest.mark.parametrize("in_bags", [True, False])
@pytest.mark.parametrize("again", [True, False])
def test_what_a_region_gave_that_is_gone_does_not_count(
    monkeypatch: pytest.MonkeyPatch, in_bags: bool, again: bool
) -> None:
    filled = Filled(F32)
    ids = filled.draw(30, 0.1, 0.0)
    lengths = np.array([4, 0, 10, 16], np.uint32) if in_bags else None
    formed = Formed(filled, ids, F16, lengths)

    def drop() -> None:
        tables = filled.tables
        if again:  # its ids are there in another region, with other rows
            with tables.resizing(1, 1 << 16) as (old, new):
                new.take_over(old, 0, old.region.sets)
                held = filled.warm
                other, _ = encode_rows(np.ones((held.size, DIM), np.float32), F32)
                new.replace(held, other)
        else:
            tables.remove(1)
            assert tables.add(2, filled.held.table.row_bytes, 1 << 17).entry == filled.held.entry

    with between_sweep_and_proof(monkeypatch, drop, turn=1):
        left = formed.probe()
    if again:
        assert left == np.count_nonzero(np.isin(ids, filled.cold))
        done = formed.done.astype(bool)
        assert done.any()
        wanted = np.ones(ids.size) if lengths is None else lengths
        np.testing.assert_array_equal(formed.values()[done, 0], wanted[done])
    else:
        assert left == ids.size == formed.asked.segment[LEFT]
        np.testing.assert_array_equal(formed.asked.left, np.arange(ids.size))
        assert not formed.done.any()
        assert formed.form[KEPT] == formed.done.size
