"""What a reply costs in memory: nothing but its pooled buffers, in the service and in the client."""

from __future__ import annotations

import resource
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from embcache_client import Client
from embcache_client.results import MISSING, WARM
from tests.service.fronts import front_of
from tests.service.running import Running, fill, rows_of, running
from tests.service.wires import Server

MOST = 64 << 10  # bytes beside the pooled buffers
PAGE = 4096
DIM = 1024
COUNT = 512  # ids: 4 KB of request, of which both sides have some copies at a time, and 2 MB of reply
IDS = np.arange(2000, dtype=np.uint64)
TABLE = f"""
[[table]]
name = "wide"
dim = {DIM}
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("allocations"), TABLE) as started:
        with started.client() as client:
            fill(client, "wide", IDS, DIM)
            while (client.lookup({"wide": IDS})["wide"].status != WARM).any():
                pass
        yield started


@pytest.fixture(scope="module")
def front(service: Running) -> Iterator[Server]:
    """A front of the same owner in a thread of this process, where what it allocates can be traced."""
    with front_of(service) as server:
        yield server


def with_missing(ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The same with some that have no row."""
    ids = ids.copy()
    ids[::50] = 10**12
    return ids


def rows_asked(client: Client, seed: int, *, missing: bool = False, strict: bool = False, dtype: str = "f32") -> None:
    ids = np.random.default_rng(seed).choice(IDS, COUNT)
    ids = with_missing(ids) if missing else ids
    result = client.lookup({"wide": ids}, strict=strict, dtype=dtype)["wide"]
    if seed % 20 == 0:
        assert np.array_equal(result.status == MISSING, ids >= IDS.size)
        if dtype == "f32":
            assert np.array_equal(result.rows, np.where((ids < IDS.size)[:, None], rows_of(ids, DIM), 0))


def bags_asked(client: Client, seed: int) -> None:
    ids = np.random.default_rng(seed).choice(IDS, COUNT // 2)
    result = client.lookup_bags({"wide": (ids, np.full(COUNT // 8, 4, np.uint32))})["wide"]
    if seed % 20 == 0:
        np.testing.assert_allclose(result.rows, rows_of(ids, DIM).reshape(-1, 4, DIM).sum(axis=1), rtol=1e-4)


KINDS: dict[str, Callable[[Client, int], None]] = {
    "warm": rows_asked,
    "some missing": partial(rows_asked, missing=True),
    "strict": partial(rows_asked, strict=True),  # never answered as like one before
    "f16": partial(rows_asked, dtype="f16"),
    "f16, some missing": partial(rows_asked, dtype="f16", missing=True),
    "q8": partial(rows_asked, dtype="q8"),
    "bags": bags_asked,
}


@pytest.mark.parametrize("kind", KINDS)
def test_neither_side_allocates_anything_large(front: Server, kind: str) -> None:
    """Both sides together, since they share this process."""
    look_up = KINDS[kind]
    with Client(f"http://127.0.0.1:{front.port}") as client:
        for seed in range(20):
            look_up(client, seed)
        tracemalloc.start()
        try:
            peaks = [peak(partial(look_up, client, seed)) for seed in range(21, 39)]
        finally:
            tracemalloc.stop()
    assert max(peaks[2:]) <= MOST, peaks


def peak(call: Callable[[], None]) -> int:
    """The bytes that a call had allocated at most."""
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    call()
    return tracemalloc.get_traced_memory()[1] - before


@pytest.mark.parametrize("kind", KINDS)
def test_neither_process_takes_fresh_pages(service: Running, kind: str) -> None:
    """Fresh pages are seen as faults, however the memory was asked for."""
    look_up = KINDS[kind]
    front = service.child("front")
    with service.client() as client:
        for seed in range(1, 20):
            look_up(client, seed)
        least = [1e9, 1e9]
        for _ in range(3):  # what else a process does now and then is not a reply's
            before = faults_of(front), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for seed in range(21, 40):
                look_up(client, seed)
            after = faults_of(front), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            least = [min(known, (now - then) / 19) for known, now, then in zip(least, after, before, strict=True)]
    assert max(least) * PAGE <= MOST, least


def faults_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[7])
