"""A lookup of few ids, from ids on the host to rows on the device or on the host."""

from __future__ import annotations

import time

import numpy as np

from embcache.gpu.device import Memory
from embcache.host.memory import address_of
from embcache.host.segment import HOT, SEGMENT_COLUMNS
from embcache.hot.question import Wish
from loadtest.gpu import measured
from tests.gpucheck.asking import Asking, wish_for
from tests.gpucheck.check import VERSION, Check, Lines, proving
from tests.gpucheck.filled import WRITING, Filled


def measure(check: Check, filled: Filled, sets: list[Memory]) -> Lines:
    """The figures "small-device" and "small-host". sets: arrays of ids that are held."""
    count, stream = check.of(2000, 200), check.device.stream()
    ids = np.concatenate([check.get(each.address, each.nbytes // 8, np.uint64, stream) for each in sets])
    queries = np.split(ids[: ids.size // count * count], ids.size // count)
    nbytes = count * filled.row_bytes
    on_device, results = check.device.allocate(nbytes), check.device.pinned(nbytes + count)
    status = results[nbytes:]
    for name, out in (("device", on_device.address), ("host", address_of(results))):
        wishes = [wish_for(VERSION, filled.row_bytes, query, out, address_of(status)) for query in queries]
        took = _times(check, filled, wishes, check.of(5000, 30))
        assert (status == HOT).all()
        rows = check.get(out, nbytes, np.uint8, stream) if name == "device" else results[:nbytes]
        wanted = proving(wishes[(len(took) - 1) % len(wishes)].ids, WRITING, filled.row_bytes)
        assert (rows.reshape(wanted.shape) == wanted).all(), "rows of other ids came back"
        p50, p99 = np.percentile(took[len(took) // 10 :], [50, 99]) * 1e6
        yield measured(f"small-{name}-p50", float(p50)) | {"samples": len(took)}
        yield measured(f"small-{name}-p99", float(p99 / p50)) | {"us": float(p99)}


def _times(check: Check, filled: Filled, wishes: list[Wish], rounds: int) -> list[float]:
    """Seconds that each of so many lookups takes by the host's clock, until it is known what they missed."""
    asking = Asking(check, filled, wishes[:1])
    segments = np.empty((1, SEGMENT_COLUMNS), np.int64)
    took = []
    for k in range(rounds):
        asked = [wishes[k % len(wishes)]]
        began = time.perf_counter()
        left = asking.ask(asked, segments)
        took.append(time.perf_counter() - began)
        assert left == 0, f"{left} ids were missed that are held"
    return took
