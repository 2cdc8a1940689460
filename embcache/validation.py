"""What is wrong with a setting or a name, said in one line a person can act on. May touch only errors."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ValidationError

from embcache.errors import UnknownTable

_NAMED = 10  # versions that an error names
_SHOWN = 60  # characters of a wrong value


def nearest(name: str, names: Iterable[str]) -> str:
    """The one of `names` that is spelled most like `name`. `names` must not be empty."""
    return difflib.get_close_matches(name, list(names), n=1, cutoff=0.0)[0]


def no_version(table: str, label: str, labels: Iterable[str]) -> UnknownTable:
    """The error for a version that a table does not have, which names those that it has."""
    there, label = list(labels), label[:64]
    more = f", and {len(there) - _NAMED} more" if len(there) > _NAMED else ""
    has = f"it has {', '.join(there[:_NAMED])}{more}"
    message = f"table {table!r} has no version {label!r}; the nearest is {nearest(label, there)}; {has}"
    return UnknownTable(message, {"table": table, "version": label})


def gone(number: int) -> UnknownTable:
    """The error for a version that was there when a caller began to read it."""
    return UnknownTable(f"version {number} is gone: it was dropped or filled anew meanwhile; begin again")


def no_table(name: str, names: Iterable[str]) -> UnknownTable:
    """The error for a table that is not there, which names the nearest of those that are."""
    there = list(names)
    hint = f"the nearest name is {nearest(name, there)}" if there else "there are no tables yet"
    return UnknownTable(f"there is no table {name[:64]!r}; {hint}", {"table": name})


def complaints(error: ValidationError) -> Iterator[tuple[str, str, str]]:
    """Each fault as (dotted key, kind, what is wrong), in the order of the fields.

    `kind` is pydantic's: "extra_forbidden" is an unknown key, "missing" an absent one.
    """
    for fault in error.errors(include_url=False):
        key = ".".join(str(step) for step in fault["loc"])
        shown = "a secret" if "secret" in fault["loc"] else fault["input"]
        yield key, fault["type"], _words(fault["type"], fault["msg"], shown)


def _words(kind: str, message: str, value: Any) -> str:
    if kind == "missing":
        return "is needed and absent"
    if kind == "extra_forbidden":
        return "is unknown"
    if kind == "tuple_type":
        message = "should be a list"
        if isinstance(value, str) and len(value) <= _SHOWN:
            message += f", such as {json.dumps([item.strip() for item in value.split(',')])}"
    said = message.removeprefix("Value error, ").removeprefix("Input ").removeprefix("String ")
    if isinstance(value, dict):
        return said
    given = repr(value)
    return f"{said} (got {given if len(given) <= _SHOWN else given[: _SHOWN - 3] + '...'})"
