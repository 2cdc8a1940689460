"""The generators of a run: started, told of phases, and their counts put together."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Final

from loadtest.load.asked import Arrivals, Workload
from loadtest.load.asking import Target
from loadtest.load.counting import Delta, Phase
from loadtest.load.generator import Duty, Ended, EndNow, Failed, main
from loadtest.load.schedule import clock_ns
from loadtest.load.series import Series
from loadtest.load.tally import Tally
from loadtest.processes import ProcessFailed

_LEAD_S: Final = 0.2  # from when a phase is told until its first arrival
_START_S: Final = 60.0
_STOP_S: Final = 5.0
_CONTEXT: Final = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Plan:
    """A phase over all generators. rate: requests a second; of no meaning in a closed loop. See Phase for the rest."""

    arrivals: Arrivals
    rate: float
    clients: int
    warmup_s: float
    duration_s: float
    patience_s: float
    slo_ms: float

    @property
    def step_s(self) -> float:
        """The intervals in which generators count: a few dozen in a short run, a second each in others."""
        total_s = self.warmup_s + self.duration_s
        return next((step for step in (0.1, 0.2, 0.5) if total_s <= 60 * step), 1.0)


@dataclass(slots=True)
class Outcome:
    """What came of a phase. cpu_shares: of a core, for each generator. window_s: how long the window lasted."""

    plan: Plan
    warmup: Tally
    window: Tally
    series: Series
    window_s: float = 0.0
    cpu_shares: list[float] = field(default_factory=list)
    trace_rounds: int = 0
    interrupted: bool = False


class SharedNewest:
    """How many ids a growing table has, in memory that all generators share (see requests.Newest)."""

    def __init__(self, rows: int) -> None:
        self._known = _CONTEXT.Value("q", rows)
        self._reserved = _CONTEXT.Value("q", rows)

    def known(self) -> int:
        return int(self._known.value)

    def reserve(self, count: int) -> int:
        with self._reserved.get_lock():
            first = int(self._reserved.value)
            self._reserved.value += count
        return first

    def inserted(self, known: int) -> None:
        with self._known.get_lock():
            self._known.value = max(self._known.value, known)


class Fleet:
    """So many generators, each a process of its own. A context manager; they end with its block.

    ProcessFailed where one of them ends by itself, with what it said.
    """

    def __init__(self, target: Target, workload: Workload, count: int) -> None:
        self._members: list[tuple[Any, Connection]] = []
        # Kept: what children have of it is gone once this one is.
        self._newest = SharedNewest(min(table.rows for table in workload.tables))
        for number in range(count):
            ours, theirs = _CONTEXT.Pipe()
            duty = Duty(target, workload, number, count)
            process = _CONTEXT.Process(
                target=main, args=(duty, self._newest, theirs), name=f"generator-{number}", daemon=True
            )
            with _unheard_of_interrupts():
                process.start()
            theirs.close()
            self._members.append((process, ours))

    def run(self, plan: Plan, seen: Callable[[Outcome, float], object] = lambda outcome, at_s: None) -> Outcome:
        """Run a phase to its end, or until Ctrl-C: then nothing more is sent, and what was seen comes back.

        seen: called now and then with what was counted so far, and the seconds since the first arrival.
        """
        outcome = Outcome(plan, Tally(), Tally(), Series(plan.step_s))
        begin_ns = clock_ns() + round(_LEAD_S * 1e9)
        window_ns = begin_ns + round(plan.warmup_s * 1e9)
        end_ns = window_ns + round(plan.duration_s * 1e9)
        times = (begin_ns, window_ns, end_ns, plan.patience_s, plan.slo_ms, plan.step_s)
        links: list[Connection] = []  # of generators whose phase goes on
        try:
            for number, (_, link) in enumerate(self._members):
                clients = (plan.clients + len(self._members) - 1 - number) // len(self._members)
                with _interrupts_held():
                    self._send(link, Phase(plan.arrivals, plan.rate, clients, *times))
                    links.append(link)
            self._gather(links, outcome, begin_ns, seen)
        except KeyboardInterrupt:
            outcome.interrupted = True
            end_ns = min(end_ns, clock_ns())
            for link in links:
                self._send(link, EndNow())
            self._gather(links, outcome, begin_ns, lambda outcome, at_s: None)
        outcome.window_s = max(end_ns - window_ns, 0) / 1e9
        return outcome

    def _gather(
        self,
        links: list[Connection],
        outcome: Outcome,
        begin_ns: int,
        seen: Callable[[Outcome, float], object],
    ) -> None:
        """Add up what the generators send until all of their phases are over; `links` keeps those that go on."""
        while links:
            for link in wait(links, timeout=1.0):
                assert isinstance(link, Connection)
                with _interrupts_held():
                    message = self._receive(link)
                    if isinstance(message, Delta):
                        _add(outcome, message)
                    elif isinstance(message, Ended):
                        _add(outcome, message.delta)
                        outcome.cpu_shares.append(message.cpu_share)
                        outcome.trace_rounds = max(outcome.trace_rounds, message.rounds)
                        links.remove(link)
            seen(outcome, (clock_ns() - begin_ns) / 1e9)

    def _send(self, link: Connection, message: object) -> None:
        try:
            link.send(message)
        except (BrokenPipeError, ConnectionResetError):
            self._receive(link)
            raise

    def _receive(self, link: Connection) -> object:
        try:
            message = link.recv()
        except (EOFError, ConnectionResetError):
            process = next(process for process, other in self._members if other is link)
            process.join(_STOP_S)
            raise ProcessFailed(f"{process.name} ended with status {process.exitcode}") from None
        if isinstance(message, Failed):
            raise ProcessFailed(f"a generator failed:\n{message.why}")
        return message

    def wait_ready(self) -> None:
        """Until all generators have loaded what they need."""
        end = time.monotonic() + _START_S
        for process, link in self._members:
            if not link.poll(max(end - time.monotonic(), 0)):
                raise ProcessFailed(f"{process.name} was not ready within {_START_S:g} s")
            self._receive(link)

    def close(self) -> None:
        for _, link in self._members:
            link.close()
        for process, _ in self._members:
            process.join(_STOP_S)
            if process.is_alive():
                process.terminate()
                process.join()


@contextlib.contextmanager
def fleet_of(target: Target, workload: Workload, count: int) -> Iterator[Fleet]:
    """Generators that are ready, ended with the block."""
    fleet = Fleet(target, workload, count)
    try:
        fleet.wait_ready()
        yield fleet
    finally:
        fleet.close()


@contextlib.contextmanager
def _unheard_of_interrupts() -> Iterator[None]:
    """Processes that are started in the block never hear of Ctrl-C, not even while they start; we do at its end."""
    resource_tracker.ensure_running()  # else the first process starts it, and lets signals through afterwards
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C raise at the end of the block, not in it: what was taken off a link is counted, whatever comes."""
    if threading.current_thread() is not threading.main_thread():  # Ctrl-C raises in the main thread alone
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)


def _add(outcome: Outcome, delta: Delta) -> None:
    outcome.warmup.add(delta.warmup)
    outcome.window.add(delta.window)
    for step, tally in delta.steps.items():
        outcome.series.add(step, tally)
