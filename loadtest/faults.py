"""Faults: producers push while the service, its owner or a front is killed with -9 again and again. At the end every
row is compared.

Each producer has ids of its own, so that the order of its batches alone says what its rows must be, and values are
whole numbers, so that sums are exact. A batch that was answered is sent again now and then, one that was not until it
is. Each begins with its number for one row of the first table and ends with it for one of the second: where they differ
after a kill, a batch was applied in part. Each adds one to a row of its own, too, which says at the end how often it
counted. What must come out: every row as the producer's own account of it has it, every batch once and never in part,
and every answered batch seen by whoever asks for its position, through whichever front.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from embcache_client import Client
from embcache_client.call import MAX_REPLY_BYTES, Call, Endpoint, RetryPolicy
from embcache_client.errors import ConnectFailed, ConnectionLost, NotReady, ServiceError, Timeout
from embcache_client.producer_calls import state_call
from embcache_client.transport import Transport
from embcache_client.updates import Change, UpdateReply, decode_producer, decode_update_reply, encode_update
from embcache_client.wire import MEDIA_TYPE, Body
from loadtest.mortal import VICTIMS, Mortal

TABLES = ("first", "second")
LEDGER = "ledger"
DIM = 8
IDS_EACH = 2000
BATCH_IDS = 64
SENT_AGAIN = 0.3
READ_BACK = 0.1
READY_WITHIN_S = 5.0
_LIVES_S = (0.2, 2.0)
_PAUSE_S = 0.05
_LAST_LOOKUP_MS = 60_000
_LEDGER_PIECE = 10_000

T = TypeVar("T")


@dataclass(slots=True)
class Outcome:
    """What came of it. `lost`, `doubled`, `stale`, `torn`, `wrong_rows` and `counted_anew` must be 0."""

    kills: int = 0
    batches: int = 0
    sent_again: int = 0
    read_back: int = 0
    cut_short: int = 0  # batches whose answer a kill took away, looked for once the service was there again
    rows: int = 0
    in_ledger: int = 0  # batches whose own row was looked at
    lost: int = 0  # batches that were answered and did not count
    doubled: int = 0  # that counted more than once
    stale: int = 0  # lookups at the position of a batch that did not show what there was by then
    torn: int = 0  # batches seen in one table and not in the other, and rows of which a part is another's
    wrong_rows: int = 0
    counted_anew: int = 0  # batches sent again that were not told to be duplicates
    slowest_start_s: float = 0.0
    late_starts: int = 0  # that took longer than READY_WITHIN_S
    failures: list[str] = field(default_factory=list)  # of producers that could not go on

    @property
    def good(self) -> bool:
        wrong = self.lost + self.doubled + self.stale + self.torn + self.wrong_rows + self.counted_anew
        return not (wrong or self.failures)

    def started(self, seconds: float) -> None:
        """A start after a kill took so long."""
        self.slowest_start_s = max(self.slowest_start_s, seconds)
        self.late_starts += seconds > READY_WITHIN_S

    def audit(self, found: NDArray[np.bool_], ledger: NDArray[np.float32]) -> None:
        """Rows f32 [n, DIM] of the ledger, one for each batch that was answered, and which of them are there."""
        parts = (ledger != ledger[:, :1]).any(axis=1)
        self.in_ledger += len(ledger)
        self.torn += int(np.count_nonzero(parts))
        self.lost += int(np.count_nonzero(~parts & (~found | (ledger[:, 0] < 1))))
        self.doubled += int(np.count_nonzero(~parts & found & (ledger[:, 0] > 1)))


class _Producer(threading.Thread):
    """Pushes batches until told to stop, and keeps account of what its rows must be."""

    def __init__(self, url: str, number: int, seed: int, outcome: Outcome) -> None:
        super().__init__(name=f"producer-{number}", daemon=True)
        self.ids: NDArray[np.uint64] = np.arange(number * IDS_EACH, (number + 1) * IDS_EACH, dtype=np.uint64)
        self.rows = np.zeros((len(TABLES), IDS_EACH, DIM), np.float32)
        self.there = np.zeros((len(TABLES), IDS_EACH), np.bool_)
        self.position = 0
        self.answered = 0  # the number of the last batch that was
        self.stopping = threading.Event()
        self._url = url
        self._outcome = outcome
        self._random = np.random.default_rng([seed, number])
        # Every try is made here: what is sent again is part of what is tried.
        self._transport = Transport(Endpoint(url, None, 10.0, RetryPolicy(attempts=1), MAX_REPLY_BYTES))
        patient = RetryPolicy(attempts=200)
        self._states = Transport(Endpoint(url, None, 30.0, patient, MAX_REPLY_BYTES))
        self._client = Client(url, timeout=30.0, retry=patient)

    def run(self) -> None:
        try:
            self._train()
        except Exception as error:  # the account of this producer ends here
            self._outcome.failures.append(f"{self.name}: {error!r}")
        finally:
            self._transport.close()
            self._states.close()
            self._client.close()

    def _train(self) -> None:
        state = self._until_answered(f"/v1/producers/{self.name}", b"\x80", decode_producer)
        seq = state.last_seq
        while not self.stopping.is_set():
            seq += 1
            changes = self._changes(seq)
            body = encode_update(self.name, state.epoch, seq, None, [change for _, change in changes])
            reply = self._push(body)
            for table, change in changes:
                if table < len(TABLES):
                    self._account(table, change)
            self.position, self.answered = reply.position, seq
            self._outcome.batches += 1
            if self._random.random() < SENT_AGAIN:
                again = self._push(body)
                self._outcome.sent_again += 1
                self._outcome.counted_anew += not again.duplicate or again.position != reply.position
            if self._random.random() < READ_BACK:
                self._outcome.read_back += 1
                with Client(self._url, timeout=30.0, retry=RetryPolicy(attempts=200)) as any_front:
                    self._outcome.stale += self.wrong_rows(any_front) > 0

    def wrong_rows(self, client: Client) -> int:
        """How many of this producer's rows are not what they must be."""
        tables = dict.fromkeys(TABLES, self.ids)
        found = client.lookup(tables, min_position=self.position, deadline_ms=_LAST_LOOKUP_MS)
        wrong = 0
        for table, name in enumerate(TABLES):
            expected = np.where(self.there[table][:, None], self.rows[table], np.float32(0))
            number = found[name].rows[-1]
            self._outcome.torn += bool((number != number[0]).any())
            same = (found[name].rows == expected).all(axis=1) & (found[name].found == self.there[table])
            wrong += int(np.count_nonzero(~same))
        return wrong

    def _push(self, body: bytes) -> UpdateReply:
        return self._until_answered("/v1/updates", body, decode_update_reply)

    def _until_answered(self, path: str, body: bytes, decode: Callable[[Body], T]) -> T:
        call = Call("POST", path, lambda response: decode(response.body), body, MEDIA_TYPE)
        while True:
            try:
                return self._transport.run(call)
            except (ConnectionLost, NotReady):
                self._look_for_halves()
            except (ConnectFailed, Timeout):
                pass
            except ServiceError as error:
                if error.http_status != 503:
                    raise
            time.sleep(_PAUSE_S)

    def _look_for_halves(self) -> None:
        """What was under way when something died is in both tables or in none, once there is an answer again."""
        position, state = -1, self._accepted()
        while position != state:  # what is accepted meanwhile, from a front that is dead, may be seen in part
            position = state
            found = self._client.lookup(
                dict.fromkeys(TABLES, self.ids[-1:]), min_position=position, deadline_ms=_LAST_LOOKUP_MS
            )
            state = self._accepted()
        first, second = (found[name].rows for name in TABLES)
        self._outcome.cut_short += 1
        self._outcome.torn += not np.array_equal(first, second)

    def _accepted(self) -> int:
        """The position of this producer's last batch that was accepted."""
        return self._states.run(state_call(self.name)).position

    def check_ledger(self, client: Client) -> None:
        """Whether every batch that was answered counted once."""
        for first in range(1, self.answered + 1, _LEDGER_PIECE):
            ids = self._ledger_ids(range(first, min(first + _LEDGER_PIECE, self.answered + 1)))
            found = client.lookup({LEDGER: ids}, min_position=self.position, deadline_ms=_LAST_LOOKUP_MS)[LEDGER]
            self._outcome.audit(found.found, found.rows)

    def _ledger_ids(self, numbers: Sequence[int]) -> NDArray[np.uint64]:
        ids: NDArray[np.uint64] = np.array(numbers, np.uint64) + (self.ids[0] << np.uint64(32))
        return ids

    def _changes(self, seq: int) -> list[tuple[int, Change]]:
        """A batch: changes of both tables between its number in the one and its number in the other."""
        number = np.full((1, DIM), seq, np.float32)
        numbered = [(table, Change(name, "assign", self.ids[-1:], number)) for table, name in enumerate(TABLES)]
        own = Change(LEDGER, "add", self._ledger_ids([seq]), np.ones((1, DIM), np.float32))
        random = [(table, self._change(table)) for table in range(len(TABLES))]
        return [numbered[0], *random, (len(TABLES), own), numbered[1]]

    def _change(self, table: int) -> Change:
        op = str(self._random.choice(["add", "assign", "delete"], p=[0.7, 0.2, 0.1]))
        ids = self._random.choice(self.ids[:-1], BATCH_IDS)  # repeats are part of it
        if op == "delete":
            return Change(TABLES[table], op, ids)
        rows = self._random.integers(-3, 4, (BATCH_IDS, DIM)).astype(np.float32)
        return Change(TABLES[table], op, ids, rows)

    def _account(self, table: int, change: Change) -> None:
        """One row after the other, as the protocol says it."""
        for at, place in enumerate((change.ids - self.ids[0]).tolist()):
            if change.rows is None:
                self.rows[table, place], self.there[table, place] = 0, False
            elif change.op == "add":
                self.rows[table, place] += change.rows[at]
                self.there[table, place] = True
            else:
                self.rows[table, place], self.there[table, place] = change.rows[at], True


def run(kills: int, producers: int, seed: int, fronts: int = 1, victims: Sequence[str] = VICTIMS) -> Outcome:
    """Kill `kills` times one of `victims` under the load of so many producers, and compare all rows at the end."""
    outcome, random = Outcome(), np.random.default_rng(seed)
    lives = random.uniform(*_LIVES_S, kills)
    with TemporaryDirectory(prefix="loadtest-faults-") as folder, ExitStack() as stack:
        service = Mortal(Path(folder), fronts, random)
        stack.callback(service.stop)
        service.start()
        with Client(service.url) as client:
            for name in (*TABLES, LEDGER):
                client.create_table({"name": name, "dim": DIM})
        pushing = [_Producer(service.url, number, seed, outcome) for number in range(producers)]
        for producer in pushing:
            producer.start()
        for kill, life in enumerate(lives.tolist()):
            time.sleep(life)
            outcome.started(service.kill(victims[kill % len(victims)]))
            outcome.kills += 1
        for producer in pushing:
            producer.stopping.set()
        with Client(service.url, timeout=60.0) as client:
            for producer in pushing:
                producer.join()
                outcome.rows += IDS_EACH * len(TABLES)
                outcome.wrong_rows += producer.wrong_rows(client)
                producer.check_ledger(client)
    return outcome


def print_outcome(outcome: Outcome, console: Console) -> None:
    """What came of it, one line for each figure."""
    table = Table("what", "count", title="Updates under kill -9", box=SIMPLE_HEAD)
    for figure in fields(Outcome):
        value = getattr(outcome, figure.name)
        if not isinstance(value, list):
            shown = f"{value:.1f}" if isinstance(value, float) else f"{value:,}"
            table.add_row(figure.name.replace("_", " "), shown)
    console.print(table)
    within = f"within {READY_WITHIN_S:g} s"
    late = f"{outcome.late_starts} of {outcome.kills} starts were not ready {within}."
    console.print(late if outcome.late_starts else f"Every start was ready {within}.", highlight=False)
    for failure in outcome.failures:
        console.print(failure, style="red", markup=False, highlight=False)
    wrong = ", ".join(f"{name} {getattr(outcome, name)}" for name in ("lost", "doubled", "stale", "torn"))
    console.print(f"Of {outcome.batches:,} batches: {wrong}.", highlight=False)
