"""A Redis of our own on a free loopback port, in a temporary folder: no persistence, no limits."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.peers import PeerAbsent
from loadtest.processes import Process, free_port

LOAD_CHUNK = 4096


@contextmanager
def redis_with_rows(
    ids: NDArray[np.uint64], rows: NDArray[np.float32], *, durable: bool = False, unix: bool = False
) -> Iterator[Any]:
    """A redis-py client (hiredis) of a fresh redis-server that holds each row's bytes under its id's 8 bytes.

    durable: it syncs its log before it answers a write; else it keeps none.
    unix: they speak over a Unix socket, and it listens on no other; else over TCP.
    PeerAbsent where redis-server, redis-py or hiredis is not installed.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise PeerAbsent("no redis-server on PATH (Debian: apt-get install redis-server)")
    try:
        import hiredis  # noqa: F401 - redis-py parses with it wherever it is there
        import redis
    except ImportError as error:
        raise PeerAbsent(f"the package {error.name} is not installed (pip install 'embcache[bench]')") from error
    with TemporaryDirectory(prefix="loadtest-redis-") as folder:
        options = {"bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": folder}
        if unix:
            path = str(Path(folder, "socket"))
            options |= {"port": "0", "unixsocket": path}
            client = redis.Redis(unix_socket_path=path)
        else:
            port = free_port()
            options["port"] = str(port)
            client = redis.Redis("127.0.0.1", port)
        if durable:
            options |= {"appendonly": "yes", "appendfsync": "always"}
        command = [program, *(word for key, value in options.items() for word in (f"--{key}", value))]
        with Process(command, Path(folder, "redis.log")) as server, client:
            server.wait_until(lambda: _answers(client), timeout_s=10)
            for start in range(0, len(ids), LOAD_CHUNK):
                piece = slice(start, start + LOAD_CHUNK)
                client.mset(dict(zip(keys_of(ids[piece]), (row.tobytes() for row in rows[piece]), strict=True)))
            yield client


def keys_of(ids: NDArray[np.uint64]) -> list[bytes]:
    """Each id as its 8 bytes, big-endian."""
    packed = ids.astype(">u8").tobytes()
    return [packed[place : place + 8] for place in range(0, len(packed), 8)]


def _answers(client: Any) -> bool:
    from redis.exceptions import ConnectionError as RedisConnectionError

    try:
        return bool(client.ping())
    except RedisConnectionError:
        return False
