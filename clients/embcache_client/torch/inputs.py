"""What a model passes in, as ids or raw values in one row, and as bags of them. Knows tensors; asks nobody.

passed in                                    asked for
int64 tensor                                 the id of its 64 bits: -1 is 2^64 - 1, so that hashed ids fit
uint64 tensor                                the id itself
narrower integer tensors, NumPy, list[int]   the id itself; what is negative is an error
list or array of str or bytes, Values        raw values of the table's feature
list of such lists                           the same; in an EmbeddingBag they may differ in length
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from embcache_client.lookup import Values, query_of

U64s = NDArray[np.uint64]
Flat = U64s | Values
"""Ids u64 [n], or n raw values."""

_NARROW: Final = (torch.int8, torch.int16, torch.int32, torch.uint8, torch.uint16, torch.uint32)


class Items(NamedTuple):
    """flat: all n of them in one row. shape: as they were passed in; None for lists of different lengths.

    lengths: int64 [b] of the rows of a 2-D input, which add up to n; None for any other.
    """

    flat: Flat
    shape: tuple[int, ...] | None
    lengths: NDArray[np.int64] | None


class Bags(NamedTuple):
    """flat: n of them; bag 0 is the first lengths[0], and so on. lengths: int64 [b]. weights: f32 [n], or None.

    shape: of the input, or (n,) for lists of different lengths.
    """

    flat: Flat
    lengths: NDArray[np.int64]
    weights: torch.Tensor | None
    shape: tuple[int, ...]

    @property
    def of_each(self) -> NDArray[np.int64]:
        """int64 [n]: the number of each one's bag."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def at(self, places: NDArray[np.intp]) -> Bags:
        """Those at some places alone, ascending, in the same bags."""
        lengths = np.bincount(self.of_each[places], minlength=len(self.lengths))
        weights = None if self.weights is None else self.weights[torch.from_numpy(places)]
        return self._replace(flat=chosen(self.flat, places), lengths=lengths, weights=weights)


def count(flat: Flat) -> int:
    return len(flat.values if isinstance(flat, Values) else flat)


def chosen(flat: Flat, places: NDArray[np.intp]) -> Flat:
    """Those at some places."""
    if isinstance(flat, Values):
        return Values([flat.values[place] for place in places.tolist()])
    return flat[places]


def items_of(table: str, given: Any) -> Items:
    """What was passed in for a table; TypeError or ValueError where it means no ids and no values."""
    if isinstance(given, torch.Tensor):
        return _in_rows(ids_of_tensor(table, given), tuple(given.shape))
    if isinstance(given, np.ndarray):
        return _in_rows(_flat(table, given.reshape(-1)), given.shape)
    if isinstance(given, Values):
        rows: list[Any] = list(given.values)
        return _in_lists(table, rows, Values) if _are_lists(rows) else _in_rows(given, (len(rows),))
    if not isinstance(given, list | tuple):
        raise TypeError(
            f"table {table}: the input is {type(given).__name__}, not a tensor, an array, Values, or a list of ids, of "
            "str, of bytes, or of such lists"
        )
    if _are_lists(given):
        return _in_lists(table, given, lambda joined: _flat(table, joined))
    return _in_rows(_flat(table, given), (len(given),))


def bags_of(table: str, given: Any, offsets: Any, weights: Any, *, include_last_offset: bool) -> Bags:
    """The bags that torch.nn.EmbeddingBag would make of its arguments, and those of lists of lists."""
    items = items_of(table, given)
    lengths, n = items.lengths, count(items.flat)
    if lengths is None and items.shape is not None and len(items.shape) != 1:
        raise ValueError(f"table {table}: the input has shape {list(items.shape)}, and bags come in 1 or 2 dimensions")
    if lengths is None:
        if offsets is None:
            raise ValueError(
                f"table {table}: a 1-D input needs offsets, where each bag begins; bags of their own go in as a 2-D "
                "tensor or as a list of lists"
            )
        lengths = _between(table, offsets, n, include_last_offset)
    elif offsets is not None:
        raise ValueError(f"table {table}: offsets go with a 1-D input; in this one each row is a bag")
    shape = (n,) if items.shape is None else items.shape
    return Bags(items.flat, lengths, None if weights is None else _weights(table, weights, shape, n), shape)


def ids_of_tensor(table: str, given: torch.Tensor) -> U64s:
    """u64 [n] of an integer tensor of any shape and device; see the table at the head of this file."""
    flat = given.detach().reshape(-1).cpu().contiguous()
    if flat.dtype == torch.uint64:
        return cast("U64s", flat.numpy())
    if flat.dtype == torch.int64:
        return cast("U64s", flat.numpy().view(np.uint64))
    if flat.dtype not in _NARROW:
        raise TypeError(f"table {table}: the input is {given.dtype}; ids are int64 or uint64, or narrower integers")
    array = flat.numpy()
    if array.size and array.min() < 0:
        at = int(np.argmax(array < 0))
        raise ValueError(
            f"table {table}: id {array[at]} at {at} of a tensor of {given.dtype} is negative; only int64, whose 64 "
            "bits are the id, can be"
        )
    return cast("U64s", array.astype(np.uint64))


def _flat(table: str, given: Any) -> Flat:
    query = query_of(table, given, None)
    return Values(query.values or []) if query.ids is None else query.ids


def _in_rows(flat: Flat, shape: tuple[int, ...]) -> Items:
    return Items(flat, shape, np.full(shape[0], shape[1]) if len(shape) == 2 else None)


def _are_lists(rows: Sequence[Any]) -> bool:
    return any(isinstance(row, list | tuple | np.ndarray) for row in rows)


def _in_lists(table: str, given: Sequence[Any], flat: Callable[[list[Any]], Flat]) -> Items:
    rows = [_row(table, row) for row in given]
    lengths = np.array([len(row) for row in rows], np.int64)
    even = bool((lengths == lengths[0]).all())
    joined = flat(list(itertools.chain.from_iterable(rows)))
    return Items(joined, (len(rows), int(lengths[0])) if even else None, lengths)


def _row(table: str, row: Any) -> list[Any]:
    if not isinstance(row, list | tuple | np.ndarray):
        raise TypeError(f"table {table}: {row!r:.40} is no list, among lists")
    return list(row.tolist() if isinstance(row, np.ndarray) else row)


def _between(table: str, offsets: Any, n: int, include_last_offset: bool) -> NDArray[np.int64]:
    """int64 [b]: the lengths of bags that begin at these offsets."""
    begins = torch.as_tensor(offsets).cpu().numpy()
    if begins.ndim != 1 or (begins.size and begins.dtype.kind not in "iu"):
        raise ValueError(
            f"table {table}: offsets are {begins.dtype} of shape {list(begins.shape)}, not integers [bags]"
        )
    begins = begins.astype(np.int64)
    if include_last_offset:
        if not begins.size or begins[-1] != n:
            raise ValueError(f"table {table}: with include_last_offset the last of the offsets is {n}, as many as ids")
        ends = begins[1:]
        begins = begins[:-1]
    else:
        ends = np.append(begins[1:], n) if begins.size else begins
    if begins.size and begins[0] != 0:
        raise ValueError(f"table {table}: the first offset is {begins[0]}, not 0")
    lengths: NDArray[np.int64] = ends - begins
    if lengths.size and lengths.min() < 0:
        raise ValueError(f"table {table}: offsets ascend, up to the {n} ids at most: {begins.tolist()!r:.80}")
    if not lengths.size and n:
        raise ValueError(f"table {table}: no offsets for {n} ids; each id is in a bag")
    return lengths


def _weights(table: str, given: Any, shape: tuple[int, ...], n: int) -> torch.Tensor:
    weights = torch.as_tensor(given)
    if tuple(weights.shape) != shape:
        raise ValueError(
            f"table {table}: per_sample_weights have shape {list(weights.shape)}, and the input {list(shape)}"
        )
    return weights.reshape(n).to("cpu", torch.float32)
