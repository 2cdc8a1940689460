"""A phase of load in one generator: its clients send requests when they are due, a thread each.

Whose fault it is when a request leaves late is told apart:
- `waiting`: it was due while every client was busy: the service was slow, or there are too few clients;
- `lateness`: a client was free, and this process did not let it send: the generator's own fault.
Both count in a request's response time, which runs from when it was due. `pulse` says how late a thread that does
nothing but sleep comes to run here: so late may answers be read, too.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from loadtest.load.asking import Asker, Target
from loadtest.load.counting import Counting, Delta, Phase, Times
from loadtest.load.requests import Newest, Requests
from loadtest.load.schedule import Schedule, Ticket, clock_ns
from loadtest.load.tally import Answer
from loadtest.load.visible import Sightings, Update

PULSE_S: Final = 0.005
_ALERT_S: Final = 0.02


class PhaseRun:
    """A phase under way: one thread a client, one for the pulse, and one that sees when updates are visible."""

    def __init__(
        self,
        phase: Phase,
        askers: Sequence[Asker],
        requests: Requests,
        newest: Newest,
        dues: Iterator[int] | None,
        target: Target,
    ) -> None:
        """Begins at once. dues: None for a closed loop. target: of the lookups by which updates are seen."""
        self._phase, self._newest = phase, newest
        self._counting = Counting(phase)
        self._over = threading.Event()
        self._failure: str | None = None
        self._sightings = Sightings(target, self._counting)
        patience_ns = round(phase.patience_s * 1e9)
        self._schedule = Schedule(requests, dues, phase.end_ns, patience_ns, self._counting.gave_up)
        self._cpu_s = time.process_time()
        self._clients = [threading.Thread(target=self._guarded, args=(self._client, asker)) for asker in askers]
        beside = (self._pulse, self._sightings.run)
        self._beside = [threading.Thread(target=self._guarded, args=(work,)) for work in beside]
        for thread in (*self._clients, *self._beside):
            thread.daemon = True
            thread.start()

    @property
    def going(self) -> bool:
        """Whether a client still works. Raises what any of the threads could not go on for."""
        self._check()
        return any(thread.is_alive() for thread in self._clients)

    def end_now(self) -> None:
        """Send nothing more; what is under way is waited for."""
        self._schedule.end_now()
        self._over.set()

    def take_delta(self) -> Delta:
        """What was counted since the last time."""
        return self._counting.take()

    def ended(self) -> float:
        """Once no client works any more: let everything else end; -> the share of a core that this process used."""
        passed_s = max(clock_ns() - self._phase.begin_ns, 1) / 1e9
        cpu_share = (time.process_time() - self._cpu_s) / passed_s
        self._over.set()
        self._sightings.end()
        for thread in (*self._clients, *self._beside):
            thread.join()
        self._check()
        return cpu_share

    def _check(self) -> None:
        if self._failure is not None:
            raise RuntimeError(self._failure)

    def _guarded(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
        except Exception:  # told by `going` and `ended`: nothing that was counted is worth anything then
            self._failure = traceback.format_exc()
            self.end_now()

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
            times = Times(sent_ns if ticket.due_ns is None else ticket.due_ns, free_ns, sent_ns, done_ns)
            self._counting.answered(times, answer)
            if answer.position:
                self._accepted(ticket, answer, times)

    def _accepted(self, ticket: Ticket, answer: Answer, times: Times) -> None:
        """An update counts."""
        if ticket.request.inserts:
            self._newest.inserted(ticket.request.inserts)
        table, ids = next(iter(ticket.request.ids.items()))
        self._sightings.tell(Update(table, int(ids[0]), answer.position, answer.history, times.due, times.done))

    def _wait_until(self, due_ns: int) -> None:
        """Sleep till then, or till the phase is ended."""
        while (early_s := (due_ns - clock_ns()) / 1e9) > 0:
            if early_s > 2 * _ALERT_S:
                if self._over.wait(early_s - _ALERT_S):
                    return
            else:
                time.sleep(early_s)

    def _pulse(self) -> None:
        self._wait_until(self._phase.begin_ns)
        while not self._over.is_set():
            due_ns = clock_ns() + round(PULSE_S * 1e9)
            time.sleep(PULSE_S)
            self._counting.pulse(due_ns, clock_ns() - due_ns)
