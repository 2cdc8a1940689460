"""What is asked for: the lookups of a trace in a file, or made ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np

from loadtest.load.traces import read_trace
from loadtest.load.zipf import Zipf
from loadtest.workloads import Lookups, even_lookups, random_ids

_MADE_IDS: Final = 200_000
_MADE_ACCESSES: Final = 1_000_000
_ALPHA: Final = 0.9
_STEPS: Final = 50
_MOVED: Final = 0.02


@dataclass(frozen=True, slots=True)
class Accesses:
    """Lookups in order, how many distinct ids they ask for, and where they come from, for who reads the report."""

    lookups: Lookups
    distinct: int
    origin: str
    made: bool


def read(file: Path, lookup_ids: int) -> Accesses:
    """The accesses of a file (load/traces.py says of what kinds), whose lookups are its own where it has some.

    lookup_ids: how many ids each lookup has where it has none. DataError, naming the file, where it is no trace.
    """
    with TemporaryDirectory(prefix="embcache-policies-") as folder:
        ids, starts = read_trace(file, Path(folder)).mapped()
        ids = np.array(ids, np.uint64)
        lookups = even_lookups(ids, lookup_ids) if starts is None else Lookups(ids, np.array(starts, np.int64))
    sizes = f"{lookup_ids} ids a lookup" if starts is None else "in the lookups of the file"
    return _of(lookups, f"accesses of {file.name}, in order, {sizes}", made=False)


def made(lookup_ids: int, seed: int, accesses: int = _MADE_ACCESSES, ids: int = _MADE_IDS) -> Accesses:
    """Zipf-distributed accesses of which ids change places: in each fiftieth of them, 2% of the ids do."""
    rng = np.random.default_rng(seed)
    zipf, of_rank = Zipf(ids, _ALPHA), rng.permutation(random_ids(ids, rng))
    pieces = []
    for step in range(_STEPS):
        moved = rng.choice(ids, int(ids * _MOVED), replace=False)
        of_rank[moved] = of_rank[rng.permutation(moved)]
        count = accesses * (step + 1) // _STEPS - accesses * step // _STEPS
        pieces.append(of_rank[zipf.draw(rng, count)])
    origin = (
        f"MADE UP, since no --trace is given: zipf {_ALPHA:g} over {ids:,} ids, of which {_MOVED:.0%} change places "
        f"with each other at every {accesses // _STEPS:,} accesses; {lookup_ids} ids a lookup; seed {seed}"
    )
    return _of(even_lookups(np.concatenate(pieces), lookup_ids), origin, made=True)


def _of(lookups: Lookups, origin: str, *, made: bool) -> Accesses:
    return Accesses(lookups, len(np.unique(lookups.ids)), origin, made)
