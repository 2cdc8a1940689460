"""http-lookup-socket, http-large: how much of what two sockets can move is left once it is a service."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np

from embcache_client.wire import decode_lookup_reply
from loadtest.pairs.answers import same_rows
from loadtest.pairs.base import Outcome, Pair
from loadtest.pairs.warm_service import TABLE, exchanged, warm_service
from loadtest.peers.blocking_sockets import blocking_sockets
from loadtest.records import Goal
from loadtest.slices import alternate, rate_side
from loadtest.workloads import U64s, random_ids, rows_from_ids

ROWS, DIM, LOOKUP_IDS, LARGE_IDS = 131_072, 64, 4096, 32_768
CALLS_A_SLICE, LARGE_CALLS = 20, 5


def measure_lookup(rounds: int) -> Outcome:
    """A reply of 1 MiB."""
    return _measure(rounds, LOOKUP_IDS, CALLS_A_SLICE)


def measure_large(rounds: int) -> Outcome:
    """A reply of 8 MiB."""
    return _measure(rounds, LARGE_IDS, LARGE_CALLS)


def _measure(rounds: int, count: int, calls: int) -> Outcome:
    """The sockets carry one of our own requests and its reply, time and again; ours are of other ids each time."""
    rng = np.random.default_rng(2)
    ids = random_ids(ROWS, rng)
    with ExitStack() as stack:
        service = stack.enter_context(warm_service(ids, rows_from_ids(ids, DIM)))

        def query() -> U64s:
            return rng.choice(ids, count)

        asked = query()
        sample = exchanged(service.url, asked)
        exchange = stack.enter_context(blocking_sockets(len(sample.request), sample.reply))
        expected = rows_from_ids(asked, DIM)
        same_rows("the service", service.client.lookup({TABLE: asked})[TABLE].rows, expected)
        same_rows("the socket", decode_lookup_reply(exchange(sample.request))[TABLE].rows, expected)
        ours = rate_side(lambda asked: service.client.lookup({TABLE: asked}), query, calls, count)
        theirs = rate_side(exchange, lambda: sample.request, calls, count)
        figures = alternate(ours, theirs, rounds)
    return Outcome(*figures)


LOOKUP = Pair(
    name="http-lookup-socket",
    what="Our client over TCP loopback against a served instance, 4,096 random ids x 64 f32, all warm, against two "
    "blocking sockets over TCP loopback: a request of the same bytes, and the same 1 MiB of reply every time, sent "
    "from one buffer and received into one by recv_into. They know no ids and look nothing up.",
    unit="M ids/s",
    peer="two sockets",
    goal=Goal(">=", 0.7),
    measure=measure_lookup,
)
LARGE = Pair(
    name="http-large",
    what="The same with 32,768 ids, 8 MiB of reply.",
    unit="M ids/s",
    peer="two sockets",
    goal=Goal(">=", 0.7),
    measure=measure_large,
)
