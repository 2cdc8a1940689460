"""Trainer: a producer that pushes updates in the background, so that each counts exactly once.

Calls of the training loop put changes into `Pending`, which coalesces them, and return. Batches are made of them by
size or age, or, once the trainer marks its place, at each mark, and go to the `Outbox`. One thread sends them one at a
time, each as often as it takes to hear an answer: the very same batch, which the service counts once. A service that
answers before a batch is durable is sent the next ones meanwhile, and asked how far it is when there are none.

What is refused for good (another process took over, a table that is not there) stays in the outbox, and every later
call raises that error.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from numpy.typing import ArrayLike

from embcache_client import spool_line
from embcache_client.aside import Aside, OnQuarantine
from embcache_client.call import DEFAULT_TIMEOUT_S, MAX_REPLY_BYTES, Call, Endpoint, RetryPolicy
from embcache_client.change_queue import ChangeQueue
from embcache_client.errors import ClientError, ConnectFailed, ConnectionLost, SequenceGap, ServiceError, Timeout
from embcache_client.outbox import Outbox
from embcache_client.pending import Pending
from embcache_client.producer_calls import applied_call, open_call, position_call, push_call, state_call
from embcache_client.residues import Residues
from embcache_client.spool import Spool, SpoolFull
from embcache_client.transport import Transport
from embcache_client.updates import MAX_CHANGES, MAX_MARK_BYTES, Change, ProducerState, UpdateReply, encode_update

T = TypeVar("T")

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
    on_quarantine: called, in a thread of the trainer's, with positions of batches that the service has set aside, since
        a row would be over its table's max_norm; once for each, as the log warns of it.

    `resumed_mark` is the last place that an earlier process of this name noted and that counts: everything before it,
    and with `marks` nothing after it. Start from there. `history` is what the position of the last flush belongs to.
    `trouble` is why the call under way was not answered at first. `quarantined` are the positions of the newest of its
    batches that are set aside, as the service said last, and `quarantined_count` how many are: changes that do not
    count until they are released. A batch is judged when it is applied: flush(applied=True) knows of all.
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
        on_quarantine: OnQuarantine | None = None,
    ) -> None:
        """Opens the producer; raises what the service says against it, or that nobody answers."""
        self._producer = producer
        self._batch_bytes, self._batch_rows, self._max_age_s = max_batch_bytes, max_batch_rows, max_age_s
        self._memory_bytes, self._timeout_s = memory_bytes, timeout
        self._changed = threading.Condition()  # over all that follows
        self._dtype = dtype
        self._pending = Pending(dtype)
        self._residues = Residues(int(memory_bytes * _RESIDUES_SHARE))
        self._since: float | None = None  # when the oldest pending change came
        self._marks = marks
        self._failure: ClientError | None = None
        self.trouble: ClientError | None = None
        self._closing = False
        self._spool = Spool(spool, max_bytes=spool_bytes) if spool is not None else None
        # A batch is tried again by the sender itself, which knows that it may be.
        endpoint = Endpoint(url, token, timeout, RetryPolicy(attempts=1), MAX_REPLY_BYTES)
        self._transport = Transport(endpoint)
        self._aside = Aside(producer, on_quarantine)
        self._telling = threading.Lock()
        try:
            opened = self._opened()
            self._epoch = opened.epoch
            if self._spool is not None:
                spool_line.take_over(self._spool, producer, opened)
            self._outbox = Outbox(opened, self._spool)
        except BaseException:
            self._let_go()
            raise
        self.resumed_mark, self.history = self._outbox.mark, self._outbox.history
        self._aside.take(opened)
        self._ask_pause_s = self._ask_at = 0.0  # how long to wait for durability before asking for it, and until when
        self._thread = threading.Thread(target=self._run, name=f"embcache-trainer-{producer}", daemon=True)
        self._thread.start()

    # --- the training loop's side ----------------------------------------------------------------------------------

    def assign(self, table: str, ids: ArrayLike, rows: ArrayLike, *, ttl_s: int | None = None) -> None:
        """Rows f32 [n, dim] replace those of ids u64 [n]; of a repeated id the last counts.

        ttl_s: in a table whose rows expire, after how many seconds these do, 0 for never; None: as the table has it.
        The time runs from when the service accepts them.
        """
        with self._room():
            self._pending.assign(table, ids, rows, ttl_s)

    def add(self, table: str, ids: ArrayLike, deltas: ArrayLike, *, ttl_s: int | None = None) -> None:
        """Deltas f32 [n, dim] are added to the rows of ids u64 [n]; those of a repeated id add up.

        ttl_s: as for assign; None: a row that is there expires when it would have, and a new one as the table has it.
        """
        with self._room():
            self._pending.add(table, ids, deltas, ttl_s)

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
            raise ValueError("mark() needs Trainer(marks=True): without it, batches are made at any place")
        if len(mark) > MAX_MARK_BYTES:
            raise ValueError(f"the mark has {len(mark)} bytes, more than {MAX_MARK_BYTES}")
        with self._changed:
            self._check()
            if self._pending.row_count:
                self._cut(mark)
                self._changed.notify_all()

    @property
    def quarantined(self) -> tuple[int, ...]:
        """Positions of the newest batches that are set aside, ascending."""
        return self._aside.positions

    @property
    def quarantined_count(self) -> int:
        """How many batches are set aside."""
        return self._aside.count

    def flush(self, timeout: float | None = None, *, applied: bool = False) -> int:
        """Wait until all that was passed in is durable; -> the position from which every lookup sees it: min_position,
        with `history` beside it. applied: wait until that position is applied, and `quarantined` is up to there.

        With a narrow dtype, up to one rounding of each row's last delta, which goes with the row's next one or at
        close(). Timeout after `timeout` seconds; the error that keeps batches from being accepted for good.
        """
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            self._check()
            self._cut_all()
            self._wait_durable(timeout, "they are kept")
            self.history = self._outbox.history
            position = self._outbox.position
        if applied:
            self._wait_applied(position, self.history, timeout, end)
        return position

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
                self._append_all(self._outbox.mark, self._residues.take_all())
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
        if self._marks:
            with self._changed:
                self._pending = Pending(self._dtype)  # since the last mark, from which it is passed in again
        with contextlib.suppress(Exception):  # what went wrong first matters more
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
        return self._pending.memory_bytes + self._residues.memory_bytes + self._outbox.memory_bytes

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
            self._outbox.move_to_spool()
        except SpoolFull as error:
            raise TrainerFull(str(error)) from error

    def _cut(self, mark: bytes) -> None:
        """Make a batch of what is pending, or of as much as fills one."""
        limits = (sys.maxsize, sys.maxsize) if self._marks else (self._batch_bytes, self._batch_rows)
        changes = self._pending.take(*limits)
        if self._marks and self._pending.row_count:
            self._failure = TrainerFull(
                f"more than {MAX_CHANGES} changes since mark {self._outbox.mark!r}, each of one table and one op: more "
                "than one batch takes. Start again from that mark, and mark more often"
            )
            raise self._failure
        self._append(mark, self._residues.carry(changes))
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
        body = encode_update(self._producer, self._epoch, self._outbox.last_seq + 1, mark, changes)
        self._outbox.append(body, mark)

    def _cut_all(self) -> None:
        if self._marks and self._pending.row_count:
            raise ValueError("there are changes since the last mark, which go with the next one: call mark() first")
        while self._pending.row_count:
            self._cut(self._outbox.mark)

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

    def _wait_applied(self, position: int, history: str, timeout: float | None, end: float | None) -> None:
        """Until a position is applied, or the history in which it was given has ended; then ask what is set aside."""
        pause = _FIRST_PAUSE_S
        while True:
            answer = self._answer(applied_call(), end)
            if answer is None:
                raise ClientError("the trainer is closed")
            if answer[1] != history or answer[0] >= position:
                break
            if end is not None and time.monotonic() + pause > end:
                raise Timeout(f"updates are durable, and were not applied up to {position} within {timeout:g} s")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        state = self._answer(state_call(self._producer), end)
        if state is not None:
            self._take_aside(state)

    def _take_aside(self, answer: ProducerState | UpdateReply) -> None:
        with self._telling:
            self._aside.take(answer)

    def _is_idle(self) -> bool:
        return not (self._outbox or self._pending.row_count)

    def _run(self) -> None:
        """The sender's thread."""
        try:
            while not self._closing:
                batch = self._next_batch()
                if batch is not None:
                    self._push(*batch)
                elif not self._closing:
                    self._ask()
        except Exception as error:  # whatever it is: who pushes must hear of it
            failure = error if isinstance(error, ClientError) else ClientError(f"the sender failed: {error!r}")
            with self._changed:
                self._failure = failure
                self._changed.notify_all()

    def _next_batch(self) -> tuple[int, bytes] | None:
        """The next batch, once there is one; None when it is time to ask for durability, or the trainer is closed."""
        with self._changed:
            while not self._closing:
                if batch := self._outbox.next():
                    return batch
                now = time.monotonic()
                waits = []
                if self._pending.row_count and not self._marks:
                    waits.append((self._since or 0.0) + self._max_age_s - now)
                    if waits[0] <= 0 or self._pending.byte_count >= self._batch_bytes:
                        self._cut(self._outbox.mark)
                        continue
                if self._outbox.is_promised:
                    waits.append(self._ask_at - now)
                    if waits[-1] <= 0:
                        return None
                self._changed.wait(min(waits, default=None))
            return None

    def _push(self, seq: int, body: bytes) -> None:
        try:
            reply = self._answer(push_call(body))
        except SequenceGap as error:
            expected = error.detail.get("expected")
            with self._changed:
                if not isinstance(expected, int) or not self._outbox.go_back(expected):
                    raise _gap(error) from error
            return
        if reply is None:
            return
        with self._changed:
            self._outbox.take_reply(seq, reply)
            self._ask_later(_FIRST_PAUSE_S)
        self._take_aside(reply)

    def _ask(self) -> None:
        """Ask how far updates are durable, at growing intervals while that changes nothing."""
        answer = self._answer(position_call())
        if answer is None:
            return
        with self._changed:
            before = len(self._outbox)
            self._outbox.take_position(*answer)
            self._ask_later(_FIRST_PAUSE_S if len(self._outbox) < before else 2 * self._ask_pause_s)

    def _ask_later(self, pause_s: float) -> None:
        self._ask_pause_s = min(pause_s, _LONGEST_PAUSE_S)
        self._ask_at = time.monotonic() + self._ask_pause_s
        self._changed.notify_all()

    def _answer(self, call: Call[T], end: float | None = None) -> T | None:
        """Make a call until it is answered; None when the trainer is closed meanwhile. ServiceError for a refusal; its
        last trouble where it is not answered until `end`, by the monotonic clock."""
        pause = _FIRST_PAUSE_S
        while True:
            wait = pause
            try:
                answer = self._transport.run(call)
                self.trouble = None
                return answer
            except (ConnectFailed, ConnectionLost, Timeout) as error:
                trouble: ClientError = error
            except ServiceError as error:
                if error.http_status not in _WAITING_STATUSES and error.http_status < 500:
                    raise
                trouble = error
                wait = max(wait, error.retry_after_s or 0.0)
            self.trouble = trouble
            if end is not None and time.monotonic() + wait > end:
                raise trouble
            with self._changed:
                if self._changed.wait_for(lambda: self._closing, wait):
                    return None
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _opened(self) -> ProducerState:
        """Open the producer, as often as it takes within the timeout."""
        end = time.monotonic() + self._timeout_s
        while True:
            try:
                return self._transport.run(open_call(self._producer))
            except (ConnectFailed, ConnectionLost, ServiceError) as error:
                refused = isinstance(error, ServiceError) and error.http_status not in _WAITING_STATUSES
                if refused or time.monotonic() + _FIRST_PAUSE_S > end:
                    raise
                time.sleep(_FIRST_PAUSE_S)

    def _let_go(self) -> None:
        self._transport.close()
        if self._spool is not None:
            self._spool.close()


def _gap(error: SequenceGap) -> ServiceError:
    """The service's error with what to do about it."""
    message = (
        f"{error.message}. Batches before this one are kept no more, and the service lost them, as one does that is "
        "restored to an older state: start again from your mark, which is the resumed_mark of a new trainer"
    )
    return ServiceError.of(error.http_status, error.code, message, error.detail)
