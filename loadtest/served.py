"""A service of our own: `python -m embcache serve` on a temporary configuration and data folder, and a free port."""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from loadtest.processes import Process, free_port

START_TIMEOUT_S = 120.0
"""The very first start compiles every kernel."""

_CLIENTS_TOKEN = "EMBCACHE_TOKEN"
"""Of those who ask another service; to ours it would be a setting that it does not know."""


@dataclass(frozen=True, slots=True)
class Served:
    """A service that is ready: where it listens, its files, its process, and the seconds until it was ready."""

    url: str
    config: Path
    process: Process
    ready_s: float


@contextmanager
def served(warm_capacity: str, environment: Mapping[str, str] | None = None) -> Iterator[Served]:
    """Start a service without tables, wait until it is ready, and stop it and remove its files at the end.

    warm_capacity: as in the configuration ("64MiB"). environment: variables beside those of this process.
    ProcessFailed where it does not come up.
    """
    port = free_port()
    with TemporaryDirectory(prefix="loadtest-embcache-") as folder:
        config = Path(folder, "config.toml")
        config.write_text(config_text(port, warm_capacity), encoding="utf-8")
        command = [sys.executable, "-m", "embcache", "serve", str(config)]
        log = Path(folder, "service.log")
        variables = {**os.environ, **(environment or {})}
        variables.pop(_CLIENTS_TOKEN, None)
        with Process(command, log, environment=variables) as process:
            ready_s = process.wait_until(lambda: ready(port), START_TIMEOUT_S)
            yield Served(f"http://127.0.0.1:{port}", config, process, ready_s)


def ready(port: int) -> bool:
    """Whether GET /readyz answers 200. Standard library alone: what is measured must not help to measure it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def config_text(port: int, warm_capacity: str) -> str:
    """A configuration on a port of the loopback, its data beside it."""
    return "\n".join(
        [
            "[server]",
            'host = "127.0.0.1"',
            f"port = {port}",
            "[warm]",
            f'capacity = "{warm_capacity}"',
            "[cold]",
            'path = "data"',
            "",
        ]
    )
