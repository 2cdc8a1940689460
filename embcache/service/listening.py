"""The sockets of the service, bound before anything is started, so that what is wrong with them is told at once."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

from embcache.config import Server
from embcache.errors import ConfigError
from embcache.local.paths import reachable

BACKLOG = 2048

_REASONS = {
    errno.EADDRINUSE: "something else listens there already",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.EACCES: "it may not be used by this user",
}


class Listening:
    """The bound sockets, the URLs under which they are reached, and the socket file to remove at the end."""

    def __init__(self, server: Server) -> None:
        """Binds and listens. ConfigError names the setting that cannot be used, and why."""
        self._file: tuple[Path, os.stat_result] | None = None
        self.sockets = [_tcp(server.host, server.port)]
        try:
            if server.uds is not None:
                self.sockets.append(_unix(server.uds))
                self._file = (server.uds, server.uds.stat())
        except BaseException:
            self.close()
            raise

    @property
    def urls(self) -> list[str]:
        """ "http://127.0.0.1:7070", and "http+unix:///path" where there is a Unix socket."""
        host, port = self.sockets[0].getsockname()[:2]
        urls = [f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"]
        if self._file is not None:
            urls.append(f"http+unix://{self._file[0]}")
        return urls

    def close(self) -> None:
        """Stop listening. A second call does nothing."""
        for listener in self.sockets:
            listener.close()
        if self._file is not None:
            path, bound = self._file
            with contextlib.suppress(OSError):
                if os.path.samestat(path.stat(), bound):  # not another service's by now
                    path.unlink()


def _tcp(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigError(f"server.host: {host!r} is no address: {error.strerror}") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"server.port: cannot listen on {host}, port {port}: {_reason(error)}") from None
    return listener


def _unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        with reachable(path) as address:
            _remove_stale(path, address)
            listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"server.uds: cannot listen on {path}: {_reason(error)}") from None
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path, address: str) -> None:
    """Removes a socket file that a service left behind when it was killed."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(f"server.uds: {path} is there and is not a socket: name another path")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, "")


def _reason(error: OSError) -> str:
    return _REASONS.get(error.errno or 0, error.strerror or str(error))
