"""What this machine can do at best: copies within the device, over the bus, and random gathers."""

from __future__ import annotations

import numpy as np

from embcache.gpu.device import Stream
from embcache.host.memory import address_of
from loadtest.gpu import measured
from tests.gpucheck.check import Check, Line, Lines, rate, spread

_TURNS, _SAMPLES = 4, 9


def run(check: Check) -> Lines:
    stream = check.device.stream()
    yield copied(check, stream)
    yield from _pinned(check, stream)
    for row_bytes in (32, 64, 128, 512):
        yield _gathered(check, stream, row_bytes)


def copied(check: Check, stream: Stream) -> Line:
    """The figure "copy". Of memory that is not zeros, which may move faster."""
    nbytes = check.of(2 << 30, 1 << 19)
    source, target = check.device.allocate(nbytes), check.device.allocate(nbytes)
    check.threads("make_ids", stream, nbytes // 8, (source.address, 0, nbytes // 8))
    seconds = check.seconds(
        stream, lambda k: check.device.copy(target.address, source.address, nbytes, stream), _TURNS, _SAMPLES
    )
    return measured("copy", rate(2 * nbytes, seconds) / 1e12) | spread(seconds)


def _pinned(check: Check, stream: Stream) -> Lines:
    nbytes = check.of(256 << 20, 1 << 19)
    device = check.device.allocate(nbytes)
    host = check.device.pinned(nbytes)
    host.view(np.uint64)[:] = np.random.default_rng(1).integers(0, 2**64, nbytes // 8, dtype=np.uint64)
    for name, to, of in (
        ("pinned-to-device", device.address, address_of(host)),
        ("pinned-to-host", address_of(host), device.address),
    ):

        def turn(_: int, to: int = to, of: int = of) -> None:
            check.device.copy(to, of, nbytes, stream)

        seconds = check.seconds(stream, turn, _TURNS, _SAMPLES)
        yield measured(name, rate(nbytes, seconds) / 1e9) | spread(seconds)


def _gathered(check: Check, stream: Stream, row_bytes: int) -> Line:
    """Rows from a table far larger than the caches, as many bytes a launch as lookups move."""
    table_bytes, pieces = check.of(16 << 30, 1 << 20), row_bytes // 16
    count = check.of((512 << 20) // row_bytes, 1024)
    table, out = check.device.allocate(table_bytes), check.device.allocate(count * row_bytes)
    words = table_bytes // 8
    for first in range(0, words, 1 << 28):
        here = min(1 << 28, words - first)
        check.threads("make_ids", stream, here, (table.address + 8 * first, first, here))
    choose = np.random.default_rng(row_bytes)
    places = [
        check.put(choose.integers(0, table_bytes // row_bytes, count, dtype=np.uint32), stream)
        for _ in range(check.of(4, 2))
    ]

    last = 0

    def turn(k: int) -> None:
        nonlocal last
        last = places[k % len(places)].address
        arguments = (table.address, last, count, pieces.bit_length() - 1, out.address)
        check.threads("gather", stream, -(-count * pieces // 4), arguments)

    seconds = check.seconds(stream, turn, _TURNS, _SAMPLES)
    gathered = check.get(last, count, np.uint32, stream).astype(np.uint64)
    first_words = check.get(out.address, count * row_bytes // 8, np.uint64, stream)[:: row_bytes // 8]
    made = gathered * np.uint64(row_bytes // 8) + np.uint64(1)
    assert (first_words == made * np.uint64(0x9E3779B97F4A7C15)).all(), "the gather did not copy what it was to"
    return measured(f"gather-{row_bytes}", rate(2 * count * row_bytes, seconds) / 1e12) | spread(seconds)
