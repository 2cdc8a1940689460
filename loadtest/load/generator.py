"""A generator: a process that puts a service under load, phase by phase, and tells what it counts over a link."""

from __future__ import annotations

import ctypes
import gc
import signal
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final

from loadtest.load.asked import Workload
from loadtest.load.asking import Asker, Target
from loadtest.load.counting import Delta, Phase
from loadtest.load.phase import PhaseRun
from loadtest.load.requests import Newest, Requests
from loadtest.load.schedule import due_times

TICK_S: Final = 0.5
_PR_SET_TIMERSLACK: Final = 29
_SLACK_NS: Final = 1_000
_PHASES: Final = 1000  # with arrivals of their own under one seed


@dataclass(frozen=True, slots=True)
class Duty:
    """What a generator is, for as long as it runs: number `number` of `count`."""

    target: Target
    workload: Workload
    number: int
    count: int


class EndNow:
    """Told to a generator: end the phase."""


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
            if isinstance(phase, Phase):  # what is told to end may have ended before
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
        cpu_share = run.ended()
        link.send(Ended(run.take_delta(), cpu_share, generator.requests.rounds))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except Exception:
        link.send(Failed(traceback.format_exc()))
        raise EOFError from None


class Generator:
    """Keeps clients, their connections and the stream of requests over all phases."""

    def __init__(self, duty: Duty, newest: Newest) -> None:
        self._duty, self._newest = duty, newest
        self.requests = Requests(duty.workload, duty.number, duty.count, newest)
        self._askers: list[Asker] = []
        self._phases = 0

    def start(self, phase: Phase) -> PhaseRun:
        """Begin a phase."""
        duty, workload = self._duty, self._duty.workload
        for number in range(len(self._askers), phase.clients):
            self._askers.append(Asker(duty.target, workload, f"loadtest-{duty.number}-{number}"))
        gc.collect()
        gc.freeze()  # what is there by now stays: collections need not look at it while requests are timed
        seed = workload.seed * _PHASES + self._phases
        self._phases += 1
        dues = None
        if phase.arrivals != "closed":
            dues = due_times(phase.arrivals, phase.rate, duty.number, duty.count, seed, phase.begin_ns)
        return PhaseRun(phase, self._askers[: phase.clients], self.requests, self._newest, dues, duty.target)

    def close(self) -> None:
        for asker in self._askers:
            asker.close()


def _wake_on_time() -> None:
    """Let the kernel wake sleepers a microsecond late at most instead of 50; threads take it over as they start."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(_SLACK_NS), 0, 0, 0)
