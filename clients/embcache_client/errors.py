"""What can go wrong between a client and the service. Imports nothing of this package.

ClientError
├── ConnectFailed           no connection: nothing was sent
├── ConnectionLost          the connection died before the whole answer was here: the request may have counted
├── Timeout                 (also a TimeoutError) no whole answer within the client's timeout
├── ProtocolError           the answer is not what the protocol says
│   └── ReplyTooLarge       the answer is larger than the client's max_reply_bytes
└── ServiceError            the service answered with an error: .code .message .detail .http_status
    ├── MalformedRequest    DimensionMismatch  UnsupportedDtype  InvalidRows    (400)
    ├── Unauthenticated     (401)
    ├── Forbidden           (403)
    ├── UnknownTable        MissingRows        (404)
    ├── SequenceGap         Fenced             Conflict          HistoryChanged (409)
    ├── TooLarge            (413)
    ├── UnsupportedMediaType (415)
    ├── RateLimited         (429)
    ├── Overloaded          NotReady           (503)
    ├── DeadlineExceeded    (504)
    ├── StorageFull         (507)
    └── StorageCorrupt      Internal           (500)

Arguments of a call that can never be right (a negative ID, lengths that do not add up) raise ValueError or TypeError
before anything is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class ClientError(Exception):
    """Base of all errors of this package."""


class ConnectFailed(ClientError):
    """No connection could be made; nothing was sent."""


class ConnectionLost(ClientError):
    """The connection died before the whole answer was here; the request may or may not have counted.

    answer_began: some of the answer had come. was_kept: the connection had carried an earlier call.
    """

    def __init__(self, message: str, *, answer_began: bool = False, was_kept: bool = False) -> None:
        super().__init__(message)
        self.answer_began = answer_began
        self.was_kept = was_kept


class Timeout(ClientError, TimeoutError):
    """No whole answer within the client's timeout."""


class ProtocolError(ClientError):
    """The answer is not what the protocol says; the message tells what and where."""


class ReplyTooLarge(ProtocolError):
    """The answer is larger than the client's max_reply_bytes."""


class ServiceError(ClientError):
    """The service answered with an error; a code that this client does not know has this very class."""

    code: str = "unknown"
    http_status: int = 0
    by_code: ClassVar[dict[str, type[ServiceError]]] = {}

    def __init__(self, message: str, detail: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail: dict[str, object] = dict(detail or {})

    def __init_subclass__(cls) -> None:
        cls.by_code[cls.code] = cls

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def __reduce__(self) -> tuple[object, ...]:
        return (ServiceError.of, (self.http_status, self.code, self.message, self.detail))

    @classmethod
    def of(cls, status: int, code: str, message: str, detail: Mapping[str, object]) -> ServiceError:
        """The error of a code as the class that stands for it."""
        error = cls.by_code.get(code, ServiceError)(message, detail)
        error.code, error.http_status = code, status
        return error

    @property
    def retry_after_s(self) -> float | None:
        """Seconds after which the service wants to be asked again, where it said so in the detail."""
        milliseconds = self.detail.get("retry_after_ms")
        if isinstance(milliseconds, bool) or not isinstance(milliseconds, int | float) or not milliseconds >= 0:
            return None
        return float(milliseconds) / 1000


class MalformedRequest(ServiceError):
    code, http_status = "malformed_request", 400


class DimensionMismatch(ServiceError):
    code, http_status = "dimension_mismatch", 400


class UnsupportedDtype(ServiceError):
    code, http_status = "unsupported_dtype", 400


class InvalidRows(ServiceError):
    code, http_status = "invalid_rows", 400


class Unauthenticated(ServiceError):
    code, http_status = "unauthenticated", 401


class Forbidden(ServiceError):
    code, http_status = "forbidden", 403


class UnknownTable(ServiceError):
    code, http_status = "unknown_table", 404


class MissingRows(ServiceError):
    code, http_status = "missing_rows", 404


class SequenceGap(ServiceError):
    code, http_status = "sequence_gap", 409


class Fenced(ServiceError):
    code, http_status = "fenced", 409


class Conflict(ServiceError):
    code, http_status = "conflict", 409


class HistoryChanged(ServiceError):
    code, http_status = "history_changed", 409


class TooLarge(ServiceError):
    code, http_status = "too_large", 413


class UnsupportedMediaType(ServiceError):
    code, http_status = "unsupported_media_type", 415


class RateLimited(ServiceError):
    code, http_status = "rate_limited", 429


class Overloaded(ServiceError):
    code, http_status = "overloaded", 503


class NotReady(ServiceError):
    code, http_status = "not_ready", 503


class DeadlineExceeded(ServiceError):
    code, http_status = "deadline_exceeded", 504


class StorageFull(ServiceError):
    code, http_status = "storage_full", 507


class StorageCorrupt(ServiceError):
    code, http_status = "storage_corrupt", 500


class Internal(ServiceError):
    code, http_status = "internal", 500
