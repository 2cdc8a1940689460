"""A few lookups that find all, for a profiler to look at; no stage of its own."""

from __future__ import annotations

from tests.gpucheck.check import GIB, Check, Lines
from tests.gpucheck.direct import Direct
from tests.gpucheck.filled import Filled
from tests.gpucheck.hits import ids_a_launch, sets_of_ids


def run(check: Check) -> Lines:
    filled = Filled(check, 4 * 128, check.of(4 * GIB, 1 << 20))
    direct = Direct(check, filled, sets_of_ids(check, filled)[:3], ids_a_launch(check))
    stream = check.device.stream()
    for k in range(3):
        direct.turn(stream, k)
    check.finish(stream)
    yield {"lookups": 3}
