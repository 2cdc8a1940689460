"""Variants of a lookup's launch, and of what is compiled into it: f32 x 128, all hits, so that a later one can pick."""

from __future__ import annotations

from typing import Any

from embcache.gpu.layout import SAMPLE
from tests.gpucheck.check import GIB, Check, Lines, rate, spread
from tests.gpucheck.direct import BLOCKS, WARPS, Direct
from tests.gpucheck.filled import WRITING, Filled
from tests.gpucheck.hits import ids_a_launch, sets_of_ids

_LAUNCHES: tuple[dict[str, int], ...] = (
    {},
    {"warps": 1, "blocks": 4096},
    {"warps": 2, "blocks": 2048},
    {"blocks": 264},
    {"blocks": 528},
    {"blocks": 2112},
    {"blocks": 4096},
    {"step": 32, "blocks": 8192},
    {"step": 64, "blocks": 4096},
    {"step": 512},
)
_COMPILED: tuple[dict[str, int], ...] = (
    {"SAMPLE": 8},
    {"NOTED_TILES": 1 << 20},  # use is noted of every hit
    {"SAMPLE": 1 << 31, "NOTED_TILES": 0},  # use is noted of next to no hit
    {"blocks_an_sm": 8},
    {"blocks_an_sm": 12},
    {"blocks_an_sm": 16},
)


def run(check: Check) -> Lines:
    filled = Filled(check, 4 * 128, check.of(16 * GIB, 1 << 20))
    sets = sets_of_ids(check, filled)
    for variant in _LAUNCHES[: check.of(len(_LAUNCHES), 3)]:
        yield _measured(check, filled, sets, variant, {})
    for compiled in () if check.emulated else _COMPILED:  # emulated devices share no streams
        yield _measured(check, filled, sets, {}, compiled)


def _measured(
    check: Check, filled: Filled, sets: list[Any], variant: dict[str, int], compiled: dict[str, int]
) -> dict[str, Any]:
    count, stream = ids_a_launch(check), check.device.stream()
    device = None
    if compiled:
        defines = {name: value for name, value in compiled.items() if name.isupper()}
        device = check.open(defines, compiled.get("blocks_an_sm", 0))
    direct = Direct(check, filled, sets, count, device=device, **variant)
    direct.prove(stream, WRITING)
    seconds = check.seconds(stream, lambda k: direct.turn(stream, k), len(sets), check.of(9, 1))
    told = {"warps": WARPS, "blocks": BLOCKS, "SAMPLE": SAMPLE, **variant, **compiled}
    return {"variant": told, "billion_ids_per_s": rate(count, seconds) / 1e9, **spread(seconds)}
