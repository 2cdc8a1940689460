"""What a run asks, as data: its tables, its workload, its arrivals. Frozen, so that every generator has the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from loadtest.load.traces import TraceFiles
from loadtest.workloads import U64s

Kind = Literal["zipf", "latest", "trace", "dlrm"]
Arrivals = Literal["poisson", "constant", "closed"]
OPS: Final = ("lookup", "assign", "add", "delete")

DLRM_HOT: Final = (3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1)
"""Ids a sample has in each of the 26 tables of MLPerf's DLRM-v2: 214 in all."""

DLRM_ROWS: Final = (
    *(40_000_000, 39_060, 17_295, 7_424, 20_265, 3, 7_122, 1_543, 63, 40_000_000, 3_067_956, 405_282, 10),
    *(2_209, 11_938, 155, 4, 976, 14, 40_000_000, 40_000_000, 40_000_000, 590_152, 12_973, 108, 36),
)
"""Rows of each of them (the multi-hot Criteo set of MLPerf's training reference, recommendation_v2)."""

DLRM_DIM: Final = 128


@dataclass(frozen=True, slots=True)
class AskedTable:
    """A table that is asked: `rows` ids, 0 to rows - 1, or those in `ids`, a .npy of u64 [rows].

    hot: how many of its ids one sample asks for, which are one bag where bags are pooled.
    """

    name: str
    dim: int
    rows: int
    hot: int = 1
    ids: Path | None = None

    def known(self) -> U64s | None:
        """The ids by their places, mapped; None where the id is the place."""
        return None if self.ids is None else np.load(self.ids, mmap_mode="r")


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked of which tables.

    alpha: of the Zipf distribution of ids; scattered: whether ids of like use lie apart.
    ids: of each table in a lookup (not of `dlrm`, nor of a trace that says itself).
    mix: the share of each op, which sum to 1. update_rows: of an update. add_step: what an `add` adds at most.
    pooling: None for a row an id. dtype: of rows on the wire.
    """

    kind: Kind
    tables: tuple[AskedTable, ...]
    seed: int
    alpha: float = 0.99
    scattered: bool = True
    ids: int = 256
    mix: tuple[tuple[str, float], ...] = (("lookup", 1.0),)
    update_rows: int = 256
    pooling: str | None = None
    dtype: str = "f32"
    trace: TraceFiles | None = None

    @property
    def updates(self) -> bool:
        """Whether anything but lookups is asked."""
        return any(op != "lookup" and share > 0 for op, share in self.mix)

    def described(self) -> dict[str, Any]:
        """As JSON: what is asked, and nothing of where files lie."""
        fields = asdict(replace(self, trace=None))
        fields["mix"] = dict(self.mix)
        fields["tables"] = [
            {"name": table.name, "dim": table.dim, "rows": table.rows, "hot": table.hot} for table in self.tables
        ]
        fields["trace"] = None if self.trace is None else {"ids": self.trace.count, "lookups": self.trace.lookups}
        return fields

    def sha256(self) -> str:
        """Of all that decides what is asked: like hashes, like questions."""
        digest = hashlib.sha256(json.dumps(self.described(), sort_keys=True).encode())
        if self.trace is not None:
            digest.update(self.trace.sha256.encode())
        for table in self.tables:
            if (ids := table.known()) is not None:
                for start in range(0, len(ids), 1 << 20):
                    digest.update(ids[start : start + (1 << 20)].tobytes())
        return digest.hexdigest()


def parse_mix(text: str) -> tuple[tuple[str, float], ...]:
    """`lookup=0.95,add=0.05` as shares that sum to 1. ValueError says what is wrong with it."""
    shares: dict[str, float] = {}
    for part in text.split(","):
        op, equals, share = part.strip().partition("=")
        if op not in OPS or not equals:
            raise ValueError(f"{part.strip()!r} is not OP=SHARE with one of {', '.join(OPS)}")
        if op in shares:
            raise ValueError(f"{op} stands there twice")
        try:
            shares[op] = float(share)
        except ValueError:
            raise ValueError(f"{share!r} is no share of {op}: a number from 0 to 1") from None
        if not 0 <= shares[op] <= 1:
            raise ValueError(f"{op} has a share of {share}; shares go from 0 to 1")
    total = sum(shares.values())
    if not 0.999 <= total <= 1.001:
        raise ValueError(f"the shares sum to {total:g}, not to 1")
    return tuple((op, share / total) for op, share in shares.items() if share > 0)
