"""What each side answers, held against rows made anew from the ids before anything is measured."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from loadtest.replay import RowsDiffer


def same_rows(side: str, answered: NDArray[Any], expected: NDArray[Any]) -> None:
    """RowsDiffer unless both are the same, bit by bit: a side that is fast and wrong is no side."""
    if answered.shape != expected.shape or answered.tobytes() != expected.tobytes():
        raise RowsDiffer(f"{side} answered with other rows than those of the ids it was asked for")
