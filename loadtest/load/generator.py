"""A generator: a process whose clients send requests when they are due, and count what comes of each.

Whose fault it is when a request leaves late is told apart:
- `waiting`: it was due while every client was busy: the service was slow, or there are too few clients;
- `lateness`: a client was free, and this process did not let it send: the generator's own fault.
Both count in a request's response time, which runs from when it was due. `pulse` says how late a thread that does
nothing but sleep comes to run here: so late may answers be read, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Final, NamedTuple

import numpy as np

from embcache_client.errors import ClientError
from embcache_client.lookup import lookup_call
from loadtest.load.asked import Arrivals, Workload
from loadtest.load.asking import Asker, Target, code_of
from loadtest.load.requests import Newest, Requests
from loadtest.load.schedule import Schedule, Ticket, clock_ns, due_times
from loadtest.load.tally import SERIES_DIGITS, Answer, Tally

TICK_S: Final = 0.5
PULSE_S: Final = 0.005
_ALERT_S: Final = 0.02
_PR_SET_TIMERSLACK: Final = 29
_SLACK_NS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Duty:
    """What a generator is, for as long as it runs: number `number` of `count`."""

    target: Target
    workload: Workload
    number: int
    count: int


@dataclass(frozen=True, slots=True)
class Phase:
    """Load for some time, the same for all generators but for `clients`, which are those of one.

    rate: requests a second over all generators. begin_ns, window_ns, end_ns: of clock_ns; what is due before window_ns
    is warm-up. patience_s: after which a request that no client was free for is given up. slo_ms: answers within it are
    good. step_s: the intervals in which things are counted.
    """

    arrivals: Arrivals
    rate: float
    clients: int
    begin_ns: int
    window_ns: int
    end_ns: int
    patience_s: float
    slo_ms: float
    step_s: float


class EndNow:
    """Told to a generator: end the phase."""


@dataclass(slots=True)
class Delta:
    """What a generator counted since the last one; steps by their number from begin_ns on."""

    warmup: Tally = field(default_factory=Tally)
    window: Tally = field(default_factory=Tally)
    steps: dict[int, Tally] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ended:
    """A generator's phase is over, and this is the last of it. rounds: how often its trace came to its end."""

    delta: Delta
    cpu_share: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A generator could not go on; it ends."""

    why: str


def main(duty: Duty, newest: Newest, link: Connection) -> None:
    """The process: phases come over the link one after the other, and what is counted goes back. Ends with the link."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: whoever started this tells it
    _wake_on_time()
    generator = Generator(duty, newest)
    try:
        link.send(True)
        while True:
            phase = link.recv()
            if isinstance(phase, Phase):
                _serve_phase(generator, phase, link)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    finally:
        generator.close()


def _serve_phase(generator: Generator, phase: Phase, link: Connection) -> None:
    try:
        run = generator.start(phase)
        while run.going:
            if link.poll(TICK_S) and isinstance(link.recv(), EndNow):
                run.end_now()
            link.send(run.take_delta())
        link.send(run.ended())
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except Exception:
        link.send(Failed(traceback.format_exc()))
        raise EOFError from None


class Generator:
    """Keeps clients, their connections and the stream of requests over all phases."""

    def __init__(self, duty: Duty, newest: Newest) -> None:
        self.duty, self.newest = duty, newest
        self.requests = Requests(duty.workload, duty.number, duty.count, newest)
        self.askers: list[Asker] = []
        self._phases = 0

    def start(self, phase: Phase) -> PhaseRun:
        """Begin a phase."""
        duty = self.duty
        for number in range(len(self.askers), phase.clients):
            self.askers.append(Asker(duty.target, duty.workload, f"loadtest-{duty.number}-{number}"))
        gc.collect()
        gc.freeze()  # what is there by now stays: collections need not look at it while requests are timed
        self._phases += 1
        return PhaseRun(self, phase, seed=duty.workload.seed * 1000 + self._phases)

    def close(self) -> None:
        for asker in self.askers:
            asker.close()


class PhaseRun:
    """A phase under way: one thread a client, one for the pulse, and one that sees when updates are visible."""

    def __init__(self, generator: Generator, phase: Phase, seed: int) -> None:
        self._generator, self._phase = generator, phase
        self._delta = Delta()
        self._lock = threading.Lock()  # over the delta
        self._over = threading.Event()
        self._failure: str | None = None
        self._probes: queue.Queue[_Update | None] = queue.Queue(1)
        duty = generator.duty
        closed = phase.arrivals == "closed"
        dues = due_times(phase.arrivals, phase.rate, duty.number, duty.count, seed, phase.begin_ns)
        patience_ns = round(phase.patience_s * 1e9)
        self._schedule = Schedule(
            generator.requests, None if closed else dues, phase.end_ns, patience_ns, self._gave_up
        )
        self._cpu_s = time.process_time()
        askers = generator.askers[: phase.clients]
        self._clients = [threading.Thread(target=self._guarded, args=(self._client, asker)) for asker in askers]
        others = [self._pulse, self._see_updates] if duty.workload.updates else [self._pulse]
        self._others = [threading.Thread(target=self._guarded, args=(other,)) for other in others]
        for thread in (*self._clients, *self._others):
            thread.daemon = True
            thread.start()

    @property
    def going(self) -> bool:
        """Whether a client still works. Raises what any of the threads could not go on for."""
        if self._failure is not None:
            raise RuntimeError(self._failure)
        return any(thread.is_alive() for thread in self._clients)

    def end_now(self) -> None:
        """Send nothing more; what is under way is waited for."""
        self._schedule.end_now()
        self._over.set()

    def take_delta(self) -> Delta:
        """What was counted since the last time."""
        fresh = Delta()
        with self._lock:
            taken, self._delta = self._delta, fresh
        return taken

    def ended(self) -> Ended:
        """The last of it, once no client works any more."""
        passed_s = max(clock_ns() - self._phase.begin_ns, 1) / 1e9
        cpu_share = (time.process_time() - self._cpu_s) / passed_s
        self._over.set()
        if self._generator.duty.workload.updates:
            self._probes.put(None)
        for thread in (*self._clients, *self._others):
            thread.join()
        if self._failure is not None:
            raise RuntimeError(self._failure)
        return Ended(self.take_delta(), cpu_share, self._generator.requests.rounds)

    def _guarded(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
        except Exception:  # told by `going` and `ended`: nothing that was counted is worth anything then
            self._failure = traceback.format_exc()
            self._schedule.end_now()
            self._over.set()

    # --- the clients' side -------------------------------------------------------------------------------------------

    def _client(self, asker: Asker) -> None:
        self._wait_until(self._phase.begin_ns)
        while True:
            free_ns = clock_ns()
            ticket = self._schedule.take()
            if ticket is None:
                return
            prepared = asker.prepare(ticket.request)
            if ticket.due_ns is not None:
                self._wait_until(ticket.due_ns)
                if self._schedule.is_over(ticket.due_ns):
                    return
            sent_ns = clock_ns()
            answer = asker.send(prepared)
            done_ns = clock_ns()
            due_ns = sent_ns if ticket.due_ns is None else ticket.due_ns
            self._count(_Times(due_ns, free_ns, sent_ns, done_ns), answer)
            if answer.position:
                self._accepted(ticket, answer, due_ns, done_ns)

    def _wait_until(self, due_ns: int) -> None:
        """Sleep till then, or till the phase is ended."""
        while (early_s := (due_ns - clock_ns()) / 1e9) > 0:
            if early_s > 2 * _ALERT_S:
                if self._over.wait(early_s - _ALERT_S):
                    return
            else:
                time.sleep(early_s)

    def _accepted(self, ticket: Ticket, answer: Answer, due_ns: int, done_ns: int) -> None:
        if ticket.request.inserts:
            self._generator.newest.inserted(ticket.request.inserts)
        table, ids = next(iter(ticket.request.ids.items()))
        with contextlib.suppress(queue.Full):  # one at a time: those meanwhile are not looked for
            self._probes.put_nowait(_Update(table, int(ids[0]), answer.position, answer.history, due_ns, done_ns))

    # --- counting ----------------------------------------------------------------------------------------------------

    def _count(self, times: _Times, answer: Answer) -> None:
        phase, op = self._phase, answer.op
        response_ns = times.done - times.due
        good = answer.whole and response_ns <= phase.slo_ms * 1e6
        with self._lock:
            tally = self._tally_at(times.due)
            tally.counts[f"{op}.offered"] += 1
            tally.count_answer(answer, good=good)
            tally.record(f"{op}.response", response_ns)
            tally.record(f"{op}.service", times.done - times.sent)
            tally.record("waiting", times.free - times.due)
            tally.record("lateness", times.sent - max(times.due, times.free))
            if phase.window_ns <= times.done < phase.end_ns and answer.error is None:
                self._delta.window.counts[f"{op}.finished"] += 1
            due = self._step_at(times.due)
            due.counts[f"{op}.offered"] += 1
            due.record(f"{op}.response", response_ns)
            self._step_at(times.done).count_answer(answer, good=good)

    def _gave_up(self, op: str, due_ns: int, now_ns: int) -> None:
        """Counts with the time it waited: what was never asked must not make the times look better."""
        with self._lock:
            for tally in (self._tally_at(due_ns), self._step_at(due_ns)):
                tally.counts[f"{op}.offered"] += 1
                tally.counts[f"{op}.not_sent"] += 1
                tally.record(f"{op}.response", now_ns - due_ns)

    def _tally_at(self, due_ns: int) -> Tally:
        return self._delta.window if due_ns >= self._phase.window_ns else self._delta.warmup

    def _step_at(self, at_ns: int) -> Tally:
        """The tally of the interval; what is answered after the end has intervals beyond it."""
        phase, steps = self._phase, self._delta.steps
        number = int((at_ns - phase.begin_ns) / (phase.step_s * 1e9))
        tally = steps.get(number)
        if tally is None:
            tally = steps[number] = Tally(SERIES_DIGITS)
        return tally

    # --- beside the clients ------------------------------------------------------------------------------------------

    def _pulse(self) -> None:
        self._wait_until(self._phase.begin_ns)
        while not self._over.is_set():
            due_ns = clock_ns() + round(PULSE_S * 1e9)
            time.sleep(PULSE_S)
            late_ns = clock_ns() - due_ns
            with self._lock:
                self._tally_at(due_ns).record("pulse", late_ns)

    def _see_updates(self) -> None:
        """Ask for a row of an update from its position on: the answer comes when lookups see it, and not before."""
        target = self._generator.duty.target
        transport = target.transport()
        deadline_ms = max(round(target.timeout_s * 900), 1)
        while (update := self._probes.get()) is not None:
            call = lookup_call(
                {update.table: np.array([update.id], np.uint64)},
                dtype="f32",
                strict=False,
                min_position=update.position,
                history=update.history,
                deadline_ms=deadline_ms,
                version=None,
            )
            try:
                transport.run(call)
                seen_ns, error = clock_ns(), None
            except ClientError as failure:
                seen_ns, error = clock_ns(), code_of(failure)
            with self._lock:
                self._count_probe(update, seen_ns, error)
        transport.close()

    def _count_probe(self, update: _Update, seen_ns: int, error: str | None) -> None:
        tally, step = self._tally_at(update.due_ns), self._step_at(update.due_ns)
        if error is not None:
            tally.counts[f"probe.{error}"] += 1
            return
        tally.counts["probe.answered"] += 1
        tally.record("visible", seen_ns - update.due_ns)
        tally.record("visible_after_ack", seen_ns - update.done_ns)
        step.record("visible", seen_ns - update.due_ns)


class _Times(NamedTuple):
    """Of one request, of clock_ns: when it was due, when its client was free for it, sent it, and had its answer."""

    due: int
    free: int
    sent: int
    done: int


class _Update(NamedTuple):
    """An update that was answered: one of its ids, where lookups see it, when it was due and when it was answered."""

    table: str
    id: int
    position: int
    history: str
    due_ns: int
    done_ns: int


def _wake_on_time() -> None:
    """Let the kernel wake sleepers a microsecond late at most instead of 50; threads take it over as they start."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(_SLACK_NS), 0, 0, 0)
