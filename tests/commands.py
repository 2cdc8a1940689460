"""The command line as a test runs it: in its own process, by `main`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias


class Ran(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str


Run: TypeAlias = Callable[..., Ran]
