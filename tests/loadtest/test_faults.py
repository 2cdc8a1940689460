"""The fault test in its short form: nothing lost, nothing doubled, nothing stale."""

from __future__ import annotations

from loadtest.faults import run


def test_updates_survive_kills_of_everything() -> None:
    outcome = run(kills=3, producers=2, seed=7)
    assert outcome.good, outcome
    assert outcome.kills == 3
    assert min(outcome.batches, outcome.sent_again, outcome.read_back) > 0
