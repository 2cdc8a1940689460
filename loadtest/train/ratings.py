"""Ratings in the order of time: out of a file of MovieLens, or made from hidden factors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loadtest.datasets import DataError
from loadtest.workloads import I64s

F64s = NDArray[np.float64]

LEAST: Final = 10
"""Ratings, so that a tenth of them is one."""

_SEPARATORS: Final = ("\t", "::", ",")
_COLUMNS: Final = ("user", "item", "rating", "time")
_NAMES: Final = (("user",), ("item", "movie"), ("rating",), ("time",))  # what a header's names begin with
_LARGEST: Final = 1e6
_MADE_FACTORS, _MADE_NOISE = 6, 0.6


@dataclass(frozen=True, slots=True)
class Ratings:
    """n ratings, the oldest first.

    users, items: the distinct values. user, item: i64[n], places in them. rating: f64[n]. origin: what is real and what
    is made up, for the reader of a report.
    """

    users: tuple[str, ...]
    items: tuple[str, ...]
    user: I64s
    item: I64s
    rating: F64s
    origin: str

    def __len__(self) -> int:
        return len(self.rating)

    @property
    def first(self) -> int:
        """How many are learned before the last tenth, which is predicted as it comes."""
        return len(self) - len(self) // 10


class _Line(NamedTuple):
    user: str
    item: str
    rating: float
    time: float


def read_ratings(path: Path) -> Ratings:
    """The ratings of a file: a line each, user, item, rating and timestamp, apart by tabs, commas or `::`.

    A header may come first, as in RecBole's .inter and MovieLens' ratings.csv. Equal times stay in the file's order.
    DataError, naming the file and the line, where it is something else.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    lines = list(_lines(path))
    if len(lines) < LEAST:
        raise DataError(f"{path}: has {len(lines)} ratings; {LEAST} are the least that can be learned and predicted")
    lines.sort(key=lambda line: line.time)
    users, user = _places([line.user for line in lines])
    items, item = _places([line.item for line in lines])
    rating = np.array([line.rating for line in lines])
    counts = f"{len(lines):,} ratings by {len(users):,} users of {len(items):,} items"
    return Ratings(users, items, user, item, rating, f"{counts}, from {path.name}, in the order of time")


def _lines(path: Path) -> Iterator[_Line]:
    separator = None
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                text = raw.decode().strip("\r\n")
                if separator is None:
                    separator = _separator(text)
                    if _is_header(text.split(separator)):
                        continue
                if text.strip():
                    yield _line(text.split(separator))
            except ValueError as error:  # UnicodeDecodeError is one
                raise DataError(f"{path}, line {number}: {error}") from error


def _separator(text: str) -> str:
    for separator in _SEPARATORS:
        if separator in text:
            return separator
    raise ValueError(f"{text!r:.60} is not user, item, rating and timestamp, apart by tabs, commas or ::")


def _is_header(fields: Sequence[str]) -> bool:
    """Whether the first line names columns; ValueError where it names others."""
    try:
        float(fields[2])
    except IndexError:
        return False
    except ValueError:
        named = [field.strip().lower().startswith(names) for field, names in zip(fields, _NAMES, strict=False)]
        if len(fields) == len(_NAMES) and all(named):
            return True
        raise ValueError(f"the columns are {', '.join(fields)!r:.80}, not {', '.join(_COLUMNS)}") from None
    return False


def _line(fields: Sequence[str]) -> _Line:
    if len(fields) != len(_COLUMNS):
        raise ValueError(f"{len(fields)} columns, not {len(_COLUMNS)} ({', '.join(_COLUMNS)})")
    user, item = fields[0].strip(), fields[1].strip()
    if not user or not item:
        raise ValueError(f"no {'item' if user else 'user'}")
    return _Line(user, item, _number("rating", fields[2]), _number("time", fields[3]))


def _number(what: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"the {what} is {text!r:.40}, which is no number") from None
    if not math.isfinite(number) or (what == "rating" and abs(number) > _LARGEST):
        raise ValueError(f"the {what} is {text.strip()}: it should be finite, and no rating beyond {_LARGEST:,.0f}")
    return number


def _places(values: Sequence[str]) -> tuple[tuple[str, ...], I64s]:
    """The distinct values in the order in which they come, and the place of each value among them."""
    places: dict[str, int] = {}
    found = [places.setdefault(value, len(places)) for value in values]
    return tuple(places), np.array(found, np.int64)


def made_ratings(count: int, seed: int) -> Ratings:
    """Ratings from 1 to 5 of hidden factors, biases and noise; popular items are rated more. The same for a seed."""
    if count < LEAST:
        raise DataError(f"{count} ratings; {LEAST} are the least that can be learned and predicted")
    rng = np.random.default_rng(seed)
    users, items = max(count // 50, 2), max(count // 100, 2)
    popularity = 1 / np.arange(1, items + 1)
    user = rng.integers(0, users, count)
    item = rng.choice(items, count, p=popularity / popularity.sum())
    taste, kind = rng.normal(0, 0.5, (users, _MADE_FACTORS)), rng.normal(0, 0.5, (items, _MADE_FACTORS))
    biases = rng.normal(0, 0.4, users)[user] + rng.normal(0, 0.5, items)[item]
    felt = 3.5 + biases + np.einsum("nf,nf->n", taste[user], kind[item]) + rng.normal(0, _MADE_NOISE, count)
    rating = np.clip(np.rint(felt), 1, 5)
    names, user = _places([f"u{number}" for number in user.tolist()])
    titles, item = _places([f"i{number}" for number in item.tolist()])
    counts = f"{count:,} ratings by {len(names):,} users of {len(titles):,} items"
    return Ratings(names, titles, user, item, rating, f"{counts}, MADE UP from hidden factors (seed {seed})")
