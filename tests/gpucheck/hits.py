"""Lookups that find all of their ids, measured; for the stages that fill tables of some width and size."""

from __future__ import annotations

import time

from embcache.gpu.device import Memory
from embcache.gpu.launcher import Ticket
from embcache.gpu.tiles import rows_a_tile
from loadtest.gpu import measured
from tests.gpucheck.ceilings import copied
from tests.gpucheck.check import Check, Lines, rate, spread
from tests.gpucheck.direct import COUNTED, Direct, tiles_of
from tests.gpucheck.filled import WRITING, Filled

_TURNS, _SAMPLES = 32, 15


def ids_a_launch(check: Check) -> int:
    return check.of(1 << 20, 1 << 10)


def sets_of_ids(check: Check, filled: Filled) -> list[Memory]:
    """Arrays of ids for lookups in turn, no id twice: their rows are far more than caches hold."""
    count = ids_a_launch(check)
    return filled.pick(count, max(1, min(check.of(8, 2), filled.held // count)))


def measure_hits(check: Check, filled: Filled, sets: list[Memory], name: str, *, share: bool = False) -> Lines:
    """The figure `name`, and of some, what it is of the device's copy. sets: arrays of ids that are held."""
    count, stream = ids_a_launch(check), check.device.stream()
    direct = Direct(check, filled, sets, count)
    direct.prove(stream, WRITING)
    seconds = check.seconds(stream, lambda k: direct.turn(stream, k), check.of(_TURNS, 2), check.of(_SAMPLES, 2))
    direct.prove(stream, WRITING)
    counted = 2 * filled.row_bytes + COUNTED
    moved = rate(count * counted, seconds) / 1e12
    more = {"bytes_an_id": counted, "tb_per_s": moved, "table_full": round(filled.full, 4), "rows_held": filled.held}
    launched = _launched(check, filled, sets, direct.out) / 1e9
    yield {**measured(name, rate(count, seconds) / 1e9), **spread(seconds), **more, "by_the_launcher": launched}
    if share:
        copy = copied(check, stream)["value"]
        yield measured(f"{name}-share", 100 * moved / copy) | {"copy": copy}


def _launched(check: Check, filled: Filled, sets: list[Memory], out: Memory) -> float:
    """Ids a second as the launcher looks them up, by the host's clock: from tiles to lists of what they missed."""
    count, device = ids_a_launch(check), check.device
    status, misses = device.allocate(count), device.allocate(4 * count)
    took = []
    for k in range(check.of(40, 4)):
        addresses = (sets[k % len(sets)].address, out.address, status.address, misses.address)
        ticket = Ticket(tiles_of(filled, *addresses, count, rows_a_tile(count)), 0, None, stored=True)
        began = time.perf_counter()
        assert filled.launcher.submit(ticket)
        filled.launcher.wait(ticket)
        took.append(time.perf_counter() - began)
        assert not ticket.missed.any(), "ids were missed that are held"
    return rate(count, took[len(took) // 4 :])
