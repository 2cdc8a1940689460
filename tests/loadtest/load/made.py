"""Reports of runs that never were: for what shows them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from embcache_client import STATUS_NAMES
from loadtest.load.asked import AskedTable, Workload
from loadtest.load.fleet import Outcome, Plan
from loadtest.load.metrics import ServiceCounts
from loadtest.load.result import Frame, Report, run_report
from loadtest.load.run import Pace
from loadtest.load.search import Step
from loadtest.load.series import Series
from loadtest.load.tally import SERIES_DIGITS, Answer, Tally

PLAN = Plan("poisson", 100.0, clients=4, warmup_s=2.0, duration_s=10.0, patience_s=1.0, slo_ms=10.0)


def outcome(slowness: float = 1.0, rate: float = 100.0, seed: int = 1, *, updates: bool = True) -> Outcome:
    """A run of even load: lookups of about 2 ms times `slowness`, a tenth of them cold, one in a hundred an error."""
    rng = np.random.default_rng(seed)
    seen = Outcome(PLAN, Tally(), Tally(), Series(PLAN.step_s), window_s=10.0, cpu_shares=[0.1, 0.2])
    due = np.arange(0, 12, 1 / rate).tolist()
    steps: dict[int, Tally] = {}
    for at, took_ns in zip(due, (slowness * rng.lognormal(14.5, 0.5, len(due))).astype(int).tolist(), strict=True):
        op = "add" if updates and rng.random() < 0.1 else "lookup"
        error = "timeout" if rng.random() < 0.01 else None
        step = steps.setdefault(int(at / PLAN.step_s), Tally(SERIES_DIGITS))
        for tally in (seen.window if at >= PLAN.warmup_s else seen.warmup, step):
            _count(tally, op, took_ns, error)
    for number, step in steps.items():
        seen.series.add(number, step)
    for tally in (seen.warmup, seen.window):
        for name, times_ns in (("lateness", 20_000), ("waiting", 0), ("pulse", 60_000)):
            tally.record(name, times_ns)
    return seen


def _count(tally: Tally, op: str, took_ns: int, error: str | None) -> None:
    tiers = np.zeros(len(STATUS_NAMES), np.int64)
    tiers[2], tiers[3] = 9, 1
    tally.counts[f"{op}.offered"] += 1
    tally.counts[f"{op}.finished"] += error is None
    answer = Answer(op, error, 10, 100, 1000, tiers if op == "lookup" else None)
    tally.count_answer(answer, good=took_ns <= 10_000_000)
    tally.record(f"{op}.response", took_ns)
    tally.record(f"{op}.service", took_ns // 2)
    if op == "add":
        tally.record("visible", 3 * took_ns)
        tally.record("visible_after_ack", 2 * took_ns)


def frame(*, table: str = "item", command: str = "python -m loadtest run zipf --serve", seed: int = 1) -> Frame:
    workload = Workload("zipf", (AskedTable(table, 8, 1000),), seed=seed)
    pace = asdict(Pace("poisson", 100.0, 4, 2, 2.0, 10.0, 10.0))
    return Frame(
        command=command,
        started="2026-01-02T03:04:05+00:00",
        target={"url": "http://127.0.0.1:1", "served": True, "version": "0.1.0"},
        settings={
            "workload": workload.described(),
            **pace,
            "timeout_s": 10.0,
            "deadline_ms": None,
            "seed": seed,
        },
        data={"sha256": workload.sha256(), "origin": "ids made up"},
        machine={"processor": "a processor", "cores": "2", "memory": "8 GiB", "system": "Linux"},
        versions={"embcache": "0.1.0"},
    )


def run(seen: Outcome | None = None, framed: Frame | None = None, **counted: Any) -> Report:
    seen = seen or outcome()
    lookups = sum(tally.counts["lookup.answered"] for tally in (seen.warmup, seen.window))
    return run_report(framed or frame(), seen, ServiceCounts(**{"lookups": lookups, "update_rows": 0, **counted}))


def search(low: float = 800.0) -> Report:
    def step(purpose: str, rate: float, p99_ms: float, factor: float = 1.0) -> dict[str, Any]:
        held = p99_ms <= 10.0
        why = "" if held else f"p99 {p99_ms:.1f} ms"
        return asdict(
            Step(purpose, rate, rate, rate / 2, 1.0, 1.0, p99_ms, 1000, 0, 0, held, why, kept_up=True, factor=factor)
        )

    return {
        **frame().report("search"),
        "interrupted": False,
        "found": {
            "rate": low,
            "bracket": [low, low * 1.05],
            "knee": low / 2,
            "peak_per_s": low * 1.5,
            "generators_kept_up": True,
        },
        "steps": [step("search", low, 9.0), step("search", low * 1.05, 12.0), step("curve", low / 2, 3.0)],
        "overload": [step("overload", 2 * low, 50.0, 2.0), step("overload", 5 * low, 90.0, 5.0)],
    }
