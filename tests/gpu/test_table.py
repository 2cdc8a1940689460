"""GpuTable beyond what every table promises: versions side by side, pools, what keeps its way, what is gone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.gpu.sanitized import no_compiler

if no_compiler():
    pytest.skip(str(no_compiler()), allow_module_level=True)

from embcache.gpu.emulated.device import EmulatedDevice
from embcache.gpu.launcher import Launcher
from embcache.gpu.layout import SET_BYTES, WAYS
from embcache.gpu.table import Change, GpuTable
from tests.gpu.reader import GpuReader
from tests.host.proving import ROW_BYTES, proving_rows

Ids = NDArray[np.uint64]
ROOM = 1 << 20


def ids_from(first: int, count: int) -> Ids:
    return np.arange(first, first + count, dtype=np.uint64)


class Scene:
    def __init__(self, seed: int = 0, capacity: int = ROOM, rows: dict[int, int] | None = None) -> None:
        device = EmulatedDevice(threaded=False, seed=seed)
        launcher = Launcher(device)
        self.table = GpuTable(device, capacity, launcher.hold_back)
        self.table.divide(rows or {ROW_BYTES: 100})
        launcher.start(self.table.pools_address)
        self.reader = GpuReader(device, launcher, self.table)

    def writings(self, version: int, ids: Ids) -> list[int]:
        """Which writing of each id is found, 0 where none is; each row is whole."""
        rows, found = self.reader.lookup(version, ROW_BYTES, ids)
        said = np.where(found, rows.view(np.uint64)[:, 0], 0)
        for writing in np.unique(said[found]):
            here = said == writing
            np.testing.assert_array_equal(rows[here], proving_rows(ids[here], int(writing)))
        return [int(each) for each in said]


def one_set(seed: int = 0) -> Scene:
    """A table of one set."""
    scene = Scene(seed, SET_BYTES + WAYS * ROW_BYTES + 512)
    pool = scene.table.pool_of(ROW_BYTES)
    assert pool is not None
    assert pool.set_count == 1
    return scene


def test_versions_and_widths_stand_side_by_side() -> None:
    scene = Scene(rows={ROW_BYTES: 100, 40: 100})
    table, ids = scene.table, ids_from(0, 50)
    narrow = np.full((ids.size, 40), 9, np.uint8)
    table.insert(1, ids, proving_rows(ids, 1))
    table.insert(2, ids, proving_rows(ids, 2))
    table.insert(1, ids, narrow)
    table.delete(1, ROW_BYTES, ids[:20])
    assert scene.writings(1, ids) == [0] * 20 + [1] * 30
    assert scene.writings(2, ids) == [2] * 50
    rows, found = scene.reader.lookup(1, 40, ids)
    assert found.all()
    np.testing.assert_array_equal(rows, narrow)
    assert table.check() == 130


def test_neither_another_id_nor_another_version_with_the_same_digest_is_found() -> None:
    scene, ids = one_set(), ids_from(0, WAYS)
    scene.table.insert(1, ids, proving_rows(ids, 1))
    assert not any(scene.writings(1, ids_from(1000, 1000)))  # digests are 8 bits: about 120 are one of the 32
    for version in range(2, 102):  # about 12 of the 3200 have the digest that they have in version 1
        assert not any(scene.writings(version, ids))


def test_changes_of_one_version_are_made_in_their_order() -> None:
    scene, ids = Scene(), ids_from(0, 40)
    changes = [
        Change(1, ROW_BYTES, ids, proving_rows(ids, 1), insert=True),
        Change(2, ROW_BYTES, ids, proving_rows(ids, 5), insert=True),
        Change(1, ROW_BYTES, ids[:20], proving_rows(ids[:20], 2)),
        Change(1, ROW_BYTES, ids[:10], None),
        Change(1, 4096, ids, np.zeros((ids.size, 4096), np.uint8), insert=True),  # no pool: passed over
    ]
    called: list[int] = []
    assert scene.table.apply(changes, lambda: called.append(1)).ids.size == 0
    assert scene.writings(1, ids) == [0] * 10 + [2] * 10 + [1] * 20
    assert scene.writings(2, ids) == [5] * 40
    assert called == [1]
    assert scene.table.check() == 70


def test_rows_that_are_to_be_kept_stay() -> None:
    scene, ids = Scene(), ids_from(0, 40)
    scene.table.insert(1, ids[:20], proving_rows(ids[:20], 1))
    scene.table.insert(1, ids, proving_rows(ids, 2), keep=True)
    assert scene.writings(1, ids) == [1] * 20 + [2] * 20
    assert scene.table.check() == 40


def test_pinned_rows_are_not_pushed_out_and_who_finds_no_way_is_refused() -> None:
    scene = one_set()
    pinned, others = ids_from(0, WAYS - 2), ids_from(100, 10)
    scene.table.insert(1, pinned, proving_rows(pinned, 1), pinned=True)
    gone = scene.table.insert(2, others, proving_rows(others, 2))
    assert scene.writings(1, pinned) == [1] * pinned.size
    assert set(gone.versions.tolist()) == {2}
    found = np.array(scene.writings(2, others)) == 2
    assert found.sum() == 2
    np.testing.assert_array_equal(np.sort(gone.ids), others[~found])
    assert (scene.table.counts.refused, scene.table.counts.evicted) == (8, 0)
    assert scene.table.check() == WAYS


def test_nothing_goes_missing_untold_where_old_and_new_rows_come_in_together() -> None:
    for seed in range(10):
        scene = one_set(seed)
        old, new = ids_from(0, WAYS), ids_from(100, 8)
        scene.table.insert(1, old, proving_rows(old, 1))
        together = np.random.default_rng(seed).permutation(np.concatenate([old[:16], new]))
        gone = scene.table.insert(1, together, proving_rows(together, 2))
        every = np.concatenate([old, new])
        writings = np.array(scene.writings(1, every))
        assert np.isin(every[writings == 0], gone.ids).all()
        assert (writings[np.isin(every, together)] != 1).all()
        assert scene.table.check() == (writings > 0).sum() == WAYS


def test_a_new_division_begins_empty() -> None:
    scene, ids = Scene(), ids_from(0, 40)
    scene.table.insert(1, ids, proving_rows(ids, 1))
    scene.table.divide({ROW_BYTES: 100, 64: 100})
    assert scene.writings(1, ids) == [0] * 40
    assert scene.table.check() == 0
    scene.table.insert(1, ids, proving_rows(ids, 2))
    assert scene.writings(1, ids) == [2] * 40
    scene.table.clear()
    assert scene.writings(1, ids) == [0] * 40


@pytest.mark.parametrize("keep", [False, True])
def test_what_is_told_to_be_gone_is_gone_where_old_and_new_rows_come_in_together(keep: bool) -> None:
    for seed in range(10):
        scene = one_set(seed)
        old, new = ids_from(0, WAYS), ids_from(100, 8)
        scene.table.insert(1, old, proving_rows(old, 1))
        together = np.random.default_rng(seed).permutation(np.concatenate([old[:16], new]))
        gone = scene.table.insert(1, together, proving_rows(together, 2), keep=keep)
        every = np.concatenate([old, new])
        found = np.array(scene.writings(1, every)) > 0
        np.testing.assert_array_equal(np.sort(gone.ids), np.sort(every[~found]))
        assert scene.table.check() == found.sum() == WAYS
