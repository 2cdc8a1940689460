"""Where a service is: http://host:port[/prefix] or http+unix:///path/of/socket. Does no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed URL; `unix_path` is None for TCP. `prefix` goes before every path, for a service behind a proxy."""

    host: str
    port: int
    unix_path: str | None
    prefix: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """ValueError for a URL of another form."""
        parts = urlsplit(url)
        if parts.query or parts.fragment or parts.username or parts.password:
            raise ValueError(f"{url!r} has a query, a fragment or a user; give http://host:port, and a token as token=")
        if parts.scheme == "http+unix":
            path = unquote(parts.netloc + parts.path)
            if not path.startswith("/"):
                raise ValueError(f"{url!r} names no socket; give http+unix:///path/of/socket")
            return cls("localhost", 80, path, "")
        if parts.scheme != "http":
            raise ValueError(
                f"{url!r} is neither http://host:port nor http+unix:///path; TLS ends in a proxy before it"
            )
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError(f"{url!r} has characters that no HTTP header can carry")
        if not parts.hostname:
            raise ValueError(f"{url!r} names no host; give http://host:port")
        return cls(parts.hostname, 80 if parts.port is None else parts.port, None, parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 80 else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"http+unix://{self.unix_path}" if self.unix_path else f"http://{self.authority}{self.prefix}"
