"""Writing table files: complete under their name, or not there at all."""

from __future__ import annotations

import os
import secrets
import shutil
import zipfile
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from embcache_storage.files_changes import DELETED, MEMBER, Changes
from embcache_storage.files_formats import to_write
from embcache_storage.files_source import FileError, Names, U64Array

_COPY_BYTES: Final = 8 << 20


class Sink(ABC):
    """One format's way of writing. What it writes lies in a folder of its own until it is complete."""

    def __init__(self, target: Path, work: Path, dim: int, dtype: str, names: Names) -> None:
        """target: for messages. work: an empty folder. dtype: of the table, "f32", "f16", "bf16" or "q8"."""
        self.target, self.work, self.dim, self.dtype, self.names = target, work, dim, dtype, names

    @abstractmethod
    def write(self, ids: U64Array, rows: npt.NDArray[np.floating[Any]]) -> None:
        """Append ids [n], n > 0, and rows [n, dim]. FileError where the format cannot hold them."""

    def delete(self, ids: U64Array) -> None:
        """Of changes: ids [n] that have no row any more, after all that have one."""
        raise NotImplementedError

    @abstractmethod
    def finish(self) -> Path:
        """The complete file or folder, in the work folder; all of it durable."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is open, finished or not."""


class TableWriter:
    """Writes a table in the format that the ending of its name says, or `format`. Use as a context manager.

    The file appears, durable, when the block ends; after an error nothing is left, and a file that had the name stays
    as it was. .npz, .safetensors and .pt take their size twice on the disk until they are complete.
    """

    def __init__(
        self,
        path: str | Path,
        dim: int,
        dtype: str = "f32",
        format: str | None = None,
        names: Names = Names(),  # noqa: B008
        changes: Changes | None = None,
    ) -> None:
        """`dtype` is the table's: rows are written in the narrowest type of the format that loses nothing of it.

        changes: the rows are those that changed, and `delete` is told the ids of those that are gone.
        """
        self._path = Path(path)
        self._format = to_write(self._path, format, changes is not None)
        if names.ids is not None and names.ids == names.rows:
            raise FileError(f"{path}: ids and rows cannot both be called `{names.ids}`")
        if changes is not None and (names.numbered or {names.ids, names.rows} & {DELETED, MEMBER}):
            raise FileError(f"{path}: changes need ids, and those that are gone are called `{DELETED}`")
        if not self._path.parent.is_dir():
            raise FileError(f"{path}: there is no folder {self._path.parent}")
        if self._path.is_dir() or (self._format.name == "hps" and self._path.exists()):
            raise FileError(f"{path} is there already, and a folder is not written over; name another, or remove it")
        self._numbered = self._format.name == "npy" or names.numbered
        self._dim = dim
        self._next = 0
        self._rows = 0
        sink = self._format.sink_class()
        self._work = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}.part")
        self._work.mkdir()
        try:
            more = () if changes is None else (changes,)
            self._sink: Sink = sink(self._path, self._work, dim, dtype, names, *more)
        except BaseException:
            shutil.rmtree(self._work)
            raise

    def write(self, ids: U64Array, rows: npt.NDArray[np.floating[Any]]) -> None:
        """Append rows float [n, dim] for ids uint64 [n], which ascend over all calls.

        FileError where row numbers are the ids and there would be a gap. ValueError for another shape or order.
        """
        if rows.shape != (len(ids), self._dim):
            raise ValueError(f"rows must be {[len(ids), self._dim]}, not {list(rows.shape)}")
        if not len(ids):
            return
        if int(ids[0]) < self._next or not np.all(ids[1:] > ids[:-1]):
            raise ValueError("ids must ascend over all calls")
        self._next = int(ids[-1]) + 1
        if self._numbered and self._next != self._rows + len(ids):
            gap = self._rows + int(np.argmax(ids != np.arange(self._rows, self._rows + len(ids), dtype=np.uint64)))
            kind, instead = (
                ("in an .npy", "write an .npz") if self._format.name == "npy" else ("here", "give ids a name")
            )
            raise FileError(
                f"{self._path}: there is no row for id {gap}, but {kind} the row number is the id; {instead}"
            )
        self._sink.write(ids, rows)
        self._rows += len(ids)

    def delete(self, ids: U64Array) -> None:
        """Of changes: ids uint64 [n] that have no row any more, after all that have one."""
        if len(ids):
            self._sink.delete(ids)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._sink.finish().replace(self._path)
                _sync_folder(self._path.parent)
        finally:
            self._sink.close()
            shutil.rmtree(self._work)


class Spool:
    """A file in the work folder that takes bytes, and gives them to another file at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("xb")

    def write(self, array: npt.NDArray[Any]) -> None:
        self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def done(self) -> Path:
        """Nothing more is written; the file, durable."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._path

    def pour(self, other: IO[bytes]) -> None:
        """Append all of it to another file."""
        self._file.flush()
        with self._path.open("rb") as file:
            shutil.copyfileobj(file, other, _COPY_BYTES)

    def close(self) -> None:
        self._file.close()


class NpySink(Sink):
    """The header is as long for any number of rows, and is written again at the end."""

    def __init__(self, target: Path, work: Path, dim: int, dtype: str, names: Names) -> None:
        super().__init__(target, work, dim, dtype, names)
        if names.rows is not None or (names.ids is not None and not names.numbered):
            raise FileError(f"{target}: an .npy holds one array without a name; --ids and --rows are for other formats")
        self._kept = float_dtype(dtype)
        self._rows = 0
        self._whole = work / "whole"
        self._file = self._whole.open("xb")
        self._header_bytes = self._write_header()

    def write(self, ids: U64Array, rows: npt.NDArray[np.floating[Any]]) -> None:
        self._file.write(np.ascontiguousarray(rows, self._kept).data)
        self._rows += len(ids)

    def finish(self) -> Path:
        self._file.seek(0)
        if self._write_header() != self._header_bytes:
            raise FileError(f"{self.target}: the header of {self._rows:,} rows does not fit where it was kept free")
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._whole

    def close(self) -> None:
        self._file.close()

    def _write_header(self) -> int:
        write_npy_header(self._file, (self._rows, self.dim), self._kept)
        return self._file.tell()


class SpooledSink(Sink):
    """Ids and rows in files of their own, until their number is known: for formats that begin with it."""

    def __init__(
        self, target: Path, work: Path, dim: int, dtype: str, names: Names, changes: Changes | None = None
    ) -> None:
        super().__init__(target, work, dim, dtype, names)
        self.changes = changes
        self.count = self.gone_count = 0
        self.ids = Spool(work / "ids")
        self.rows = Spool(work / "rows")
        self.gone = None if changes is None else Spool(work / "deleted")

    def write(self, ids: U64Array, rows: npt.NDArray[np.floating[Any]]) -> None:
        self.ids.write(np.asarray(ids, "<u8"))
        self.rows.write(self.encoded(rows))
        self.count += len(ids)

    def delete(self, ids: U64Array) -> None:
        assert self.gone is not None
        self.gone.write(np.asarray(ids, "<u8"))
        self.gone_count += len(ids)

    def encoded(self, rows: npt.NDArray[np.floating[Any]]) -> npt.NDArray[Any]:
        """Rows as they lie in the file."""
        return np.asarray(rows, float_dtype(self.dtype))

    def finish(self) -> Path:
        whole = self.work / "whole"
        with whole.open("xb") as file:
            self.assemble(file)
            file.flush()
            os.fsync(file.fileno())
        return whole

    @abstractmethod
    def assemble(self, file: IO[bytes]) -> None:
        """Write the whole file out of the two."""

    def close(self) -> None:
        for spool in filter(None, (self.ids, self.rows, self.gone)):
            spool.close()


class NpzSink(SpooledSink):
    """An archive whose members are not compressed, as numpy.savez writes it."""

    def assemble(self, file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as packed:
            if not self.names.numbered:
                _add(packed, self.names.ids or "ids", (self.count,), np.dtype("<u8"), self.ids)
            _add(packed, self.names.rows or "rows", (self.count, self.dim), float_dtype(self.dtype), self.rows)
            if self.changes is not None and self.gone is not None:
                _add(packed, DELETED, (self.gone_count,), np.dtype("<u8"), self.gone)
                with packed.open(f"{MEMBER}.npy", "w") as member:
                    npy_format.write_array(member, np.array(self.changes.to_text()), allow_pickle=False)


def _add(packed: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], spool: Spool) -> None:
    with packed.open(f"{name}.npy", "w", force_zip64=True) as member:
        write_npy_header(member, shape, dtype)
        spool.pour(member)


def float_dtype(dtype: str) -> np.dtype[Any]:
    """Of NumPy's types the narrowest that loses nothing of a table's."""
    return np.dtype("<f2" if dtype == "f16" else "<f4")


def write_npy_header(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    description = npy_format.dtype_to_descr(dtype)
    npy_format.write_array_header_1_0(file, {"descr": description, "fortran_order": False, "shape": shape})


def _sync_folder(folder: Path) -> None:
    """Make a rename in it survive power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
