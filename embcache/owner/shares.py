"""How many bytes of the arena each table version gets. Arithmetic only.

Where everything fits, each version gets what it wants: room for all its rows and some to grow. Where it does not, water
is poured (max-min fairness): small versions still get all they want, the large ones get equal shares of the rest.
A version cannot do with less than a few rows, which for wide ones may be more than an equal share.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from embcache.fairness import pour
from embcache.host.tables import bytes_within, least_bytes, region_bytes

HEADROOM = 1.1
LEAST_BYTES = 256 << 10  # what an empty version wants
FILLED = 0.97  # of the capacity that is poured, so that one more small table moves nothing
WORTH_GROWING = 1.25  # a region is made larger if it grows at least so much: moving its rows is work


@dataclass(frozen=True, slots=True)
class Want:
    """What a version would have, room for all its rows, and what it cannot do without: bytes.

    is_fixed: whether it has exactly that, in any case.
    """

    most: int
    least: int
    is_fixed: bool = False

    @classmethod
    def of(cls, row_bytes: int, rows: int) -> Want:
        """Of a version with `rows` rows of `row_bytes` bytes: with some room to grow."""
        most = max(LEAST_BYTES, region_bytes(row_bytes, int(rows * HEADROOM)))
        return cls(max(most, least_bytes(row_bytes)), least_bytes(row_bytes))

    @classmethod
    def fixed(cls, row_bytes: int, nbytes: int) -> Want:
        """Of a version that is to have so many bytes, whatever it and the others want: as its region can take them."""
        exact = bytes_within(row_bytes, nbytes)
        return cls(exact, exact, is_fixed=True)


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
    sizes: Mapping[int, int],
    targets: Mapping[int, int],
    capacity: int,
    worth: float = WORTH_GROWING,
    exact: Collection[int] = (),
) -> dict[int, int]:
    """{version: new bytes} of the regions worth changing, those that shrink first.

    `sizes` are the bytes they have, `targets` those they should have, of which growing by less than `worth` is not
    worth it. A region that is too large is left alone for as long as nobody needs its bytes. Those of the versions
    `exact` get their targets in any case.
    """
    least = {v: 1.0 if v in exact else worth for v in targets}
    larger = {v: target for v, target in targets.items() if target > sizes[v] and target >= sizes[v] * least[v]}
    smaller = {v: target for v, target in targets.items() if target < sizes[v]}
    in_any_case = {v: target for v, target in smaller.items() if v in exact}
    changed = larger | in_any_case
    if sum(changed.get(version, size) for version, size in sizes.items()) <= capacity:
        smaller = in_any_case
    return smaller | larger
