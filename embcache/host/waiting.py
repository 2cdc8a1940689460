"""Waiting for a word in memory that something else writes: a device, or another process.

A short wait spins, since a sleep takes longer than most of them; a longer one sleeps between looks, and leaves the core
to others. The GIL is free in both.
"""

from __future__ import annotations

import time

import numpy as np

from embcache.host.jit import kernel
from embcache.host.machine import load_acquire_u32, pause

_SPINS = 1000  # between two looks at the clock: 3 to 50 us, as long as the processor's pause takes
_SPIN_S = 0.001
_SLEEP_S = 0.00005


@kernel
def wait_word(address: int, value: int, spins: int) -> bool:
    """Look at the u32 at an address until it equals `value`, at most `spins` times; -> whether it did.

    What was written before the word was is seen by all that is read after.
    """
    for _ in range(spins):
        if load_acquire_u32(address) == np.uint32(value):
            return True
        pause()
    return False


def await_word(address: int, value: int, limit_s: float) -> bool:
    """Wait until the u32 at an address, a multiple of 4, equals `value`; -> False where it does not within `limit_s`.

    address: of memory that stays until the call returns. A word that has the value by then is always seen, and with a
    limit of 0 there is one look.
    """
    began = now = time.monotonic()
    end = began + limit_s
    while True:
        # The clock was read before this look: a thread that was stopped between the two does not give up too early.
        spins = _SPINS if now < min(began + _SPIN_S, end) else 1
        if wait_word(address, value, spins):
            return True
        if now >= end:
            return False
        if spins == 1:
            time.sleep(min(_SLEEP_S, end - now))
        now = time.monotonic()
