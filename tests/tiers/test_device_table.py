"""What the device's table promises beyond every table: pinned and kept rows, exactly which are gone, a new division."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from embcache.gpu.device import Device
from embcache.gpu.layout import WAYS
from embcache.gpu.table import Change
from tests.host.proving import ROW_BYTES, proving_rows
from tests.tiers.tables import VERSION, OnDevice

Ids = NDArray[np.uint64]

EVERY = np.arange(500, dtype=np.uint64)
PINNED = EVERY[:10]
ROOM = 80  # a few sets, which overflow


def writings_in(table: OnDevice) -> dict[int, int]:
    """{id: writing} of what is found, whole."""
    rows, found = table.lookup(EVERY)
    ids, writings = EVERY[found], rows[found].view(np.uint64)[:, 0]
    for writing in np.unique(writings):
        here = ids[writings == writing]
        np.testing.assert_array_equal(rows[found][writings == writing], proving_rows(here, int(writing)))
    return dict(zip(ids.tolist(), writings.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_what_is_held_is_what_came_in_but_for_what_is_told_to_be_gone(device: Device, seed: int) -> None:
    """Random changes, several at once: the table against a dict that believes what it is told, row by row."""
    choose = np.random.default_rng(seed)
    table, held, deleted = OnDevice(device, ROW_BYTES, ROOM), dict[int, int](), 0
    table.table.insert(VERSION, PINNED, proving_rows(PINNED, 1), pinned=True)
    held |= dict.fromkeys(PINNED.tolist(), 1)
    for writing in range(2, 40):
        ids = choose.choice(EVERY[PINNED.size :], int(choose.integers(1, 120)), replace=False)
        how = str(choose.choice(["insert", "keep", "update", "delete"]))
        rows = None if how == "delete" else proving_rows(ids, writing)
        change = Change(VERSION, ROW_BYTES, ids, rows, insert=how in ("insert", "keep"), keep=how == "keep")
        gone = table.table.apply([change])
        assert set(gone.versions.tolist()) <= {VERSION}
        for feature in ids.tolist():
            if how == "insert" or (how == "keep" and feature not in held) or (how == "update" and feature in held):
                held[feature] = writing
            elif how == "delete":
                deleted += held.pop(feature, 0) > 0
        for feature in gone.ids.tolist():
            held.pop(feature, None)
        assert not set(gone.ids.tolist()) & set(PINNED.tolist())
        found = writings_in(table)
        assert found.keys() == held.keys()
        # A row that was to be kept may have been pushed out by another, and have come in again.
        assert all(found[feature] in (held[feature], writing if how == "keep" else 0) for feature in held)
        held = found
        counts = table.table.counts
        assert table.check() == len(held) == counts.inserted - counts.evicted - deleted
    assert table.table.counts.evicted


def test_a_table_full_of_pinned_rows_refuses_all_others(device: Device) -> None:
    table = OnDevice(device, ROW_BYTES, WAYS)
    told = [int(table.table.insert(VERSION, each, proving_rows(each, 1), pinned=True).ids.size) for each in (EVERY,)]
    pinned = writings_in(table)
    assert len(pinned) + told[0] == EVERY.size
    others = EVERY + np.uint64(1000)
    gone = table.table.insert(VERSION, others, proving_rows(others, 2))
    np.testing.assert_array_equal(np.sort(gone.ids), others)
    assert writings_in(table) == pinned
    assert table.check() == len(pinned) == table.table.counts.inserted


def test_a_division_or_a_clearance_leaves_nothing_behind(device: Device) -> None:
    table, ids = OnDevice(device, ROW_BYTES, ROOM), EVERY[:40]
    for begin_anew in (table.table.clear, lambda: table.table.divide({ROW_BYTES: 60, 64: 60, 40: 30})):
        table.insert(ids, proving_rows(ids, 1))
        assert len(writings_in(table)) > 0
        begin_anew()
        assert not writings_in(table)
        assert table.check() == 0
    narrow = np.random.default_rng(0).integers(0, 256, (ids.size, 40), np.uint8)
    table.table.insert(VERSION + 1, ids, narrow)
    table.insert(ids, proving_rows(ids, 2))
    assert set(writings_in(table).values()) == {2}
