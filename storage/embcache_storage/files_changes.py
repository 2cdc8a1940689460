"""What a file of changes says beside its rows: of which table, since which position, up to which it is complete.

Such a file holds the rows that changed, as they are now, and the ids of those that are gone:

    npz               arrays `ids`, `rows` and `deleted` [d]; `changes`, one string: the JSON below
    safetensors       tensors of the same names; `embcache.changes` of the metadata is the JSON
    Parquet, Arrow    a column `deleted` beside the two: where it is true, `rows` is null; the JSON as for safetensors

    {"table": "item", "since": "100", "position": "157", "history": "6f2a9c"}    positions as strings of digits
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from embcache_storage.files_source import FileError

KEY: Final = "embcache.changes"
MEMBER: Final = "changes"
DELETED: Final = "deleted"
MAX_TOLD: Final = 4096
"""Characters of the JSON, at most: more is none of ours."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Of which table a file holds changes: all after position `since` and up to `position` of a history, maybe newer
    ones, too."""

    table: str
    since: int
    position: int
    history: str

    def to_text(self) -> str:
        """JSON, which `parse` takes back."""
        return json.dumps({**asdict(self), "since": str(self.since), "position": str(self.position)})

    @classmethod
    def parse(cls, text: str | bytes, path: Path) -> Self:
        """What `to_text` told. FileError."""
        try:
            told = json.loads(text)
            table, history = told["table"], told["history"]
            if len(text) > MAX_TOLD or not (isinstance(table, str) and isinstance(history, str)) or len(history) > 64:
                raise ValueError
            since, position = int(told["since"]), int(told["position"])
            if not 0 <= since <= position < 2**64:
                raise ValueError
        except (ValueError, TypeError, LookupError):
            raise FileError(f"{path}: what it tells of the changes in it is damaged: {text[:200]!r}") from None
        return cls(table, since, position, history)
