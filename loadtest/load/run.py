"""One run from beginning to end: the service and its tables, the load, the report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from loadtest import facts
from loadtest.load.asked import Arrivals
from loadtest.load.fleet import Fleet, Plan, fleet_of
from loadtest.load.metrics import ServiceCounts, service_counts
from loadtest.load.result import Frame, Report, run_report
from loadtest.load.setup import DEFAULT_RATE, Ready, Wanted, prepared
from loadtest.load.terminal import view_of

_PACKAGES = ("embcache-client", "hdrhistogram", "numpy", "msgpack")


@dataclass(frozen=True, slots=True)
class Pace:
    """How hard and how long. rate: None for the workload's default. processes: at most as many as clients."""

    arrivals: Arrivals = "poisson"
    rate: float | None = None
    clients: int = 32
    processes: int = 2
    warmup_s: float = 5.0
    duration_s: float = 30.0
    slo_ms: float = 10.0

    def plan(self, wanted: Wanted) -> Plan:
        """The phase of a run."""
        rate = self.rate or DEFAULT_RATE[wanted.kind]
        patience_s = wanted.timeout_s
        return Plan(self.arrivals, rate, self.clients, self.warmup_s, self.duration_s, patience_s, self.slo_ms)


def run(wanted: Wanted, pace: Pace, console: Console, arguments: Sequence[str] = ()) -> Report:
    """Run it and return its report, also after Ctrl-C, which ends the load.

    arguments: those of the command line, for the report's readers to run it again. DataError, ProcessFailed, the
    client's errors where it cannot be run at all.
    """
    with ready_fleet(wanted, pace, console) as (ready, fleet):
        frame = frame_of(ready, wanted, pace, arguments)
        console.print(_intent(ready, pace, wanted), highlight=False, markup=False, soft_wrap=True)
        before = _counts(ready)
        with view_of(console) as view:
            outcome = fleet.run(pace.plan(wanted), view)
        after = _counts(ready)
        counted = None if before is None or after is None else after.since(before)
        return run_report(frame, outcome, counted)


@contextmanager
def ready_fleet(wanted: Wanted, pace: Pace, console: Console) -> Iterator[tuple[Ready, Fleet]]:
    """A service that can be asked, and generators that can ask it."""
    with (
        progress_on(console) as progress,
        prepared(wanted, progress) as ready,
        fleet_of(ready.target, ready.workload, pace.processes) as fleet,
    ):
        yield ready, fleet


def frame_of(ready: Ready, wanted: Wanted, pace: Pace, arguments: Sequence[str]) -> Frame:
    """What the report says of how it was made."""
    workload = ready.workload
    plan = pace.plan(wanted)
    rate = None if pace.arrivals == "closed" else plan.rate
    settings = {
        "workload": workload.described(),
        **asdict(pace),
        "rate": rate,
        "timeout_s": wanted.timeout_s,
        "deadline_ms": wanted.deadline_ms,
        "seed": wanted.seed,
    }
    return Frame(
        command=shlex.join(["python", "-m", "loadtest", *_without_token(arguments)]),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        target={"url": ready.target.url, "served": ready.served, "version": ready.service_version},
        settings=settings,
        data={"sha256": workload.sha256(), "origin": ready.origin},
        machine=facts.machine(),
        versions={**facts.versions(), **{package: facts.package_version(package) for package in _PACKAGES}},
    )


def _without_token(arguments: Sequence[str]) -> list[str]:
    """The arguments as they may be shown around."""
    shown, hide = [], False
    for argument in arguments:
        shown.append("..." if hide else ("--token=..." if argument.startswith("--token=") else argument))
        hide = argument == "--token"
    return shown


def _counts(ready: Ready) -> ServiceCounts | None:
    transport = ready.target.transport()
    try:
        return service_counts(transport)
    finally:
        transport.close()


def _intent(ready: Ready, pace: Pace, wanted: Wanted) -> str:
    plan = pace.plan(wanted)
    load = "as fast as they are answered" if pace.arrivals == "closed" else f"{plan.rate:g}/s, {pace.arrivals}"
    return (
        f"{wanted.kind} at {ready.target.url}: {load}, {pace.clients} clients in {pace.processes} processes, "
        f"{pace.warmup_s:g} s of warm-up, {pace.duration_s:g} s measured. {ready.origin[0].upper()}{ready.origin[1:]}."
    )


@contextmanager
def progress_on(console: Console) -> Iterator[Callable[[str, int, int], object]]:
    """Bars for what is prepared; one line on stderr for each where there is no terminal."""
    if not console.is_terminal:
        told: set[str] = set()

        def tell(what: str, done: int, of: int) -> None:
            if what not in told:
                told.add(what)
                print(f"{what} ...", file=sys.stderr, flush=True)

        yield tell
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    bars = Progress(*columns, console=console, auto_refresh=False, transient=True)
    tasks = {}

    def show(what: str, done: int, of: int) -> None:
        if what not in tasks:
            bars.start()
            tasks[what] = bars.add_task(what, total=of)
        bars.update(tasks[what], completed=done, total=of, refresh=True)
        if done >= of:
            bars.remove_task(tasks[what])
            if bars.finished:
                bars.stop()

    try:
        yield show
    finally:
        bars.stop()
