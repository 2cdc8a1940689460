"""Rows of the Criteo display-ads data: was an ad clicked, 13 numbers, 26 feature values. Needs no torch."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from loadtest.datasets import DataError

NUMBERS: Final = tuple(f"I{number}" for number in range(1, 14))
FEATURES: Final = tuple(f"C{number}" for number in range(1, 27))
LABEL: Final = "Label"


@dataclass(frozen=True, slots=True)
class Clicks:
    """n rows in the order of the file.

    clicked: f32 [n], 0 or 1. numbers: f32 [n, 13], log(1 + x), 0 where there is none or a negative one.
    values: for each of the 26 features its n values, "" where there is none.
    """

    clicked: NDArray[np.float32]
    numbers: NDArray[np.float32]
    values: tuple[list[str], ...]

    def __len__(self) -> int:
        return len(self.clicked)


def read_clicks(path: Path) -> Clicks:
    """The rows of a CSV file whose first line names the columns: Label, I1 to I13, C1 to C26, and others as it likes.

    DataError says which line is wrong, and how.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            _check_columns(path, reader.fieldnames or ())
            rows = [_row(path, reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if not rows:
        raise DataError(f"{path}: no rows below the names of the columns")
    clicked, numbers, values = zip(*rows, strict=True)
    logs = np.log1p(np.maximum(np.array(numbers, np.float64), 0)).astype(np.float32)
    return Clicks(np.array(clicked, np.float32), logs, tuple(list(column) for column in zip(*values, strict=True)))


def auc(clicked: NDArray[np.float32], scores: NDArray[np.float32]) -> float:
    """How often a clicked row scores higher than another one, ties counting half; NaN where all are alike."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]  # of equal scores the mean of theirs, from 1 on
    ones = int(clicked.sum())
    zeros = len(clicked) - ones
    if not ones or not zeros:
        return float("nan")
    return float((ranks[clicked > 0].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def _check_columns(path: Path, names: object) -> None:
    wanted = (LABEL, *NUMBERS, *FEATURES)
    missing = [name for name in wanted if name not in (names if isinstance(names, list | tuple) else ())]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''} in its first line, which "
            "names Label, I1 to I13 and C1 to C26"
        )


def _row(path: Path, line: int, row: dict[str, str]) -> tuple[float, list[float], list[str]]:
    if None in row or None in row.values():
        raise DataError(f"{path}, line {line}: it has not as many fields as the first line has")
    if row[LABEL] not in ("0", "1"):
        raise DataError(f"{path}, line {line}: {LABEL} is {row[LABEL]!r:.40}, not 0 or 1")
    try:
        numbers = [float(row[name] or 0) for name in NUMBERS]
    except ValueError as error:
        raise DataError(f"{path}, line {line}: {error}") from error
    if not np.isfinite(numbers).all():
        raise DataError(f"{path}, line {line}: one of I1 to I13 is not finite")
    return float(row[LABEL]), numbers, [row[name] for name in FEATURES]
