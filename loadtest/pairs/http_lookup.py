"""http-lookup, uds-lookup: our client and service against redis-py and a Redis with the same rows.

Over TCP loopback, and over a Unix socket.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import numpy as np

from loadtest.pairs.answers import same_rows
from loadtest.pairs.base import Outcome, Pair, enter_peer
from loadtest.pairs.warm_service import TABLE, warm_service
from loadtest.peers.redis_server import keys_of, redis_with_rows
from loadtest.records import Goal
from loadtest.slices import alternate, rate_side
from loadtest.workloads import U64s, random_ids, rows_from_ids

ROWS, DIM, LOOKUP_IDS = 131_072, 64, 4096
OUR_CALLS, THEIR_CALLS = 20, 4


def measure(rounds: int, *, unix: bool) -> Outcome:
    """4,096 random ids a lookup, repeats allowed; one connection, one at a time. Redis gets its keys ready made."""
    rng = np.random.default_rng(2)
    ids = random_ids(ROWS, rng)
    rows = rows_from_ids(ids, DIM)
    with ExitStack() as stack:
        client = stack.enter_context(warm_service(ids, rows, unix=unix)).client
        redis, absent = enter_peer(stack, redis_with_rows(ids, rows, unix=unix))

        def query() -> U64s:
            return rng.choice(ids, LOOKUP_IDS)

        asked = query()
        expected = rows_from_ids(asked, DIM)
        same_rows("the service", client.lookup({TABLE: asked})[TABLE].rows, expected)
        ours = rate_side(lambda asked: client.lookup({TABLE: asked}), query, OUR_CALLS, LOOKUP_IDS)
        theirs = None
        if redis is not None:
            values = b"".join(redis.mget(keys_of(asked)))
            same_rows("Redis", np.frombuffer(values, np.float32).reshape(expected.shape), expected)
            theirs = rate_side(redis.mget, lambda: keys_of(query()), THEIR_CALLS, LOOKUP_IDS)
        figures = alternate(ours, theirs, rounds)
    return Outcome(*figures, absent=absent)


TCP = Pair(
    name="http-lookup",
    what="Our client over TCP loopback against a served instance, 4,096 random ids x 64 f32, all warm, against "
    "redis-py with hiredis: MGET of the same rows over TCP loopback from a redis-server without persistence, its keys "
    "ready made.",
    unit="M ids/s",
    peer="Redis MGET",
    goal=Goal(">=", 15),
    measure=partial(measure, unix=False),
)
UNIX = Pair(
    name="uds-lookup",
    what="The same as http-lookup over Unix sockets on both sides; the redis-server listens on no other.",
    unit="M ids/s",
    peer="Redis MGET",
    goal=Goal(">=", 20),
    measure=partial(measure, unix=True),
)
