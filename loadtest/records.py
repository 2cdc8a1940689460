"""What a comparison writes down: one record a pair, and the machine it ran on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Goal:
    """What a record has to reach: its ratio, or our own figure where there is no peer."""

    bound: Literal[">=", "<="]
    value: float

    def reached(self, figure: float) -> bool:
        return figure >= self.value if self.bound == ">=" else figure <= self.value

    def __str__(self) -> str:
        return f"{self.bound} {self.value:g}"


@dataclass(frozen=True, slots=True)
class Record:
    """Medians of both sides and their ratio, ours / theirs.

    theirs and ratio are None without a peer, or where it is absent (`note` says why); `reached` is None where the
    target could not be judged for that reason. Quartiles tell how noisy the machine was.
    """

    name: str
    unit: str
    ours: float
    peer: str | None
    theirs: float | None
    ratio: float | None
    target: str
    reached: bool | None
    slices: int
    ours_quartiles: tuple[float, float]
    theirs_quartiles: tuple[float, float] | None
    what: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All records of one run of `compare`, with the command, the machine and the versions behind them.

    interrupted: the pair in which the run was ended; "" where all pairs were measured.
    """

    command: str
    machine: dict[str, str]
    versions: dict[str, str]
    records: list[Record] = field(default_factory=list)
    interrupted: str = ""

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Report:
        """Read what `write` wrote. ValueError, naming the file, where it is something else."""
        try:
            fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            records = [Record(**record) for record in fields.pop("records")]
            return cls(**fields, records=records)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a file that `compare --json` wrote: {error}") from error
