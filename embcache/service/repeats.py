"""Requests that are like one before, byte for byte but for their ids: what most clients send all day.

Such a body is the one before with other ids in it. So what that one was found to ask for, it asks for, too, and neither
is parsed nor prepared again; where the arena has all its rows, one call of a kernel answers it. Whatever is not so, or
not so any more, goes the usual way, which is also where likeness is noticed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embcache.cache import EmbeddingCache
from embcache.host.memory import address_of
from embcache.places import Part
from embcache.repeated import RepeatedLookup
from embcache.service.buffers import Buffer
from embcache.service.replies import POSITION_AT, Skeleton
from embcache.service.requests import LookupRequest, parse_lookup
from embcache.service.sending import Reply

KINDS = 16  # of requests that are known at a time
_SEEN = 256  # likenesses seen once; a second time one is worth knowing
_LAYOUTS = 256  # of replies, by their number of ids
_ID_BYTES = 8
_BIN = {0xC4: 1, 0xC5: 2, 0xC6: 4}  # msgpack's bytes: how many bytes tell the size


class Likeness(NamedTuple):
    """What stands in a body before its one bin of ids, and what behind it."""

    before: bytes
    after: bytes

    @classmethod
    def of(cls, body: bytes, ids: NDArray[np.uint64]) -> Likeness | None:
        """The likeness of a body in which these ids seem to stand, in one place; `holds` says whether it is so."""
        at = body.find(ids[:8].data) if ids.size else -1
        for code, width in _BIN.items():
            begin = at - 1 - width
            if begin > 0 and body[begin] == code:
                likeness = cls(body[:begin], body[at + ids.nbytes :])
                return likeness if likeness.ids_in(body) == ids.view(np.uint8).data else None
        return None

    def ids_in(self, body: bytes) -> memoryview | None:
        """The ids u8 [8 n] of a body of this kind; None for any other."""
        if not (body.startswith(self.before) and body.endswith(self.after)):
            return None
        at = len(self.before)
        width = _BIN.get(body[at] if at < len(body) else 0, 0)
        size, at = int.from_bytes(body[at + 1 : at + 1 + width], "big"), at + 1 + width
        if not width or size % _ID_BYTES or at + size + len(self.after) != len(body):
            return None
        return memoryview(body)[at : at + size]

    def holds(self, request: LookupRequest, max_ids: int, feature_of: Callable[[str], str]) -> bool:
        """Whether a body of this kind with other ids is parsed to what `request` is, with those."""
        ids = np.arange(1, 4, dtype=np.uint64)
        asked = parse_lookup(self.before + b"\xc4\x18" + ids.tobytes() + self.after, max_ids, feature_of)
        return _but_for_ids(asked) == _but_for_ids(request) and np.array_equal(asked.queries[0].ids, ids)


def _but_for_ids(request: LookupRequest) -> tuple[object, ...]:
    (query,) = request.queries
    conditions = (request.strict, request.min_position, request.history, request.deadline_ms)
    return (query.table, query.version, query.lengths is None, request.dtype, *conditions)


class _Layout(NamedTuple):
    """Of a reply: its bytes, what stands around the arrays, and where these begin."""

    size: int
    skeleton: Skeleton
    rows: int
    status: int


class _Kind:
    """One kind of request."""

    def __init__(self, likeness: Likeness, lookup: RepeatedLookup, dtype: str) -> None:
        self.likeness = likeness
        self.lookup = lookup
        self._dtype = dtype
        self._layouts: dict[int, _Layout] = {}

    def layout(self, count: int) -> _Layout:
        """Of the reply to so many ids."""
        layout = self._layouts.get(count)
        if layout is None:
            if len(self._layouts) >= _LAYOUTS:
                self._layouts.clear()
            spec, label = self.lookup.view.spec, self.lookup.view.label
            part = Part(spec.name, label, (count, spec.dim), count * spec.row_bytes, 0, count)
            skeleton = Skeleton(0, self.lookup.history, self._dtype, [part])
            place = skeleton.places[0]
            layout = self._layouts[count] = _Layout(skeleton.size, skeleton, place.rows, place.status)
        return layout


class Answered(NamedTuple):
    """A reply to a request of a known kind, and what was asked: of which table, with which statuses."""

    reply: Reply
    table: str
    status: bytes


class Repeats:
    """The kinds of requests that one endpoint knows. For one thread."""

    def __init__(
        self,
        max_ids: int,
        room: Callable[[int], tuple[NDArray[np.uint8], Buffer | None]],
        give_back: Callable[[Reply], None],
    ) -> None:
        """room: memory for a reply of so many bytes; give_back: takes it again if it was not needed."""
        self._max_ids = max_ids
        self._room = room
        self._give_back = give_back
        self._kinds: list[_Kind] = []
        self._seen: OrderedDict[Likeness, None] = OrderedDict()

    def answer(self, cache: EmbeddingCache, body: bytes) -> Answered | None:
        """The reply, if the body is of a known kind and the arena has all its rows; None, and nothing was done."""
        for place, kind in enumerate(self._kinds):
            ids = kind.likeness.ids_in(body)
            if ids is not None:
                if kind.lookup.is_current(cache.attachment):
                    return self._answer(kind, ids)
                del self._kinds[place]
                break
        return None

    def learn(self, body: bytes, request: LookupRequest, cache: EmbeddingCache) -> None:
        """Note what kind of request one was that was answered, and know it from its second time on."""
        likeness = Likeness.of(body, request.queries[0].ids) if _is_plain(request) else None
        if likeness is None or any(kind.likeness == likeness for kind in self._kinds):
            return
        if likeness not in self._seen:
            self._seen[likeness] = None
            if len(self._seen) > _SEEN:
                self._seen.popitem(last=False)
            return
        lookup = RepeatedLookup(cache.attachment, request.queries[0].table, request.queries[0].version)
        if lookup.gives(request.dtype) and likeness.holds(request, self._max_ids, cache.feature_of):
            self._kinds.insert(0, _Kind(likeness, lookup, request.dtype))
            del self._kinds[KINDS:]

    def _answer(self, kind: _Kind, ids: memoryview) -> Answered | None:
        count = len(ids) // _ID_BYTES
        if count > self._max_ids or not kind.lookup.takes(count):
            return None
        layout = kind.layout(count)
        array, buffer = self._room(layout.size)
        reply = Reply(array.data, buffer)
        at = address_of(array)
        layout.skeleton.write(reply.body)
        if not kind.lookup.answer(ids, at + POSITION_AT, at + layout.rows, at + layout.status):
            self._give_back(reply)
            return None
        status = bytes(reply.body[layout.status : layout.status + count])
        return Answered(reply, kind.lookup.view.spec.name, status)


def _is_plain(request: LookupRequest) -> bool:
    """Whether it asks for rows of one table, on no condition."""
    if len(request.queries) > 1 or request.strict or request.min_position or request.history is not None:
        return False
    return request.queries[0].lengths is None
