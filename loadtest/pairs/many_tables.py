"""The 26 tables of a recommender, made up, and ids of them. Shared by the pairs that ask for all tables at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loadtest.pairs.warm_service import Table
from loadtest.workloads import I64s, U64s, random_ids, rows_from_ids

TABLES = 26


@dataclass(frozen=True, slots=True)
class ManyTables:
    """Tables by name. Their ids ascend; `dim` f32 to a row."""

    tables: dict[str, Table]
    dim: int

    @classmethod
    def made(cls, rows_each: int, dim: int, rng: np.random.Generator) -> ManyTables:
        ids = [random_ids(rows_each, rng) for _ in range(TABLES)]
        return cls({f"t{at:02}": (each, rows_from_ids(each, dim)) for at, each in enumerate(ids)}, dim)

    def places(self, counts: dict[str, int], rng: np.random.Generator) -> dict[str, I64s]:
        """So many random row numbers of each table, repeats allowed."""
        return {table: rng.integers(0, len(self.tables[table][0]), count) for table, count in counts.items()}

    def ids(self, places: dict[str, I64s]) -> dict[str, U64s]:
        """The ids that stand there."""
        return {table: self.tables[table][0][at] for table, at in places.items()}
