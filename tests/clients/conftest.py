"""Peers and clients for the tests of this room; both clients go through the same tests."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from embcache_client import AsyncClient, Client, RetryPolicy
from tests.clients.peer import Peer

FAST = RetryPolicy(attempts=5, first_s=0.001, cap_s=0.01)


class Blocking:
    """An AsyncClient on a loop of its own, with the methods of a Client."""

    def __init__(self, client: AsyncClient, runner: asyncio.Runner) -> None:
        self._client = client
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **options: Any) -> Any:
            made = method(*args, **options)
            return self._runner.run(made) if inspect.iscoroutine(made) else made

        return call

    def pages(self, *args: Any, **options: Any) -> Iterator[Any]:
        async def collect() -> list[Any]:
            return [page async for page in self._client.pages(*args, **options)]

        return iter(self._runner.run(collect()))

    def changed(self, *args: Any, **options: Any) -> Iterator[Any]:
        async def collect() -> list[Any]:
            return [piece async for piece in self._client.changed(*args, **options)]

        return iter(self._runner.run(collect()))

    @contextlib.contextmanager
    def importing(self, *args: Any, **options: Any) -> Iterator[Any]:
        manager = self._client.importing(*args, **options)

        class Filling:
            version = ""

            def write(filling, ids: Any, rows: Any) -> int:  # noqa: N805, the outer self is needed too
                return self._runner.run(manager.write(ids, rows))

        self._runner.run(manager.__aenter__())
        try:
            filling = Filling()
            filling.version = str(manager.version)
            yield filling
        except BaseException as error:
            self._runner.run(manager.__aexit__(type(error), error, None))
            raise
        self._runner.run(manager.__aexit__(None, None, None))


Connect = Callable[..., Any]  # as Client(url, ...); it is closed when the test ends


@pytest.fixture(params=["blocking", "asyncio", "uvloop"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    with contextlib.ExitStack() as stack:

        def connect(url: str, **options: Any) -> Any:
            options = {"retry": FAST} | options
            if request.param == "blocking":
                return stack.enter_context(Client(url, **options))
            factory = uvloop.new_event_loop if request.param == "uvloop" else None
            runner = stack.enter_context(asyncio.Runner(loop_factory=factory))
            client = Blocking(AsyncClient(url, **options), runner)
            stack.callback(client.close)
            return client

        yield connect


@pytest.fixture
def start() -> Iterator[Callable[..., Peer]]:
    """Starts peers: start(script, ...)."""
    with contextlib.ExitStack() as stack:

        def start(*scripts: Any, **options: Any) -> Peer:
            peer = Peer(*scripts, **options)
            stack.callback(peer.close)
            return peer

        yield start
