"""Arrays that begin on a cache line, so that no row of theirs takes one line more than it has to."""

from __future__ import annotations

import numpy as np

from embcache.host.layout import LINE
from embcache.host.memory import address_of
from loadtest.workloads import F32s


def on_lines(rows: int, dim: int) -> F32s:
    """Zeros, f32 [rows, dim], whose memory is there already and is not the collector's to touch."""
    size = rows * dim * 4
    space = np.zeros(size + LINE, np.uint8)
    space[:] = 0  # so that no page is faulted in while something is measured
    begin = -address_of(space) % LINE
    return space[begin : begin + size].view(np.float32).reshape(rows, dim)
