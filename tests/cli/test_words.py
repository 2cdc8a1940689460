"""Words for people."""

from __future__ import annotations

import pytest

from embcache.cli.changes import Changed
from embcache.cli.words import counted


@pytest.mark.parametrize(
    ("count", "words", "told"),
    [
        (0, ("row",), "0 rows"),
        (1, ("row",), "1 row"),
        (2000, ("row",), "2,000 rows"),
        (1, ("entry", "entries"), "1 entry"),
        (3, ("entry", "entries"), "3 entries"),
    ],
)
def test_one_is_one(count: int, words: tuple[str, ...], told: str) -> None:
    assert counted(count, *words) == told


def test_an_export_of_changes_tells_of_one_deletion() -> None:
    assert Changed(2, "1", 1.0, None, gone=1).told == "2 rows and 1 deletion in 1.0 s (3/s)"
