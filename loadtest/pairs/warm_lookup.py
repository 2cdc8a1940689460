"""warm-lookup, warm-lookup-fbgemm: a hash lookup in shared memory against gathers by row number.

NumPy's, and that of FBGEMM's table-batched embedding, which recommenders run on.
"""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from loadtest.pairs.answers import same_rows
from loadtest.pairs.base import Outcome, Pair, enter_peer
from loadtest.pairs.host_table import BareTable, Reader, held_ids
from loadtest.pairs.lines import on_lines
from loadtest.peers.fbgemm_table import fbgemm_table
from loadtest.records import Goal
from loadtest.slices import Side, alternate, rate_side
from loadtest.workloads import F32s, random_ids, rows_from_ids

ROWS, DIM, LOOKUP_IDS = 2**21, 64, 4096
CALLS_A_SLICE = 100


class _Ours:
    """The table, and a side that looks up random ids of those that it holds."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.ids = random_ids(ROWS, rng)
        self.rows = on_lines(ROWS, DIM)
        self.rows[:] = rows_from_ids(self.ids, DIM)
        table = BareTable(self.ids, self.rows)
        held = held_ids(table, self.ids)
        reader = Reader(table, LOOKUP_IDS)
        missed = self._missed = list[int]()
        reader.lookup(held[:LOOKUP_IDS])
        same_rows("the table", reader.rows, rows_from_ids(held[:LOOKUP_IDS], DIM))
        self.side = rate_side(
            lambda query: missed.append(reader.lookup(query)),
            lambda: held[rng.integers(0, len(held), LOOKUP_IDS)],
            CALLS_A_SLICE,
            LOOKUP_IDS,
        )

    def outcome(self, theirs: Side | None, rounds: int, absent: str = "") -> Outcome:
        figures = alternate(self.side, theirs, rounds)
        missed = sum(self._missed)
        return Outcome(*figures, absent, f"{missed} lookups of ids that the table does not hold" if missed else "")


def measure_numpy(rounds: int) -> Outcome:
    """Both sides write into an array of their own that is there already; np.take gets its row numbers ready made."""
    rng = np.random.default_rng(1)
    ours = _Ours(rng)
    out = on_lines(LOOKUP_IDS, DIM)

    def take(places: NDArray[np.int64]) -> F32s:
        return np.take(ours.rows, places, axis=0, out=out, mode="clip")

    places = rng.integers(0, ROWS, LOOKUP_IDS)
    same_rows("np.take", take(places), rows_from_ids(ours.ids[places], DIM))
    theirs = rate_side(take, lambda: rng.integers(0, ROWS, LOOKUP_IDS), CALLS_A_SLICE, LOOKUP_IDS)
    return ours.outcome(theirs, rounds)


def measure_fbgemm(rounds: int) -> Outcome:
    """The op makes its own output, as it always does; it gets its row numbers ready made, as the tensors it takes."""
    rng = np.random.default_rng(1)
    ours = _Ours(rng)
    with ExitStack() as stack:
        table, absent = enter_peer(stack, fbgemm_table(ours.rows, LOOKUP_IDS))
        theirs = None
        if table is not None:
            places = rng.integers(0, ROWS, LOOKUP_IDS)
            answered = np.asarray(table.lookup(table.places(places)))
            same_rows("FBGEMM", answered, rows_from_ids(ours.ids[places], DIM))
            theirs = rate_side(
                table.lookup, lambda: table.places(rng.integers(0, ROWS, LOOKUP_IDS)), CALLS_A_SLICE, LOOKUP_IDS
            )
        return ours.outcome(theirs, rounds, absent)


NUMPY = Pair(
    name="warm-lookup",
    what="HostTable in shared memory, 4,096 random ids a lookup out of 2,097,152 rows of 64 x f32 (512 MiB), one "
    "thread, hashing and a status for each id included, against np.take(out=, mode='clip') over the same rows by row "
    "number.",
    unit="M ids/s",
    peer="np.take",
    goal=Goal(">=", 1.2),
    measure=measure_numpy,
)
FBGEMM = Pair(
    name="warm-lookup-fbgemm",
    what="The same against FBGEMM's table-batched embedding on the CPU (the op behind "
    "IntNBitTableBatchedEmbeddingBagsCodegen, f32 rows, called without its module, bounds checks off, row numbers of "
    "32 bits, a bag for each id), one thread, in inference mode, over the same rows by row number. It needs the extra "
    "`bench-fbgemm`.",
    unit="M ids/s",
    peer="FBGEMM",
    goal=Goal(">=", 1.0),
    measure=measure_fbgemm,
)
