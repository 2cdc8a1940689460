"""Requests that are like one before, byte for byte but for their ids: what most clients send all day.

Such a body is the one before with other ids in it. So what that one was found to ask for, it asks for, too, and neither
is parsed nor prepared again; where the arena has all its rows, one call of a kernel answers it; two a large one, whose
first half leaves in between. Whatever is not so, or not so any more, goes the usual way, which is also where likeness
is noticed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embcache.cache import EmbeddingCache
from embcache.host.memory import address_of
from embcache.lookup import Query
from embcache.places import Part, Place
from embcache.repeated import RepeatedLookup
from embcache.service.buffers import Buffer
from embcache.service.replies import POSITION_AT, Skeleton
from embcache.service.requests import LookupRequest, parse_lookup
from embcache.service.sending import Reply

KINDS = 16  # of requests that are known at a time
_SEEN = 256  # likenesses seen once; a second time one is worth knowing
_LAYOUTS = 256  # of replies, by their number of ids
HALVED = range(512 << 10, 4 << 20)  # bytes of a reply; more than that waits for its reader in any case
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

    def __init__(self, likeness: Likeness, lookup: RepeatedLookup, request: LookupRequest) -> None:
        self.likeness = likeness
        self.lookup = lookup
        self.dtype = request.dtype
        self.deadline_ms = request.deadline_ms
        self._layouts: dict[int, _Layout] = {}

    def layout(self, count: int) -> _Layout:
        """Of the reply to so many ids."""
        layout = self._layouts.get(count)
        if layout is None:
            if len(self._layouts) >= _LAYOUTS:
                self._layouts.clear()
            spec, label = self.lookup.view.spec, self.lookup.view.label
            part = Part(spec.name, label, (count, spec.dim), count * spec.row_bytes, 0, count)
            skeleton = Skeleton(0, self.lookup.history, self.dtype, [part])
            place = skeleton.places[0]
            layout = self._layouts[count] = _Layout(skeleton.size, skeleton, place.rows, place.status)
        return layout


class Answered:
    """A reply to a request of a known kind, of which the first `done` ids are answered.

    Invariant: what is before `end` may be on its way to the client, and is not written again.
    """

    __slots__ = ("_at", "_ids", "_layout", "done", "kind", "reply")

    def __init__(self, kind: _Kind, ids: memoryview, reply: Reply, at: int, layout: _Layout) -> None:
        """ids: u8 [8 n]. at: the address of the reply's body, which is laid out already."""
        self.kind, self.reply, self.done = kind, reply, 0
        self._ids, self._at, self._layout = ids, at, layout

    @property
    def table(self) -> str:
        return self.kind.lookup.view.spec.name

    @property
    def count(self) -> int:
        return len(self._ids) // _ID_BYTES

    @property
    def end(self) -> int:
        if self.done == self.count:
            return self._layout.size
        return self._layout.rows + self.done * self.kind.lookup.row_bytes

    @property
    def status(self) -> bytes:
        """Of all ids, once all are answered."""
        return bytes(self.reply.body[self._layout.status : self._layout.status + self.count])

    def go_on(self, past: int) -> bool:
        """Answer up to the id `past`; False if the arena lacks one of them, and then nothing more is answered."""
        ids = self._ids[_ID_BYTES * self.done : _ID_BYTES * past]
        rows, status = self._at + self.end, self._at + self._layout.status + self.done
        if not self.kind.lookup.answer(ids, rows, status, self._at + POSITION_AT if self.done == 0 else None):
            return False
        self.done = past
        return True

    def left(self) -> tuple[Query, Place]:
        """What asks for the other ids of the same version, and where in the body their rows and statuses go."""
        view = self.kind.lookup.view
        assert self.done < self.count
        ids = np.frombuffer(self._ids, np.uint64, offset=_ID_BYTES * self.done).copy()
        return Query(view.spec.name, ids, view.label), Place(self.end, 0, 0, self._layout.status + self.done)


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

    def answer(self, cache: EmbeddingCache, body: bytes, *, in_halves: bool) -> Answered | None:
        """The reply, if the body is of a known kind and the arena has all its rows; None, and nothing was done.

        in_halves: of a large reply the first half is enough, and then it is what the arena has all rows of.
        """
        for place, kind in enumerate(self._kinds):
            ids = kind.likeness.ids_in(body)
            if ids is not None:
                if kind.lookup.is_current(cache.attachment):
                    return self._answer(kind, ids, in_halves)
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
            self._kinds.insert(0, _Kind(likeness, lookup, request))
            del self._kinds[KINDS:]

    def _answer(self, kind: _Kind, ids: memoryview, in_halves: bool) -> Answered | None:
        count = len(ids) // _ID_BYTES
        if count > self._max_ids or not kind.lookup.takes(count):
            return None
        layout = kind.layout(count)
        array, buffer = self._room(layout.size)
        reply = Reply(array.data, buffer)
        layout.skeleton.write(reply.body)
        answered = Answered(kind, ids, reply, address_of(array), layout)
        if not answered.go_on((count + 1) // 2 if in_halves and layout.size in HALVED else count):
            self._give_back(reply)
            return None
        return answered


def _is_plain(request: LookupRequest) -> bool:
    """Whether it asks for rows of one table, on no condition."""
    if len(request.queries) > 1 or request.strict or request.min_position or request.history is not None:
        return False
    return request.queries[0].lengths is None
