"""Rows that expire (expiry.py), compiled: leaving out those that have, and adding to them."""

from __future__ import annotations

import numpy as np

from embcache.host.expiry import NEVER, UNSAID
from embcache.host.jit import inlined, kernel
from embcache.host.machine import load_u8, load_u64, move_bytes, store_u8
from embcache.host.rows import add_row
from embcache.host.segment import COLD, HOT, MISSING, WARM
from embcache.spec import EXPIRY_BYTES


@inlined
def is_over(expiry, at):
    """Whether a row has expired at a time."""
    return expiry != np.uint64(NEVER) and expiry <= at


@kernel
def take_current(rows, count, row_bytes, status, at, default_row, out):
    """Of encoded rows [count] with their expiries at an address, the rows alone, which go to the address `out`.

    status: the address of u8 [count]; rows that have expired at the time become MISSING there, and the default row. It
    stands at an address, too. `out` may be that of `rows`.
    """
    width = row_bytes - EXPIRY_BYTES
    for i in range(count):
        row, code = rows + i * row_bytes, load_u8(status + i)
        if code in (HOT, WARM, COLD) and is_over(np.uint64(load_u64(row + width)), np.uint64(at)):
            store_u8(status + i, np.uint8(MISSING))
            row = default_row
        move_bytes(out + i * width, row, width)


@kernel
def add_expiring(sums, expiries, places, deltas, times, given, first, defaults):
    """rows.add_rows for rows that may expire: finite deltas f32 [n, dim] added in order to sums f32 [m, dim], at places
    int64 [n], with the expiries u64 [m] of those. -> how many sums saturated.

    times u64 [n]: when each change was accepted, by which the row is judged: where it is over, the row of `defaults`
    f32 [m, dim] is added to, and it expires as `first` u64 [n] says. given u64 [n]: the row's expiry from then on, or
    UNSAID. An absent row is one that has been over for ever.
    """
    saturated = 0
    for i in range(places.shape[0]):
        place = places[i]
        if is_over(expiries[place], times[i]):
            for j in range(sums.shape[1]):  # no slice, see rehearsing.py
                sums[place, j] = defaults[place, j]
            expiries[place] = first[i]
        saturated += add_row(sums[place], deltas[i])
        if given[i] != np.uint64(UNSAID):
            expiries[place] = given[i]
    return saturated
