"""The second half of a large lookup, found while the first is on its way: right whatever happens between the two."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from embcache.service.second_half import SecondHalf
from embcache_client import Client, Trainer
from embcache_client.results import COLD, LATE, MISSING, NEAR, WARM
from tests.service.fronts import front_of
from tests.service.running import Running, fill, rows_of, running
from tests.service.wires import Server

DIM = 256
COUNT = 800  # ids of a lookup: 800 KiB of reply
IDS = np.arange(1, 6001, dtype=np.uint64)
KNOWN = IDS[:COUNT]
TABLE = f"""
[[table]]
name = "wide"
dim = {DIM}
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("halves"), TABLE) as started:
        with started.client() as client:
            fill(client, "wide", IDS, DIM)
        yield started


@pytest.fixture(scope="module")
def front(service: Running) -> Iterator[Server]:
    """A front of the same owner in a thread of this process, where things can be made to happen between halves."""
    with front_of(service) as server:
        yield server


@pytest.fixture
def client(front: Server) -> Iterator[Client]:
    """One whose lookups are of a known kind, with KNOWN warm."""
    with Client(f"http://127.0.0.1:{front.port}") as client:
        while (client.lookup({"wide": KNOWN})["wide"].status != WARM).any():
            pass
        for _ in range(3):
            client.lookup({"wide": KNOWN})
        yield client


class Between:
    """What happens between two halves, once; and how often there were two, and how often they needed the usual way."""

    def __init__(self) -> None:
        self.halves = self.later = 0
        self.act: Callable[[], None] | None = None


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Between:
    seen, now, later = Between(), SecondHalf.now, SecondHalf.later

    def first_act(half: SecondHalf) -> memoryview | None:
        seen.halves += 1
        act, seen.act = seen.act, None
        if act is not None:
            act()
        return now(half)

    async def counted(half: SecondHalf) -> memoryview | None:
        seen.later += 1
        return await later(half)

    monkeypatch.setattr(SecondHalf, "now", first_act)
    monkeypatch.setattr(SecondHalf, "later", counted)
    return seen


def asked(client: Client, ids: NDArray[np.uint64], **options: Any) -> NDArray[np.uint8]:
    """The statuses; the rows are those of the ids, or the default's."""
    result = client.lookup({"wide": ids}, **options)["wide"]
    found = np.isin(result.status, [WARM, COLD, NEAR])
    assert result.rows.tobytes() == np.where(found[:, None], rows_of(ids, DIM), np.float32(0)).tobytes()
    return result.status


def test_what_is_warm_comes_in_two_halves(client: Client, between: Between) -> None:
    for seed in range(20):
        ids = np.random.default_rng(seed).choice(KNOWN, COUNT - seed)
        assert set(asked(client, ids)) == {WARM}
    assert (between.halves, between.later) == (20, 0)


def test_what_the_second_half_lacks_is_looked_up_the_usual_way(client: Client, between: Between) -> None:
    for turn in range(5):
        ids = KNOWN.copy()
        cold = IDS[1000 + 100 * turn :][:50]  # never asked for before
        ids[500:550], ids[700] = cold, 10**12
        status = asked(client, ids)
        assert set(status[500:550]) == {COLD}
        assert status[700] == MISSING
        assert set(np.delete(status, [*range(500, 550), 700])) == {WARM}
    assert (between.halves, between.later) == (5, 5)


def test_what_the_first_half_lacks_is_known_before_anything_is_sent(client: Client, between: Between) -> None:
    ids = KNOWN.copy()
    ids[10] = IDS[2000]
    assert asked(client, ids)[10] == COLD
    assert between.halves == 0


def test_rows_that_come_late_are_told_as_late(service: Running, client: Client, between: Between) -> None:
    for _ in range(3):
        client.lookup({"wide": KNOWN}, deadline_ms=300)  # another kind of request
    ids = KNOWN.copy()
    ids[600:610] = IDS[3000:3010]
    owner = service.child("owner")
    os.kill(owner, signal.SIGSTOP)
    try:
        status = asked(client, ids, deadline_ms=300)
    finally:
        os.kill(owner, signal.SIGCONT)
    assert between.later == 1
    assert set(status[600:610]) == {LATE}
    assert set(np.delete(status, range(600, 610))) == {WARM}


def test_rows_of_the_second_half_may_be_newer_than_the_position_never_older(
    service: Running, client: Client, between: Between
) -> None:
    with service.client() as other, Trainer(service.url, producer="halves") as trainer:

        def update() -> None:
            trainer.assign("wide", KNOWN, rows_of(KNOWN, DIM) + 1)
            other.lookup({"wide": KNOWN[:1]}, min_position=trainer.flush())

        trainer.assign("wide", KNOWN, rows_of(KNOWN, DIM))  # behind the producer's opening, which is an entry, too
        before = client.lookup({"wide": KNOWN}, min_position=trainer.flush()).position
        between.act = update
        result = client.lookup({"wide": KNOWN})
        assert result.position == before
        assert (result["wide"].rows[: COUNT // 2] == rows_of(KNOWN, DIM)[: COUNT // 2]).all()
        assert (result["wide"].rows[COUNT // 2 :] == rows_of(KNOWN, DIM)[COUNT // 2 :] + 1).all()
        assert client.lookup({"wide": KNOWN}).position > before
        trainer.assign("wide", KNOWN, rows_of(KNOWN, DIM))
        client.lookup({"wide": KNOWN}, min_position=trainer.flush())
    assert between.later == 0


@pytest.mark.parametrize("dim", [DIM, 2 * DIM, 16])
def test_halves_are_never_of_two_versions(service: Running, client: Client, between: Between, dim: int) -> None:
    """A table that is filled anew, or another of its name, between the halves: the client asks again, and gets it."""
    with service.client() as other:
        other.create_table({"name": f"passing{dim}", "dim": DIM})
        fill(other, f"passing{dim}", IDS, DIM)
        for _ in range(4):
            client.lookup({f"passing{dim}": KNOWN})

        def replace() -> None:
            if dim != DIM:
                other.drop_table(f"passing{dim}")
                other.create_table({"name": f"passing{dim}", "dim": dim})
            with other.importing(f"passing{dim}") as filling:
                filling.write(IDS, rows_of(IDS + np.uint64(1), dim))

        between.act = replace
        result = client.lookup({f"passing{dim}": KNOWN})[f"passing{dim}"]
        assert between.act is None
        assert result.rows.tobytes() == rows_of(KNOWN + np.uint64(1), dim).tobytes()
        assert between.later == 1
