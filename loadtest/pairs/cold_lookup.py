"""cold-lookup: rows that no tier of ours holds, but the page cache does, against rocksdict as it comes."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from embcache_client.results import COLD
from loadtest.pairs.base import Outcome, Pair, enter_peer
from loadtest.pairs.cold_cache import TABLE, cold_cache
from loadtest.peers.plain_rocksdict import rocksdict_with_rows
from loadtest.peers.redis_server import keys_of
from loadtest.records import Goal
from loadtest.slices import alternate, rate_side
from loadtest.workloads import U64s, random_ids, rows_from_ids

ROWS, DIM, LOOKUP_IDS = 1_000_000, 64, 4096
CALLS_A_SLICE = 4


def measure(rounds: int) -> Outcome:
    """Ids come from a permutation of the whole table, so that none returns before the small warm tier forgot it."""
    rng = np.random.default_rng(4)
    ids = random_ids(ROWS, rng)
    rows = rows_from_ids(ids, DIM)
    order = rng.permutation(ids)
    asked = cycle([order[start : start + LOOKUP_IDS] for start in range(0, ROWS - LOOKUP_IDS + 1, LOOKUP_IDS)])
    strays: list[int] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="loadtest-cold-")))
        cache = stack.enter_context(cold_cache(folder, ids, rows))
        database, absent = enter_peer(stack, rocksdict_with_rows(folder / "peer", keys_of(ids), rows))

        def look_up(query: U64s) -> None:
            strays.append(int(np.count_nonzero(cache.lookup({TABLE: query})[TABLE].status != COLD)))

        ours = rate_side(look_up, lambda: next(asked), CALLS_A_SLICE, LOOKUP_IDS)
        theirs = None
        if database is not None:
            theirs = rate_side(database.get, lambda: keys_of(next(asked)), CALLS_A_SLICE, LOOKUP_IDS)
        figures = alternate(ours, theirs, rounds)
    share = sum(strays) / (len(strays) * LOOKUP_IDS)
    return Outcome(*figures, absent=absent, note=f"{share:.2%} of our ids were not cold" if share else "")


PAIR = Pair(
    name="cold-lookup",
    what="4,096 ids x 64 f32 of a million rows, all cold for our tiers but in the page cache, through "
    "EmbeddingCache.open in process, against rocksdict's list get of the same keys from a database of its own: default "
    "options, same rows, compacted, keys ready made.",
    unit="M ids/s",
    peer="rocksdict get",
    goal=Goal(">=", 1.0),
    measure=measure,
)
