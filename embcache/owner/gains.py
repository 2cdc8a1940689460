"""How the arena is divided where more memory saves most misses. Arithmetic only.

Each version has a curve of misses over bytes (host/curve.py). Taken convex from below, it falls ever less steeply: so
the division with the fewest misses gives each next byte where the curve is steepest (Stone et al., "Optimal
partitioning of cache memory", 1992). A version whose curve is not known keeps a fair share.

Moving rows is work and curves are estimates. So a division is changed only where that is worth it, only the shares that
are far from where they should be, and each by a step.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embcache.fairness import pour
from embcache.owner.shares import FILLED, Want, moves, shares

F64s = NDArray[np.float64]

KEPT = 0.1  # of a fair share that a version keeps in any case: what is asked for next may be others
STEP = 1.5  # by which a share grows or shrinks at once, at most
WORTH_MOVING = 1.1  # a region is moved that grows, or is to shrink, at least so much
WORTH = 0.05  # of the misses that a division has to save


@dataclass(frozen=True, slots=True)
class Payoff:
    """Misses of a version with memory of so many bytes: both f64 [n], bytes ascending, misses not ascending."""

    nbytes: F64s
    missed: F64s

    def at(self, nbytes: float) -> float:
        """Misses with so many bytes."""
        return float(np.interp(nbytes, self.nbytes, self.missed))


def by_gain(wants: Mapping[int, Want], payoffs: Mapping[int, Payoff], capacity: int) -> dict[int, int]:
    """{version: bytes} with the fewest misses; within the capacity if the least that all of them want is."""
    fair = shares(wants, capacity)
    free = [version for version in wants if version in payoffs and wants[version].most > wants[version].least]
    given = {version: share if version not in free else _kept(wants[version], share) for version, share in fair.items()}
    left = int(capacity * FILLED) - sum(given.values())
    steps = [
        step for version in free for step in _steps(version, payoffs[version], given[version], wants[version].most)
    ]
    for _, version, nbytes in sorted(
        steps, key=lambda step: step[0]
    ):  # the steepest first; those of one curve in order
        taken = min(nbytes, max(left, 0))
        given[version] += taken
        left -= taken
    rest = pour({version: wants[version].most - given[version] for version in free}, max(left, 0))
    return {version: share + rest.get(version, 0) for version, share in given.items()}


def _kept(want: Want, share: int) -> int:
    return min(max(want.least, int(share * KEPT)), max(share, want.least))


def _steps(version: int, payoff: Payoff, begin: int, end: int) -> list[tuple[float, int, int]]:
    """(misses a byte more, version, bytes) of the pieces of the curve's convex hull, ever less steep."""
    inner = payoff.nbytes[(payoff.nbytes > begin) & (payoff.nbytes < end)]
    hull: list[tuple[float, float]] = []
    for nbytes in [float(begin), *inner.tolist(), float(end)]:
        point = (nbytes, payoff.at(nbytes))
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    pairs = itertools.pairwise(hull)
    return [(_slope(one, other), version, int(other[0] - one[0])) for one, other in pairs if other[1] < one[1]]


def _slope(one: tuple[float, float], other: tuple[float, float]) -> float:
    return (other[1] - one[1]) / max(other[0] - one[0], 1e-9)


def missed(sizes: Mapping[int, int], payoffs: Mapping[int, Payoff]) -> float:
    """Misses of all versions whose curves are known, in regions of these sizes."""
    return sum(payoff.at(sizes[version]) for version, payoff in payoffs.items() if version in sizes)


def next_step(
    sizes: Mapping[int, int], wants: Mapping[int, Want], payoffs: Mapping[int, Payoff], capacity: int
) -> dict[int, int] | None:
    """{version: bytes} a step nearer to the best division.

    None where that one would not save WORTH of the misses, or the step is too small for any region to be moved.
    """
    best = by_gain(wants, payoffs, capacity)
    now = missed(sizes, payoffs)
    if now - missed(best, payoffs) < WORTH * now or now <= 0:
        return None
    goals = {version: _nearer(size, best[version]) for version, size in sizes.items() if version in best}
    growth = {version: goal - sizes[version] for version, goal in goals.items() if goal > sizes[version]}
    room = int(capacity * FILLED) - sum(goals.values()) + sum(growth.values())
    part = min(1.0, max(room, 0) / max(sum(growth.values()), 1))
    goals |= {version: sizes[version] + int(more * part) for version, more in growth.items()}
    return goals if moves(sizes, goals, capacity, WORTH_MOVING) else None


def _nearer(size: int, best: int) -> int:
    if best >= size * WORTH_MOVING:
        return min(best, int(size * STEP))
    if best <= size / WORTH_MOVING:
        return max(best, int(size / STEP))
    return size


def settled(wants: Mapping[int, Want], goals: Mapping[int, int], capacity: int) -> dict[int, int]:
    """{version: bytes} by goals that were set when other versions were there, and by fairness for those without one."""
    fair = shares(wants, capacity)
    known = {v: min(max(goals[v], want.least), want.most) for v, want in wants.items() if v in goals}
    room = int(capacity * FILLED) - sum(share for version, share in fair.items() if version not in known)
    total = sum(known.values())
    if total > room:
        known = {v: max(int(share * room / total), wants[v].least) for v, share in known.items()}
        if sum(known.values()) > room:
            return fair
        total = sum(known.values())
    rest = pour({version: wants[version].most - share for version, share in known.items()}, room - total)
    return fair | {version: share + rest[version] for version, share in known.items()}
