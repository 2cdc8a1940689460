"""A service's log of updates as a list, which loses its end when the machine goes down before it was synced."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgpack


@dataclass
class UpdateLog:
    """One producer's batches, and entries of others among them. A position is a number of entries."""

    entries: list[tuple[int, bytes]] = field(default_factory=list)  # seq and body; seq 0 are others'
    durable: int = 0
    history: str = "h0"
    syncs: bool = True  # before it answers

    @property
    def last_seq(self) -> int:
        return max((seq for seq, _ in self.entries), default=0)

    @property
    def durable_seq(self) -> int:
        return max((seq for seq, _ in self.entries[: self.durable]), default=0)

    @property
    def batches(self) -> list[tuple[int, bytes]]:
        """The producer's."""
        return [entry for entry in self.entries if entry[0]]

    def push(self, seq: int, body: bytes) -> dict[str, Any] | int:
        """The reply, or the seq that is expected."""
        if seq > self.last_seq + 1:
            return self.last_seq + 1
        duplicate = seq <= self.last_seq
        if not duplicate:
            self.entries.append((seq, body))
        else:
            assert (seq, body) in self.entries  # byte for byte
        if self.syncs:
            self.sync()
        position = 1 + max(at for at, entry in enumerate(self.entries) if entry[0])
        return {"position": position, "history": self.history, "durable": self.durable, "duplicate": duplicate}

    def open(self, epoch: int = 1) -> dict[str, Any]:
        """An opening: the state of the producer, durable, all before it included."""
        self.entries.append((0, b"opening"))
        self.sync()
        last = msgpack.unpackb(self.batches[-1][1]) if self.batches else {}
        return {
            "epoch": epoch,
            "last_seq": self.last_seq,
            "last_epoch": last.get("epoch", 0),
            "mark": last.get("mark", b""),
            "position": len(self.entries),
            "history": self.history,
        }

    def sync(self) -> None:
        self.durable = len(self.entries)

    def go_down(self, others: int = 0) -> None:
        """What was not synced is gone; others are faster than the producer to push anew."""
        self.entries = self.entries[: self.durable] + [(0, b"other")] * others
        self.sync()
        self.history = f"h{int(self.history[1:]) + 1}"
