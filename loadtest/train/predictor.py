"""The second process: predicts the ratings of a step from its own lookups, and never learns anything itself."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final, NamedTuple

from embcache_client.errors import ClientError
from loadtest.load.asking import Target
from loadtest.load.schedule import clock_ns
from loadtest.processes import ProcessFailed
from loadtest.train.model import Model
from loadtest.train.ratings import F64s
from loadtest.train.rows import Place, Reader, Tables
from loadtest.train.steps import Step

_START_S: Final = 60.0
_STOP_S: Final = 5.0
_CONTEXT: Final = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Duty:
    """What it has to know: the service, the model, whose factors are in the tables, and which values there are."""

    target: Target
    model: Model
    tables: Tables
    users: tuple[str, ...]
    items: tuple[str, ...]


class Asked(NamedTuple):
    """Predict this step from rows that are not older than `place`."""

    step: Step
    place: Place


class Predicted(NamedTuple):
    """f64 [n], and when the lookup of their rows was answered (of clock_ns)."""

    predictions: F64s
    looked_ns: int


class Failed(NamedTuple):
    """It cannot go on."""

    why: str


def main(duty: Duty, link: Connection) -> None:
    """The process: answers what comes over the link, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: whoever started this ends it
    try:
        with Reader(duty.target, duty.tables, duty.users, duty.items) as reader:
            link.send(None)
            while True:
                link.send(_predicted(duty.model, reader, link.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    except (ClientError, ProcessFailed) as error:
        _tell(link, str(error))
    except Exception:
        _tell(link, traceback.format_exc())


def _predicted(model: Model, reader: Reader, asked: Asked) -> Predicted:
    step, place = asked
    rows = reader.look_up(step, place)
    looked_ns = clock_ns()
    return Predicted(model.predict(rows.users[step.user], rows.items[step.item]), looked_ns)


def _tell(link: Connection, why: str) -> None:
    with contextlib.suppress(OSError):
        link.send(Failed(why))


class Predictor:
    """The second process, seen from the first. ask() and answer() come in turns."""

    def __init__(self, process: Any, link: Connection) -> None:
        self._process, self._link = process, link

    def ask(self, step: Step, place: Place) -> None:
        """Have a step predicted; returns at once. ProcessFailed where the process is gone."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # answer() tells why
            self._link.send(Asked(step, place))

    def answer(self) -> Predicted:
        """The predictions of the step asked for last. ProcessFailed with what went wrong."""
        said = self._receive()
        assert isinstance(said, Predicted)
        return said

    def wait_ready(self) -> None:
        """Until it can be asked."""
        if not self._link.poll(_START_S):
            raise ProcessFailed(f"the predicting process was not ready within {_START_S:g} s")
        self._receive()

    def _receive(self) -> object:
        try:
            said = self._link.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(_STOP_S)
            raise ProcessFailed(f"the predicting process ended with status {self._process.exitcode}") from None
        if isinstance(said, Failed):
            raise ProcessFailed(f"the predicting process failed: {said.why}")
        return said

    def close(self) -> None:
        self._link.close()
        self._process.join(_STOP_S)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()


@contextlib.contextmanager
def predictor_of(duty: Duty) -> Iterator[Predictor]:
    """The process, ready; it ends with the block."""
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=main, args=(duty, theirs), name="predictor", daemon=True)
    process.start()
    theirs.close()
    predictor = Predictor(process, ours)
    try:
        predictor.wait_ready()
        yield predictor
    finally:
        predictor.close()
