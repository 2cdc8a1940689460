"""A front in a thread of this process, where what it does can be traced, and made to wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from embcache.config import Settings
from embcache.metrics import BLOCK_BYTES
from embcache.service.app import Front
from embcache.service.context import Service
from tests.service.running import Running
from tests.service.wires import Server, serving


@contextmanager
def front_of(service: Running) -> Iterator[Server]:
    """One more front of a service's owner."""
    parts = Service.of(Settings.load(service.folder / "config.toml"), [memoryview(bytearray(BLOCK_BYTES))], 0)
    attached = threading.Event()
    with serving(Front(parts)) as server:
        keeping = asyncio.run_coroutine_threadsafe(parts.reader.keep(attached.set), server.loop)
        assert attached.wait(30)
        yield server
        keeping.cancel()
        server.on_loop(parts.reader.close)
