"""What every table of rows promises, of the host's and of the device's alike."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.gpu.sanitized import no_compiler

if no_compiler():
    pytest.skip(str(no_compiler()), allow_module_level=True)

from embcache.gpu.device import Device
from embcache.gpu.emulated.device import EmulatedDevice
from tests.host.proving import ROW_BYTES, broken, proving_rows
from tests.tiers.tables import Table, a_table

Ids = NDArray[np.uint64]
Make = Callable[[int, int], AbstractContextManager[Table]]

EDGES = np.array([0, 1, 2**63, 2**64 - 1], np.uint64)
IDS = np.unique(np.concatenate([EDGES, np.random.default_rng(1).integers(0, 2**64, 96, dtype=np.uint64)]))
ROOMY = 4 * IDS.size  # no set of a table for so many rows overflows


@pytest.fixture(scope="module", params=["host", "emulated"])
def device(request: pytest.FixtureRequest) -> Device | None:
    return None if request.param == "host" else EmulatedDevice()


@pytest.fixture
def make(device: Device | None) -> Make:
    return lambda row_bytes, rows: a_table(device, row_bytes, rows)


def rows_of(ids: Ids, row_bytes: int, writing: int = 0) -> NDArray[np.uint8]:
    """Rows u8 [n, row_bytes] that tell ids and writings apart."""
    return np.stack(
        [np.random.default_rng([int(feature), writing]).integers(0, 256, row_bytes, np.uint8) for feature in ids]
    )


def expect(table: Table, ids: Ids, rows: NDArray[np.uint8]) -> None:
    """All of the ids are found, with these rows."""
    got, found = table.lookup(ids)
    assert found.all()
    np.testing.assert_array_equal(got, rows)


@pytest.mark.parametrize("row_bytes", [4, 12, 40, 64, 256])
def test_rows_come_back_as_they_went_in(make: Make, row_bytes: int) -> None:
    with make(row_bytes, ROOMY) as table:
        rows = rows_of(IDS, row_bytes)
        assert table.insert(IDS, rows) == 0
        expect(table, IDS, rows)
        backwards = np.concatenate([IDS[::-1], EDGES, EDGES])
        expect(table, backwards, rows_of(backwards, row_bytes))
        assert table.check() == IDS.size


def test_ids_that_were_never_put_in_are_not_found(make: Make) -> None:
    with make(64, ROOMY) as table:
        assert not table.lookup(IDS)[1].any()
        table.insert(IDS[1::2], rows_of(IDS[1::2], 64))
        rows, found = table.lookup(IDS)
        assert found.tolist() == [place % 2 == 1 for place in range(IDS.size)]
        np.testing.assert_array_equal(rows[found], rows_of(IDS[1::2], 64))
        assert table.check() == IDS.size // 2


def test_a_row_put_in_again_takes_the_place_of_the_older_one(make: Make) -> None:
    with make(40, ROOMY) as table:
        table.insert(IDS, rows_of(IDS, 40))
        assert table.insert(IDS[:50], rows_of(IDS[:50], 40, writing=1)) == 0
        expect(table, IDS[:50], rows_of(IDS[:50], 40, writing=1))
        expect(table, IDS[50:], rows_of(IDS[50:], 40))
        assert table.check() == IDS.size


def test_replacing_changes_only_what_is_there(make: Make) -> None:
    with make(12, ROOMY) as table:
        table.insert(IDS[:60], rows_of(IDS[:60], 12))
        table.replace(IDS[20:], rows_of(IDS[20:], 12, writing=1))
        expect(table, IDS[:20], rows_of(IDS[:20], 12))
        expect(table, IDS[20:60], rows_of(IDS[20:60], 12, writing=1))
        assert not table.lookup(IDS[60:])[1].any()
        assert table.check() == 60


def test_what_is_deleted_is_gone_and_may_come_back(make: Make) -> None:
    with make(64, ROOMY) as table:
        table.insert(IDS[:60], rows_of(IDS[:60], 64))
        table.delete(IDS[40:])
        assert not table.lookup(IDS[40:])[1].any()
        expect(table, IDS[:40], rows_of(IDS[:40], 64))
        assert table.check() == 40
        assert table.insert(IDS[40:], rows_of(IDS[40:], 64, writing=1)) == 0
        expect(table, IDS[40:], rows_of(IDS[40:], 64, writing=1))
        assert table.check() == IDS.size


def test_everything_put_in_is_held_or_told_to_be_gone(make: Make) -> None:
    ids = np.random.default_rng(2).permutation(np.arange(600, dtype=np.uint64))
    with make(ROW_BYTES, 60) as table:
        gone = sum(table.insert(batch, proving_rows(batch, 1)) for batch in np.split(ids, 6))
        rows, found = table.lookup(ids)
        held = int(found.sum())
        assert gone > 0
        assert held > 0
        assert held + gone == ids.size
        np.testing.assert_array_equal(rows[found], proving_rows(ids[found], 1))
        assert table.check() == held


@pytest.mark.parametrize("seed", range(3))
def test_a_row_that_is_found_is_always_the_newest(make: Make, seed: int) -> None:
    """Random changes against a plain dict, in a table that is too small: of what was put in, some may be gone."""
    choose = np.random.default_rng(seed)
    every = np.concatenate([EDGES, choose.integers(2, 2**63, 300, dtype=np.uint64)])
    newest: dict[int, int] = {}  # {id: its writing}, as if nothing was ever pushed out
    seen = 0
    with make(ROW_BYTES, 60) as table:
        for writing in range(1, 41):
            ids = choose.choice(every, int(choose.integers(1, 60)), replace=False)
            change = choose.choice(["insert", "insert", "replace", "delete"])
            if change == "insert":
                table.insert(ids, proving_rows(ids, writing))
                newest |= dict.fromkeys(ids.tolist(), writing)
            elif change == "replace":
                table.replace(ids, proving_rows(ids, writing))
                newest |= {feature: writing for feature in ids.tolist() if feature in newest}
            else:
                table.delete(ids)
                for feature in ids.tolist():
                    newest.pop(feature, None)
            asked = choose.choice(every, 80, replace=False)
            rows, found = table.lookup(asked)
            assert not broken(asked[found], rows[found]).size
            writings = rows[found].view(np.uint64)[:, 0].tolist()
            assert writings == [newest.get(feature) for feature in asked[found].tolist()]
            seen += len(writings)
            assert table.check() <= len(newest)
        assert seen > 0
