"""rocksdict as its own README uses it: default options, writes in batches, one list get for many keys."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.peers import PeerAbsent

LOAD_CHUNK = 20_000


@contextmanager
def rocksdict_is_there() -> Iterator[None]:
    """PeerAbsent where rocksdict is not installed."""
    try:
        import rocksdict  # noqa: F401
    except ImportError as error:
        raise PeerAbsent("the package rocksdict is not installed") from error
    yield


@contextmanager
def filled_rocksdict(folder: Path, keys: list[bytes], rows: NDArray[np.float32]) -> Iterator[Any]:
    """An open Rdict in `folder`, removed at the end, that holds each row's bytes under its key, in files and durable.

    Raw mode spares it the pickling of keys and values.
    """
    from rocksdict import Options, Rdict, WriteBatch

    database = Rdict(str(folder), Options(raw_mode=True))
    try:
        for start in range(0, len(keys), LOAD_CHUNK):
            batch = WriteBatch(raw_mode=True)
            for key, row in zip(keys[start : start + LOAD_CHUNK], rows[start : start + LOAD_CHUNK], strict=True):
                batch.put(key, row.tobytes())
            database.write(batch)
        database.flush()
        yield database
    finally:
        database.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def rocksdict_with_rows(folder: Path, keys: list[bytes], rows: NDArray[np.float32]) -> Iterator[Any]:
    """The same, compacted. PeerAbsent where rocksdict is not installed."""
    with rocksdict_is_there(), filled_rocksdict(folder, keys, rows) as database:
        database.compact_range(None, None)
        yield database
