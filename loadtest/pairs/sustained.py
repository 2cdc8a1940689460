"""Producers that push as fast as what they push is applied. Shared by the pairs that need that rate.

They do what a trainer with nothing else to do would: push, look at how long what is not applied has waited, and hold
back while that is long. So there is always something to apply, and never much.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from loadtest.pairs.producers import Producer, Rows, Shared, at_once
from loadtest.pairs.progress import POLL_S, Behind, Progress

HOLD_S = 0.25
"""Producers hold back while the oldest batch that is not applied has waited this long: enough for none to be idle."""


@dataclass(frozen=True, slots=True)
class Sustained:
    """Batches applied a second, and for how long at most one of them was durable and not applied."""

    batches_per_s: float
    worst_s: float


def sustain(producers: Sequence[Producer], batches: Iterator[Rows], progress: Progress, seconds: float) -> Sustained:
    """Push for so long, then wait until all is applied. Counts what is applied within the time, from none on."""
    behind = Behind()
    may_push, over = threading.Event(), threading.Event()
    shared = Shared(batches)

    def push(producer: Producer) -> None:
        while not over.is_set():
            position = producer.push(producer.encode(next(shared)))
            behind.acknowledged(position, time.perf_counter())
            may_push.wait()

    def watch() -> float:
        try:
            return _watch(behind, progress, seconds, may_push)
        finally:
            over.set()
            may_push.set()

    rates: list[float] = []
    at_once([lambda: rates.append(watch()), *(partial(push, producer) for producer in producers)])
    while behind.waiting:
        behind.reached(progress.now(), time.perf_counter())
        time.sleep(POLL_S)
    return Sustained(rates[0], behind.worst_s)


def _watch(behind: Behind, progress: Progress, seconds: float, may_push: threading.Event) -> float:
    """Let producers push while little waits; -> batches applied a second."""
    began = now = time.perf_counter()
    while now - began < seconds:
        reached = progress.now()
        now = time.perf_counter()
        behind.reached(reached, now)
        if reached.lag_s < HOLD_S:
            may_push.set()
        else:
            may_push.clear()
        time.sleep(POLL_S)
    return behind.applied / (now - began)
