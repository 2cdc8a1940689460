"""The report of a run as JSON, and as lines in a terminal. docs/loadtest.md explains the names."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from loadtest.latency import Latencies
from loadtest.load.result import Frame, Report, times_of
from loadtest.tables import figure
from loadtest.train.ratings import F64s, Ratings
from loadtest.train.seen import PhaseSeen, Seen, StepSeen

SCHEMA: Final = "embcache-loadtest-train"
_INTERVALS: Final = 120
_LEAST_S: Final = 0.1


def train_report(frame: Frame, ratings: Ratings, seen: Seen, alone: F64s | None) -> Report:
    """alone: predictions of the last tenth by NumPy alone, f64, where it was asked."""
    visible = Latencies()
    for phase in seen.phases:
        visible.add(phase.visible)
    last = seen.last
    return {
        **frame.report("train"),
        "schema": SCHEMA,
        "interrupted": seen.interrupted,
        "served": {
            "rmse": None if last is None else last.rmse,
            "ratings": 0 if last is None else last.ratings,
            "of": len(ratings) - ratings.first,
        },
        "alone": None if alone is None else _alone(seen, alone),
        "visible_ms": times_of(visible),
        "phases": [_phase(phase) for phase in seen.phases],
        "series": {**_over_time(seen), "last": _over_ratings(seen, alone)},
    }


def _alone(seen: Seen, alone: F64s) -> dict[str, float]:
    known = ~np.isnan(seen.predictions)
    apart = np.abs(seen.predictions - alone)[known]
    return {"rmse": _rmse(seen.errors(alone)), "largest_difference": float(apart.max(initial=0.0))}


def _rmse(errors: F64s) -> float:
    return math.sqrt(float(errors @ errors) / len(errors)) if len(errors) else 0.0


def _phase(phase: PhaseSeen) -> dict[str, Any]:
    return {
        "name": phase.phase.name,
        "ratings": phase.ratings,
        "of": len(phase.phase.ratings),
        "steps": len(phase.steps),
        "began_s": phase.began_s,
        "seconds": phase.seconds,
        "rmse": phase.rmse,
        "visible_ms": times_of(phase.visible),
    }


def _over_time(seen: Seen) -> dict[str, Any]:
    """One value an interval in each list; None where nothing was predicted in it."""
    steps = [step for phase in seen.phases for step in phase.steps]
    interval_s = max(max((step.at_s for step in steps), default=0.0) / _INTERVALS, _LEAST_S)
    parts: list[list[StepSeen]] = []
    for step in steps:
        number = int(step.at_s / interval_s)
        parts += [[] for _ in range(number + 1 - len(parts))]
        parts[number].append(step)
    lags = [[step.visible_ms for step in part if step.visible_ms is not None] for part in parts]
    return {
        "interval_s": interval_s,
        "rmse": [_rmse_of(part) for part in parts],
        "visible_ms": {
            "p50": [float(np.median(some)) if some else None for some in lags],
            "max": [max(some, default=None) for some in lags],
        },
    }


def _rmse_of(steps: Sequence[StepSeen]) -> float | None:
    ratings = sum(step.ratings for step in steps)
    return math.sqrt(sum(step.squares for step in steps) / ratings) if ratings else None


def _over_ratings(seen: Seen, alone: F64s | None) -> dict[str, Any]:
    """The RMSE of the last tenth from its first rating on, in the order of time, after so many ratings."""
    served = seen.errors(seen.predictions)
    after = np.unique(np.arange(1, _INTERVALS + 1) * len(served) // _INTERVALS)
    after = after[after > 0]
    return {
        "after": after.tolist(),
        "rmse": _so_far(served, after),
        "alone_rmse": None if alone is None else _so_far(seen.errors(alone), after),
    }


def _so_far(errors: F64s, after: np.ndarray) -> list[float]:
    squares: list[float] = np.sqrt(np.cumsum(errors**2)[after - 1] / after).tolist()
    return squares


def write_json(report: Report, path: Path) -> None:
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def print_report(report: Report, console: Console) -> None:
    """What came of each phase, and what has to be known beside it."""
    title = "Each rating predicted as it is served before it is learned"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name, justify in zip(PHASE_COLUMNS, ("left", *["right"] * 6), strict=True):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for row in phase_rows(report):
        table.add_row(*row)
    console.print(table)
    for line in remarks(report):
        style = "yellow" if line.startswith("NOT ") else None
        console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)


PHASE_COLUMNS: Final = ("phase", "ratings", "RMSE", "ratings/s", "steps", "visible p50 ms", "p99 ms")


def phase_rows(report: Report) -> list[tuple[str, ...]]:
    """A row for each phase, under PHASE_COLUMNS."""
    return [
        (
            phase["name"],
            f"{phase['ratings']:,}",
            rmse_text(phase["rmse"]),
            figure(phase["ratings"] / phase["seconds"] if phase["seconds"] else None),
            f"{phase['steps']:,}",
            *(figure((phase["visible_ms"] or {}).get(which)) for which in ("p50", "p99")),
        )
        for phase in report["phases"]
    ]


def rmse_text(rmse: float | None) -> str:
    return "-" if rmse is None else f"{rmse:.4f}"


def remarks(report: Report) -> list[str]:
    """What has to be known of a run; what casts doubt on it begins with NOT."""
    served, alone, visible = report["served"], report["alone"], report["visible_ms"]
    lines = []
    if report["interrupted"]:
        done = f"{served['ratings']:,} of the last {served['of']:,} ratings were predicted"
        lines.append(f"NOT COMPLETE: it was interrupted; {done}.")
    if visible is not None:
        p50, p99 = figure(visible["p50"]), figure(visible["p99"])
        lines.append(
            f"Updates were visible to the other process {p50} ms (p50), {p99} ms (p99) after they were pushed."
        )
    if alone is not None:
        apart = f"no prediction differs by more than {alone['largest_difference']:.1g}"
        lines.append(f"The same model in NumPy alone, a rating at a time: RMSE {rmse_text(alone['rmse'])}; {apart}.")
    return lines


def last_line(report: Report) -> str:
    """The figure of the run."""
    rmse = report["served"]["rmse"]
    return "served RMSE -" if rmse is None else f"served RMSE {rmse_text(rmse)}"
