"""The errors of the service: one tree, one class for each code of the wire protocol. Imports nothing of embcache.

EmbcacheError
├── MalformedRequest       400  malformed_request
│   ├── DimensionMismatch  400  dimension_mismatch
│   ├── UnsupportedDtype   400  unsupported_dtype
│   └── InvalidRows        400  invalid_rows
├── Unauthenticated        401  unauthenticated
├── Forbidden              403  forbidden
├── UnknownTable           404  unknown_table
├── MissingRows            404  missing_rows
├── Conflict               409  conflict
│   ├── HistoryChanged     409  history_changed
│   ├── Fenced             409  fenced
│   └── SequenceGap        409  sequence_gap
├── TooLarge               413  too_large
├── UnsupportedMediaType   415  unsupported_media_type
├── RateLimited            429  rate_limited
├── Overloaded             503  overloaded
├── NotReady               503  not_ready
├── DeadlineExceeded       504  deadline_exceeded
├── StorageFull            507  storage_full
├── StorageCorrupt         500  storage_corrupt
└── Internal               500  internal
ConfigError (a ValueError)      a setting that cannot be used; never crosses the wire
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar


class EmbcacheError(Exception):
    """Something a caller is told about: what was wrong, where, and what would be right.

    `detail` holds the same facts for programs; its values are strings, numbers, lists and maps, never arrays.
    """

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, detail: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail: dict[str, Any] = dict(detail or {})

    def to_dict(self) -> dict[str, Any]:
        """The `error` map of a reply, and of a frame between processes."""
        return {"code": self.code, "message": self.message, "detail": self.detail}

    @staticmethod
    def from_dict(error: Mapping[str, Any]) -> EmbcacheError:
        """The error that `to_dict` described. A code that this release does not know becomes `Internal`."""
        code = str(error.get("code", ""))
        message = str(error.get("message", "")) or f"an error without a message, code {code!r}"
        return _BY_CODE.get(code, Internal)(message, error.get("detail") or {})

    def __reduce__(self) -> tuple[type[EmbcacheError], tuple[str, dict[str, Any]]]:
        return type(self), (self.message, self.detail)


class MalformedRequest(EmbcacheError):
    """The request cannot be read: its bytes, a key, a type, a name, a length."""

    code, http_status = "malformed_request", 400


class DimensionMismatch(MalformedRequest):
    """Rows or lengths whose shape does not fit the table or the ids."""

    code = "dimension_mismatch"


class UnsupportedDtype(MalformedRequest):
    """A row dtype that is none of f32, f16, bf16, q8."""

    code = "unsupported_dtype"


class InvalidRows(MalformedRequest):
    """Rows that hold NaN or infinity, or ids that may not stand as they do (repeated, descending)."""

    code = "invalid_rows"


class Unauthenticated(EmbcacheError):
    """No bearer token, or one that is not configured."""

    code, http_status = "unauthenticated", 401


class Forbidden(EmbcacheError):
    """The token lacks the role that this call needs."""

    code, http_status = "forbidden", 403


class UnknownTable(EmbcacheError):
    """No table, table version or import of that name."""

    code, http_status = "unknown_table", 404


class MissingRows(EmbcacheError):
    """A strict lookup met ids without a row; the message names the first of them."""

    code, http_status = "missing_rows", 404


class Conflict(EmbcacheError):
    """What was asked for contradicts what is there, such as another spec for an existing table."""

    code, http_status = "conflict", 409


class HistoryChanged(Conflict):
    """The caller's position belongs to another history than the service's."""

    code = "history_changed"


class Fenced(Conflict):
    """Another process has opened the producer since: this one is shut out."""

    code = "fenced"


class SequenceGap(Conflict):
    """A batch came whose predecessor is missing; `detail["expected"]` is the batch number that is."""

    code = "sequence_gap"


class TooLarge(EmbcacheError):
    """A body, a count or a reply beyond the configured limit; the message names the limit."""

    code, http_status = "too_large", 413


class UnsupportedMediaType(EmbcacheError):
    """A body that is not of the media type the endpoint speaks."""

    code, http_status = "unsupported_media_type", 415


class RateLimited(EmbcacheError):
    """Too many requests of this caller; `detail["retry_after_ms"]` says when to come again."""

    code, http_status = "rate_limited", 429


class Overloaded(EmbcacheError):
    """No room for this request now; `detail["retry_after_ms"]` says when to come again."""

    code, http_status = "overloaded", 503


class NotReady(EmbcacheError):
    """A process that is needed is starting, stopping or gone; `detail["retry_after_ms"]` says when to come again."""

    code, http_status = "not_ready", 503


class DeadlineExceeded(EmbcacheError):
    """The deadline passed before the answer was there."""

    code, http_status = "deadline_exceeded", 504


class StorageFull(EmbcacheError):
    """No space left for what was sent; nothing of it was kept."""

    code, http_status = "storage_full", 507


class StorageCorrupt(EmbcacheError):
    """Stored bytes that do not match their checksum; the message names the row or the file."""

    code = "storage_corrupt"


class Internal(EmbcacheError):
    """Anything unforeseen. It is logged with an id, which the reply carries in `detail["error_id"]`."""


class ConfigError(ValueError):
    """A setting that cannot be used. The message names the file or variable, the key, and what would be right."""


def _tree(root: type[EmbcacheError]) -> Iterator[type[EmbcacheError]]:
    for child in root.__subclasses__():
        yield child
        yield from _tree(child)


_BY_CODE: dict[str, type[EmbcacheError]] = {child.code: child for child in _tree(EmbcacheError)}
