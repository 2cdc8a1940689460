"""import: a whole table out of a file into a running service, against a database that is filled with the same rows."""

from __future__ import annotations

import time
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich.console import Console

from embcache.cli.tables import opened
from embcache.cli.transfer import TableFormat, import_file
from embcache_client import Client
from loadtest.pairs.answers import same_rows
from loadtest.pairs.base import Outcome, Pair, enter_peer
from loadtest.peers.plain_rocksdict import filled_rocksdict, rocksdict_is_there
from loadtest.peers.redis_server import keys_of
from loadtest.records import Goal
from loadtest.served import served
from loadtest.slices import alternate
from loadtest.workloads import random_ids, rows_from_ids

ROWS, DIM = 2_000_000, 64
TABLE = "rows"
BUDGET_S = 120.0
CHECKED = 1000


def measure(rounds: int) -> Outcome:
    """Each round replaces the table, and fills another database. The file is in the page cache."""
    rng = np.random.default_rng(16)
    ids = np.sort(random_ids(ROWS, rng))
    rows = rows_from_ids(ids, DIM)
    checked = np.sort(rng.choice(ROWS, min(CHECKED, ROWS), replace=False))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="loadtest-import-")))
        np.savez(folder / "rows.npz", ids=ids, rows=rows)
        url = stack.enter_context(served("256MiB")).url
        client = stack.enter_context(Client(url))
        tables = stack.enter_context(opened(None, url, None))
        _, absent = enter_peer(stack, rocksdict_is_there())
        keys, numbers = keys_of(ids), count()

        def ours() -> float:
            file, quiet = folder / "rows.npz", Console(quiet=True)
            began = time.perf_counter()
            import_file(tables, TABLE, file, TableFormat(), None, False, quiet)
            rate = _rate(began)
            same_rows("the table", client.lookup({TABLE: ids[checked]})[TABLE].rows, rows[checked])
            return rate

        def theirs() -> float:
            began = time.perf_counter()
            with filled_rocksdict(folder / f"peer-{next(numbers)}", keys, rows) as database:
                rate = _rate(began)
                found = b"".join(database.get([keys[at] for at in checked]))
                same_rows("rocksdict", np.frombuffer(found, np.float32).reshape(-1, DIM), rows[checked])
            return rate

        figures = alternate(ours, None if absent else theirs, rounds, BUDGET_S)
    return Outcome(*figures, absent=absent)


def _rate(began: float) -> float:
    return ROWS / (time.perf_counter() - began) / 1e6


PAIR = Pair(
    name="import",
    what="Rows of 64 x f32 of an .npz of 2,000,000 with ascending ids, as `embcache import --url` brings them into a "
    "served table over TCP loopback, in place of those before, until they are live and durable; without the start of "
    "that command's process. Against rocksdict: WriteBatches of 20,000 of the same rows out of memory, its keys ready "
    "made, and a flush, into a database of its own with default options.",
    unit="M rows/s",
    peer="rocksdict put",
    goal=Goal(">=", 4),
    measure=measure,
)
