"""Which stages there are, in their order, and how long each may take: 8 minutes in all."""

from __future__ import annotations

from typing import NamedTuple


class Stage(NamedTuple):
    """A module with `run(check)`, run in a process of its own. A name may stand for several."""

    name: str
    module: str
    limit_s: float


STAGES = (
    Stage("smoke", "tests.gpucheck.smoke", 40),
    Stage("contract", "tests.gpucheck.contract", 60),
    Stage("stress", "tests.gpucheck.stress", 55),
    Stage("sanitizer", "tests.gpucheck.sanitizer", 60),
    Stage("ceilings", "tests.gpucheck.ceilings", 30),
    Stage("figures", "tests.gpucheck.figures64", 60),
    Stage("figures", "tests.gpucheck.figures8", 25),
    Stage("figures", "tests.gpucheck.figures128", 50),
    Stage("figures", "tests.gpucheck.figures_large", 25),
    Stage("sweep", "tests.gpucheck.sweep", 45),
    Stage("ncu", "tests.gpucheck.counters", 30),
)
NAMES = tuple(dict.fromkeys(stage.name for stage in STAGES))
LIMIT_S = sum(stage.limit_s for stage in STAGES)
