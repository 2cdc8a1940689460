"""A front: one process that answers requests on sockets it inherits, and reads rows that the owner shares.

`python -m embcache.service.front`, as process.py starts it. It serves from the first moment (`not_ready` until it has
an owner and its kernels), outlives owners, and ends by SIGTERM within the grace, or with its parent.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import mmap
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import uvicorn
import uvloop

from embcache.config import Settings
from embcache.errors import ConfigError
from embcache.features import hash_integers
from embcache.host.memory import keep_freed_memory
from embcache.host.warm import warm_readers
from embcache.hot.tier import HotState, HotTier, open_tier
from embcache.metrics import BLOCK_BYTES, Counters
from embcache.owner.hotline import failed, ready, send_line
from embcache.service import guard, placement
from embcache.service.accepting import Acceptor, FairShare
from embcache.service.app import Front
from embcache.service.connection import Connection, watch
from embcache.service.context import Service

logger = logging.getLogger("embcache.service")

_TRIM_EVERY_S = 10.0
_COUNT_EVERY_S = 0.5
_CANCEL_AFTER_S = 1.0  # beyond the grace: what goes on although its client was cut off


class _Server(uvicorn.Server):
    """uvicorn's server, whose end is this process's to call, and which leaves other fronts their part of what comes."""

    share: FairShare

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])

        def connection() -> asyncio.Protocol:
            return Connection(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

        acceptors: list[Any] = [Acceptor(listener, connection, self.share) for listener in sockets or ()]
        self.servers = acceptors

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def main() -> None:
    """Runs until SIGTERM or the parent's death. Ctrl-C is the parent's to judge: it reaches the whole terminal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser("embcache.service.front", description="Started by embcache; not meant for people.")
    parser.add_argument("--parent-fd", type=int, required=True)
    parser.add_argument("--counters-fd", type=int, required=True)
    parser.add_argument("--listen-fd", type=int, action="append", required=True)
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--again", action="store_true")
    arguments = parser.parse_args()
    line = socket.socket(fileno=arguments.parent_fd)
    settings = Settings.from_json(sys.stdin.buffer.read())
    fronts = int(settings.server.workers)  # which the supervisor has counted
    placement.settle(arguments.index, fronts, settings.hot.device)
    service = Service.of(settings, counter_blocks(arguments.counters_fd, fronts), arguments.index)
    listeners = [socket.socket(fileno=fd) for fd in arguments.listen_fd]
    server = _server(service)
    counters = [Counters(block) for block in service.blocks]
    server.share = FairShare(counters, arguments.index, server.server_state.connections)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(
            _serve(service, server, listeners, line, partial(_hot_tier, settings, arguments.index, arguments.again))
        )


def counter_blocks(fd: int, fronts: int) -> list[memoryview]:
    """The counters of all fronts, in memory that they share."""
    memory = memoryview(mmap.mmap(fd, fronts * BLOCK_BYTES))
    return [memory[at : at + BLOCK_BYTES] for at in range(0, len(memory), BLOCK_BYTES)]


async def _serve(
    service: Service,
    server: _Server,
    listeners: Sequence[socket.socket],
    line: socket.socket,
    hot_tier: Callable[[], HotTier | HotState],
) -> None:
    loop = asyncio.get_running_loop()
    warm, owner_is_there = asyncio.Event(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, _stop, server, service.settings.server.grace_s, warm)
    loop.add_reader(line, _hear, line, owner_is_there)
    limits = service.settings.server
    async with asyncio.TaskGroup() as group:
        helpers = [
            group.create_task(_read(service, line, warm, owner_is_there, hot_tier)),
            group.create_task(watch(server.server_state.connections, limits.body_timeout_s, limits.keep_alive_s)),
            group.create_task(_trim(service)),
            group.create_task(_count(service, server)),
        ]
        await server.serve(sockets=list(listeners))
        for helper in helpers:
            helper.cancel()
    service.reader.close()


def _server(service: Service) -> _Server:
    limits = service.settings.server
    config = uvicorn.Config(
        Front(service),
        http=Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=limits.keep_alive_s,
        timeout_graceful_shutdown=limits.grace_s + _CANCEL_AFTER_S,  # type: ignore[arg-type]
    )
    return _Server(config)


async def _read(
    service: Service,
    line: socket.socket,
    warm: asyncio.Event,
    owner_is_there: asyncio.Event,
    hot_tier: Callable[[], HotTier | HotState],
) -> None:
    """Keeps the reader attached to the owner, once there is one."""
    await asyncio.to_thread(_warm_up)
    try:
        hot = service.reader.hot = await asyncio.to_thread(hot_tier)
    except ConfigError as error:
        send_line(line, failed(error))
        os._exit(1)  # nobody was served by it
    if isinstance(hot, HotTier):
        service.lookups.pool.pin(lambda nbytes: hot.device.pinned(nbytes).data)
    warm.set()
    gc.collect()
    gc.freeze()  # what is here now stays: no collection need look at it again
    await owner_is_there.wait()
    told = False

    def attached() -> None:
        nonlocal told
        logger.info("attached to the owner of %s", service.settings.cold.path)
        if not told:
            send_line(line, ready())
            told = True

    await service.reader.keep(attached)


def _hot_tier(settings: Settings, index: int, again: bool) -> HotTier | HotState:
    """This front's hot tier. One that serves again does without where its device is gone."""
    try:
        return open_tier(settings.hot, index, int(settings.server.workers))
    except ConfigError as error:
        if not again:
            raise
        logger.error("%s", error)
        return HotState(False, "", str(error))


def _warm_up() -> None:
    """Load, or compile, every kernel that a request may need."""
    guard.warm_up()
    hash_integers("", np.zeros(1, np.int64))
    warm_readers()


async def _trim(service: Service) -> None:
    while True:
        await asyncio.sleep(_TRIM_EVERY_S)
        service.lookups.pool.trim()


async def _count(service: Service, server: _Server) -> None:
    """Keeps what is told of the hot tier and of connections up to date, for whichever front is asked."""
    while True:
        service.counters.connections = len(server.server_state.connections)
        hot = service.reader.hot
        service.counters.hot(hot.counts() if isinstance(hot, HotTier) else {})
        await asyncio.sleep(_COUNT_EVERY_S)


def _hear(line: socket.socket, owner_is_there: asyncio.Event) -> None:
    """The parent says once that the owner is there; its end of file says that it died."""
    if not line.recv(64):
        os._exit(1)
    owner_is_there.set()


def _stop(server: _Server, grace_s: float, warm: asyncio.Event) -> None:
    """Accept nothing more, end when all requests are answered, and cut off those that are not after the grace."""
    if not warm.is_set():
        os._exit(0)  # a thread compiles and cannot be called back; no lookup has been answered, so none is cut off
    server.should_exit = True
    asyncio.get_running_loop().call_later(grace_s, _cut_off_all, server)


def _cut_off_all(server: _Server) -> None:
    for connection in list(server.server_state.connections):
        connection.transport.abort()


if __name__ == "__main__":
    main()
