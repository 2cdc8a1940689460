"""What only the asyncio client can do: many calls at once, cancelling, several loops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from embcache_client import AsyncClient, errors
from tests.clients.peer import Conversation, Peer, answer, rows_answer, serving
from tests.clients.replies import reply, result
from tests.clients.service import DIM, Service, served

Start = Callable[..., Peer]


async def test_many_calls_at_once() -> None:
    with served(Service()) as url:
        async with AsyncClient(url) as client:

            async def work(start: int) -> bool:
                ids = np.arange(start, start + 50) * 7
                expected = ids[:, None] % 1000 + np.arange(DIM, dtype=np.float32) / 64
                return bool(((await client.lookup({"item": ids}))["item"].rows == expected).all())

            assert all(await asyncio.gather(*[work(start) for start in range(100)]))


async def test_a_cancelled_call_closes_its_connection(start: Start) -> None:
    asked, ended = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def late(conversation: Conversation) -> None:
        conversation.request()
        loop.call_soon_threadsafe(asked.set)
        assert conversation.request() == b""
        loop.call_soon_threadsafe(ended.set)

    peer = start(late, serving(rows_answer()))
    async with AsyncClient(peer.url) as client:
        call = asyncio.create_task(client.lookup({"item": [5, 6]}))
        await asked.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await ended.wait()
        assert (await client.lookup({"item": [1, 2]}))["item"].rows.shape == (2, 3)


async def test_a_deadline_of_the_application_ends_a_call(start: Start) -> None:
    async with AsyncClient(start(Conversation.hang).url) as client:
        with pytest.raises(TimeoutError) as late:
            async with asyncio.timeout(0.05):
                await client.lookup({"item": [1]})
        assert not isinstance(late.value, errors.Timeout)


def test_a_client_stays_with_its_loop(start: Start) -> None:
    client = AsyncClient(start(serving(rows_answer())).url)

    async def look_up() -> None:
        await client.lookup({"item": [1, 2]})

    async def look_up_and_close() -> None:
        async with client:
            await look_up()

    asyncio.run(look_up_and_close())
    client = AsyncClient(start(serving(rows_answer())).url)
    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(look_up())
        with pytest.raises(RuntimeError, match="stays with the event loop"):
            second.run(look_up())
        first.run(client.close())


async def test_a_slow_answer_holds_up_nobody(start: Start) -> None:
    def slow(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(answer(reply(result(np.ones((1, 1), np.float32))))[:-1])
        conversation.hang()

    peer = start(slow, serving(rows_answer()))
    async with AsyncClient(peer.url) as client:
        waiting = asyncio.create_task(client.lookup({"item": [1]}))
        while not peer.requests:
            await asyncio.sleep(0)
        assert (await client.lookup({"item": [1, 2]}))["item"].rows.shape == (2, 3)
        assert not waiting.done()
        waiting.cancel()
