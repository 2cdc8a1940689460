"""A whole service as a user starts it: `python -m embcache serve CONFIG`, on a free port and a folder of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgpack
import numpy as np
from numpy.typing import NDArray

from embcache_client import Client
from tests.service.wires import Answer, connect, post, receive

FILLED = np.array([*range(5000), 2**63, 2**64 - 1], np.uint64)
TABLES = """
[[table]]
name = "item"
dim = 12
default = {uniform = 0.25}
[[table]]
name = "coded"
dim = 12
dtype = "q8"
"""


class Running:
    """A service that is ready."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, url: str) -> None:
        self.process = process
        self.folder = folder
        self.url = url
        self.port = int(url.rpartition(":")[2])

    def client(self, **options: Any) -> Client:
        return Client(self.url, **options)

    def ask(self, request: bytes) -> Answer:
        """One request on a connection of its own."""
        with connect(self.port) as client:
            client.sendall(request)
            return receive(client)

    def look_up(self, body: dict[str, Any] | bytes, *headers: str) -> tuple[int, dict[str, Any]]:
        """(status, decoded answer) of POST /v1/lookup."""
        packed = body if isinstance(body, bytes) else msgpack.packb(body)
        answer = self.ask(post("/v1/lookup", packed, *headers))
        assert answer.headers["content-type"] == "application/msgpack"
        return answer.status, msgpack.unpackb(answer.body)

    def child(self, kind: Literal["owner", "front"]) -> int:
        """The process id of the owner or of the front; 0 while there is none."""
        name = {"owner": b"embcache.owner", "front": b"embcache.service.front"}[kind]
        for status in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, IndexError):
                parent = int(status.read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid and name in (status.parent / "cmdline").read_bytes():
                    return int(status.parent.name)
        return 0

    def stop(self) -> int:
        """SIGTERM -> the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def log(self) -> str:
        return (self.folder / "log").read_text()


@contextmanager
def running(folder: Path, extra: str = "", environment: dict[str, str] | None = None) -> Iterator[Running]:
    """Serve `folder`, where a config is written if there is none; stopped at the end, however it comes to that."""
    process = start(folder, extra, environment)
    assert process.stdout is not None
    try:
        line = process.stdout.readline().decode()
        assert line.startswith("embcache is ready at "), line + (folder / "log").read_text()
        yield Running(process, folder, line.split()[4])
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            process.kill()
            process.stdout.close()


def start(folder: Path, extra: str = "", environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """The process alone; its log goes to folder/log."""
    config = folder / "config.toml"
    if not config.exists():
        config.write_text(f'[server]\nport = 0\n[warm]\ncapacity = "32MiB"\n[cold]\npath = "data"\n{extra}')
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "embcache", "serve", str(config)],
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **(environment or {})},
        )


def rows_of(ids: NDArray[np.uint64], dim: int = 12) -> NDArray[np.float32]:
    """f32 [n, dim]: rows that tell their id, so that a wrong one is seen without keeping any."""
    columns = np.arange(dim, dtype=np.uint64)
    mixed: NDArray[np.uint64] = ids[:, None] * np.uint64(0x9E3779B97F4A7C15) + columns * np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)


def fill(client: Client, table: str, ids: NDArray[np.uint64], dim: int = 12) -> None:
    """Import `rows_of` ids."""
    with client.importing(table) as filling:
        filling.write(ids, rows_of(ids, dim))
