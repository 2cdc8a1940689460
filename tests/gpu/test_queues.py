"""Which rows leave the GPU's table, and when; and that the model which replays traces keeps the same.

Against a naive table the kernels are played with, and mistakes planted in them, in test_planted.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.gpu.sanitized import no_compiler

if no_compiler():
    pytest.skip(str(no_compiler()), allow_module_level=True)

from embcache.gpu import layout
from embcache.gpu.layout import GHOSTS, HEADER_BYTES, NOTED_TILES, SAMPLE, SLOT_BYTES, WAYS
from loadtest.policies.hot import VERSION, HotCache, noted_mask
from tests.gpu import naive_queues, reader
from tests.gpu.naive_queues import NaiveQueues
from tests.gpu.queues import ROW_BYTES, Scene, apart


def test_a_row_in_use_outlives_any_number_of_rows_that_are_seen_once() -> None:
    scene = Scene(1)
    scene.insert(1, range(WAYS))
    for _ in range(2):
        scene.reader.lookup(1, ROW_BYTES, np.arange(20, dtype=np.uint64))
    for once in range(1000, 1000 + 5 * GHOSTS):
        scene.insert(1, [once])
    assert {(1, each) for each in range(20)} <= scene.held().keys()


def test_rows_that_are_established_outlive_new_ones_though_nobody_asks_for_them() -> None:
    scene = Scene(1)
    scene.insert(1, range(20), use=0)
    for once in range(1000, 1000 + 5 * GHOSTS):
        scene.insert(1, [once])
    assert {(1, each) for each in range(20)} <= scene.held().keys()


def test_the_order_holds_when_a_sets_clock_goes_round() -> None:
    scene, naive = Scene(1), NaiveQueues(1)
    for each in range(40):
        scene.insert(1, [each])
        naive.insert((1, each))
    queues = scene.sets()[0, HEADER_BYTES + WAYS * SLOT_BYTES :].view(np.uint16)
    ahead = 0x7FFF - 45  # as if so many had come and gone before
    queues[: WAYS + 1] = (queues[: WAYS + 1] & 0x8000) | ((queues[: WAYS + 1] & 0x7FFF) + ahead) & 0x7FFF
    scene.put_back()
    for each in range(100, 180):
        scene.insert(1, [each])
        naive.insert((1, each))
        assert scene.held() == naive.held()
    assert scene.table.check() == WAYS


def test_the_audit_sees_uses_and_clocks_that_are_none() -> None:
    scene = Scene(2)
    scene.insert(1, range(20))
    sets = scene.sets()
    sets[0, WAYS], sets[1, WAYS + 5] = layout.MOST_USE + 1, 255
    sets[1, HEADER_BYTES + WAYS * SLOT_BYTES + 2 * WAYS :].view(np.uint16)[1] = GHOSTS
    scene.put_back()
    with pytest.raises(AssertionError, match="2 rows of more use than is counted; 1 sets whose clock or next ghost"):
        scene.table.check()


@pytest.mark.parametrize(("lookup_ids", "alpha"), [(16, 1.2), (40, 1.05)])
def test_the_model_that_replays_traces_keeps_what_the_kernels_keep(lookup_ids: int, alpha: float) -> None:
    sets, choose = 4, np.random.default_rng(lookup_ids)
    scene, model = Scene(sets), HotCache(sets)
    every = choose.integers(0, 2**64, 600, dtype=np.uint64)
    missed = 0
    for _ in range(120):
        places = np.unique(
            np.minimum(choose.zipf(alpha, lookup_ids) - 1, every.size - 1)
        )  # of two hits one may be lost
        asked = every[choose.permutation(places)]
        _, found = scene.reader.lookup(VERSION, ROW_BYTES, asked)
        np.testing.assert_array_equal(model.missed(asked), asked[~found])
        for group in apart(np.unique(asked[~found]), VERSION, sets):
            scene.insert(VERSION, group)
            model.insert(group)
        missed += int((~found).sum())
        assert model.held().tolist() == sorted(identifier for _, identifier in scene.held())
    assert sets * WAYS < missed < 120 * lookup_ids * 0.8  # rows left, and others were found again


@pytest.mark.parametrize("tiles", [NOTED_TILES, NOTED_TILES + 1, 3 * NOTED_TILES])
def test_of_a_large_launch_a_part_of_the_hits_is_noted_each_id_in_turn(
    tiles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "IDS_A_TILE", 1)
    scene, ids = Scene(24), np.arange(tiles, dtype=np.uint64)
    scene.insert(1, ids)
    turns = {NOTED_TILES: 1, NOTED_TILES + 1: 2, 3 * NOTED_TILES: 4}[tiles]
    assert noted_mask(32 * tiles) == turns - 1
    for turn in range(turns):
        scene.reader.lookup(1, ROW_BYTES, ids)
        noted = sum(scene.held().values())
        assert abs(noted - tiles * (turn + 1) / turns) <= 5 * tiles**0.5
    assert set(scene.held().values()) == {1}


def test_never_is_less_noted_than_one_in_so_many() -> None:
    assert noted_mask(16) == 0
    assert noted_mask(1 << 20) == SAMPLE - 1


def test_the_naive_table_is_about_the_same_rules() -> None:
    for name in ("GHOSTS", "MOST_USE", "USE_TO_STAY", "SMALL_WAYS"):
        assert getattr(layout, name) == getattr(naive_queues, name)
