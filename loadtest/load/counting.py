"""What a phase of one generator counts, by whichever of its threads, and hands over now and then."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import NamedTuple

from loadtest.load.asked import Arrivals
from loadtest.load.tally import SERIES_DIGITS, Answer, Tally


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


@dataclass(slots=True)
class Delta:
    """What a generator counted since the last one; steps by their number from begin_ns on."""

    warmup: Tally = field(default_factory=Tally)
    window: Tally = field(default_factory=Tally)
    steps: dict[int, Tally] = field(default_factory=dict)


class Times(NamedTuple):
    """Of one request, of clock_ns: when it was due, when its client was free for it, sent it, and had its answer."""

    due: int
    free: int
    sent: int
    done: int


class Counting:
    """Safe among threads. What a request counts for depends on when it was due, and not on when it was answered."""

    def __init__(self, phase: Phase) -> None:
        self._phase = phase
        self._delta = Delta()
        self._lock = threading.Lock()

    def take(self) -> Delta:
        """What was counted since the last time."""
        fresh = Delta()
        with self._lock:
            taken, self._delta = self._delta, fresh
        return taken

    def answered(self, times: Times, answer: Answer) -> None:
        """A request that was sent, however it ended."""
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

    def gave_up(self, op: str, due_ns: int, now_ns: int) -> None:
        """Counts with the time it waited: what was never asked must not make the times look better."""
        with self._lock:
            for tally in (self._tally_at(due_ns), self._step_at(due_ns)):
                tally.counts[f"{op}.offered"] += 1
                tally.counts[f"{op}.not_sent"] += 1
                tally.record(f"{op}.response", now_ns - due_ns)

    def pulse(self, due_ns: int, late_ns: int) -> None:
        """A thread that only sleeps came to run so late."""
        with self._lock:
            self._tally_at(due_ns).record("pulse", late_ns)

    def saw_update(self, due_ns: int, done_ns: int, seen_ns: int) -> None:
        """An update was due, answered, and visible to a lookup."""
        with self._lock:
            tally = self._tally_at(due_ns)
            tally.counts["probe.answered"] += 1
            tally.record("visible", seen_ns - due_ns)
            tally.record("visible_after_ack", seen_ns - done_ns)
            self._step_at(due_ns).record("visible", seen_ns - due_ns)

    def missed_update(self, due_ns: int, error: str) -> None:
        """The lookup that was to see it failed."""
        with self._lock:
            self._tally_at(due_ns).counts[f"probe.{error}"] += 1

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
