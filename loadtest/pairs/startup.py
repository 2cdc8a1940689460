"""startup, startup-first: seconds from `embcache serve` until GET /readyz answers 200."""

from __future__ import annotations

from tempfile import TemporaryDirectory

from loadtest.pairs.base import Outcome, Pair
from loadtest.records import Goal
from loadtest.served import served
from loadtest.slices import Figures

WARM_CAPACITY = "256MiB"
WARM_STARTS = 3


def _seconds(kernels: str) -> float:
    """Start once with the kernels' cache in this folder."""
    with served(WARM_CAPACITY, {"EMBCACHE_KERNEL_CACHE": kernels}) as service:
        return service.ready_s


def measure_first(rounds: int) -> Outcome:
    """One start with an empty cache; the rest of the machine (page cache, bytecode) is as it is."""
    with TemporaryDirectory(prefix="loadtest-kernels-") as kernels:
        return Outcome(Figures((_seconds(kernels),)))


def measure_warm(rounds: int) -> Outcome:
    """Starts after one that filled the cache and is not counted."""
    with TemporaryDirectory(prefix="loadtest-kernels-") as kernels:
        _seconds(kernels)
        return Outcome(Figures(tuple(_seconds(kernels) for _ in range(WARM_STARTS))))


WARM = Pair(
    name="startup",
    what="From starting `embcache serve` until /readyz answers 200, with the kernels' cache warm; polled every 10 ms.",
    unit="s",
    peer=None,
    goal=Goal("<=", 5),
    measure=measure_warm,
)
FIRST = Pair(
    name="startup-first",
    what="The same with an empty kernels' cache, as at the very first start on a machine.",
    unit="s",
    peer=None,
    goal=Goal("<=", 30),
    measure=measure_first,
)
