"""Who pushes, and how far each has come: arithmetic on a small table, no I/O.

A producer opens under a name, which raises its epoch and shuts an older process of that name out. Its batches carry
numbers 1, 2, 3 ...: the next one is new, the last one again is a duplicate, anything else is an error that says what
was expected. So a batch counts once, however often it is sent.

Invariant: `accepted` is what the log will hold once all that was handed to the committer is in it; after a failed
commit the committer sets it back to what the log does hold.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass

import msgpack

from embcache.errors import Conflict, Fenced, MalformedRequest, SequenceGap
from embcache.owner.updates import Batch

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
META = "producer/"  # the prefix of their keys among the store's meta values
FLOOR = "epochs"  # the key of the epoch above which all new ones are


@dataclass(frozen=True, slots=True)
class Producer:
    """A producer's state. `position` is that of its last batch or opening, `heard` when it came, in s since 1970.

    `last_epoch` is that under which its last batch was accepted: it tells whose that was.
    """

    epoch: int
    last_seq: int = 0
    last_epoch: int = 0
    digest: bytes = b""
    mark: bytes = b""
    position: int = 0
    heard: float = 0.0

    def to_bytes(self) -> bytes:
        packed: bytes = msgpack.packb(dataclasses.asdict(self))
        return packed

    @classmethod
    def from_bytes(cls, data: bytes) -> Producer:
        return cls(**msgpack.unpackb(data))


class Producers:
    """All producers of an owner, as accepted so far.

    `floor`: new epochs are above it. It is raised past those of forgotten producers, and far in a new history, in which
    epochs may have been given that this data folder does not know: no epoch of a name is ever another process's again.
    """

    def __init__(self, accepted: Mapping[str, Producer] | None = None, floor: int = 0) -> None:
        self.accepted = dict(accepted or {})
        self.floor = floor

    def next_epoch(self, name: str) -> int:
        """For the next opening of a name."""
        return 1 + max(self.get(name).epoch, self.floor)

    def get(self, name: str) -> Producer:
        """A producer's state; that of one which never opened has epoch 0. MalformedRequest for a bad name."""
        check_name(name)
        return self.accepted.get(name, Producer(0))

    def is_duplicate(self, batch: Batch) -> bool:
        """Whether the batch was accepted before. Fenced, SequenceGap, Conflict where it can be neither old nor new."""
        state = self.get(batch.producer)
        if batch.epoch != state.epoch:
            raise _fenced(batch, state)
        if batch.seq == state.last_seq + 1:
            return False
        if batch.seq > state.last_seq:
            raise SequenceGap(
                f"producer {batch.producer!r}: batch {batch.seq} came, {state.last_seq + 1} is the next",
                {"expected": state.last_seq + 1},
            )
        if batch.seq == state.last_seq and batch.digest != state.digest:
            raise Conflict(
                f"producer {batch.producer!r}: batch {batch.seq} was accepted with other content: send each batch "
                "again as it was, and new changes under the next number",
                {"last_seq": state.last_seq},
            )
        return True

    def accept(self, batch: Batch, position: int, now: float) -> Producer:
        """Note a new batch, or an opening, at a position; -> the producer's state after it."""
        last_epoch = batch.epoch if batch.changes else self.get(batch.producer).last_epoch
        state = Producer(batch.epoch, batch.seq, last_epoch, batch.digest, batch.mark, position, now)
        self.accepted[batch.producer] = state
        return state


def check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise MalformedRequest(
            f"producer: {name[:80]!r} is no name; one has 1 to 64 letters, digits, dots, dashes and underscores"
        )


def _fenced(batch: Batch, state: Producer) -> Fenced:
    detail = {"epoch": state.epoch}
    if not state.epoch:
        return Fenced(f"producer {batch.producer!r} was never opened, or not for long: open it first", detail)
    return Fenced(
        f"producer {batch.producer!r}: epoch {batch.epoch} is not {state.epoch}, under which another process opened it",
        detail,
    )
