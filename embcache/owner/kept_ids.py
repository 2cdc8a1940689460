"""Lists of ids in the data folder: which rows of a version were in memory, those of most use first. Files alone.

    FOLDER/NUMBER.ids    one for each version; all words are little-endian
    magic    8 bytes     MAGIC
    version  u64         its number
    table    u64         xxh3 of its table's name
    counts   u64 [8]     how many ids had use 7, 6, ... 0 (host/eviction.py)
    digest   u64         xxh3 of all the others, the ids included
    ids      u64 [n]     in the order of `counts`

A list is a hint and never the truth: who reads it asks the store for the rows. So it is not synced, and one that is
damaged, or of something else, is worth nothing and harms nobody.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import xxhash

from embcache.owner.by_use import CLASSES
from embcache.owner.flight import Ids

FOLDER: Final = "kept"
MAGIC: Final = b"EMBKEPT1"
_WORDS: Final = 3 + CLASSES  # of the header, behind the magic
HEADER_BYTES: Final = 8 + 8 * _WORDS


class UselessListError(Exception):
    """A list that is damaged, or is of something else."""


def path_of(folder: Path, version: int) -> Path:
    """Where the list of a version is, in a data folder."""
    return folder / FOLDER / f"{version}.ids"


def write(path: Path, version: int, table: str, ids: Sequence[Sequence[Ids]], stopped: threading.Event) -> None:
    """Write a list: ids u64 [n] of each use, the most first, in pieces. It is there as a whole or not at all.

    OSError such as for a full disk. Nothing is written once `stopped` is set.
    """
    counts = [sum(piece.size for piece in pieces) for pieces in ids]
    head = _head(version, table, counts)
    digest = xxhash.xxh3_64(head)
    path.parent.mkdir(exist_ok=True)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with aside.open("wb") as file:
            file.write(head + bytes(8))
            for pieces in ids:
                for piece in pieces:
                    if stopped.is_set():
                        return
                    digest.update(piece.data)
                    file.write(piece.data)
            file.seek(len(head))
            file.write(np.array([digest.intdigest()], "<u8").tobytes())
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)


def read(path: Path, version: int, table: str) -> list[Ids]:
    """The list of a version: ids u64 [n] of each use, the most first, each ascending, which reads the disk in order.

    UselessListError says what is wrong with it; FileNotFoundError where there is none.
    """
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
        if len(header) < HEADER_BYTES or header[:8] != MAGIC:
            raise UselessListError("it does not begin as one does")
        words = np.frombuffer(header[8:], "<u8").astype(np.uint64)
        counts = [int(count) for count in words[2 : 2 + CLASSES]]
        if header[:-8] != _head(version, table, counts):
            raise UselessListError(f"it is of version number {words[0]} of another table or data folder")
        if path.stat().st_size != HEADER_BYTES + 8 * sum(counts):
            raise UselessListError(f"it says that it has {sum(counts)} ids, and is of another size")
        ids = np.fromfile(file, "<u8").astype(np.uint64, copy=False)
    digest = xxhash.xxh3_64(header[:-8])
    digest.update(ids.data)
    if ids.size != sum(counts) or digest.intdigest() != int(words[-1]):
        raise UselessListError("it does not match its checksum")
    ends = np.cumsum(counts)
    return [np.sort(ids[end - count : end]) for count, end in zip(counts, ends.tolist(), strict=True)]


def tidy(folder: Path, versions: Collection[int]) -> None:
    """Remove the lists of all others than these versions, and what a crash left. Nobody may write one meanwhile."""
    wanted = {path_of(folder, version).name for version in versions}
    with contextlib.suppress(FileNotFoundError):
        for path in (folder / FOLDER).iterdir():
            if path.name not in wanted:
                path.unlink()


def copy(source: Path, target: Path) -> None:
    """Give one data folder the lists of another, which may be in use, in place of its own."""
    shutil.rmtree(target / FOLDER, ignore_errors=True)
    for path in sorted((source / FOLDER).glob("[0-9]*.ids")):
        (target / FOLDER).mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # its version went just now
            shutil.copyfile(path, target / FOLDER / path.name)


def _head(version: int, table: str, counts: Sequence[int]) -> bytes:
    """All of a header but the digest."""
    words = (version, xxhash.xxh3_64_intdigest(table.encode()), *counts)
    return MAGIC + np.array(words, "<u8").tobytes()
