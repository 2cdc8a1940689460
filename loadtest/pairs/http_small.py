"""http-small: what our service adds to a small request, over the least that a Python HTTP service can do."""

from __future__ import annotations

import urllib.request
from contextlib import ExitStack

import numpy as np

from embcache_client import Client
from embcache_client.wire import MEDIA_TYPE, Query, encode_lookup
from loadtest.pairs.base import Outcome, Pair
from loadtest.pairs.warm_service import TABLE, warm_service
from loadtest.peers.bare_app import bare_app
from loadtest.records import Goal
from loadtest.slices import alternate, p50_us
from loadtest.workloads import U64s, random_ids, rows_from_ids

ROWS, DIM, LOOKUP_IDS = 131_072, 64, 16
CALLS_A_SLICE = 300


def measure(rounds: int) -> Outcome:
    """One connection, one request at a time. The bare app answers each with the bytes of one of our own replies."""
    rng = np.random.default_rng(3)
    ids = random_ids(ROWS, rng)
    with ExitStack() as stack:
        ours = stack.enter_context(warm_service(ids, rows_from_ids(ids, DIM)))
        url = stack.enter_context(bare_app(_reply_of(ours.url, ids[:LOOKUP_IDS])))
        theirs = stack.enter_context(Client(url))

        def median(client: Client) -> float:
            asked = [rng.choice(ids, LOOKUP_IDS) for _ in range(CALLS_A_SLICE)]
            return p50_us(lambda query: client.lookup({TABLE: query}), asked)

        figures = alternate(lambda: median(ours.client), lambda: median(theirs), rounds)
    return Outcome(*figures)


def _reply_of(url: str, ids: U64s) -> bytes:
    """The body with which the service answers a lookup of these ids."""
    body = encode_lookup([Query(TABLE, ids)])
    request = urllib.request.Request(f"{url}/v1/lookup", data=body, headers={"content-type": MEDIA_TYPE})
    with urllib.request.urlopen(request) as reply:
        return bytes(reply.read())


PAIR = Pair(
    name="http-small",
    what="p50 of a lookup of 16 warm ids x 64 f32 over TCP loopback, against the same client asking a bare uvicorn "
    "ASGI app (uvloop, httptools) that answers as many bytes without looking at the request.",
    unit="us",
    peer="bare uvicorn",
    goal=Goal("<=", 1.5),
    measure=measure,
)
