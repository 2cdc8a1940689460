"""What changes would make of rows, compiled: nothing is written but their norms. The applier does the same to the rows
themselves, see owner/computing.py."""

from __future__ import annotations

import numpy as np

from embcache.host.expiring import is_over
from embcache.host.expiry import UNSAID
from embcache.host.jit import inlined, kernel
from embcache.host.rows import add_row

ABSENT, FOUND, DAMAGED = 0, 1, 2  # states of rows
ASSIGN, ADD, DELETE = 0, 1, 2  # ops


@inlined
def _copy(row, other):
    for j in range(row.shape[0]):  # no slice: the words of an error that it may raise take seconds to compile
        row[j] = other[j]


@kernel
def rehearse(values, expiries, states, defaults, places, ops, rows, times, given, first, norms):
    """Do changes to rows, one after the other; writes the L2 norm of each row after its change to norms f64 [n].

    values f32 [m, dim], expiries u64 [m] and states u8 [m] are the rows before and, when this returns, after; one that
    is absent, or has expired, is added to as if it were that of defaults f32 [m, dim]. Of the changes, places int64 [n]
    say which row, ops u8 [n] what is done to it, rows f32 [n, dim] with what; times, given and first, all u64 [n], are
    those of expiring.add_expiring. A deleted row has norm 0, and so has a damaged one that is added to, and stays.
    """
    for i in range(places.shape[0]):
        place, op = places[i], ops[i]
        norms[i] = 0.0
        if op == DELETE:
            states[place] = ABSENT
        elif op == ASSIGN or states[place] != DAMAGED:
            row = values[place]
            if op == ASSIGN:
                _copy(row, rows[i])
                expiries[place] = first[i]
            else:
                if states[place] == ABSENT or is_over(expiries[place], times[i]):
                    _copy(row, defaults[place])
                    expiries[place] = first[i]
                add_row(row, rows[i])
                if given[i] != np.uint64(UNSAID):
                    expiries[place] = given[i]
            states[place] = FOUND
            squares = 0.0
            for j in range(row.shape[0]):
                squares += np.float64(row[j]) * np.float64(row[j])
            norms[i] = np.sqrt(squares)
