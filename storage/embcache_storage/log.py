"""What an update log is: entries of bytes at positions 1, 2, 3 ..., durable before they are acknowledged.

A log knows bytes and positions; what an entry says, and who wrote it, is its owner's business. Imports no engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Payload = bytes | bytearray | memoryview


class Trimmed(Exception):
    """The entries asked for are not kept any more. `first` is the oldest position that is."""

    def __init__(self, after: int, first: int) -> None:
        super().__init__(f"the log begins at position {first}; what follows {after} is gone")
        self.first = first


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as it was appended."""

    position: int
    payload: bytes


class UpdateLog(Protocol):
    """Entries in one order without gaps. One thread appends, syncs, retracts and trims; others may read beside it.

    Any method may raise StoreClosed, and those that write StoreFull or another StoreError.
    """

    @property
    def first(self) -> int:
        """The position of the oldest entry that is kept; `last + 1` where none is."""
        ...

    @property
    def last(self) -> int:
        """The position of the newest entry, kept or not; 0 at first."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of the entries that are kept."""
        ...

    def append(self, payloads: Sequence[Payload]) -> int:
        """Append entries, all or none; -> the position of the last one.

        They survive kill -9, and power loss once `sync` has returned.
        """
        ...

    def sync(self) -> None:
        """Let everything appended, and all that the same database committed before, survive power loss."""
        ...

    def retract(self, position: int) -> None:
        """Take back the entries after a position, which were acknowledged to nobody: others get their positions."""
        ...

    def holds(self, position: int) -> bool:
        """Whether an entry stands at a position, even one that an append or a retraction that failed left there."""
        ...

    def read(self, after: int, limit_bytes: int, upto: int | None = None) -> list[Entry]:
        """The entries after a position, in order: as many as `limit_bytes` hold, and one at least where there is one.

        upto: none that stands behind this position; who reads beside the thread that retracts names one that is not
        taken back any more. Trimmed; StoreCorrupt says which entry is damaged.
        """
        ...

    def trim(self, upto: int, keep_bytes: int, keep_since: float) -> None:
        """Forget old entries: of those up to position `upto`, which nobody needs, the ones that `keep_bytes` bytes of
        newer entries follow, and those appended before `keep_since`, in seconds since 1970.
        """
        ...
