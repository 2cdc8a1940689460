"""PyTorch state dicts: a weight by its key, whose row numbers are the ids, or a tensor of ids beside it.

Files are loaded with weights_only, so that no pickle of theirs runs code, and mapped where they are zip archives (torch
since 1.6): then only what is read comes into memory. Older ones torch can only load whole.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from embcache_storage.files_source import (
    ArraySource,
    FileError,
    Names,
    U64Array,
    library,
    narrowed,
    unreadable,
    widened,
)
from embcache_storage.files_tensors import choose
from embcache_storage.files_write import Spool, SpooledSink

_INSTALL: Final = "install PyTorch as https://pytorch.org says for this machine; a CPU build will do"


def open_file(path: Path, names: Names) -> ArraySource:
    """The table of a .pt or .pth file. Keys of nested dicts are joined by dots."""
    columns = {key: _column(path, key, tensor) for key, tensor in _tensors(path).items()}
    ids, rows = choose(path, columns, names)
    for key in filter(None, (ids, rows)):
        if columns[key].dtype.kind == "V":
            raise FileError(
                f"{columns[key].name} is {list(columns[key].shape)} of {columns[key].tensor.dtype}; rows must be "
                "[n, dim] of float32, float16, bfloat16 or float64, ids [n] of integers"
            )
    return ArraySource(path, columns[rows], None if ids is None else columns[ids])


def _tensors(path: Path) -> dict[str, Any]:
    """The dense tensors of a file by their keys."""
    torch = library("torch", path, _INSTALL)
    with path.open("rb") as file:
        mapped = file.read(2) == b"PK"
    damage = (RuntimeError, ValueError, EOFError, KeyError, AttributeError, pickle.UnpicklingError, OSError)
    with unreadable(path, *damage, form="PyTorch's weights_only"):
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    if isinstance(loaded, torch.Tensor):
        loaded = {"rows": loaded}
    if not isinstance(loaded, Mapping):
        raise FileError(f"{path} holds a {type(loaded).__name__}; it should be a state dict or a tensor")
    flat: dict[str, Any] = {}
    _flatten("", loaded, flat)
    return {key: each for key, each in flat.items() if isinstance(each, torch.Tensor) and each.layout == torch.strided}


def _flatten(prefix: str, values: Mapping[Any, Any], flat: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            _flatten(f"{prefix}{key}.", value, flat)
        else:
            flat[f"{prefix}{key}"] = value


@dataclass(frozen=True, slots=True)
class _Column:
    """A tensor of a file, of which what is read is copied."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    """V1 where NumPy has none for it."""
    bf16: bool
    tensor: Any

    def pieces(self, items: int) -> Iterator[npt.NDArray[Any]]:
        torch = import_module("torch")
        for start in range(0, self.shape[0], items):
            piece = self.tensor[start : start + items].detach()
            if self.bf16:
                yield widened(piece.contiguous().view(torch.int16).numpy().view(np.uint16))
            else:
                yield piece.numpy()


def _column(path: Path, key: str, tensor: Any) -> _Column:
    bf16 = str(tensor.dtype) == "torch.bfloat16"
    try:
        dtype = np.dtype(np.float32) if bf16 else tensor[:0].detach().numpy().dtype
    except (TypeError, IndexError, RuntimeError):  # a type that NumPy has not; a tensor without axes
        dtype = np.dtype("V1")
    return _Column(f"`{key}` of {path}", tuple(tensor.shape), dtype, bf16, tensor)


class Sink(SpooledSink):
    """A dict of `ids`, int64 [n], and `rows`, float32, float16 or bfloat16 [n, dim]."""

    def __init__(self, target: Path, work: Path, dim: int, dtype: str, names: Names) -> None:
        self._torch = library("torch", target, _INSTALL)
        super().__init__(target, work, dim, dtype, names)

    def write(self, ids: U64Array, rows: npt.NDArray[np.floating[Any]]) -> None:
        if int(ids[-1]) >= 2**63:
            raise FileError(f"{self.target}: id {ids[-1]} is more than torch's int64 holds; write a .safetensors file")
        super().write(ids, rows)

    def encoded(self, rows: npt.NDArray[np.floating[Any]]) -> npt.NDArray[Any]:
        return narrowed(np.asarray(rows, np.float32)) if self.dtype == "bf16" else super().encoded(rows)

    def assemble(self, file: IO[bytes]) -> None:
        torch = self._torch
        kind = {"f16": torch.float16, "bf16": torch.bfloat16}.get(self.dtype, torch.float32)
        tensors = {self.names.rows or "rows": self._mapped(self.rows, kind, (self.count, self.dim))}
        if not self.names.numbered:
            tensors[self.names.ids or "ids"] = self._mapped(self.ids, torch.int64, (self.count,))
        torch.save(tensors, file)

    def _mapped(self, spool: Spool, dtype: Any, shape: tuple[int, ...]) -> Any:
        if not self.count:
            return self._torch.empty(shape, dtype=dtype)
        return self._torch.from_file(str(spool.done()), size=int(np.prod(shape)), dtype=dtype).view(shape)
