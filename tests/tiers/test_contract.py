"""What every table of rows promises, of the host's and of the device's alike."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.host.proving import ROW_BYTES, proving_rows
from tests.naive import NaiveTable
from tests.tiers.conftest import Make
from tests.tiers.tables import Table

Ids = NDArray[np.uint64]

EDGES = np.array([0, 1, 2**63, 2**64 - 1], np.uint64)
IDS = np.unique(np.concatenate([EDGES, np.random.default_rng(1).integers(0, 2**64, 96, dtype=np.uint64)]))
ROOMY = 4 * IDS.size  # no set of a table for so many rows overflows


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
    table = make(row_bytes, ROOMY)
    rows = rows_of(IDS, row_bytes)
    assert table.insert(IDS, rows) == 0
    expect(table, IDS, rows)
    backwards = np.concatenate([IDS[::-1], EDGES, EDGES])
    expect(table, backwards, rows_of(backwards, row_bytes))
    assert table.check() == IDS.size


def test_ids_that_were_never_put_in_are_not_found(make: Make) -> None:
    table = make(64, ROOMY)
    assert not table.lookup(IDS)[1].any()
    table.insert(IDS[1::2], rows_of(IDS[1::2], 64))
    rows, found = table.lookup(IDS)
    assert found.tolist() == [place % 2 == 1 for place in range(IDS.size)]
    np.testing.assert_array_equal(rows[found], rows_of(IDS[1::2], 64))
    assert table.check() == IDS.size // 2


def test_a_row_put_in_again_takes_the_place_of_the_older_one(make: Make) -> None:
    table = make(40, ROOMY)
    table.insert(IDS, rows_of(IDS, 40))
    assert table.insert(IDS[:50], rows_of(IDS[:50], 40, writing=1)) == 0
    expect(table, IDS[:50], rows_of(IDS[:50], 40, writing=1))
    expect(table, IDS[50:], rows_of(IDS[50:], 40))
    assert table.check() == IDS.size


def test_replacing_changes_only_what_is_there(make: Make) -> None:
    table = make(12, ROOMY)
    table.insert(IDS[:60], rows_of(IDS[:60], 12))
    table.replace(IDS[20:], rows_of(IDS[20:], 12, writing=1))
    expect(table, IDS[:20], rows_of(IDS[:20], 12))
    expect(table, IDS[20:60], rows_of(IDS[20:60], 12, writing=1))
    assert not table.lookup(IDS[60:])[1].any()
    assert table.check() == 60


def test_what_is_deleted_is_gone_and_may_come_back(make: Make) -> None:
    table = make(64, ROOMY)
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
    table = make(ROW_BYTES, 60)
    gone = sum(table.insert(batch, proving_rows(batch, 1)) for batch in np.split(ids, 6))
    rows, found = table.lookup(ids)
    held = int(found.sum())
    assert gone > 0
    assert held > 0
    assert held + gone == ids.size
    np.testing.assert_array_equal(rows[found], proving_rows(ids[found], 1))
    assert table.check() == held


VERSIONS = (7, 8)


@pytest.mark.parametrize("dim", [1, 3, 10, 16, 33])
@pytest.mark.parametrize("seed", range(2))
def test_random_changes_against_the_oracle(make: Make, dim: int, seed: int) -> None:
    """In a table that is too small, whose sets overflow: a row that is found is the newest, and none is lost untold."""
    choose = np.random.default_rng([seed, dim])
    every = np.concatenate([EDGES, choose.integers(2, 2**63, 300, dtype=np.uint64)])
    newest = {version: NaiveTable(dim) for version in VERSIONS}  # as if nothing was ever pushed out
    table, deleted, seen = make(4 * dim, 40), 0, 0
    for _ in range(25):
        version = int(choose.choice(VERSIONS))
        ids = choose.choice(every, int(choose.integers(1, 200)), replace=False)
        rows = choose.normal(size=(ids.size, dim)).astype(np.float32)
        change = choose.choice(["insert", "insert", "replace", "delete"])
        if change == "insert":
            table.insert(ids, rows.view(np.uint8), version)
            newest[version].change("assign", ids, rows)
        elif change == "replace":
            table.replace(ids, rows.view(np.uint8), version)
            known = np.array([feature in newest[version].rows for feature in ids.tolist()])
            newest[version].change("assign", ids[known], rows[known])
        else:
            deleted += int(table.lookup(ids, version)[1].sum())
            table.delete(ids, version)
            newest[version].change("delete", ids, rows)
        held = sum(found_as_in(newest[each], table, each, every) for each in VERSIONS)
        inserted, evicted = table.counted()
        assert table.check() == held == inserted - evicted - deleted
        seen += held
    assert seen
    assert table.counted()[1]


def found_as_in(newest: NaiveTable, table: Table, version: int, ids: Ids) -> int:
    """-> how many of the ids are found; each as the oracle has it."""
    rows, found = table.lookup(ids, version)
    expected = np.array([newest.served(feature) for feature in ids[found].tolist()], np.float32)
    assert all(feature in newest.rows for feature in ids[found].tolist())
    np.testing.assert_array_equal(rows[found].view(np.float32), expected.reshape(-1, newest.dim))
    return int(found.sum())
