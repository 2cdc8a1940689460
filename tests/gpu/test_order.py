"""The order of a change of the hot tier's rows, with lookups under way: no torn row, no other id's, none of the old.

The device runs nothing but inside a wait, so a lookup that was begun runs among the steps of the change, as the seed
says.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.gpu.sanitized import no_compiler

if no_compiler():
    pytest.skip(str(no_compiler()), allow_module_level=True)

from embcache.gpu.device import Stream
from embcache.gpu.emulated.device import EmulatedDevice
from embcache.gpu.launcher import Launcher
from embcache.gpu.layout import SET_BYTES, WAYS
from embcache.gpu.table import Change, GpuTable
from tests.gpu.reader import GpuReader, Pending
from tests.host.proving import ROW_BYTES, broken, proving_rows

VERSION = 7
SETS = 2
SEEDS = range(15)
BOUND = 100  # schedules in which a missing wait must show
OLD, NEW = 1, 2
IDS = np.arange(1, SETS * WAYS - 7, dtype=np.uint64)
OTHERS = IDS + np.uint64(1000)

Ids = NDArray[np.uint64]


def wait_for_nobody(_: Stream) -> None:
    """The wait of a writer that forgot to."""


class Scene:
    """A table of two sets with old rows, on a device that this thread drives."""

    def __init__(
        self,
        seed: int,
        wait_for_readers: Callable[[Stream], None] | None = None,
        beside: Callable[[Scene], None] = lambda _: None,
    ) -> None:
        """wait_for_readers: None for the launcher's; beside: called once that is done, before new rows are written."""
        device = EmulatedDevice(threaded=False, seed=seed, stale_l1=True)
        launcher = Launcher(device)
        capacity = SETS * (SET_BYTES + WAYS * ROW_BYTES) + 512
        wait = wait_for_readers or launcher.hold_back

        def wait_and_more(stream: Stream) -> None:
            wait(stream)
            beside(self)

        self.table = GpuTable(device, capacity, wait_and_more)
        self.table.divide({ROW_BYTES: SETS * WAYS})
        launcher.start(self.table.pools_address)
        self.reader = GpuReader(device, launcher, self.table)
        self.table.insert(VERSION, IDS, proving_rows(IDS, OLD))

    def begin(self, ids: Ids = IDS) -> Pending:
        return self.reader.begin(VERSION, ROW_BYTES, ids)

    def finish(self, pending: Pending) -> tuple[Ids, NDArray[np.int64]]:
        """-> the writings that were found, and the places of those that are torn or another id's."""
        rows, found = self.reader.finish(pending)
        return rows[found].view(np.uint64)[:, 0], broken(pending.ids[found], rows[found])

    def update(self) -> None:
        self.table.update(VERSION, IDS, proving_rows(IDS, NEW))

    def push_out(self) -> None:
        gone = self.table.insert(VERSION, OTHERS, proving_rows(OTHERS, NEW))
        assert np.isin(IDS, gone.ids).any()


def begin_into(begun: list[Pending], ids: Ids, scene: Scene) -> None:
    begun.append(scene.begin(ids))


CHANGES = pytest.mark.parametrize("change", [Scene.update, Scene.push_out])


@CHANGES
def test_a_lookup_under_way_sees_no_row_torn_or_of_another_id(change: Callable[[Scene], None]) -> None:
    seen = 0
    for seed in SEEDS:
        scene = Scene(seed)
        asked = np.concatenate([IDS, OTHERS])
        pending = [scene.begin(asked), scene.begin(asked)]
        change(scene)
        for each in pending:
            writings, wrong = scene.finish(each)
            assert not wrong.size
            assert np.isin(writings, [OLD, NEW]).all()
            seen += writings.size
        scene.table.check()
    assert seen


@CHANGES
def test_a_writer_that_waits_for_nobody_is_found_out(change: Callable[[Scene], None]) -> None:
    def goes_wrong(seed: int) -> bool:
        scene = Scene(seed, wait_for_nobody)
        pending = [scene.begin(), scene.begin()]
        change(scene)
        return any(scene.finish(each)[1].size for each in pending)

    assert any(goes_wrong(seed) for seed in range(BOUND))


@pytest.mark.parametrize("early", [False, True])
def test_a_lookup_begun_after_the_invalidation_sees_no_old_row(early: bool) -> None:
    """early: another lookup, begun before the change, is under way as well, and may see old rows."""
    changed, kept = IDS[::2], IDS[1::2]
    for seed in SEEDS:
        scene = Scene(seed)
        before = [scene.begin()] if early else []
        after: list[Pending] = []
        change = Change(VERSION, ROW_BYTES, changed, proving_rows(changed, NEW))
        scene.table.apply([change], partial(begin_into, after, IDS, scene))
        for each in before:
            assert not scene.finish(each)[1].size
        (begun,) = after
        rows, found = scene.reader.finish(begun)
        assert found[1::2].all()
        np.testing.assert_array_equal(rows[1::2], proving_rows(kept, OLD))
        np.testing.assert_array_equal(rows[::2][found[::2]], proving_rows(changed[found[::2]], NEW))
        rows, found = scene.reader.finish(scene.begin(changed))
        assert found.all()
        np.testing.assert_array_equal(rows, proving_rows(changed, NEW))
        scene.table.check()


@CHANGES
def test_a_lookup_begun_while_rows_are_written_sees_whole_new_ones(change: Callable[[Scene], None]) -> None:
    """No writer waits for it: it runs beside the last steps, and finds of each changed row the new one or none."""
    asked = np.concatenate([IDS, OTHERS])
    counts = set()
    for seed in SEEDS:
        begun: list[Pending] = []
        scene = Scene(seed, beside=partial(begin_into, begun, asked))
        begun.clear()  # that of the rows' first coming in
        change(scene)
        (pending,) = begun
        writings, wrong = scene.finish(pending)
        assert not wrong.size
        if change is Scene.update:
            assert (writings == NEW).all()
        counts.add(int((writings == NEW).sum()))
        scene.table.check()
    assert len(counts) > 1  # it met the steps at different points
