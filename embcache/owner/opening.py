"""Opening the store by the settings; what can be wrong with them is said in their words."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from embcache.config import Cold
from embcache.errors import ConfigError
from embcache.owner.threads import log
from embcache_storage.store import RowStore, StoreError, StoreLocked

if TYPE_CHECKING:
    from embcache_storage.rocks import RocksOptions

_RETRY_S: Final = 0.1


def engine_options(cold: Cold, *, merge: bool = True) -> RocksOptions:
    """What the settings say of the store. merge: whether its files are merged in the background."""
    from embcache_storage.rocks import RocksOptions  # rocksdict takes its time

    return RocksOptions(
        block_cache=cold.block_cache,
        write_buffer=cold.write_buffer,
        wal_limit=cold.wal_limit,
        open_timeout_s=cold.open_timeout_s,
        merge=merge,
    )


def open_store(cold: Cold, patience_s: float = 0.0) -> RowStore:
    """The store in `cold.path`, made where there is none. ConfigError when the folder cannot be used or is locked.

    patience_s: how long to wait for another owner that is about to close it, see claim.py.
    """
    from embcache_storage.rocks import RocksStore

    try:
        cold.path.mkdir(parents=True, exist_ok=True)
        return _opened(partial(RocksStore, cold.path / "rocksdb", engine_options(cold)), patience_s)
    except StoreLocked as error:
        raise ConfigError(
            f"cold.path {cold.path}: another process has it open; stop that one, attach to it (EmbeddingCache.attach), "
            "or give --url http://... to a command that asks a running service"
        ) from error
    except StoreError as error:
        if type(error) is StoreError:  # none of the kinds that say more, so it is about the folder
            raise ConfigError(f"cold.path {cold.path}: cannot be opened: {error}") from error
        raise
    except OSError as error:
        raise ConfigError(f"cold.path {cold.path}: cannot be used: {error.strerror or error}") from error


def _opened(opening: Callable[[], RowStore], patience_s: float) -> RowStore:
    until, told = time.monotonic() + patience_s, False
    while True:
        try:
            return opening()
        except StoreLocked:
            if time.monotonic() >= until:
                raise
            if not told:
                log.info("an owner whose service died has the data open still: waiting until it is closed")
            told = True
            time.sleep(_RETRY_S)
