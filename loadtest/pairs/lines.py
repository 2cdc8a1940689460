"""Arrays that begin on a cache line, so that no row of theirs takes one line more than it has to."""

from __future__ import annotations

import numpy as np

from embcache.host.layout import LINE
from embcache.host.memory import address_of
from loadtest.workloads import F32s


def on_lines(rows: int, dim: int) -> F32s:
    """Zeros, f32 [rows, dim], in memory that is there already: no page is faulted in while something is measured."""
    size = rows * dim * 4
    space = np.empty(size + LINE, np.uint8)
    space.fill(0)
    begin = -address_of(space) % LINE
    return space[begin : begin + size].view(np.float32).reshape(rows, dim)
