"""Writing table files: complete under their name, or not there at all."""

from __future__ import annotations

import os
import secrets
import shutil
import zipfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from embcache_storage.files_arrays import FileError

_COPY_BYTES: Final = 8 << 20


class TableWriter:
    """Writes a table as .npy or .npz, by the ending of its name. Use as a context manager.

    The file appears, durable, when the block ends; after an error nothing is left, and a file that had the name stays
    as it was. An .npz takes its size twice on the disk until it is complete, and 8 bytes of memory for each id.
    """

    def __init__(self, path: str | Path, dim: int, dtype: str = "f32") -> None:
        """`dtype` is the table's: "f16" is written as float16, any other as float32. FileError, OSError."""
        self._path = Path(path)
        if self._path.suffix not in (".npy", ".npz"):
            raise FileError(f"{path}: a table is written as .npy or .npz, by the ending of its name")
        self._dim = dim
        self._dtype = np.dtype("<f2" if dtype == "f16" else "<f4")
        self._ids: list[npt.NDArray[np.uint64]] = []
        self._next = 0
        self._rows = 0
        hidden = f".{self._path.name}.{secrets.token_hex(4)}"
        self._archive = self._path.with_name(f"{hidden}.zip.part")
        self._spool = self._path.with_name(f"{hidden}.part")
        self._file = self._spool.open("xb")
        self._header_bytes = self._write_header()

    def write(self, ids: npt.NDArray[np.uint64], rows: npt.NDArray[np.floating[Any]]) -> None:
        """Append rows float [n, dim] for ids uint64 [n], which ascend over all calls.

        FileError where an .npy, whose row numbers are the ids, would have a gap. ValueError for another shape or order.
        """
        if rows.shape != (len(ids), self._dim):
            raise ValueError(f"rows must be {[len(ids), self._dim]}, not {list(rows.shape)}")
        if not len(ids):
            return
        if int(ids[0]) < self._next or not np.all(ids[1:] > ids[:-1]):
            raise ValueError("ids must ascend over all calls")
        self._next = int(ids[-1]) + 1
        if self._path.suffix == ".npz":
            self._ids.append(np.array(ids, "<u8"))
        elif self._next != self._rows + len(ids):
            gap = self._rows + int(np.argmax(ids != np.arange(self._rows, self._rows + len(ids), dtype=np.uint64)))
            raise FileError(
                f"{self._path}: there is no row for id {gap}, but in an .npy the row number is the id; write an .npz"
            )
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)
        self._rows += len(ids)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            self._file.close()
            self._spool.unlink(missing_ok=True)
            self._archive.unlink(missing_ok=True)

    def _finish(self) -> None:
        self._file.seek(0)
        if self._write_header() != self._header_bytes:
            raise FileError(f"{self._path}: the header of {self._rows:,} rows does not fit where it was kept free")
        self._file.flush()
        if self._path.suffix == ".npz":
            with self._archive.open("xb") as archive:
                self._pack(archive)
                os.fsync(archive.fileno())
            self._archive.replace(self._path)
        else:
            os.fsync(self._file.fileno())
            self._spool.replace(self._path)
        _sync_folder(self._path.parent)

    def _write_header(self) -> int:
        """Write the header for the rows so far; it is as long for any number of them. Returns where it ends."""
        _write_header(self._file, (self._rows, self._dim), self._dtype)
        return self._file.tell()

    def _pack(self, archive: IO[bytes]) -> None:
        """Write ids and spooled rows as an archive whose members can be mapped, since they are not compressed."""
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
            with packed.open("ids.npy", "w", force_zip64=True) as member:
                _write_header(member, (self._rows,), np.dtype("<u8"))
                for ids in self._ids:
                    member.write(ids.data)
            with packed.open("rows.npy", "w", force_zip64=True) as member, self._spool.open("rb") as spool:
                shutil.copyfileobj(spool, member, _COPY_BYTES)
        archive.flush()


def _write_header(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    description = npy_format.dtype_to_descr(dtype)
    npy_format.write_array_header_1_0(file, {"descr": description, "fortran_order": False, "shape": shape})


def _sync_folder(folder: Path) -> None:
    """Make a rename in it survive power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
