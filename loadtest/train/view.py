"""How a run goes, while it does: a bar that is drawn anew in a terminal, else a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from loadtest.tables import figure
from loadtest.train.seen import PhaseSeen, Seen

View = Callable[[Seen], None]

_LINES_S: Final = 1.0
_BARS_S: Final = 0.25


@contextmanager
def view_of(console: Console) -> Iterator[View]:
    """A view for the block; it is drawn only when told, so that no thread of its own shows in the times."""
    if not console.is_terminal:
        yield _seldom(lambda seen: _print(seen.phases[-1], console), _LINES_S)
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}")
    with Progress(*columns, console=console, auto_refresh=False) as bars:
        tasks: dict[int, TaskID] = {}
        yield _seldom(lambda seen: _draw(seen, bars, tasks), _BARS_S)


def _seldom(view: View, every_s: float) -> View:
    """At most once in so many seconds, and whenever a phase is through."""
    told_s = 0.0

    def tell(seen: Seen) -> None:
        nonlocal told_s
        now_s = time.monotonic()
        phase = seen.phases[-1]
        if now_s - told_s >= every_s or phase.ratings == len(phase.phase.ratings):
            told_s = now_s
            view(seen)

    return tell


def _said(phase: PhaseSeen) -> str:
    rate = phase.ratings / phase.seconds if phase.seconds else 0.0
    visible = figure(phase.visible.percentile_ms(50) if phase.visible.count else None)
    return f"RMSE {phase.rmse or 0.0:.4f}  visible p50 {visible} ms  {rate:,.0f}/s"


def _print(phase: PhaseSeen, console: Console) -> None:
    count = f"{phase.ratings:,} of {len(phase.phase.ratings):,}"
    console.print(
        f"{phase.began_s + phase.seconds:6.1f} s {phase.phase.name:<12} {count:<18} {_said(phase)}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _draw(seen: Seen, bars: Progress, tasks: dict[int, TaskID]) -> None:
    phase = seen.phases[-1]
    if phase.phase.number not in tasks:
        tasks[phase.phase.number] = bars.add_task(phase.phase.name, total=len(phase.phase.ratings), said="")
    task = tasks[phase.phase.number]
    bars.update(task, completed=phase.ratings, said=_said(phase), refresh=True)
