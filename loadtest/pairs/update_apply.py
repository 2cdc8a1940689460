"""update-apply: `add` onto rows that exist, until lookups see it, against RocksDB's reads and writes alone."""

from __future__ import annotations

import time
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from embcache.updatecalls import Change
from loadtest.pairs.base import Outcome, Pair, enter_peer
from loadtest.pairs.cold_cache import TABLE, cold_cache
from loadtest.peers.plain_rocksdict import rocksdict_with_rows
from loadtest.peers.redis_server import keys_of
from loadtest.records import Goal
from loadtest.slices import alternate
from loadtest.workloads import F32s, U64s, random_ids, rows_from_ids

ROWS, DIM, BATCH_IDS, BATCHES = 262_144, 64, 4096, 8
PRODUCER = "producer"
_WITHIN_S = 60.0


def measure(rounds: int) -> Outcome:
    """Ours is logged, synced, and put into the arena besides; one batch waits for the one before it on both sides."""
    rng = np.random.default_rng(10)
    ids = random_ids(ROWS, rng)
    rows = rows_from_ids(ids, DIM)
    deltas = np.ones((BATCH_IDS, DIM), np.float32)

    def batches() -> list[U64s]:
        return [rng.choice(ids, BATCH_IDS, replace=False) for _ in range(BATCHES)]

    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="loadtest-apply-")))
        cache = stack.enter_context(cold_cache(folder, ids, rows))
        database, absent = enter_peer(stack, rocksdict_with_rows(folder / "peer", keys_of(ids), rows))
        epoch, numbers = cache.open_producer(PRODUCER).epoch, count(1)

        def ours() -> float:
            made = [Change(TABLE, "add", chosen, deltas.view(np.uint8)) for chosen in batches()]
            began = time.perf_counter()
            for change in made:
                cache.update(PRODUCER, epoch, next(numbers), [change], applied_within_s=_WITHIN_S)
            return _rate(began)

        def theirs() -> float:
            made = [keys_of(chosen) for chosen in batches()]
            began = time.perf_counter()
            for keys in made:
                _add(database, keys, deltas)
            return _rate(began)

        figures = alternate(ours, theirs if database is not None else None, rounds)
    return Outcome(*figures, absent=absent)


def _add(database: Any, keys: list[bytes], deltas: F32s) -> None:
    from rocksdict import WriteBatch

    rows = np.frombuffer(b"".join(database.get(keys)), "<f4").reshape(deltas.shape) + deltas
    batch = WriteBatch(raw_mode=True)
    for key, row in zip(keys, rows, strict=True):
        batch.put(key, row.tobytes())
    database.write(batch)


def _rate(began: float) -> float:
    return BATCHES * BATCH_IDS / (time.perf_counter() - began) / 1e6


PAIR = Pair(
    name="update-apply",
    what="Rows of 64 x f32 to which something is added, of 262,144, in batches of 4,096, each pushed in process and "
    "waited for until lookups see it, against rocksdict's list get and WriteBatch of the same rows alone, without a "
    "log of updates, a sync or a cache.",
    unit="M rows/s",
    peer="rocksdict alone",
    goal=Goal(">=", 0.7),
    measure=measure,
)
