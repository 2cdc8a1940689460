"""The owner's process from its first line to its last: what it is told, when it ends, what it tells its parent."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys

import uvloop

from embcache.config import Settings
from embcache.errors import ConfigError
from embcache.host.arena import Arena
from embcache.host.memory import keep_freed_memory
from embcache.host.warm import warm_writer
from embcache.owner.hotline import failed, ready, receive_line, send_line
from embcache.owner.opening import open_store
from embcache.owner.owner import Owner
from embcache.owner.threads import log, service_error

_CLOSING_S = 10.0  # beyond its grace, for an owner whose parent died


def main() -> None:
    """Runs until SIGTERM or the parent's death. Ctrl-C is the parent's to judge: it reaches the whole terminal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s", level=logging.INFO)
    parser = argparse.ArgumentParser("embcache.owner", description="Started by embcache; not meant for people.")
    parser.add_argument("--arena-fd", type=int, required=True)
    parser.add_argument("--parent-fd", type=int, required=True)
    parser.add_argument("--claimed", action="store_true")
    arguments = parser.parse_args()
    line = socket.socket(fileno=arguments.parent_fd)
    told = receive_line(line)
    if told is None:
        return
    settings = Settings.from_json(told)
    os.nice(settings.owner.nice)  # before there are other threads: each keeps what it was made with
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        arena = Arena.adopt(arguments.arena_fd, writable=True)
        sys.exit(runner.run(_serve(settings, arena, line, arguments.claimed)))


async def _serve(settings: Settings, arena: Arena, line: socket.socket, claimed: bool) -> int:
    """Opens, serves, closes -> the exit status."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)

    def parent_died() -> None:  # it says nothing more: what can be read is the end of file
        loop.remove_reader(line)
        stop.set()

    loop.add_reader(line, parent_died)
    opening = loop.create_task(_open(settings, arena, claimed))
    stopping = loop.create_task(stop.wait())
    await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not opening.done():
        os._exit(1)  # a thread opens the store and cannot be called back; the store recovers from any death
    try:
        owner = opening.result()
        send_line(line, ready())
    except Exception as error:
        return _tell(line, error)
    stuck = loop.create_task(owner.stuck.wait())
    await asyncio.wait({stopping, stuck}, return_when=asyncio.FIRST_COMPLETED)
    await owner.stop(settings.server.grace_s)
    return 0 if stopping.done() else 1


async def _open(settings: Settings, arena: Arena, claimed: bool) -> Owner:
    loop = asyncio.get_running_loop()
    patience_s = settings.server.grace_s + _CLOSING_S
    warming = loop.run_in_executor(None, warm_writer)
    store = await loop.run_in_executor(None, open_store, settings.cold, patience_s if claimed else 0.0)
    await warming
    owner = Owner(store, arena, settings)
    try:
        await owner.start(settings.table)
    except BaseException:
        await owner.stop(0.0)
        raise
    return owner


def _tell(line: socket.socket, error: Exception) -> int:
    told = error if isinstance(error, ConfigError) else service_error(error)
    log.error("cannot serve: %s", told)
    try:
        send_line(line, failed(told))
    except OSError:  # nobody listens any more
        return 1
    return 1
