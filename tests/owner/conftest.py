"""An owner for each test, over a store that the test can watch and hold back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from embcache.host.warm import warm_readers, warm_writer
from tests.owner.stores import WatchedStore
from tests.owner.support import ITEM, OwnerThread


@pytest.fixture(scope="session", autouse=True)
def compiled() -> None:
    """Kernels compiled before anything waits for an owner that uses them: after an edit that takes half a minute."""
    warm_writer()
    warm_readers()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[WatchedStore]:
    store = WatchedStore(tmp_path / "rocksdb")
    yield store
    store.close()


@pytest.fixture
def owner(tmp_path: Path, store: WatchedStore) -> Iterator[OwnerThread]:
    """An owner with the empty table `item`, audited at its end."""
    with OwnerThread(store, tmp_path, [ITEM]) as owner:
        yield owner
