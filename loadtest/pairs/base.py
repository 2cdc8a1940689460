"""What a pair is, and what measuring it gives."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import TypeVar

from loadtest.peers import PeerAbsent
from loadtest.records import Goal, Record
from loadtest.slices import Figures

T = TypeVar("T")
NO_FIGURES = Figures(())


@dataclass(frozen=True, slots=True)
class Outcome:
    """Slices of both sides. `theirs` has none where the pair has no peer, or `absent` says why it is missing.

    failed: what the figure depends on did not hold, so that the goal is missed whatever the figure.
    """

    ours: Figures
    theirs: Figures = NO_FIGURES
    absent: str = ""
    note: str = ""
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Pair:
    """One comparison. `measure(rounds)` starts what it needs, measures, and leaves nothing behind.

    The goal is for the ratio ours / theirs, or for our own figure where `peer` is None.
    """

    name: str
    what: str
    unit: str
    peer: str | None
    goal: Goal
    measure: Callable[[int], Outcome]

    def record(self, rounds: int) -> Record:
        """Measure, and judge."""
        outcome = self.measure(rounds)
        ours = outcome.ours.median
        theirs = outcome.theirs.median if outcome.theirs.slices else None
        ratio = ours / theirs if theirs else None
        judged = ours if self.peer is None else ratio
        remarks = [f"peer absent: {outcome.absent}"] * bool(outcome.absent) + [outcome.note] * bool(outcome.note)
        return Record(
            name=self.name,
            unit=self.unit,
            ours=ours,
            peer=self.peer,
            theirs=theirs,
            ratio=ratio,
            target=str(self.goal),
            reached=None if judged is None else self.goal.reached(judged) and not outcome.failed,
            slices=len(outcome.ours.slices),
            ours_quartiles=outcome.ours.quartiles,
            theirs_quartiles=outcome.theirs.quartiles if outcome.theirs.slices else None,
            what=self.what,
            note="; ".join(remarks),
        )


def enter_peer(stack: ExitStack, peer: AbstractContextManager[T]) -> tuple[T | None, str]:
    """Start the peer for as long as the stack lasts: (the peer, ""), or (None, why it is absent)."""
    try:
        return stack.enter_context(peer), ""
    except PeerAbsent as absent:
        return None, str(absent)
