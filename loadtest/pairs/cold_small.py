"""cold-small: a recommender's lookup of which a few ids are cold: one call to the owner, and its reads from disk."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from embcache_client.results import COLD
from loadtest.pairs.base import Outcome, Pair
from loadtest.pairs.cold_cache import TABLE, cold_cache
from loadtest.records import Goal
from loadtest.slices import alternate, p50_us
from loadtest.workloads import U64s, random_ids, rows_from_ids

ROWS, DIM, LOOKUP_IDS, COLD_IDS, HOT_IDS = 1_000_000, 64, 270, 40, 500
CALLS_A_SLICE = 100
WARM_UPS = 10


def measure(rounds: int) -> Outcome:
    """Cold ids are asked once in a permutation of the table; the others, of few that are asked time and again, stay."""
    rng = np.random.default_rng(7)
    ids = random_ids(ROWS, rng)
    order = rng.permutation(ids)
    hot, rest = order[:HOT_IDS], order[HOT_IDS:]
    colds = cycle([rest[start : start + COLD_IDS] for start in range(0, len(rest) - COLD_IDS + 1, COLD_IDS)])
    strays: list[int] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="loadtest-cold-")))
        cache = stack.enter_context(cold_cache(folder, ids, rows_from_ids(ids, DIM)))

        def look_up(query: U64s) -> None:
            status = cache.lookup({TABLE: query})[TABLE].status
            strays.append(int(np.count_nonzero(status == COLD)) - COLD_IDS)

        def query() -> U64s:
            return np.concatenate([next(colds), rng.choice(hot, LOOKUP_IDS - COLD_IDS)])

        for _ in range(WARM_UPS):
            cache.lookup({TABLE: hot})
        figures = alternate(lambda: p50_us(look_up, [query() for _ in range(CALLS_A_SLICE)]), None, rounds)
    share = np.count_nonzero(strays) / len(strays)
    return Outcome(*figures, note=f"{share:.2%} of the lookups had not {COLD_IDS} cold ids" if share else "")


PAIR = Pair(
    name="cold-small",
    what="p50 of a lookup of 270 ids x 64 f32 of a million rows, 230 warm and 40 cold for our tiers but in the page "
    "cache, through EmbeddingCache.open in process.",
    unit="us",
    peer=None,
    goal=Goal("<=", 5000),
    measure=measure,
)
