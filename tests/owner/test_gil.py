"""A large batch is no long hold of the GIL, which stops every thread of the owner, and with them lookups.

rocksdict holds it for the whole of a write, and how long that takes is a matter of rows and bytes: those are counted
here, not time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embcache.spec import TableSpec
from embcache_storage.rocks import RocksStore
from embcache_storage.rocks_log import PIECE_BYTES
from tests.owner.support import WAIT, OwnerThread

ROWS = 100_000
SPEC = TableSpec(name="item", dim=64)
MAX_ROWS = 2048 + 64  # and what goes with them: the cursor, producers
MAX_BYTES = 2 * PIECE_BYTES + (4 << 10)


class CountedDatabase:
    """rocksdict's database; `writes` has the operations and the bytes of each write."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.writes: list[tuple[int, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def write(self, batch: Any, *options: Any) -> None:
        self.writes.append((len(batch), batch.size_in_bytes()))
        self._database.write(batch, *options)

    def put(self, key: bytes, value: bytes, *options: Any) -> None:
        self.writes.append((1, len(key) + len(value)))
        self._database.put(key, value, *options)


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[tuple[OwnerThread, CountedDatabase]]:
    store: Any = RocksStore(tmp_path / "rocksdb")
    database = CountedDatabase(store._database)
    store._database = store.log._database = database
    with OwnerThread(store, tmp_path, [SPEC]) as owner:
        yield owner, database


def test_no_write_of_a_large_batch_is_large(counted: tuple[OwnerThread, CountedDatabase]) -> None:
    owner, database = counted
    link = owner.link()
    link.call("open_producer", {"producer": "p"}).result(WAIT)
    draw = np.random.default_rng(1)
    ids = draw.permutation(ROWS).astype(np.uint64)
    rows = draw.standard_normal((ROWS, SPEC.dim), np.float32)
    for seq, op in enumerate(("assign", "add", "delete"), 1):
        database.writes.clear()
        asked = {"producer": "p", "epoch": 1, "seq": seq, "mark": b"", "applied_within_s": WAIT}
        payload: list[Any] = [ids] if op == "delete" else [ids, rows]
        change = ["item", op, 0, ROWS, 0 if op == "delete" else SPEC.row_bytes]
        told = link.call("update", {**asked, "changes": [change]}, payload).result(WAIT).meta
        assert told["applied"] == told["position"]
        operations, sizes = zip(*database.writes, strict=True)
        assert max(operations) <= MAX_ROWS
        assert max(sizes) <= MAX_BYTES
        assert sum(operations) > ROWS, "all rows went through here"
        assert sum(sizes) > 8 * ROWS + sum(array.nbytes for array in payload), "and the entry of the log"
