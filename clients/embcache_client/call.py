"""One call as both transports see it, and when it may be tried again. Does no I/O.

A call is tried again only where that cannot count twice:
- nothing was sent, since no connection could be made;
- the service said that it refused it for now (429 and 503 with its own codes), and then not before Retry-After;
- the connection died before a byte of the answer, and the call is idempotent. On a kept connection that is at once,
  since the service may just have closed it; otherwise, and each time after, the pause doubles, with jitter.
Everything happens within the client's timeout: a pause that would not fit ends the attempts with the error at hand.
"""

from __future__ import annotations

import email.utils
import json
import random
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeAlias, TypeVar

from embcache_client import wire
from embcache_client.address import Address
from embcache_client.errors import (
    ClientError,
    ConnectFailed,
    ConnectionLost,
    NotReady,
    Overloaded,
    ProtocolError,
    RateLimited,
    ServiceError,
)
from embcache_client.http1 import Place, RequestHeads, Response

T = TypeVar("T")

DEFAULT_TIMEOUT_S: Final = 10.0
MAX_TIMEOUT_S: Final = 86_400
MAX_REPLY_BYTES: Final = 256 << 20
JSON_TYPE: Final = "application/json"


@dataclass(slots=True)
class Call(Generic[T]):
    """A request, and how its answer is read. `target` is quoted already.

    place: where a piece of the answer's body goes; see ResponseReader.start.
    """

    method: str
    target: str
    decode: Callable[[Response], T]
    body: bytes = b""
    media_type: str | None = None
    idempotent: bool = True
    once: bool = False  # not to be tried again at all
    least_timeout_s: float = 0.0  # where it may take longer than the client's timeout
    place: Place | None = None

    def result(self, response: Response) -> T:
        """What the call returns; raises ServiceError for an error, ProtocolError for what is no answer at all."""
        if response.status >= 400:
            raise _service_error(response)
        if response.status >= 300:
            raise ProtocolError(f"HTTP {response.status} (a redirect?) from {self.method} {self.target}")
        return self.decode(response)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """attempts: how often a call is tried in all. Pauses grow from first_s, doubling, up to cap_s, each shortened by
    a random share of at most a half, so that clients that failed together do not come back together."""

    attempts: int = 5
    first_s: float = 0.05
    cap_s: float = 2.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.first_s < 0 or self.cap_s < self.first_s:
            raise ValueError(f"{self} needs attempts >= 1 and 0 <= first_s <= cap_s")


Steps: TypeAlias = Generator[Sequence[Call[Any]], list[Any], T]
"""What takes several calls: yields calls to be made at the same time and is sent their results. A ClientError of any
of them is thrown in."""


def next_calls(steps: Steps[T], outcome: list[Any] | ClientError | None) -> tuple[Sequence[Call[Any]], T | None]:
    """Tell what came of the last calls, None at the beginning -> (the next ones, None), or none and the result."""
    try:
        return (steps.throw(outcome) if isinstance(outcome, ClientError) else steps.send(outcome)), None  # type: ignore[arg-type]
    except StopIteration as stop:
        return (), stop.value


class Endpoint:
    """A service and how to speak with it; what both transports are made of."""

    __slots__ = ("address", "heads", "max_reply_bytes", "policy", "timeout_s")

    def __init__(
        self, url: str, token: str | None, timeout: float, policy: RetryPolicy | None, max_reply_bytes: int
    ) -> None:
        if not 0 < timeout <= MAX_TIMEOUT_S:
            raise ValueError(f"timeout is {timeout!r}, not a number of seconds above 0 and up to {MAX_TIMEOUT_S}")
        if max_reply_bytes < 1:
            raise ValueError(f"max_reply_bytes is {max_reply_bytes!r}, not a number of bytes above 0")
        self.address = Address.parse(url)
        self.heads = RequestHeads(self.address, token)
        self.timeout_s = timeout
        self.policy = policy or RetryPolicy()
        self.max_reply_bytes = max_reply_bytes

    def deadline_of(self, call: Call[Any] | None = None) -> float:
        """In time.monotonic()."""
        return time.monotonic() + max(self.timeout_s, 0.0 if call is None else call.least_timeout_s)

    def head_of(self, call: Call[Any]) -> bytes:
        return self.heads.head(call.method, call.target, call.media_type, len(call.body))


class Attempts:
    """The attempts of one call, of which the first is under way."""

    __slots__ = ("_call", "_deadline", "_made", "_policy", "lost_one")

    def __init__(self, call: Call[Any], policy: RetryPolicy, deadline: float) -> None:
        self._call = call
        self._policy = policy
        self._deadline = deadline  # of time.monotonic()
        self._made = 1
        self.lost_one = False  # a connection died: others that were kept may be dead too

    def pause_after(self, error: ClientError) -> float:
        """Seconds to wait before the next attempt; raises `error` where there must be none."""
        if self._call.once or self._made >= self._policy.attempts or not self._is_safe_after(error):
            raise error
        self.lost_one |= isinstance(error, ConnectionLost)
        pause = self._pause(error)
        if time.monotonic() + pause >= self._deadline:
            raise error
        self._made += 1
        return pause

    def _is_safe_after(self, error: ClientError) -> bool:
        if isinstance(error, ConnectFailed | RateLimited | Overloaded | NotReady):
            return True
        again = isinstance(error, ConnectionLost) or (
            isinstance(error, ServiceError) and error.http_status in (429, 503)
        )
        return again and self._call.idempotent

    def _pause(self, error: ClientError) -> float:
        if self._made == 1 and isinstance(error, ConnectionLost) and error.was_kept:
            return 0.0
        full = min(self._policy.cap_s, self._policy.first_s * 2.0 ** (self._made - 1))
        backoff = full * random.uniform(0.5, 1.0)
        asked = error.retry_after_s if isinstance(error, ServiceError) else None
        return backoff if asked is None else asked + backoff


def json_call(method: str, target: str, decode: Callable[[Any], T], content: object = None, **options: Any) -> Call[T]:
    """A call that sends `content` as JSON, unless it is None, and whose answer is JSON."""

    def read(response: Response) -> T:
        try:
            value = json.loads(bytes(response.body)) if len(response.body) else None
        except ValueError as error:
            raise ProtocolError(f"the answer to {method} {target} is not JSON: {error}") from None
        try:
            return decode(value)
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"the answer to {method} {target} lacks what it should have: {error!r}") from None

    if content is None:
        return Call(method, target, read, **options)
    return Call(method, target, read, json.dumps(content).encode(), JSON_TYPE, **options)


def _service_error(response: Response) -> ServiceError:
    error = wire.decode_error(response.status, response.body)
    asked = response.headers.get(b"retry-after")
    if asked is not None and error.retry_after_s is None:
        seconds = _seconds(asked.decode("latin-1"))
        if seconds is not None:
            error.detail["retry_after_ms"] = round(seconds * 1000)
    return error


def _seconds(retry_after: str) -> float | None:
    """Retry-After in seconds from now: it is a number of them or an HTTP date."""
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
