"""Trainer against a scripted service that answers before a batch is durable, and loses its end.

A service that syncs is in tests/service/test_trainer.py.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from embcache_client import Trainer, TrainerFull
from embcache_client.errors import ClientError, SequenceGap, Timeout
from tests.clients.peer import Conversation, Peer, answer
from tests.clients.updatelog import UpdateLog

IDS = np.arange(3, dtype=np.uint64)
ONES = np.ones((3, 2), np.float32)


class Scripted:
    """Speaks HTTP for an UpdateLog. before: called with each request's target, and may change the log."""

    def __init__(self, log: UpdateLog, before: Callable[[str], None] = lambda target: None) -> None:
        self.log = log
        self.before = before
        self.openings = 0
        self.asked: list[tuple[str, int]] = []  # (target, seq or 0)
        self.changed = threading.Condition()

    def __call__(self, conversation: Conversation) -> None:
        while request := conversation.request():
            head, _, body = request.partition(b"\r\n\r\n")
            target = head.split()[1].decode()
            with self.changed:
                self.before(target)
                said = self.answer(target, body)
                self.changed.notify_all()
            conversation.send(said)

    def answer(self, target: str, body: bytes) -> bytes:
        seq = msgpack.unpackb(body)["seq"] if target == "/v1/updates" else 0
        self.asked.append((target, seq))
        if target == "/v1/position":
            state = {"durable": str(self.log.durable), "applied": "0", "history": self.log.history, "lag_s": 0.0}
            return answer(json.dumps(state).encode(), media_type="application/json")
        if not seq:
            self.openings += 1
        said = self.log.push(seq, body) if seq else self.log.open(self.openings)
        if isinstance(said, int):
            error = {"code": "sequence_gap", "message": "a gap", "detail": {"expected": said}}
            return answer(msgpack.packb({"error": error}), status=409)
        return answer(msgpack.packb(said))

    def wait(self, until: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(until, 20)

    def seqs(self) -> list[int]:
        return [seq for _, seq in self.asked if seq]


def values(log: UpdateLog) -> list[float]:
    """What each batch adds to its rows, in order."""
    changes = [msgpack.unpackb(body)["changes"] for _, body in log.batches]
    return [float(np.frombuffer(change["rows"], "<f4")[0]) for [change] in changes]


def push(trainer: Trainer, value: int) -> None:
    """A batch of its own."""
    trainer.add("item", IDS, value * ONES)
    trainer.mark(b"%d" % value)


def test_a_batch_is_kept_until_the_service_says_that_it_is_durable(start: Any) -> None:
    log = UpdateLog(syncs=False)
    scripted = Scripted(log)
    peer: Peer = start(scripted)
    with Trainer(peer.url, producer="p", marks=True) as trainer:
        for value in range(1, 6):
            push(trainer, value)
        scripted.wait(lambda: log.last_seq == 5)  # the next ones are sent before the first is durable
        with pytest.raises(Timeout, match="they are kept"):
            trainer.flush(timeout=0.3)
        with scripted.changed:
            log.sync()
        assert trainer.flush(timeout=20) == 6  # the opening, and five batches
        assert trainer.history == "h0"
    assert values(log) == [1, 2, 3, 4, 5]
    assert scripted.seqs() == [1, 2, 3, 4, 5]  # each once: how far it is durable is asked for
    assert ("/v1/position", 0) in scripted.asked


def test_what_a_service_lost_before_it_was_durable_is_sent_again(start: Any) -> None:
    log = UpdateLog(syncs=False)
    scripted = Scripted(log)
    peer: Peer = start(scripted)
    with Trainer(peer.url, producer="p", marks=True) as trainer:
        for value in range(1, 6):
            push(trainer, value)
        scripted.wait(lambda: log.last_seq == 5)
        with scripted.changed:
            log.durable = 4  # the opening and batches 1 to 3
            log.go_down(others=7)
            assert log.last_seq == 3
            log.syncs = True
        position = trainer.flush(timeout=20)
        assert (position, trainer.history) == (4 + 7 + 2, "h1")
        push(trainer, 6)
        trainer.flush(timeout=20)
    assert values(log) == [1, 2, 3, 4, 5, 6]
    assert scripted.seqs() == [1, 2, 3, 4, 5, 5, 4, 5, 6]


def test_a_loss_that_the_next_batch_meets_first(start: Any) -> None:
    """The service goes down behind batch 4 and keeps 1 and 2; then batch 5 comes."""
    log = UpdateLog(syncs=False)

    def go_down_once(target: str) -> None:
        if target == "/v1/updates" and log.last_seq == 4 and log.history == "h0":
            log.durable = 3
            log.go_down()

    scripted = Scripted(log, go_down_once)
    peer: Peer = start(scripted)
    with Trainer(peer.url, producer="p", marks=True) as trainer:
        for value in range(1, 6):
            push(trainer, value)
        scripted.wait(lambda: log.last_seq == 5)
        with scripted.changed:
            log.sync()
        trainer.flush(timeout=20)
    assert values(log) == [1, 2, 3, 4, 5]
    assert scripted.seqs() == [1, 2, 3, 4, 5, 3, 4, 5]


def test_a_loss_of_what_was_durable_is_told(start: Any) -> None:
    """As after a restore of an older state: nobody has these batches any more."""
    log = UpdateLog()
    scripted = Scripted(log)
    peer: Peer = start(scripted)
    trainer = Trainer(peer.url, producer="p", marks=True)
    for value in range(1, 4):
        push(trainer, value)
    trainer.flush(timeout=20)
    with scripted.changed:
        log.durable = 2
        log.go_down()
    push(trainer, 4)
    for call in (trainer.flush, trainer.close):
        with pytest.raises(SequenceGap, match=r"a gap.*start again from your mark") as told:
            call()
        assert (told.value.http_status, told.value.detail) == (409, {"expected": 2})
    trainer = Trainer(peer.url, producer="p", marks=True)
    assert trainer.resumed_mark == b"1"
    trainer.close()


def test_what_is_accepted_and_not_durable_survives_the_trainer_in_the_spool(start: Any, tmp_path: Any) -> None:
    log = UpdateLog(syncs=False)
    scripted = Scripted(log)
    peer: Peer = start(scripted)
    trainer = Trainer(peer.url, producer="p", marks=True, spool=tmp_path)
    for value in range(1, 4):
        push(trainer, value)
    scripted.wait(lambda: log.last_seq == 3)
    with pytest.raises(Timeout, match="they are kept in the spool"):
        trainer.close(timeout=0.1)
    log.go_down()
    assert log.last_seq == 0
    log.syncs = True
    with Trainer(peer.url, producer="p", marks=True, spool=tmp_path) as again:
        assert again.resumed_mark == b"3"
        again.flush(timeout=20)
    assert values(log) == [1, 2, 3]


def leave_in_spool(scripted: Scripted, url: str, folder: Path) -> None:
    """A trainer that leaves batches 1 to 3, which the service has not made durable."""
    trainer = Trainer(url, producer="p", marks=True, spool=folder)
    for value in range(1, 4):
        push(trainer, value)
    scripted.wait(lambda: scripted.log.last_seq == 3)
    with pytest.raises(Timeout, match="they are kept in the spool"):
        trainer.close(timeout=0.1)


def test_a_spool_is_not_dropped_for_the_batches_of_others(start: Any, tmp_path: Path) -> None:
    log = UpdateLog(syncs=False)
    scripted = Scripted(log)
    peer: Peer = start(scripted)
    leave_in_spool(scripted, peer.url, tmp_path)
    log.go_down()
    log.syncs = True
    with Trainer(peer.url, producer="p", marks=True) as other:
        for value in range(11, 15):
            push(other, value)
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(kept) == 3  # the batches, whose they are, and the lock
    for _ in range(2):
        with pytest.raises(ClientError, match=r"others have pushed as producer 'p' since.*batches 1 to 3.*remove"):
            Trainer(peer.url, producer="p", marks=True, spool=tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == kept
    shutil.rmtree(tmp_path)
    with Trainer(peer.url, producer="p", marks=True, spool=tmp_path) as again:
        assert again.resumed_mark == b"14"
        push(again, 15)
    assert values(log) == [11, 12, 13, 14, 15]


def test_a_spool_is_dropped_for_its_own_batches_whichever_trainer_sent_them(start: Any, tmp_path: Path) -> None:
    log = UpdateLog(syncs=False)
    scripted = Scripted(log)
    peer: Peer = start(scripted)
    leave_in_spool(scripted, peer.url, tmp_path)
    log.durable = 2  # the opening and batch 1
    log.go_down()
    again = Trainer(peer.url, producer="p", marks=True, spool=tmp_path)
    scripted.wait(lambda: log.last_seq == 3)  # 2 and 3 under an epoch of its own
    with pytest.raises(Timeout):
        again.close(timeout=0.1)
    log.syncs = True
    with Trainer(peer.url, producer="p", marks=True, spool=tmp_path) as third:
        assert third.resumed_mark == b"3"
        push(third, 4)
    assert values(log) == [1, 2, 3, 4]
    assert scripted.seqs() == [1, 2, 3, 2, 3, 4]


def test_more_changes_than_a_batch_takes_are_not_sent_in_part_under_a_mark(start: Any) -> None:
    log = UpdateLog()
    peer: Peer = start(Scripted(log))
    trainer = Trainer(peer.url, producer="p", marks=True)
    push(trainer, 1)
    trainer.flush(timeout=20)
    for at in range(257):
        trainer.add(f"t{at}", IDS, ONES)
    for call in (lambda: trainer.mark(b"2"), trainer.flush, trainer.close):
        with pytest.raises(TrainerFull, match=r"more than 256 changes since mark b'1'"):
            call()
    assert log.last_seq == 1
    with Trainer(peer.url, producer="p", marks=True) as again:
        assert again.resumed_mark == b"1"


def test_an_interrupt_between_add_and_mark_comes_through(start: Any) -> None:
    log = UpdateLog()
    peer: Peer = start(Scripted(log))

    def train() -> None:
        with Trainer(peer.url, producer="p", marks=True) as trainer:
            push(trainer, 1)
            trainer.add("item", IDS, 2 * ONES)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert values(log) == [1]  # what was marked is flushed, and nothing else
    with Trainer(peer.url, producer="p", marks=True) as again:
        assert again.resumed_mark == b"1"


def test_a_full_trainer_comes_through_a_block_that_did_not_mark(start: Any) -> None:
    log = UpdateLog()
    peer: Peer = start(Scripted(log))

    def train() -> None:
        with Trainer(peer.url, producer="p", marks=True, max_batch_bytes=20_000) as trainer:
            push(trainer, 1)
            for first in range(0, 10_000, 3):
                trainer.add("item", IDS + np.uint64(first), ONES)

    with pytest.raises(TrainerFull, match="mark more often"):
        train()
    assert values(log) == [1]


def test_an_answer_that_is_not_heard(start: Any) -> None:
    """The very same batch again, which log.push compares byte for byte."""
    log = UpdateLog()

    def unheard(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(answer(msgpack.packb(log.open())))
        body = conversation.request().partition(b"\r\n\r\n")[2]
        log.push(1, body)
        conversation.reset()

    peer: Peer = start(unheard, Scripted(log))
    with Trainer(peer.url, producer="p", dtype="f16") as trainer:
        trainer.add("item", IDS, ONES / 3)
        trainer.flush(timeout=20)
    assert [seq for seq, _ in log.batches] == [1, 2]  # the second one is what f16 left out, at the end
