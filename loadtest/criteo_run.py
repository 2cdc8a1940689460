"""A click model learned twice: with 26 tables of a service, by feature value, and with torch.nn.EmbeddingBag.

Both begin with the same rows, which are the tables' default rows: a table of the service is empty, and a row comes to
be when something is first added to it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from embcache_client import Client, Trainer
from embcache_client.address import Address
from embcache_client.errors import UnknownTable
from embcache_client.torch import EmbeddingBag
from loadtest.criteo_data import FEATURES, Clicks, auc, read_clicks
from loadtest.criteo_model import Learned, Pooled, Settings, learn
from loadtest.datasets import DataError
from loadtest.importing import ROWS_AT_ONCE
from loadtest.load.asking import Target
from loadtest.load.run import progress_on
from loadtest.load.tables import Progress, dropped_at_the_end
from loadtest.served import served

AMPLITUDE: Final = 0.05
"""Of the first rows."""

_WARM: Final = "64MiB"
_DEADLINE_SHARE: Final = 0.9  # of the client's timeout, so that the service's answer comes first


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for; see `python -m loadtest criteo --help`."""

    file: Path
    settings: Settings
    url: str | None = None
    token: str | None = None
    timeout_s: float = 10.0
    name: str = "loadtest_criteo"
    keep: bool = False
    held_out: float = 0.2


class Outcome(NamedTuple):
    """through: by the service. alone: torch.nn.EmbeddingBag. rows: the tables' at the end. unseen: of the held-out
    values, the share that no learned row had."""

    clicks: Clicks
    learned: int
    through: Learned
    alone: Learned
    rows: int
    unseen: float

    @property
    def aucs(self) -> tuple[float, float]:
        """Of the held-out rows: through the service, and alone."""
        clicked = self.clicks.clicked[self.learned :]
        return auc(clicked, self.through.scores), auc(clicked, self.alone.scores)

    @property
    def apart(self) -> float:
        """How far two scores of one held-out row are from each other, at most."""
        return float(np.abs(self.through.scores - self.alone.scores).max())


def run(wanted: Wanted, console: Console) -> Outcome:
    """Run it. DataError, ProcessFailed, the client's errors where it cannot be run; nothing is left behind."""
    clicks = read_clicks(wanted.file)
    learned = _learned(wanted, clicks)
    if wanted.url is not None:
        try:
            Address.parse(wanted.url)
        except ValueError as error:
            raise DataError(f"--url: {error}") from error
    with progress_on(console) as progress, _one_thread(), _tables(wanted, progress) as (target, client, names):
        first = _first_rows(client, names, clicks)
        through, rows = _through(wanted, target, client, names, clicks, learned, progress)
        alone = _alone(wanted.settings, first, clicks, learned, progress)
    return Outcome(clicks, learned, through, alone, rows, _unseen(clicks, learned))


def print_outcome(outcome: Outcome, wanted: Wanted, console: Console) -> None:
    """A table of both, and what to think of it."""
    settings, held_out = wanted.settings, len(outcome.clicks) - outcome.learned
    clicked = int(outcome.clicks.clicked[outcome.learned :].sum())
    console.print(
        f"{wanted.file.name}: the first {outcome.learned:,} rows learned, {settings.epochs} epochs in batches of "
        f"{settings.batch}; the last {held_out:,} held out, {clicked:,} of them clicks. 26 tables of {settings.dim} x "
        f"f32, {outcome.rows:,} rows at the end; {outcome.unseen:.0%} of the held-out values were never learned.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    table = Table()
    for heading in ("rows in", "AUC", "log loss of the last epoch", "seconds"):
        table.add_column(heading, justify="left" if heading == "rows in" else "right")
    for name, each, figure in zip(
        ("the service", "torch.nn.EmbeddingBag"), (outcome.through, outcome.alone), outcome.aucs, strict=True
    ):
        table.add_row(name, f"{figure:.4f}", f"{each.losses[-1]:.4f}", f"{each.seconds:.1f}")
    console.print(table)
    console.print(f"No score of a held-out row is further apart than {outcome.apart:.1g}.", highlight=False)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """A model this small is slower with more of torch's, above all beside a service."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _learned(wanted: Wanted, clicks: Clicks) -> int:
    learned = round(len(clicks) * (1 - wanted.held_out))
    if len(set(clicks.clicked[learned:].tolist())) < 2 or not learned:
        raise DataError(
            f"{wanted.file}: the last {len(clicks) - learned} of {len(clicks)} rows, which are held out, need a click "
            "and one that is none, and some rows before them"
        )
    return learned


@contextlib.contextmanager
def _tables(wanted: Wanted, progress: Progress) -> Iterator[tuple[Target, Client, list[str]]]:
    """A service with 26 empty tables, which are dropped at the end. DataError where one is there already."""
    with contextlib.ExitStack() as stack:
        url = wanted.url
        if url is None:
            progress("starting the service", 0, 1)
            url = stack.enter_context(served(_WARM)).url
            progress("starting the service", 1, 1)
        target = Target(url, wanted.token if wanted.url is not None else None, wanted.timeout_s)
        names = stack.enter_context(dropped_at_the_end(target, keep=wanted.keep or wanted.url is None))
        client = stack.enter_context(Client(url, token=target.token, timeout=target.timeout_s))
        for feature in FEATURES:
            name = f"{wanted.name}_{feature.lower()}"
            _make(client, name, feature, wanted.settings.dim)
            names.append(name)
        yield target, client, names


def _make(client: Client, name: str, feature: str, dim: int) -> None:
    with contextlib.suppress(UnknownTable):
        client.table(name)
        raise DataError(f"the service has a table {name} already: drop it, or give others a --name")
    client.create_table({"name": name, "dim": dim, "feature": feature, "default": {"uniform": AMPLITUDE}})


def _first_rows(client: Client, names: list[str], clicks: Clicks) -> list[tuple[dict[str, int], torch.Tensor]]:
    """For each feature the number of each of its values, and f32 [values, dim]: the rows that they begin with."""
    first = []
    for name, column in zip(names, clicks.values, strict=True):
        values = sorted(set(column) - {""})
        parts = [values[start : start + ROWS_AT_ONCE] for start in range(0, len(values), ROWS_AT_ONCE)] or [[]]
        rows = np.concatenate([client.lookup({name: part})[name].rows for part in parts])
        first.append(({value: number for number, value in enumerate(values)}, torch.from_numpy(rows)))
    return first


def _through(
    wanted: Wanted,
    target: Target,
    client: Client,
    names: list[str],
    clicks: Clicks,
    learned: int,
    progress: Progress,
) -> tuple[Learned, int]:
    """Learn with the service's tables; -> also how many rows they have then."""
    deadline_ms = max(round(target.timeout_s * 1000 * _DEADLINE_SHARE), 1)
    options: dict[str, Any] = {"lr": wanted.settings.lr, "own_writes": True, "deadline_ms": deadline_ms}
    with Trainer(target.url, producer=wanted.name, token=target.token, timeout=target.timeout_s) as trainer:
        bags = [EmbeddingBag(client, name, mode="sum", trainer=trainer, **options) for name in names]
        features: list[Pooled] = [partial(_served, bag) for bag in bags]
        done = partial(progress, "through the service")
        return learn(features, None, clicks, learned, wanted.settings, done), _rows(client, names)


def _served(bag: EmbeddingBag, values: list[str]) -> torch.Tensor:
    return bag([[value] if value else [] for value in values])


def _alone(
    settings: Settings,
    first: list[tuple[dict[str, int], torch.Tensor]],
    clicks: Clicks,
    learned: int,
    progress: Progress,
) -> Learned:
    bags = [torch.nn.EmbeddingBag.from_pretrained(rows, freeze=False, mode="sum") for _, rows in first]
    features: list[Pooled] = [partial(_held, bag, numbers) for bag, (numbers, _) in zip(bags, first, strict=True)]
    optimizer = torch.optim.SGD([bag.weight for bag in bags], lr=settings.lr)
    return learn(features, optimizer, clicks, learned, settings, partial(progress, "with torch.nn.EmbeddingBag"))


def _held(bag: Any, numbers: dict[str, int], values: list[str]) -> torch.Tensor:
    lengths = torch.tensor([1 if value else 0 for value in values])
    there = torch.tensor([numbers[value] for value in values if value], dtype=torch.int64)
    return bag(there, lengths.cumsum(0) - lengths)


def _rows(client: Client, names: list[str]) -> int:
    """Counted: what the service says of a table that was updated is an estimate."""
    return sum(len(page.ids) for name in names for page in client.pages(name, dtype="q8"))


def _unseen(clicks: Clicks, learned: int) -> float:
    unseen = total = 0
    for column in clicks.values:
        known = set(column[:learned])
        held_out = [value for value in column[learned:] if value]
        unseen += sum(value not in known for value in held_out)
        total += len(held_out)
    return unseen / total if total else 0.0
