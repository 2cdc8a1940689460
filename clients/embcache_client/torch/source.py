"""A table of a source: how its rows and bags are looked up, and what stands for those that are missing.

A source is what has lookup and lookup_bags: a Client, or an embcache.EmbeddingCache of this process.
"""

from __future__ import annotations

import inspect
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from embcache_client import rowtypes
from embcache_client.ids import hash_values
from embcache_client.lookup import Values
from embcache_client.results import FAILED, LATE, MISSING, LookupResult, TableRows
from embcache_client.torch.inputs import Bags, Flat, U64s, chosen

Missing = Literal["default", "skip", "error"]
NOT_ASKED: Final = 255
"""The status of a padding id, which is not looked up."""


class Seen(NamedTuple):
    """Of the last call of a module.

    status: uint8 tensor in the shape of the input, [n] for lists of different lengths: where each row came from, see
        embcache_client.STATUS_NAMES; NOT_ASKED for padding.
    position, history: rows are as new as this, or newer. version: of the table.
    """

    status: torch.Tensor
    position: int
    history: str
    version: str

    @property
    def missing(self) -> int:
        """How many ids have no row."""
        return int((self.status == MISSING).sum())


class Found(NamedTuple):
    """The answer to one lookup. rows: f32 [n or b, dim]. status: u8 [n]. counted: bool [n], whose rows are in it."""

    rows: torch.Tensor
    status: NDArray[np.uint8]
    counted: NDArray[np.bool_]
    result: LookupResult


_UNREAD: Final = (LATE, FAILED)


class Table:
    """A table of a source. conditions: of every lookup, as Client.lookup has them."""

    def __init__(self, source: Any, name: str, missing: Missing, feature: str | None, **conditions: Any) -> None:
        """Raises TypeError or ValueError for what can never be right; asks for nothing."""
        if not callable(getattr(source, "lookup", None)) or not callable(getattr(source, "lookup_bags", None)):
            raise TypeError(f"the source is {type(source).__name__}; a Client or an EmbeddingCache is one")
        if inspect.iscoroutinefunction(source.lookup):
            raise TypeError("the source is an AsyncClient, and modules are called without await: give a Client")
        if not isinstance(name, str):
            raise TypeError(f"a table's name is {type(name).__name__}, not str")
        if missing not in get_args(Missing):
            raise ValueError(f"missing is {missing!r}, none of {', '.join(get_args(Missing))}")
        if isinstance(conditions["dtype"], torch.dtype):
            raise TypeError(
                f"dtype is {conditions['dtype']}; it names how rows travel: one of {', '.join(rowtypes.NAMES)}. The "
                "output is float32, and model.to(dtype) makes it another"
            )
        rowtypes.code_of(conditions["dtype"])
        self.source, self.name, self.missing = source, name, missing
        self.min_position = 0
        self.history: str | None = None
        self._feature = feature
        self._dim: int | None = None
        self._conditions = {**conditions, "strict": missing == "error"}

    def __deepcopy__(self, memo: dict[int, Any]) -> Table:
        """A copy of a model asks the same source."""
        made = Table.__new__(Table)
        made.__dict__.update(self.__dict__)
        return made

    @property
    def dim(self) -> int:
        """Elements of a row; asked of the source once."""
        if self._dim is None:
            empty = self.source.lookup({self.name: np.zeros(0, np.uint64)})
            self._dim = int(empty[self.name].raw.shape[1])
        return self._dim

    def hashed(self, flat: Flat) -> U64s:
        """u64 [n]: the ids, of raw values those that the source would hash."""
        if not isinstance(flat, Values):
            return flat
        if self._feature is None:
            self._feature = self._told_feature()
        return hash_values(self._feature, flat.values)

    def rows(self, flat: Flat) -> Found:
        """A row for each. What is missing has the default row, or zeros, as `missing` says."""
        result = self.source.lookup({self.name: flat}, **self._asked())
        answer: TableRows = result[self.name]
        counted = self._counted(answer.status)
        rows = torch.from_numpy(answer.rows)
        absent = answer.status == MISSING
        if self.missing == "skip" and absent.any():
            rows[torch.from_numpy(absent)] = 0
        return Found(rows, answer.status, counted, result)

    def pooled(self, bags: Bags, mode: str) -> Found:
        """A row for each bag, pooled by the source; the default rows of what is missing are added here."""
        weights = None if bags.weights is None else bags.weights.detach().contiguous().numpy()
        asked = (bags.flat, bags.lengths) if weights is None else (bags.flat, bags.lengths, weights)
        while True:
            result = self.source.lookup_bags({self.name: asked}, pooling=mode, **self._asked())
            answer: TableRows = result[self.name]
            absent = np.flatnonzero(answer.status == MISSING)
            if self.missing != "default" or not absent.size:
                return Found(torch.from_numpy(answer.rows), answer.status, self._counted(answer.status), result)
            more = self.source.lookup({self.name: chosen(bags.flat, absent)}, **self._asked())[self.name]
            if more.version == answer.version:  # else the table was filled anew in between
                break
        status, rows = answer.status.copy(), answer.rows
        status[absent] = more.status
        there = self._counted(more.status)
        places, added = absent[there], more.rows[there]
        if weights is not None:
            added = added * weights[places, None]
        _add(rows, bags.of_each, answer.found, places, added, mean=mode == "mean")
        return Found(torch.from_numpy(rows), status, self._counted(status), result)

    def _counted(self, status: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """bool [n]: whether an id has a row in the output; a missing one has, if its default row is to count."""
        return ~np.isin(status, _UNREAD if self.missing == "default" else (MISSING, *_UNREAD))

    def _asked(self) -> dict[str, Any]:
        return {**self._conditions, "min_position": self.min_position, "history": self.history}

    def _told_feature(self) -> str:
        if hasattr(self.source, "feature_of"):
            return str(self.source.feature_of(self.name))
        spec = self.source.table(self.name)["spec"]
        return str(spec.get("feature") or self.name)


def _add(
    pooled: NDArray[np.float32],
    bag_of: NDArray[np.int64],
    found: NDArray[np.bool_],
    places: NDArray[np.intp],
    rows: NDArray[np.float32],
    *,
    mean: bool,
) -> None:
    """Add rows f32 [m, dim] of ids at some places to their bags; in a mean each id counts as much as any other."""
    if not mean:
        np.add.at(pooled, bag_of[places], rows)
        return
    before = np.bincount(bag_of[found], minlength=len(pooled)).astype(np.float32)
    after = before + np.bincount(bag_of[places], minlength=len(pooled)).astype(np.float32)
    pooled *= before[:, None]
    np.add.at(pooled, bag_of[places], rows)
    pooled /= np.maximum(after, 1)[:, None]
