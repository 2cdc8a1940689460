"""Which tensors of a file are a table's ids and rows: the same rule for all formats that name their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from embcache_storage.files_source import NUMBERED, Column, FileError, Names, chosen


def choose(path: Path, there: Mapping[str, Column], names: Names) -> tuple[str | None, str]:
    """The names of (ids, or None where row numbers are the ids; rows).

    Rows are the tensor that is named, or `rows`, or the only one that can be rows: floats [n, dim]. Ids are the tensor
    that is named, or `ids`; without them row numbers are the ids, unless some tensor might be meant: integers [n].
    """
    rows = _rows_name(path, there, names)
    if names.numbered:
        return None, rows
    if names.ids is not None or "ids" in there:
        return chosen(path, there, names.ids or "ids", "tensor", "--ids"), rows
    maybe = [name for name, each in there.items() if each.dtype.kind in "iu" and each.shape == there[rows].shape[:1]]
    if maybe:
        listed = ", ".join(f"`{name}`" for name in maybe[:20])
        raise FileError(
            f"{path} has no tensor `ids`, and {listed} may be the ids: --ids names them, --ids {NUMBERED} says that "
            "row numbers are the ids"
        )
    return None, rows


def _rows_name(path: Path, there: Mapping[str, Column], names: Names) -> str:
    if names.rows is not None or "rows" in there:
        return chosen(path, there, names.rows or "rows", "tensor", "--rows")
    maybe = [name for name, each in there.items() if each.dtype.kind == "f" and len(each.shape) == 2]
    if len(maybe) == 1:
        return maybe[0]
    if not maybe:
        return chosen(path, there, "rows", "tensor", "--rows")
    listed = ", ".join(f"`{name}` {list(there[name].shape)}" for name in maybe[:20])
    raise FileError(f"{path} has no tensor `rows`, but several that may be: --rows names one of {listed}")
