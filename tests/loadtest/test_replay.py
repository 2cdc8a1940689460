"""The replay's check: a row that differs in one bit, or that should or should not be there, is found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from embcache_client.results import COLD, LATE, MISSING, WARM, TableRows
from loadtest.datasets import Dataset
from loadtest.replay import replay
from loadtest.workloads import U64s, even_lookups, rows_from_ids

IDS = np.array([2, 3, 5, 7, 11], np.uint64)
ASKED = np.array([2, 11, 4, 5, 5, 3], np.uint64)  # 4 is in no table


def dataset(dtype: type[np.floating] = np.float32) -> Dataset:
    return Dataset("t", IDS, rows_from_ids(IDS, 4).astype(dtype), even_lookups(ASKED, 3), "made up")


def honest(source: Dataset) -> Callable[[U64s], TableRows]:
    def look_up(ids: U64s) -> TableRows:
        by_id = {int(key): row for key, row in zip(source.ids, source.rows, strict=True)}
        rows = np.stack([by_id.get(int(key), np.zeros(4, source.rows.dtype)) for key in ids])
        status = np.array([WARM if int(key) in by_id else MISSING for key in ids], np.uint8)
        return TableRows("t", "1", source.dtype, rows, status)

    return look_up


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_honest_answers_pass_and_are_counted(dtype: type[np.floating]) -> None:
    source = dataset(dtype)
    seen = replay(source, honest(source), limit_s=60)
    assert (seen.lookups, seen.ids, seen.wrong) == (2, 6, 0)
    assert seen.share("warm") == pytest.approx(5 / 6)
    assert seen.share("missing") == pytest.approx(1 / 6)
    assert seen.latencies.count == 2
    assert seen.ids_per_s > 0


def flip_a_bit(answer: TableRows) -> None:
    answer.raw.view(np.uint32)[1, 3] ^= np.uint32(1)


def row_called_missing(answer: TableRows) -> None:
    answer.raw[1] = 0
    answer.status[1] = MISSING


def row_came_late(answer: TableRows) -> None:
    answer.status[1] = LATE


def default_passed_off_as_a_row(answer: TableRows) -> None:
    answer.status[2] = COLD


def missing_with_anothers_row(answer: TableRows) -> None:
    answer.raw[2] = answer.raw[0]


@pytest.mark.parametrize(
    ("harm", "where"),
    [
        (flip_a_bit, "lookup 0, id 11, status warm"),
        (row_called_missing, "lookup 0, id 11, status missing"),
        (row_came_late, "lookup 0, id 11, status late"),
        (default_passed_off_as_a_row, "lookup 0, id 4, status cold"),
        (missing_with_anothers_row, "lookup 0, id 4, status missing"),
    ],
)
def test_harm_is_found(harm: Callable[[TableRows], None], where: str) -> None:
    source = dataset()

    def look_up(ids: U64s) -> TableRows:
        answer = honest(source)(ids)
        if ids[0] == 2:
            harm(answer)
        return answer

    seen = replay(source, look_up, limit_s=60)
    assert seen.wrong == 1
    assert seen.first_wrong == where


def test_another_shape_is_an_error() -> None:
    source = dataset()
    with pytest.raises(ValueError, match="asked 3 x 4 float32"):
        replay(source, lambda ids: honest(source)(ids[:2]), limit_s=60)


def test_time_bounds_the_replay() -> None:
    source = dataset()
    told: list[int] = []
    seen = replay(source, honest(source), limit_s=0, progress=told.append)
    assert seen.lookups == 1
    assert told == [1]
