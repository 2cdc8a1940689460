"""A run: a service, two tables, a process that learns and one that predicts, in step with one another.

    learns:    look up step k at position k-1, learn it      | push its deltas: position k
    predicts:  look up step k at position k-1, predict it -> |

No delta of a step is pushed before all its predictions are here, and no step is predicted before the one before it is
visible. So every prediction is made from rows as they were served then, and none knows its own rating.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console

from embcache_client import Client, Trainer
from embcache_client.address import Address
from loadtest import facts
from loadtest.datasets import DataError
from loadtest.load.asking import Target
from loadtest.load.metrics import service_version
from loadtest.load.result import Frame, Report
from loadtest.load.run import progress_on
from loadtest.load.schedule import clock_ns
from loadtest.load.tables import Progress, dropped_at_the_end
from loadtest.served import served
from loadtest.train.alone import alone
from loadtest.train.learner import Learner
from loadtest.train.model import Model
from loadtest.train.predictor import Duty, Predictor, predictor_of
from loadtest.train.ratings import Ratings, made_ratings, read_ratings
from loadtest.train.report import train_report
from loadtest.train.rows import ITEM, USER, Reader, Tables, make_table
from loadtest.train.seen import Seen
from loadtest.train.steps import phases
from loadtest.train.view import View, view_of

MADE: Final = 20_000
"""Ratings, where none are given."""

_PACKAGES: Final = ("embcache-client", "numpy", "msgpack", "xxhash")
_ROW_OVERHEAD: Final = 64
_LEAST_WARM_MIB: Final = 64


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for; see `python -m loadtest train --help`."""

    file: Path | None = None
    made: int = MADE
    url: str | None = None
    token: str | None = None
    timeout_s: float = 10.0
    name: str = "loadtest_train"
    keep: bool = False
    passes: int = 5
    factors: int = 15
    rate: float = 0.05
    regularisation: float = 0.05
    batch: int = 256
    ahead: int = 1024
    seed: int = 1
    alone: bool = True


class _Ready(NamedTuple):
    target: Target
    learner: Learner
    predictor: Predictor


def run(wanted: Wanted, console: Console, arguments: Sequence[str] = ()) -> Report:
    """Run it and return its report, also after Ctrl-C, if anything was predicted until then.

    arguments: those of the command line. DataError, ProcessFailed, the client's errors where it cannot be run.
    """
    ratings, model = _prepared(wanted)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    seen = Seen(ratings)
    beside = None
    with progress_on(console) as progress:
        target = _learn_through(wanted, ratings, model, console, progress, seen)
        if wanted.alone and not seen.interrupted:
            beside = alone(model, ratings, wanted.passes, lambda done, of: progress("in NumPy alone", done, of))
    frame = Frame(
        command=shlex.join(["python", "-m", "loadtest", *_without(arguments, wanted.token)]),
        started=started,
        target=target,
        settings=_settings(wanted, model),
        data={"origin": ratings.origin},
        machine=facts.machine(),
        versions={**facts.versions(), **{package: facts.package_version(package) for package in _PACKAGES}},
    )
    return train_report(frame, ratings, seen, beside)


def _prepared(wanted: Wanted) -> tuple[Ratings, Model]:
    """What is learned, and what learns it. DataError for what can never be right, before anything is started."""
    if wanted.url is not None:
        try:
            Address.parse(wanted.url)
        except ValueError as error:
            raise DataError(f"--url: {error}") from error
    ratings = made_ratings(wanted.made, wanted.seed) if wanted.file is None else read_ratings(wanted.file)
    mean = float(ratings.rating[: ratings.first].mean())
    return ratings, Model(mean, wanted.factors, wanted.rate, wanted.regularisation, wanted.seed)


def _learn_through(
    wanted: Wanted, ratings: Ratings, model: Model, console: Console, progress: Progress, seen: Seen
) -> dict[str, object]:
    """Learn all through a service; -> what the report says of it. Ctrl-C ends it once anything was seen."""
    said: dict[str, object] = {}
    try:
        with _service(wanted, ratings, model, progress) as target:
            said = {"url": target.url, "served": wanted.url is None, "version": _version_of(target)}
            console.print(_intent(wanted, ratings, target), highlight=False, markup=False, soft_wrap=True)
            with _ready(wanted, ratings, model, target) as ready, view_of(console) as view:
                _learn(wanted, ratings, ready, seen, view)
    except KeyboardInterrupt:
        if not seen.any:
            raise
        seen.interrupted = True
    return said


@contextmanager
def _service(wanted: Wanted, ratings: Ratings, model: Model, progress: Progress) -> Iterator[Target]:
    if wanted.url is not None:
        yield Target(wanted.url, wanted.token, wanted.timeout_s)
        return
    rows_bytes = (len(ratings.users) + len(ratings.items)) * (4 * model.dim + _ROW_OVERHEAD)
    progress("starting the service", 0, 1)
    with served(f"{max(round(1.5 * rows_bytes / 2**20), _LEAST_WARM_MIB)}MiB") as service:
        progress("starting the service", 1, 1)
        yield Target(service.url, None, wanted.timeout_s)


@contextmanager
def _ready(wanted: Wanted, ratings: Ratings, model: Model, target: Target) -> Iterator[_Ready]:
    """Both processes at a service with empty tables, which are dropped at the end."""
    tables = Tables.named(wanted.name)
    with ExitStack() as stack:
        made = stack.enter_context(dropped_at_the_end(target, keep=wanted.keep))
        with Client(target.url, token=target.token, timeout=target.timeout_s) as client:
            for table, feature in ((tables.user, USER), (tables.item, ITEM)):
                make_table(client, table, feature, model.dim)
                made.append(table)
        predictor = stack.enter_context(predictor_of(Duty(target, model, tables, ratings.users, ratings.items)))
        reader = stack.enter_context(Reader(target, tables, ratings.users, ratings.items))
        trainer = stack.enter_context(
            Trainer(target.url, producer=wanted.name, token=target.token, timeout=target.timeout_s)
        )
        yield _Ready(target, Learner(model, ratings, tables, reader, trainer), predictor)


def _learn(wanted: Wanted, ratings: Ratings, ready: _Ready, seen: Seen, view: View) -> None:
    """All phases, step by step."""
    learner, predictor = ready.learner, ready.predictor
    pushed_ns: int | None = None
    for phase in phases(ratings, wanted.passes):
        seen.begin(phase, clock_ns())
        for step in phase.steps(ratings, wanted.batch, wanted.ahead):
            predictor.ask(step, learner.place)
            deltas = learner.learn(step)  # meanwhile
            predicted = predictor.answer()  # only now may anybody see what the step teaches
            seen.add(step, predicted.predictions, predicted.looked_ns, pushed_ns)
            pushed_ns = learner.push(deltas, wanted.timeout_s)
            view(seen)


def _version_of(target: Target) -> str:
    transport = target.transport()
    try:
        return service_version(transport)
    finally:
        transport.close()


def _settings(wanted: Wanted, model: Model) -> dict[str, object]:
    return {
        "passes": wanted.passes,
        "factors": model.factors,
        "rate": model.rate,
        "regularisation": model.regularisation,
        "mean": model.mean,
        "batch": wanted.batch,
        "ahead": wanted.ahead,
        "seed": wanted.seed,
        "timeout_s": wanted.timeout_s,
        "tables": list(Tables.named(wanted.name)),
    }


def _without(arguments: Sequence[str], token: str | None) -> list[str]:
    """The arguments as they may be shown around."""
    return [argument.replace(token, "...") if token else argument for argument in arguments]


def _intent(wanted: Wanted, ratings: Ratings, target: Target) -> str:
    last = len(ratings) - ratings.first
    return (
        f"{ratings.origin}. At {target.url}: {wanted.passes} passes over the first {ratings.first:,} in batches of "
        f"{wanted.batch}, then the last {last:,}, each predicted as it is served before it is learned."
    )
