"""Large lookups in parts over several connections: the same results as in one call, or that call after all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import numpy as np
import pytest

from embcache_client import Client, errors
from embcache_client.buffers import BufferPool
from embcache_client.http1 import Place, Response, ResponseReader
from embcache_client.parts import LEAST_PART, read_part
from tests.clients.conftest import Connect
from tests.clients.service import DIM, Service, answer_query, row_of, served

COUNT = 3 * LEAST_PART + 7


class Laid(Service):
    """Lays replies out as embcache does, rows and statuses last, lengths in four bytes, and answers as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []  # ids of each lookup
        self.dim = DIM
        self.change: Callable[[int, dict[str, Any]], None] = lambda _ids, _reply: None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        except ConnectionAbortedError:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"999999")]})
            await send({"type": "http.response.body", "body": b"what is not whole"})

    def answer(self, scope: dict[str, Any], body: bytes) -> tuple[bytes, bytes]:
        if scope["path"] != "/v1/lookup":
            return super().answer(scope, body)
        request = msgpack.unpackb(body)
        results = [answer_query(query, request["dtype"]) for query in request["queries"]]
        ids = sum(len(result["status"]) for result in results)
        self.asked.append(ids)
        reply = {"position": 100, "history": "h", "results": results}
        self.change(ids, reply)
        last = results[-1]
        rows, status = last.pop("rows"), last.pop("status")
        if self.dim != DIM:
            rows, last["shape"][1] = bytes(ids * self.dim * 4), self.dim
        last |= {"rows": None, "status": None}
        packed = msgpack.packb(reply).removesuffix(b"\xa4rows\xc0\xa6status\xc0")
        for key, array in ((b"\xa4rows", rows), (b"\xa6status", status)):
            packed += key + b"\xc6" + len(array).to_bytes(4, "big") + array
        return b"application/msgpack", packed


@pytest.fixture
def service() -> Laid:
    return Laid()


@pytest.fixture
def url(service: Laid) -> Iterator[str]:
    with served(service) as url:
        yield url


def ids_of(count: int, seed: int = 0) -> Any:
    ids = np.random.default_rng(seed).integers(0, 1 << 40, count).astype(np.uint64)
    ids[::97] = 2**63 + 1  # without a row
    return ids


def parts_of(service: Laid) -> list[int]:
    asked, service.asked = service.asked, []
    return sorted(asked)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8"])
@pytest.mark.parametrize("count", [2 * LEAST_PART, COUNT, 9 * LEAST_PART - 1])
def test_the_same_as_in_one_call(url: str, service: Laid, connect: Connect, dtype: str, count: int) -> None:
    ids = ids_of(count)
    whole = connect(url).lookup({"item": ids}, dtype=dtype)["item"]
    client = connect(url, connections=4)
    client.lookup({"item": ids[:1]}, dtype=dtype)  # it has to know how long a row is
    service.asked.clear()
    result = client.lookup({"item": ids}, dtype=dtype)
    parts = parts_of(service)
    assert len(parts) == min(4, count // LEAST_PART)
    assert sum(parts) == count
    rows = result["item"]
    assert np.array_equal(rows.raw, whole.raw)
    assert np.array_equal(rows.rows, whole.rows)
    assert np.array_equal(rows.status, whole.status)
    assert (rows.table, rows.version, rows.dtype) == (whole.table, whole.version, whole.dtype)
    assert rows.raw.flags.c_contiguous
    assert rows.raw.ctypes.data % 64 == 0


def known(url: str, connect: Connect, service: Laid, **options: Any) -> Any:
    """A client that knows how long rows of "item" are."""
    client = connect(url, connections=3, **options)
    client.lookup({"item": [1]})
    service.asked.clear()
    return client


def test_the_smallest_position_is_told(url: str, service: Laid, connect: Connect) -> None:
    client = known(url, connect, service)
    positions = iter([70, 50, 60])
    service.change = lambda _ids, reply: reply.update(position=next(positions))
    assert client.lookup({"item": ids_of(COUNT)}).position == 50


def first_part(change: Callable[[dict[str, Any]], None]) -> Callable[[int, dict[str, Any]], None]:
    """Change the first answer that is one of a part."""
    left = [change]

    def apply(ids: int, reply: dict[str, Any]) -> None:
        if ids < COUNT and left:
            left.pop()(reply)

    return apply


def fail(_: dict[str, Any]) -> None:
    raise KeyError("item")


def break_off(_: dict[str, Any]) -> None:
    raise ConnectionAbortedError


def other_version(reply: dict[str, Any]) -> None:
    reply["results"][0]["version"] = "2"


def rows_not_last(reply: dict[str, Any]) -> None:
    reply["results"][0]["zzzz"] = reply["results"][0].pop("rows")
    reply["results"][0]["rows"] = b""


CHANGES: list[Callable[[dict[str, Any]], None]] = [
    other_version,
    fail,
    break_off,
    rows_not_last,
    lambda reply: reply.update(history="other"),
    lambda reply: reply.update(position="1"),
    lambda reply: reply["results"].append(reply["results"][0] | {}),
    lambda reply: reply["results"][0].update(table="other"),
    lambda reply: reply["results"][0].update(dtype="f16"),
    lambda reply: reply["results"][0].update(status=b"\x02"),
    lambda reply: reply["results"][0].update(shape=[5, DIM]),
]


@pytest.mark.parametrize("change", CHANGES, ids=range(len(CHANGES)))
def test_parts_that_do_not_go_together_are_asked_for_as_a_whole(
    url: str, service: Laid, connect: Connect, change: Callable[[dict[str, Any]], None]
) -> None:
    ids = ids_of(COUNT)
    client = known(url, connect, service)
    service.change = first_part(change)
    rows = client.lookup({"item": ids})["item"]
    assert parts_of(service)[-1] == COUNT
    assert rows.rows.tolist() == [row_of(int(x)) for x in ids]
    assert client.lookup({"item": ids})["item"].rows.tolist() == rows.rows.tolist()
    assert len(parts_of(service)) == 3


def test_rows_that_have_become_longer_are_asked_for_as_a_whole(url: str, service: Laid, connect: Connect) -> None:
    client = known(url, connect, service)
    service.dim = 2 * DIM
    for whole in (1, 0):  # from then on it knows
        assert client.lookup({"item": ids_of(COUNT)})["item"].rows.shape == (COUNT, 2 * DIM)
        assert parts_of(service).count(COUNT) == whole


def test_what_the_service_refuses_is_refused_as_a_whole(url: str, service: Laid, connect: Connect) -> None:
    client = known(url, connect, service)
    service.change = lambda _ids, _reply: fail({})
    with pytest.raises(errors.UnknownTable):
        client.lookup({"item": ids_of(COUNT)})


def test_small_and_other_lookups_are_one_call(url: str, service: Laid, connect: Connect) -> None:
    client = known(url, connect, service)
    client.lookup({"item": ids_of(2 * LEAST_PART - 1)})
    client.lookup({"item": ids_of(COUNT), "user": [1]})
    client.lookup({"item": [f"{x}" for x in range(2 * LEAST_PART)]})
    client.lookup_bags({"item": (ids_of(COUNT), [COUNT])})
    assert len(service.asked) == 4


def test_all_happens_within_the_timeout(url: str, service: Laid, connect: Connect) -> None:
    client = known(url, connect, service, timeout=0.3)
    stalled = threading.Event()

    async def stall(scope: dict[str, Any], receive: Any, send: Any) -> None:
        while not stalled.is_set():
            await asyncio.sleep(0.01)
        await Service.__call__(service, scope, receive, send)

    service.__class__ = type("Stalled", (Laid,), {"__call__": lambda self, *rest: stall(*rest)})
    with pytest.raises(errors.Timeout):
        client.lookup({"item": ids_of(COUNT)})
    stalled.set()


def test_with_the_near_cache_what_is_not_kept_comes_in_parts(url: str, service: Laid, connect: Connect) -> None:
    client = known(url, connect, service, near_cache_rows=100_000, max_staleness_s=1000)
    ids = ids_of(2 * COUNT)
    client.lookup({"item": ids[:COUNT]})
    assert len(parts_of(service)) == 3
    rows = client.lookup({"item": ids})["item"]
    assert len(parts_of(service)) == 3
    assert rows.rows.tolist() == [row_of(int(x)) for x in ids]
    assert set(rows.status[:COUNT].tolist()) == {0, 6}


def test_many_threads(url: str, service: Laid) -> None:
    wrong: list[int] = []
    with Client(url, connections=3) as client:

        def work(seed: int) -> None:
            for turn in range(6):
                ids = ids_of(COUNT, seed + 10 * turn)
                if client.lookup({"item": ids})["item"].rows.tolist() != [row_of(int(x)) for x in ids]:
                    wrong.append(seed)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.mark.parametrize("connections", [0, -1, 65])
def test_settings_that_can_never_be_right(connections: int) -> None:
    with pytest.raises(ValueError, match="connections"):
        Client("http://127.0.0.1:1", connections=connections)


def test_only_what_ends_with_rows_of_that_length_and_statuses_is_read() -> None:
    entry = {"table": "item", "version": "1", "dtype": "f32", "shape": [2, DIM], "rows": b""}
    packed = msgpack.packb({"position": 7, "history": "h", "results": [entry]})[:-2] + b"\xc6"
    packed = packed.replace(b"\x85\xa5table", b"\x86\xa5table")  # with statuses to come
    asked, statuses = ("item", "f32", 2, DIM), b"\xa6status\xc6\0\0\0\x02\x02\x00"
    answer = read_part(packed + bytes([0, 0, 0, 32]) + statuses, 32, asked)
    assert (answer.position, answer.history, answer.version) == (7, "h", "1")
    assert answer.status.tolist() == [2, 0]
    wrong = [
        packed + bytes([0, 0, 0, 31]) + statuses,
        packed[:-6] + b"\xa4owsr\xc6" + bytes([0, 0, 0, 32]) + statuses,
        packed + bytes([0, 0, 0, 32]) + statuses.replace(b"status", b"states"),
        packed + bytes([0, 0, 0, 32]),
        packed,
        b"",
    ]
    for around in wrong:
        with pytest.raises(errors.ProtocolError, match="does not end with its rows"):
            read_part(around, 32, asked)


# --- the reader's part -----------------------------------------------------------------------------------------------


def read_in_pieces(stream: bytes, place: Place, seed: int) -> Response:
    rng, reader = np.random.default_rng(seed), ResponseReader(BufferPool(), 1 << 30)
    reader.start(place)
    while not reader.done:
        space = reader.space()
        count = min(len(space), len(stream), int(rng.choice([1, 7, 100, 5000, 1 << 20])))
        space[:count] = stream[:count]
        stream = stream[count:]
        reader.received(count)
    assert not stream
    return reader.response()


@pytest.mark.parametrize("size", [10, 5000, 100_000])
@pytest.mark.parametrize("apart", [0, 1, 200, 20_000])
@pytest.mark.parametrize("behind", [0, 1, 20_000])
@pytest.mark.parametrize("status", [200, 404])
def test_a_piece_goes_to_its_place(size: int, apart: int, behind: int, status: int) -> None:
    body = np.random.default_rng(size).integers(0, 256, apart + size + behind).astype(np.uint8).tobytes()
    stream = b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (status, len(body)) + body
    for seed in range(8):
        room = bytearray(size)
        response = read_in_pieces(stream, Place(memoryview(room), behind), seed)
        if response.placed:
            around = bytes(response.body)
            assert around[:apart] + bytes(room) + around[apart:] == body
            assert len(around) == apart + behind
            assert (apart > 0, status) == (True, 200)
        else:
            assert bytes(response.body) == body
            assert not any(room)
