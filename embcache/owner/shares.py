"""How many bytes of the arena each table version gets. Arithmetic only.

Where everything fits, each version gets what it wants: room for all its rows and some to grow. Where it does not, water
is poured (max-min fairness): small versions still get all they want, the large ones get equal shares of the rest.
"""

from __future__ import annotations

from collections.abc import Mapping

from embcache.host.tables import region_bytes

HEADROOM = 1.1
LEAST_BYTES = 256 << 10  # what an empty version wants
FILLED = 0.97  # of the capacity that is poured, so that one more small table moves nothing
WORTH_GROWING = 1.25  # a region is made larger if it grows at least so much: moving its rows is work


def wanted(row_bytes: int, rows: int) -> int:
    """Bytes in which `rows` rows of `row_bytes` bytes find a place, and some more."""
    return max(LEAST_BYTES, region_bytes(row_bytes, int(rows * HEADROOM)))


def shares(wants: Mapping[int, int], capacity: int) -> dict[int, int]:
    """{version: bytes it gets} for {version: bytes it wants}."""
    left = int(capacity * FILLED)
    given: dict[int, int] = {}
    for count, (version, want) in enumerate(sorted(wants.items(), key=lambda item: item[1])):
        given[version] = min(want, left // (len(wants) - count))
        left -= given[version]
    return given


def moves(sizes: Mapping[int, int], targets: Mapping[int, int], capacity: int) -> dict[int, int]:
    """{version: new bytes} of the regions worth changing, those that shrink first.

    `sizes` are the bytes they have, `targets` those they should have. A region that is too large is left alone for as
    long as nobody needs its bytes.
    """
    larger = {v: target for v, target in targets.items() if target >= sizes[v] * WORTH_GROWING}
    smaller = {v: target for v, target in targets.items() if target < sizes[v]}
    if sum(larger.get(version, size) for version, size in sizes.items()) <= capacity:
        smaller = {}
    return smaller | larger
