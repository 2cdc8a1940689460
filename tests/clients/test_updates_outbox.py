"""The outbox against a log that answers before it syncs, goes down, and whose answers get lost."""

from __future__ import annotations

import tempfile
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embcache_client.errors import ClientError
from embcache_client.outbox import Outbox
from embcache_client.spool import Spool, SpoolFull
from embcache_client.updates import ProducerState, UpdateReply
from tests.clients.updatelog import UpdateLog

OPS = ["append", "append", "push", "push", "unheard", "sync", "down", "others", "ask", "spool", "restart"]


def body_of(seq: int) -> bytes:
    return bytes(msgpack.packb({"epoch": 1, "seq": seq, "mark": b"%d" % seq}))


def opened(log: UpdateLog, spool: Spool | None = None) -> Outbox:
    return Outbox(ProducerState(**log.open()), spool)


def append(outbox: Outbox) -> None:
    outbox.append(body_of(outbox.last_seq + 1), b"%d" % (outbox.last_seq + 1))


def push(outbox: Outbox, log: UpdateLog) -> None:
    batch = outbox.next()
    if batch is not None:
        answer = log.push(*batch)
        if isinstance(answer, int):
            assert outbox.go_back(answer)
        else:
            outbox.take_reply(batch[0], UpdateReply(**answer))


def ask(outbox: Outbox, log: UpdateLog) -> None:
    outbox.take_position(log.durable, log.history)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(OPS), max_size=40))
def test_nothing_leaves_before_it_is_durable_and_all_of_it_counts_once(made: list[str]) -> None:
    log = UpdateLog(syncs=False)
    with tempfile.TemporaryDirectory() as folder, Spool(folder) as spool:
        outbox = opened(log, spool)
        appended = 0
        for op in [*made, *["push", "sync", "ask"] * len(made)]:
            if op == "append":
                append(outbox)
                appended += 1
            elif op == "push":
                push(outbox, log)
            elif op == "unheard" and (batch := outbox.next()) is not None:
                log.push(*batch)
            elif op == "ask":
                ask(outbox, log)
            elif op in ("sync", "down"):
                log.sync() if op == "sync" else log.go_down(others=3)
            elif op == "others":
                log.entries.append((0, b"other"))
            elif op in ("spool", "restart"):
                outbox.move_to_spool()
                assert outbox.memory_bytes == 0
                outbox = opened(log, spool) if op == "restart" else outbox
                assert outbox.mark == b"%d" % appended if appended else outbox.mark == b""
            assert outbox.last_seq == appended
            assert log.durable_seq >= appended - len(outbox)
            assert [seq for seq, _ in log.batches] == list(range(1, log.last_seq + 1))
        assert len(outbox) == outbox.memory_bytes == len(spool) == 0
        assert log.batches == [(seq, body_of(seq)) for seq in range(1, appended + 1)]
        if outbox.history == log.history:
            assert log.last_seq == max((seq for seq, _ in log.entries[: outbox.position]), default=0)


def test_next_ones_are_sent_while_one_becomes_durable() -> None:
    log = UpdateLog(syncs=False)
    outbox = opened(log)
    for _ in range(3):
        append(outbox)
        push(outbox, log)
    assert (log.last_seq, len(outbox), outbox.next()) == (3, 3, None)
    assert outbox.memory_bytes == sum(len(body_of(seq)) for seq in (1, 2, 3))
    log.durable = 2  # the opening and batch 1
    ask(outbox, log)
    assert len(outbox) == 2
    log.sync()
    append(outbox)
    push(outbox, log)  # its answer says so too, and this one is not
    assert len(outbox) == 1


def test_a_position_of_another_history_makes_nothing_durable() -> None:
    log = UpdateLog(syncs=False)
    outbox = opened(log)
    for _ in range(5):
        append(outbox)
        push(outbox, log)
    log.durable = 4  # the opening and batches 1 to 3
    ask(outbox, log)
    log.go_down(others=9)
    ask(outbox, log)
    assert len(outbox) == 2
    sent = []
    while (batch := outbox.next()) is not None:
        sent.append(batch[0])
        push(outbox, log)
    assert sent == [5, 4, 5]


def test_a_reply_of_a_new_history_whose_positions_are_lower() -> None:
    """Batch 2 follows batch 1 there too, so that both are durable."""
    outbox = opened(UpdateLog())
    append(outbox)
    append(outbox)
    outbox.take_reply(1, UpdateReply(100, "h0", 99, duplicate=False))
    outbox.take_reply(2, UpdateReply(5, "h1", 5, duplicate=False))
    assert (len(outbox), outbox.position, outbox.history) == (0, 5, "h1")


@pytest.mark.parametrize("expected", [0, 1, 2, 5, 6])
def test_what_is_not_kept_cannot_be_sent_again(expected: int) -> None:
    log = UpdateLog(syncs=False)
    outbox = opened(log)
    for _ in range(4):
        append(outbox)
        push(outbox, log)
        if outbox.last_seq == 2:
            log.sync()
            ask(outbox, log)
    assert not outbox.go_back(expected)
    assert outbox.next() is None
    assert outbox.go_back(3)


def test_a_spool_that_begins_behind_a_gap(tmp_path: Any) -> None:
    with Spool(tmp_path) as spool:
        spool.append(3, body_of(3))
        with pytest.raises(ClientError, match=r"batch 3, and the service has accepted 0:.*Remove the folder"):
            opened(UpdateLog(), spool)


def test_what_a_full_spool_does_not_take_stays_in_memory(tmp_path: Any) -> None:
    log = UpdateLog()
    with Spool(tmp_path, max_bytes=150) as spool:
        outbox = opened(log, spool)
        for _ in range(5):
            append(outbox)
        with pytest.raises(SpoolFull):
            outbox.move_to_spool()
        assert 0 < len(spool) < 5
        assert outbox.memory_bytes == sum(len(body_of(seq)) for seq in range(len(spool) + 1, 6))
        while len(outbox):
            push(outbox, log)
    assert log.batches == [(seq, body_of(seq)) for seq in range(1, 6)]
