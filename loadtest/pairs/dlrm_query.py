"""dlrm-query: a recommender's whole query through the service, against reading its rows and nothing else."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np

from loadtest.load.asked import DLRM_DIM, DLRM_HOT
from loadtest.pairs.answers import same_rows
from loadtest.pairs.base import Outcome, Pair
from loadtest.pairs.lines import on_lines
from loadtest.pairs.many_tables import ManyTables
from loadtest.pairs.warm_service import warm_tables
from loadtest.records import Goal
from loadtest.slices import alternate, p50_us
from loadtest.workloads import F32s, I64s, rows_from_ids

ROWS, DIM, SAMPLES = 16_384, DLRM_DIM, 270
CALLS_A_SLICE = 10

Places = dict[str, I64s]


class _Takes:
    """Gathers of the same rows by row number, a table at a time, into arrays that are there already."""

    def __init__(self, made: ManyTables, counts: dict[str, int]) -> None:
        self._tables: dict[str, F32s] = {}
        for table, (ids, rows) in made.tables.items():
            self._tables[table] = on_lines(len(ids), made.dim)
            self._tables[table][:] = rows
        self.out = {table: on_lines(count, made.dim) for table, count in counts.items()}

    def __call__(self, places: Places) -> None:
        for table, at in places.items():
            np.take(self._tables[table], at, axis=0, out=self.out[table], mode="clip")


def measure(rounds: int) -> Outcome:
    """Random ids of each table, other ones each time; one request, one connection, one at a time."""
    rng = np.random.default_rng(10)
    made = ManyTables.made(ROWS, DIM, rng)
    counts = {table: SAMPLES * hot for table, hot in zip(made.tables, DLRM_HOT, strict=True)}
    take = _Takes(made, counts)
    with ExitStack() as stack:
        client = stack.enter_context(warm_tables(made.tables)).client
        places = made.places(counts, rng)
        found = client.lookup(made.ids(places), dtype="f16")
        take(places)
        for table, ids in made.ids(places).items():
            expected = rows_from_ids(ids, DIM)
            same_rows(f"the service, table {table},", found[table].raw, expected.astype(np.float16))
            same_rows(f"np.take, table {table},", take.out[table], expected)

        def queries() -> list[Places]:
            return [made.places(counts, rng) for _ in range(CALLS_A_SLICE)]

        figures = alternate(
            lambda: p50_us(lambda ids: client.lookup(ids, dtype="f16"), [made.ids(each) for each in queries()]) / 1000,
            lambda: p50_us(take, queries()) / 1000,
            rounds,
        )
    return Outcome(*figures)


PAIR = Pair(
    name="dlrm-query",
    what="p50 of a query of MLPerf's DLRM-v2 size over TCP loopback: 270 samples of 214 ids, 57,780 in all, of 26 "
    "tables of 16,384 rows x 128 f32, all warm, sent as f16, against np.take(out=, mode='clip') of the same f32 rows "
    "by row number, a table at a time.",
    unit="ms",
    peer="np.take",
    goal=Goal("<=", 6),
    measure=measure,
)
