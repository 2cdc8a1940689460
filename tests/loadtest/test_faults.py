"""The fault test in its short form: nothing lost, nothing doubled, nothing stale."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from loadtest.faults import Outcome, print_outcome, run


def test_updates_survive_kills_of_everything() -> None:
    outcome = run(kills=3, producers=2, seed=7)
    assert outcome.good, outcome
    assert outcome.kills == 3
    assert min(outcome.batches, outcome.sent_again, outcome.read_back, outcome.cut_short) > 0


def printed(outcome: Outcome) -> str:
    console = Console(file=io.StringIO(), width=100)
    print_outcome(outcome, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_slow_starts_are_told() -> None:
    outcome = Outcome(kills=2)
    outcome.started(4.9)
    assert "Every start was ready within 5 s." in printed(outcome)
    outcome.started(5.1)
    assert "1 of 2 starts were not ready within 5 s." in printed(outcome)
    assert (outcome.slowest_start_s, outcome.good) == (5.1, True)


@pytest.mark.parametrize("figure", ["wrong_rows", "stale_reads", "counted_anew", "half_applied"])
def test_nothing_that_is_wrong_is_good(figure: str) -> None:
    outcome = Outcome()
    setattr(outcome, figure, 1)
    assert not outcome.good
