"""From a prepared lookup to the result that a caller in this process gets: memory for it, its steps, its arrays."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from embcache.errors import MalformedRequest, UnsupportedDtype
from embcache.hot.output import DeviceRows
from embcache.hot.tier import HotTier
from embcache.lookup import Lookup
from embcache.places import Part, Place
from embcache.spec import DTYPES
from embcache_client.buffers import BufferPool
from embcache_client.results import LookupResult, TableRows
from embcache_client.rowtypes import CODES, ELEMENTS

_LINE = 64


def deadline_after(milliseconds: Any) -> float | None:
    """The deadline, by time.monotonic(), of a lookup that begins now; None where it may take as long as it takes."""
    if milliseconds is None:
        return None
    number = isinstance(milliseconds, int | float | np.number) and not isinstance(milliseconds, bool)
    if not number or not 0 <= milliseconds < math.inf:
        raise MalformedRequest(f"deadline_ms: {milliseconds!r:.60} should be a number of milliseconds, 0 or more")
    return time.monotonic() + float(milliseconds) / 1000


class Terms(NamedTuple):
    """How a caller wants an answer, see EmbeddingCache.lookup. deadline: by time.monotonic()."""

    dtype: str
    strict: bool
    deadline: float | None
    min_position: int
    history: str | None
    device: str | None
    out: Mapping[str, Any] | None

    def check(self) -> None:
        """UnsupportedDtype or MalformedRequest say what cannot be."""
        if self.dtype not in DTYPES:
            raise UnsupportedDtype(f"dtype {self.dtype!r} is none of {', '.join(DTYPES)}")
        if not isinstance(self.min_position, int | np.integer) or not 0 <= self.min_position < 1 << 64:
            raise MalformedRequest(f"min_position: {self.min_position!r:.60} should be an integer from 0 to 2^64 - 1")
        if self.device not in (None, "cuda"):
            raise MalformedRequest(f'device: {self.device!r:.60} should be None or "cuda"')
        if self.out is not None and self.device is None:
            raise MalformedRequest('out: arrays on a device are for device="cuda" alone')
        if self.out is not None and not isinstance(self.out, Mapping):
            raise MalformedRequest(f"out: {type(self.out).__name__} should be a mapping from table to its arrays")


def on_host(lookup: Lookup, terms: Terms, memory: BufferPool) -> LookupResult | None:
    """The result in host memory; None where the hot tier did not answer by the deadline, for a lookup without it."""
    hot, hot_first = lookup.hot, lookup.asks_hot_first
    places, size = _laid_out(lookup.parts)
    buffer = hot.room(size) if hot_first and hot is not None else memory.take(size)
    for question in lookup.steps(buffer, places, hot_first=hot_first):
        if hot is not None and not hot.wait(question, terms.deadline):
            return None  # what the device may still write to goes with the question
    _finish(lookup, terms)
    results, element = [], ELEMENTS[CODES[terms.dtype]]
    for part, place in zip(lookup.parts, places, strict=True):
        raw = buffer[place.rows : place.rows + part.rows_bytes].view(element).reshape(part.shape)
        status = buffer[place.status : place.status + part.status_bytes]
        scale = bias = None
        if terms.dtype == "q8":
            scale = buffer[place.scale : place.scale + part.scale_bytes].view(np.float32)
            bias = buffer[place.bias : place.bias + part.scale_bytes].view(np.float32)
        results.append(TableRows(part.table, part.version, terms.dtype, raw, status, scale=scale, bias=bias))
    return LookupResult(results, lookup.position, lookup.history)


def on_device(lookup: Lookup, terms: Terms, hot: HotTier) -> LookupResult:
    """The result on the hot tier's device, its rows there for whatever the caller's stream is given from now on."""
    output = hot.output(lookup.parts, terms.dtype, terms.out or {})
    hot_first = lookup.hot is not None and hot.caller_is_through(terms.deadline)
    places, size = _laid_out(lookup.parts)
    buffer = hot.room(size)
    for question in lookup.steps(buffer, places, hot_first=hot_first, targets=output.targets, keep=output):
        try:
            hot.wait(question)
        finally:  # whatever comes, and no deadline: until the device is through, the caller's arrays are not his again
            hot.wait(question)
    _finish(lookup, terms)
    hot.deliver(output, lookup.rows_in_buffer(), buffer, places)
    results: list[TableRows] = []
    for part, place, arrays in zip(lookup.parts, places, output.arrays, strict=True):
        status = buffer[place.status : place.status + part.status_bytes].copy()  # the buffer is for the next lookup
        raw, scale, bias = arrays
        results.append(DeviceRows(part.table, part.version, terms.dtype, raw, status, scale=scale, bias=bias))
    return LookupResult(results, lookup.position, lookup.history)


def _finish(lookup: Lookup, terms: Terms) -> None:
    if lookup.left:
        lookup.finish(terms.deadline)
    if terms.strict:
        lookup.check_strict()


def _laid_out(parts: Sequence[Part]) -> tuple[list[Place], int]:
    """Places for all results, each array on a cache line of its own, and the bytes that they take."""
    places, size = [], 0
    for part in parts:
        begins = []
        for nbytes in (part.rows_bytes, part.scale_bytes, part.scale_bytes, part.status_bytes):
            begins.append(size)
            size += -(-nbytes // _LINE) * _LINE
        places.append(Place(*begins))
    return places, size
