"""Whose batches a spool holds: the cases of an opening, and the file that tells them apart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from embcache_client.errors import ClientError
from embcache_client.spool import Spool, SpoolDamaged
from embcache_client.spool_line import MAX_EPOCHS, take_over
from embcache_client.updates import ProducerState


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path) as spool:
        yield spool


def state(epoch: int, last_seq: int = 0, last_epoch: int = 0) -> ProducerState:
    return ProducerState(epoch, last_seq, last_epoch, b"", 9, "h0")


def line(spool: Spool) -> Any:
    return json.loads((spool.folder / "lineage.json").read_bytes())


def fill(spool: Spool) -> None:
    """With batches 3 to 5."""
    for seq in (3, 4, 5):
        spool.append(seq, b"batch")


def test_each_opening_is_noted_and_an_empty_spool_begins_anew(spool: Spool) -> None:
    take_over(spool, "p", state(1))
    take_over(spool, "q", state(4))
    assert line(spool) == {"producer": "q", "epochs": [4]}
    fill(spool)
    take_over(spool, "q", state(6, 2, 1))
    take_over(spool, "q", state(7, 4, 6))
    assert line(spool) == {"producer": "q", "epochs": [4, 6, 7]}


@pytest.mark.parametrize(("last_seq", "last_epoch", "fits"), [(2, 3, True), (3, 3, False), (9, 3, False), (9, 4, True)])
def test_others_have_pushed_or_have_not(spool: Spool, last_seq: int, last_epoch: int, fits: bool) -> None:
    take_over(spool, "p", state(4))
    fill(spool)
    if fits:
        take_over(spool, "p", state(8, last_seq, last_epoch))
        return
    with pytest.raises(ClientError, match=rf"accepted batch {last_seq} under epoch 3.*batches 3 to 5"):
        take_over(spool, "p", state(8, last_seq, last_epoch))
    assert line(spool) == {"producer": "p", "epochs": [4]}
    assert len(spool) == 3


def test_a_spool_of_another_producer(spool: Spool) -> None:
    take_over(spool, "p", state(4))
    fill(spool)
    with pytest.raises(ClientError, match="holds batches of producer 'p', not of 'q'"):
        take_over(spool, "q", state(1))
    assert line(spool) == {"producer": "p", "epochs": [4]}


def test_a_spool_that_does_not_say_whose_it_is_is_taken_only_where_nothing_can_be_lost(spool: Spool) -> None:
    fill(spool)
    with pytest.raises(ClientError, match="not known to be accepted"):
        take_over(spool, "p", state(8, 3, 4))
    take_over(spool, "p", state(8, 2, 4))


def test_openings_without_end_are_bounded_and_the_epoch_of_the_last_batch_is_kept(spool: Spool) -> None:
    take_over(spool, "p", state(1))
    fill(spool)
    for epoch in range(2, 3 * MAX_EPOCHS):
        take_over(spool, "p", state(epoch, 3, 1))
    epochs = line(spool)["epochs"]
    assert len(epochs) == MAX_EPOCHS + 1
    assert (epochs[0], epochs[-1]) == (1, 3 * MAX_EPOCHS - 1)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"producer": "p"}', b'{"producer": "p", "epochs": [null]}', b"\xff"])
def test_a_file_that_is_none(spool: Spool, content: bytes) -> None:
    fill(spool)
    (spool.folder / "lineage.json").write_bytes(content)
    with pytest.raises(SpoolDamaged, match=r"lineage\.json"):
        take_over(spool, "p", state(4))
