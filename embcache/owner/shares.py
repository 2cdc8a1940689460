"""How many bytes of the arena each table version gets. Arithmetic only.

Where everything fits, each version gets what it wants: room for all its rows and some to grow. Where it does not, water
is poured (max-min fairness): small versions still get all they want, the large ones get equal shares of the rest.
A version cannot do with less than a few rows, which for wide ones may be more than an equal share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from embcache.fairness import pour
from embcache.host.tables import least_bytes, region_bytes

HEADROOM = 1.1
LEAST_BYTES = 256 << 10  # what an empty version wants
FILLED = 0.97  # of the capacity that is poured, so that one more small table moves nothing
WORTH_GROWING = 1.25  # a region is made larger if it grows at least so much: moving its rows is work


@dataclass(frozen=True, slots=True)
class Want:
    """What a version would have, room for all its rows, and what it cannot do without: bytes."""

    most: int
    least: int

    @classmethod
    def of(cls, row_bytes: int, rows: int) -> Want:
        """Of a version with `rows` rows of `row_bytes` bytes: with some room to grow."""
        most = max(LEAST_BYTES, region_bytes(row_bytes, int(rows * HEADROOM)))
        return cls(max(most, least_bytes(row_bytes)), least_bytes(row_bytes))

    @classmethod
    def fixed(cls, row_bytes: int, nbytes: int) -> Want:
        """Of a version that is to have so many bytes, whatever it and the others want."""
        least = max(nbytes, least_bytes(row_bytes))
        return cls(least, least)

    @property
    def is_fixed(self) -> bool:
        """Whether it has its share in any case."""
        return self.most == self.least


def shares(wants: Mapping[int, Want], capacity: int) -> dict[int, int]:
    """{version: bytes it gets}; within the capacity if the least that all of them want is."""
    given: dict[int, int] = {}
    while len(given) < len(wants):
        left = int(capacity * FILLED) - sum(given.values())
        poured = pour({version: want.most for version, want in wants.items() if version not in given}, left)
        short = {version: wants[version].least for version, share in poured.items() if share < wants[version].least}
        given |= short or poured
    return given


def moves(
    sizes: Mapping[int, int], targets: Mapping[int, int], capacity: int, worth: float = WORTH_GROWING
) -> dict[int, int]:
    """{version: new bytes} of the regions worth changing, those that shrink first.

    `sizes` are the bytes they have, `targets` those they should have, of which growing by less than `worth` is not
    worth it. A region that is too large is left alone for as
    long as nobody needs its bytes.
    """
    larger = {v: target for v, target in targets.items() if target >= sizes[v] * worth}
    smaller = {v: target for v, target in targets.items() if target < sizes[v]}
    if sum(larger.get(version, size) for version, size in sizes.items()) <= capacity:
        smaller = {}
    return smaller | larger
