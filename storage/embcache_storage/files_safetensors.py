"""safetensors: tensors by name, one of ids and one of rows.

A file is the length of a header (uint64), the header in JSON, and the tensors' bytes one after the other
(https://huggingface.co/docs/safetensors). The library judges the header; the bytes are read a piece at a time, since it
would map the file and leave it in memory.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from embcache_storage.files_changes import DELETED, KEY, Changes
from embcache_storage.files_source import ArraySource, FileError, Names, RawColumn, library, narrowed, unreadable
from embcache_storage.files_tensors import choose
from embcache_storage.files_write import Spool, SpooledSink

_INSTALL: Final = "pip install 'embcache[io]'"
_DTYPES: Final = {
    **{f"I{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
    **{f"F{8 * size}": f"<f{size}" for size in (2, 4, 8)},
    "BF16": "<u2",
    "BOOL": "?",
}
_BYTES: Final = {"U64": 8, "F32": 4, "F16": 2, "BF16": 2}


def open_file(path: Path, names: Names) -> ArraySource:
    """The table of a .safetensors file."""
    safetensors = library("safetensors", path, _INSTALL)
    with path.open("rb") as file:
        with unreadable(path, safetensors.SafetensorError, form="safetensors"), safetensors.safe_open(path, "np"):
            pass  # the header is sound, the tensors fill the file without gaps
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    told = header.pop("__metadata__", {}).get(KEY)
    changes = None if told is None or DELETED not in header else Changes.parse(told, path)
    columns = {name: _column(path, name, entry, 8 + length) for name, entry in header.items()}
    deleted = None if changes is None else columns.pop(DELETED)
    ids, rows = choose(path, columns, names)
    for name in filter(None, (ids, rows)):
        if columns[name].dtype.kind == "V":
            raise FileError(
                f"{columns[name].name} is of {header[name]['dtype']}; rows must be F32, F16, BF16 or F64, ids integers"
            )
    return ArraySource(path, columns[rows], None if ids is None else columns[ids], changes, deleted)


def _column(path: Path, name: str, entry: dict[str, Any], data: int) -> RawColumn:
    stored = np.dtype(_DTYPES.get(entry["dtype"], "V1"))
    begin = data + entry["data_offsets"][0]
    return RawColumn(path, f"`{name}` of {path}", tuple(entry["shape"]), stored, begin, entry["dtype"] == "BF16")


class Sink(SpooledSink):
    """`ids` U64 [n] and `rows` F32, F16 or BF16 [n, dim]; of changes `deleted` U64 [d], too."""

    def encoded(self, rows: npt.NDArray[np.floating[Any]]) -> npt.NDArray[Any]:
        if self.dtype == "bf16":
            return narrowed(np.asarray(rows, np.float32))
        return super().encoded(rows)

    def assemble(self, file: IO[bytes]) -> None:
        kind = {"f16": "F16", "bf16": "BF16"}.get(self.dtype, "F32")
        tensors: list[tuple[str, str, list[int], Spool]] = []
        if not self.names.numbered:  # first, since their elements are the widest: so all are aligned
            tensors.append((self.names.ids or "ids", "U64", [self.count], self.ids))
        if self.gone is not None:
            tensors.append((DELETED, "U64", [self.gone_count], self.gone))
        tensors.append((self.names.rows or "rows", kind, [self.count, self.dim], self.rows))
        header: dict[str, Any] = {} if self.changes is None else {"__metadata__": {KEY: self.changes.to_text()}}
        end = 0
        for name, dtype, shape, _ in tensors:
            begin, end = end, end + math.prod(shape) * _BYTES[dtype]
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        file.write(len(text).to_bytes(8, "little") + text)
        for _, _, _, spool in tensors:
            spool.pour(file)
