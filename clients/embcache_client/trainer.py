"""Trainer: a producer that pushes updates in the background, so that each counts exactly once.

Calls of the training loop put changes into `Pending`, which coalesces them, and return. Batches are made of them by
size or age, or, once the trainer marks its place, at each mark. One thread sends them one at a time, each as often as
it takes to hear an answer: the very same batch, which the service counts once.

Order: the batches in the spool, then those in memory, then what is pending; the first of all is under way. From memory
batches go to the end of the spool, that one too, and all of them, so that the spool never begins behind a gap.
Invariant: nothing leaves memory and spool before the service said that it is durable. What is refused for good (another
process took over, a table that is not there) stays too, and every later call raises that error.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from numpy.typing import ArrayLike

from embcache_client import wire
from embcache_client.call import DEFAULT_TIMEOUT_S, MAX_REPLY_BYTES, Call, Endpoint, RetryPolicy
from embcache_client.change_queue import ChangeQueue
from embcache_client.errors import ClientError, ConnectFailed, ConnectionLost, ServiceError, Timeout
from embcache_client.pending import Pending
from embcache_client.residues import Residues
from embcache_client.spool import Spool, SpoolFull
from embcache_client.transport import Transport
from embcache_client.updates import (
    MAX_MARK_BYTES,
    Change,
    ProducerState,
    UpdateReply,
    decode_producer,
    decode_update_reply,
    encode_update,
    mark_of,
    with_epoch,
)

_WAITING_STATUSES: Final = (429, 503, 507)  # come again later
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0
_BESIDE_BYTES: Final = 16 << 10  # of a batch, beside ids and rows
_RESIDUES_SHARE: Final = 1 / 4  # of memory_bytes


class TrainerFull(ClientError):
    """Neither memory nor spool has room for more changes: the service does not take them fast enough."""


class Trainer:
    """A producer of updates. One process at a time under a name; its methods may be called from many threads.

    producer: the name. A later process of the same name shuts this one out (Fenced).
    max_batch_bytes, max_batch_rows: of a batch. max_age_s: how long a change waits for others to go with it.
    memory_bytes: of changes and batches that wait. spool: a folder for those beyond it, up to spool_bytes; without one
        a call raises TrainerFull when memory is full. What is in the spool is sent after a crash of this process.
    dtype: of rows on the wire: "f32", "f16", "bf16" or "q8"; rows that it cannot hold go as f32. What rounding leaves
        out of an add goes with the row's next one, or at the end; a crash loses it: one rounding a row at most. Up to
        a quarter of memory_bytes is for that; when it is full, what is there goes as f32. An assign is rounded.
    marks: the trainer notes its place in its input (see mark): batches are made there alone, whatever their age.

    `resumed_mark` is the last place that an earlier process of this name noted and that counts: everything before it,
    and with `marks` nothing after it. Start from there. `trouble` is why the batch under way was not accepted at first.
    """

    def __init__(
        self,
        url: str,
        *,
        producer: str,
        token: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        max_batch_bytes: int = 4 << 20,
        max_batch_rows: int = 65_536,
        max_age_s: float = 0.05,
        memory_bytes: int = 256 << 20,
        spool: str | Path | None = None,
        spool_bytes: int = 4 << 30,
        dtype: str = "f32",
        marks: bool = False,
    ) -> None:
        """Opens the producer; raises what the service says against it, or that nobody answers."""
        self._producer = producer
        self._batch_bytes, self._batch_rows, self._max_age_s = max_batch_bytes, max_batch_rows, max_age_s
        self._memory_bytes, self._timeout_s = memory_bytes, timeout
        self._changed = threading.Condition()  # over all that follows
        self._pending = Pending(dtype)
        self._residues = Residues(int(memory_bytes * _RESIDUES_SHARE))
        self._since: float | None = None  # when the oldest pending change came
        self._marks = marks
        self._batches: deque[tuple[int, bytes]] = deque()
        self._batches_bytes = 0
        self._sending = 0  # the number of the batch under way
        self._failure: ClientError | None = None
        self.trouble: ClientError | None = None
        self._closing = False
        self._position = 0
        self._spool = Spool(spool, max_bytes=spool_bytes) if spool is not None else None
        # A batch is tried again by the sender itself, which knows that it may be.
        endpoint = Endpoint(url, token, timeout, RetryPolicy(attempts=1), MAX_REPLY_BYTES)
        self._transport = Transport(endpoint)
        try:
            self._take_up(self._opened())
        except BaseException:
            self._let_go()
            raise
        self._thread = threading.Thread(target=self._run, name=f"embcache-trainer-{producer}", daemon=True)
        self._thread.start()

    # --- the training loop's side ----------------------------------------------------------------------------------

    def assign(self, table: str, ids: ArrayLike, rows: ArrayLike) -> None:
        """Rows f32 [n, dim] replace those of ids u64 [n]; of a repeated id the last counts."""
        with self._room():
            self._pending.assign(table, ids, rows)

    def add(self, table: str, ids: ArrayLike, deltas: ArrayLike) -> None:
        """Deltas f32 [n, dim] are added to the rows of ids u64 [n]; those of a repeated id add up."""
        with self._room():
            self._pending.add(table, ids, deltas)

    def delete(self, table: str, ids: ArrayLike) -> None:
        """The rows of ids u64 [n] go."""
        with self._room():
            self._pending.delete(table, ids)

    def mark(self, mark: bytes) -> None:
        """Note the place in the trainer's input up to which everything was passed in, at most 256 bytes.

        For a trainer made with marks=True. What lies between two marks is one batch, which the service takes as a whole
        together with the mark: a restarted trainer that goes on at `resumed_mark` counts nothing twice and leaves
        nothing out. So mark often enough for it to fit a batch. Without changes since the last mark nothing is noted.
        """
        if not self._marks:
            raise ValueError("batches are made at any place: make the trainer with marks=True for them to be made here")
        if len(mark) > MAX_MARK_BYTES:
            raise ValueError(f"the mark has {len(mark)} bytes, more than {MAX_MARK_BYTES}")
        with self._changed:
            self._check()
            if self._pending.row_count:
                self._cut(mark)
                self._changed.notify_all()

    def flush(self, timeout: float | None = None) -> int:
        """Wait until all that was passed in is durable; -> the position from which every lookup sees it (min_position).

        With a narrow dtype, up to one rounding of each row's last delta, which goes with the row's next one or at
        close(). Timeout after `timeout` seconds; the error that keeps batches from being accepted for good.
        """
        with self._changed:
            self._check()
            self._cut_all()
            self._wait_durable(timeout, "they are kept")
            return self._position

    def close(self, timeout: float | None = None) -> None:
        """Flush, what narrow rows left out as well, and end.

        Raises what keeps updates from being durable, after `timeout` seconds at the latest. What was not durable then
        is in the spool, where there is one, and sent by the next trainer of this name.
        """
        with self._changed:
            if self._closing:
                return
        kept = "what the service did not accept is lost" if self._spool is None else "they are kept in the spool"
        try:
            with self._changed:
                self._check()
                self._cut_all()
                self._append_all(self._last_mark, self._residues.take_all())
                self._wait_durable(timeout, kept)
        finally:
            try:
                with self._changed:
                    if self._spool is not None and not self._is_idle():
                        self._make_room()
            finally:
                with self._changed:
                    self._closing = True
                    self._changed.notify_all()
                self._thread.join()
                self._let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        with contextlib.suppress(ClientError):  # what went wrong first matters more
            self.close(timeout=1.0)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closing:
            raise ClientError("the trainer is closed")

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        """Holds the lock; before the block there is room, after it the sender knows that there is something."""
        with self._changed:
            self._check()
            if self._held_bytes() > self._memory_bytes:
                self._make_room()
            if self._marks and self._pending.byte_count > self._batch_bytes - _BESIDE_BYTES:
                raise TrainerFull(
                    f"more than max_batch_bytes = {self._batch_bytes} since the last mark: mark more often, since what "
                    "lies between two marks goes in one batch"
                )
            yield
            if self._since is None:
                self._since = time.monotonic()
            self._changed.notify_all()

    def _held_bytes(self) -> int:
        return self._pending.memory_bytes + self._residues.memory_bytes + self._batches_bytes

    def _make_room(self) -> None:
        """Move what waits to the spool; TrainerFull where that has no room, or is not there."""
        if self._spool is None:
            raise TrainerFull(
                f"{self._held_bytes()} bytes of updates wait for the service, more than memory_bytes = "
                f"{self._memory_bytes}: give the trainer a spool, or push less"
            )
        if not self._marks:
            self._cut_all()
        try:
            while self._batches:
                self._spool.append(*self._batches[0])
                self._batches_bytes -= len(self._batches.popleft()[1])
        except SpoolFull as error:
            raise TrainerFull(str(error)) from error

    def _cut(self, mark: bytes) -> None:
        """Make a batch of what is pending, or of as much as fills one."""
        limits = (sys.maxsize, sys.maxsize) if self._marks else (self._batch_bytes, self._batch_rows)
        self._append(mark, self._residues.carry(self._pending.take(*limits)))
        self._append_all(mark, self._residues.overflow())
        if not self._pending.row_count:
            self._since = None

    def _append_all(self, mark: bytes, changes: list[Change]) -> None:
        """Make as many batches as it takes."""
        queue = ChangeQueue(changes)
        while part := queue.take(self._batch_bytes, self._batch_rows):
            self._append(mark, part)

    def _append(self, mark: bytes, changes: list[Change]) -> None:
        """Make a batch; it is encoded here alone, since the service tells one that it has by its bytes."""
        self._next_seq += 1
        body = encode_update(self._producer, self._epoch, self._next_seq, mark, changes)
        self._last_mark = mark
        self._batches.append((self._next_seq, body))
        self._batches_bytes += len(body)

    def _cut_all(self) -> None:
        if self._marks and self._pending.row_count:
            raise ValueError("there are changes since the last mark, which go with the next one: call mark() first")
        while self._pending.row_count:
            self._cut(self._last_mark)

    def _wait_durable(self, timeout: float | None, otherwise: str) -> None:
        """Until there is no batch any more. otherwise: what becomes of them when that takes longer, for the Timeout."""
        end = None if timeout is None else time.monotonic() + timeout
        self._changed.notify_all()
        while not self._is_idle():
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                trouble = "" if self.trouble is None else f" ({self.trouble})"
                raise Timeout(f"not all updates were durable within {timeout:g} s: {otherwise}{trouble}")
            self._changed.wait(left)
            self._check()

    def _is_idle(self) -> bool:
        return not (self._batches or self._sending or self._pending.row_count or self._spooled())

    def _spooled(self) -> int:
        return 0 if self._spool is None else len(self._spool)

    def _run(self) -> None:
        """The sender's thread."""
        try:
            while (batch := self._next_batch()) is not None:
                reply = self._send(batch[1])
                with self._changed:
                    if reply is None:
                        return
                    self._position = max(self._position, reply.position)
                    self._forget(batch[0])
        except Exception as error:  # whatever it is: who pushes must hear of it
            failure = error if isinstance(error, ClientError) else ClientError(f"the sender failed: {error!r}")
            with self._changed:
                self._failure = failure
        finally:
            with self._changed:
                self._sending = 0
                self._changed.notify_all()

    def _next_batch(self) -> tuple[int, bytes] | None:
        """The oldest batch, once there is one, now under way; None when the trainer is closed."""
        with self._changed:
            while not self._closing:
                if batch := self._oldest():
                    self._sending = batch[0]
                    return batch
                wait = None
                if self._pending.row_count and not self._marks:
                    age = time.monotonic() - (self._since or 0.0)
                    if age >= self._max_age_s or self._pending.byte_count >= self._batch_bytes:
                        self._cut(self._last_mark)
                        continue
                    wait = self._max_age_s - age
                self._changed.wait(wait)
            return None

    def _oldest(self) -> tuple[int, bytes] | None:
        if self._spool is not None and (first := self._spool.first_seq) is not None:
            return first, with_epoch(self._spool.read(first), self._epoch)
        return self._batches[0] if self._batches else None

    def _forget(self, seq: int) -> None:
        """The batch under way is durable."""
        if self._batches and self._batches[0][0] == seq:
            self._batches_bytes -= len(self._batches.popleft()[1])
        elif self._spool is not None:
            self._spool.drop_through(seq)
        self._sending = 0
        self._changed.notify_all()

    def _send(self, body: bytes) -> UpdateReply | None:
        """Send a batch until it is durable; None when the trainer is closed meanwhile. ServiceError if it never can."""
        call = Call("POST", "/v1/updates", lambda response: decode_update_reply(response.body), body, wire.MEDIA_TYPE)
        pause = _FIRST_PAUSE_S
        while True:
            wait = pause
            try:
                reply = self._transport.run(call)
                if reply.durable >= reply.position:
                    self.trouble = None
                    return reply
            except (ConnectFailed, ConnectionLost, Timeout) as error:
                self.trouble = error
            except ServiceError as error:
                if error.http_status not in _WAITING_STATUSES and error.http_status < 500:
                    raise
                self.trouble = error
                wait = max(wait, error.retry_after_s or 0.0)
            with self._changed:
                if self._closing:
                    return None
                self._changed.wait_for(lambda: self._closing, wait)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _opened(self) -> ProducerState:
        """Open the producer, as often as it takes within the timeout."""
        target = f"/v1/producers/{self._producer}"
        body = b"\x80"  # an empty map
        endpoint_call = Call("POST", target, lambda response: decode_producer(response.body), body, wire.MEDIA_TYPE)
        end = time.monotonic() + self._timeout_s
        while True:
            try:
                return self._transport.run(endpoint_call)
            except (ConnectFailed, ConnectionLost, ServiceError) as error:
                refused = isinstance(error, ServiceError) and error.http_status not in _WAITING_STATUSES
                if refused or time.monotonic() + _FIRST_PAUSE_S > end:
                    raise
                time.sleep(_FIRST_PAUSE_S)

    def _take_up(self, state: ProducerState) -> None:
        """Go on behind what the service has accepted, first with what the spool still holds."""
        self._epoch, self._next_seq, self._position = state.epoch, state.last_seq, state.position
        self.resumed_mark = self._last_mark = state.mark
        if self._spool is None:
            return
        self._spool.drop_through(state.last_seq)
        if self._spool.first_seq is None or self._spool.last_seq is None:
            return
        if self._spool.first_seq > state.last_seq + 1:
            raise ClientError(
                f"the spool begins with batch {self._spool.first_seq}, and the service has accepted {state.last_seq}: "
                "it was restored to an older state, and batches between are lost"
            )
        self._next_seq = self._spool.last_seq
        self.resumed_mark = self._last_mark = mark_of(self._spool.read(self._next_seq))

    def _let_go(self) -> None:
        self._transport.close()
        if self._spool is not None:
            self._spool.close()
