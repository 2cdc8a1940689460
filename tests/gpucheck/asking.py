"""Lookups from host ids as the service makes them: the hot tier's questions, their tiles cut and their answers read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from embcache.gpu.pools import Pool
from embcache.host.rows import F32
from embcache.hot.question import Question, Wish, room_for
from tests.gpucheck.check import Check
from tests.gpucheck.filled import Filled


@dataclass(frozen=True)
class _Spec:
    """What a question asks of a table's spec: rows of f32."""

    row_bytes: int
    dtype_code: int = F32

    @property
    def dim(self) -> int:
        return self.row_bytes // 4


@dataclass(frozen=True)
class _View:
    """What a question asks of a TableView, which needs more of the service than this machine has."""

    spec: _Spec
    number: int


def wish_for(version: int, row_bytes: int, ids: NDArray[np.uint64], out: int, status: int) -> Wish:
    """All rows of these ids, as they are stored, to an address."""
    return Wish(cast(Any, _View(_Spec(row_bytes), version)), ids, F32, out, 0, 0, status)


class Asking:
    """Asks a table for wishes like those that it is made with."""

    def __init__(self, check: Check, filled: Filled, wishes: Sequence[Wish]) -> None:
        self._launcher = filled.launcher
        self._pools: list[Pool] = [filled.pool] * len(wishes)
        self._memory = check.device.pinned(room_for(wishes))  # the tier lends it from a pool

    def ask(self, wishes: Sequence[Wish], segments: NDArray[np.int64]) -> int:
        """Look up, listing in `segments` what is missed; -> how many ids that is."""
        question = Question(wishes, self._pools, self._memory, None)
        assert self._launcher.submit(question.ticket), str(self._launcher.error)
        self._launcher.wait(question.ticket)
        self._misses = question.misses  # segments have their addresses
        return question.answered(segments)
