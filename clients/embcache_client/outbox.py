"""Outbox: a trainer's batches from when they are made until they are durable.

They are numbered without gaps and stand in this order, those in the spool before those in memory:

    kept, durable < seq <= last_seq:   accepted, and to become durable | to be sent
                                                                        ^ next()

The service accepts them in order, so a batch is durable once one behind it is. A position tells that only in the
history that it was given in: in another one it may stand for something else, and what was accepted may be lost.
Invariant: nothing leaves before the service said that it is durable. No I/O but the spool's; one thread at a time.
"""

from __future__ import annotations

from collections import deque

from embcache_client.errors import ClientError
from embcache_client.spool import Spool
from embcache_client.updates import ProducerState, UpdateReply, mark_of, with_epoch


class Outbox:
    """The batches of one producer that are not durable.

    last_seq: of the newest batch. position, history: where the newest that was accepted stands; at first the opening.
    memory_bytes: of batches in memory. mark: what the newest batch carries, at first the newest that the service has.
    """

    def __init__(self, state: ProducerState, spool: Spool | None) -> None:
        """Goes on behind what the service has, first with what the spool still holds.

        An opening is durable when it is answered, and so is all that the service had accepted before.
        Raises ClientError where batches between the service's and the spool's are nowhere.
        """
        self.last_seq = self._accepted = self._durable = state.last_seq
        self.position, self.history = state.position, state.history
        self.mark = state.mark
        self.memory_bytes = 0
        self._epoch = state.epoch
        self._memory: dict[int, bytes] = {}
        self._promised: deque[tuple[int, int]] = deque()  # (seq, position): accepted, durable when the position is
        self._spool = spool
        if spool is not None:
            spool.drop_through(state.last_seq)
            self._take_up(spool)

    def __len__(self) -> int:
        """Batches that are not durable."""
        return self.last_seq - self._durable

    @property
    def is_promised(self) -> bool:
        """There are batches that were accepted and are not durable."""
        return bool(self._promised)

    def append(self, body: bytes, mark: bytes) -> None:
        """The body of batch last_seq + 1."""
        self.last_seq += 1
        self._memory[self.last_seq] = body
        self.memory_bytes += len(body)
        self.mark = mark

    def move_to_spool(self) -> None:
        """All that is in memory, so that the spool never begins behind a gap. SpoolFull where that has no more room."""
        if self._spool is None:
            raise ValueError("there is no spool")
        for seq in list(self._memory):
            self._spool.append(seq, self._memory[seq])
            self._forget(seq)

    def next(self) -> tuple[int, bytes] | None:
        """(seq, body) of the oldest batch that is to be sent."""
        seq = self._accepted + 1
        return (seq, self._body(seq)) if seq <= self.last_seq else None

    def take_reply(self, seq: int, reply: UpdateReply) -> None:
        """The batch of next() was accepted, now or before."""
        if reply.history != self.history:
            self._promised.clear()
        self.position, self.history = reply.position, reply.history
        self._accepted = seq
        self._promised.append((seq, reply.position))
        self._settle(reply.durable)

    def take_position(self, durable: int, history: str) -> None:
        """The service says how far it is durable. In a new history the last accepted batch is to be sent again: it is a
        duplicate, or the answer says which one is missing."""
        if history == self.history:
            self._settle(durable)
        elif self._promised:
            self._promised.clear()
            self._accepted -= 1

    def go_back(self, expected: int) -> bool:
        """The service lost what it had accepted from `expected` on: it is to be sent again. False where it is not kept,
        or not what next() is behind of."""
        if not self._durable < expected <= self._accepted:
            return False
        self._promised.clear()
        self._accepted = expected - 1
        return True

    def _settle(self, durable: int) -> None:
        through = self._durable
        while self._promised and self._promised[0][1] <= durable:
            through, _ = self._promised.popleft()
        for seq in range(self._durable + 1, through + 1):
            self._forget(seq)
        self._durable = through
        if self._spool is not None:
            self._spool.drop_through(through)

    def _forget(self, seq: int) -> None:
        self.memory_bytes -= len(self._memory.pop(seq, b""))

    def _body(self, seq: int) -> bytes:
        if seq in self._memory or self._spool is None:
            return self._memory[seq]
        return with_epoch(self._spool.read(seq), self._epoch)

    def _take_up(self, spool: Spool) -> None:
        if spool.first_seq is None or spool.last_seq is None:
            return
        if spool.first_seq > self.last_seq + 1:
            raise ClientError(
                f"the spool begins with batch {spool.first_seq}, and the service has accepted {self.last_seq}: it was "
                f"restored to an older state, and batches between are lost. Remove the folder {spool.folder} and start "
                "again, which goes on from the mark that the service has: a trainer with marks=True loses nothing by it"
            )
        self.last_seq = spool.last_seq
        self.mark = mark_of(spool.read(self.last_seq))
