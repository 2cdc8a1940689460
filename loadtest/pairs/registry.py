"""All pairs that `compare` knows, in the order in which it runs them."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest.pairs import (
    attach,
    cold_lookup,
    cold_small,
    curve_cost,
    dlrm_query,
    expiry_sweep,
    http_bags,
    http_clients,
    http_lookup,
    http_small,
    http_sockets,
    lookup_while_updating,
    memory,
    policy,
    shares,
    startup,
    update_apply,
    update_durable,
    update_sustained,
    update_visible,
    version_switch,
    warm_lookup,
    whole_import,
    workers,
)
from loadtest.pairs.base import Pair

ALL: tuple[Pair, ...] = (
    warm_lookup.NUMPY,
    warm_lookup.FBGEMM,
    attach.PAIR,
    http_lookup.TCP,
    http_sockets.LOOKUP,
    http_lookup.UNIX,
    http_sockets.LARGE,
    http_small.P50,
    http_small.P99,
    workers.PAIR,
    http_bags.PAIR,
    dlrm_query.PAIR,
    http_clients.PAIR,
    cold_lookup.PAIR,
    cold_small.PAIR,
    update_durable.PAIR,
    update_sustained.PAIR,
    update_visible.PAIR,
    lookup_while_updating.PAIR,
    update_apply.PAIR,
    version_switch.PAIR,
    expiry_sweep.PAIR,
    whole_import.PAIR,
    memory.PAIR,
    policy.POLICY,
    policy.COST,
    curve_cost.PAIR,
    shares.PAIR,
    startup.WARM,
    startup.FIRST,
)


def selected(names: Sequence[str]) -> list[Pair]:
    """The named pairs in ALL's order; all of them where no name is given. ValueError names what is not a pair."""
    known = [pair.name for pair in ALL]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"no pair is called {', '.join(unknown)}; there are {', '.join(known)}")
    return [pair for pair in ALL if not names or pair.name in names]
