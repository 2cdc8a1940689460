"""The fault test in its short form: nothing lost, nothing doubled, nothing stale."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from loadtest.faults import Outcome, print_outcome, run


def test_updates_survive_kills_of_everything_of_the_owner_and_of_one_of_two_fronts() -> None:
    outcome = run(kills=3, producers=2, seed=7, fronts=2)
    assert outcome.good, outcome
    assert outcome.kills == 3
    assert min(outcome.sent_again, outcome.read_back, outcome.cut_short, outcome.in_ledger) > 0


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


@pytest.mark.parametrize("figure", ["lost", "doubled", "stale", "torn", "wrong_rows", "counted_anew"])
def test_nothing_that_is_wrong_is_good(figure: str) -> None:
    outcome = Outcome()
    setattr(outcome, figure, 1)
    assert not outcome.good


def test_the_ledger_tells_what_is_lost_doubled_and_torn() -> None:
    ledger = np.repeat(np.array([[1], [0], [2], [1], [3]], np.float32), 4, axis=1)
    ledger[3, 2] = 2
    outcome = Outcome(batches=5)
    outcome.audit(np.array([True, False, True, True, True]), ledger)
    assert (outcome.lost, outcome.doubled, outcome.torn, outcome.in_ledger) == (1, 2, 1, 5)
    assert printed(outcome).endswith("Of 5 batches: lost 1, doubled 2, stale 0, torn 1.\n")
