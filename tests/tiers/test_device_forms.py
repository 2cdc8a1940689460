"""Rows from each stored dtype to each of the wire's, and in bags: the oracle's bits, whatever the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embcache.gpu.device import Device
from embcache.gpu.launcher import Launcher
from embcache.gpu.table import GpuTable
from embcache.host.rows import BF16, F16, Q8
from tests.gpu.asker import Asker, Bags
from tests.gpu.forms import NAMES, Form
from tests.gpu.rest import look_up_all, look_up_near_ids
from tests.naive import Naive, NaiveTable, rounded

VERSION = 3
IDS = np.arange(1, 81, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
LENGTHS = np.array([33, 0, 1, 2, 40, 4], np.uint32)
WEIGHTS = np.random.default_rng(1).normal(size=IDS.size).astype(np.float32)

FORMS = pytest.mark.parametrize(
    ("stored", "wire"), [(stored, wire) for stored in NAMES for wire in NAMES], ids=lambda code: NAMES[code]
)


def values(dim: int) -> NDArray[np.float32]:
    """Rows f32 of every size that is not infinite: some are too large for f16, some are subnormal."""
    choose = np.random.default_rng(dim)
    rows = choose.normal(size=(IDS.size, dim)) * 10.0 ** choose.integers(-6, 6, (IDS.size, 1))
    rows[0], rows[1], rows[2] = 0, 1e-40, 3e38
    rows[3, 0], rows[4] = -3e38, 6e-8
    return rows.astype(np.float32)


def at_rest(rows: NDArray[np.float32], dtype: int) -> NDArray[np.uint8]:
    """Rows u8 [n, row_bytes] as they are stored."""
    if dtype == Q8:
        low, high = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
        scale = (high - low) / np.float32(255)
        steps = np.divide(rows - low, scale, out=np.zeros_like(rows), where=scale > 0)
        codes = np.clip(np.rint(steps), 0, 255).astype(np.uint8)
        return np.concatenate([scale.view(np.uint8), low.view(np.uint8), codes], axis=1)
    plain = rounded(rows, NAMES[dtype])
    if dtype == BF16:
        return (plain.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    return np.ascontiguousarray(plain.astype(np.float16 if dtype == F16 else np.float32)).view(np.uint8)


def off_the_wire(rows: NDArray[np.uint8], dtype: int) -> NDArray[np.float32]:
    """f32 [n, dim] of what a lookup wrote."""
    if dtype == Q8:
        scale, low = rows[:, :4].copy().view(np.float32), rows[:, 4:8].copy().view(np.float32)
        return rows[:, 8:].astype(np.float32) * scale + low
    if dtype == BF16:
        return (rows.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    plain: NDArray[Any] = rows.view(np.float16 if dtype == F16 else np.float32)
    return plain.astype(np.float32)


def asker_of(device: Device, form: Form, rows: NDArray[np.float32]) -> tuple[Asker, Naive]:
    """A table of these rows for each of IDS, and its oracle."""
    launcher = Launcher(device)
    table = GpuTable(device, 1 << 18, launcher.hold_back)
    table.divide({form.row_bytes: 2 * IDS.size})
    launcher.start(table.pools_address)
    assert not table.insert(VERSION, IDS, at_rest(rows, form.stored)).ids.size
    oracle = Naive()
    oracle.tables["t"] = NaiveTable(form.dim, NAMES[form.stored])
    oracle.tables["t"].load(IDS.tolist(), rows)
    return Asker(device, launcher, table, form), oracle


@FORMS
@pytest.mark.parametrize("dim", [3, 40])
def test_rows_are_those_of_the_oracle(device: Device, stored: int, wire: int, dim: int) -> None:
    if BF16 in (stored, wire):
        pytest.importorskip("ml_dtypes")
    rows = values(dim)
    if Q8 in (stored, wire):
        rows = rows / np.float32(4)  # a range beyond the largest f32 is clamped, which the oracle does not do
    asker, oracle = asker_of(device, Form(stored, wire, dim), rows)
    answer = asker.ask(VERSION, IDS)
    assert answer.found.all()
    expected, _ = oracle.lookup("t", IDS.tolist(), NAMES[wire])
    np.testing.assert_array_equal(off_the_wire(answer.rows, wire), expected)


@FORMS
@pytest.mark.parametrize("pooling", ["sum", "mean", "weighted"])
def test_bags_are_those_of_the_oracle(device: Device, stored: int, wire: int, pooling: str) -> None:
    if BF16 in (stored, wire):
        pytest.importorskip("ml_dtypes")
    rows = np.random.default_rng(3).normal(size=(IDS.size, 37)).astype(np.float32)
    asker, oracle = asker_of(device, Form(stored, wire, 37), rows)
    weights = WEIGHTS if pooling == "weighted" else None
    answer = asker.ask(VERSION, IDS, Bags(LENGTHS, pooling == "mean", weights))
    assert answer.done.all()
    bags = [part.tolist() for part in np.split(IDS, np.cumsum(LENGTHS)[:-1])]
    options: dict[str, Any] = {"pooling": "mean" if pooling == "mean" else "sum"}
    if weights is not None:
        options["weights"] = weights.tolist()
    expected = oracle.lookup_bags("t", bags, options, NAMES[wire])
    np.testing.assert_array_equal(off_the_wire(answer.rows, wire), expected)


@pytest.mark.parametrize("seed", range(3))
def test_lookups_in_every_form_at_once(device: Device, seed: int) -> None:
    look_up_all(seed, make=lambda **_: device)


def test_ids_and_versions_that_share_a_digest(device: Device) -> None:
    look_up_near_ids(0, make=lambda **_: device)
