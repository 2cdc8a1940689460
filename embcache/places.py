"""What a lookup's results look like, and where their arrays go."""

from __future__ import annotations

from typing import NamedTuple


class Part(NamedTuple):
    """One result of a lookup before its rows: which version answers, and how many bytes its arrays take."""

    table: str
    version: str
    shape: tuple[int, int]
    rows_bytes: int
    scale_bytes: int
    status_bytes: int


class Place(NamedTuple):
    """Where a result's arrays go in host memory: byte offsets in a buffer. scale and bias matter for q8 alone."""

    rows: int
    scale: int
    bias: int
    status: int


class Target(NamedTuple):
    """Where a result's arrays go in device memory: addresses. scale and bias matter for q8 alone."""

    rows: int
    scale: int
    bias: int
