"""A reader process for test_torn.py: has bags pooled and rows converted until its standard input ends, and proves them.

All values of a row are one number, and of two writings of it the difference is a multiple of MODULUS: so a result that
was made of whole rows is one number too, and the same by that modulus as the ids' sum.

Arguments: descriptor of the arena (read-only), directory entry, version, ids. Prints results seen, or a broken one.
"""

from __future__ import annotations

import select
import sys

import numpy as np

from embcache.host import express, probe
from embcache.host.arena import Arena
from embcache.host.memory import address_of
from embcache.host.pool import SUM
from embcache.host.ring import MASK, private_ring
from embcache.host.rows import F16, F32
from embcache.host.segment import FORM
from embcache.host.warm import warm_readers
from tests.host.proving import MODULUS, ROW_BYTES
from tests.host.reader import Asked

arena_fd, entry, version, id_count = map(int, sys.argv[1:])
arena, ring = Arena.adopt(arena_fd, writable=False), private_ring()
random = np.random.default_rng(arena_fd)
dim, seen = ROW_BYTES // 4, 0
tile = np.empty(express.tile_room(ROW_BYTES), np.uint8)
warm_readers()  # else it compiles while the writer writes
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    ids = random.integers(0, id_count, 400, dtype=np.uint64)
    bags = bool(random.integers(2))
    lengths = np.full(ids.size // 5 if bags else ids.size, 5 if bags else 1, np.uint32)
    results, done = np.zeros((lengths.size, dim), np.float32 if bags else np.float16), np.zeros(lengths.size, np.uint8)
    asked = Asked(entry, version, ROW_BYTES, ids)
    wire, lengths_at = (F32, address_of(lengths)) if bags else (F16, 0)
    places = (address_of(results), 0, 0, address_of(done), 0, address_of(tile), express.address())
    form = np.array([F32, wire, dim, SUM, lengths.size, lengths_at, 0, *places], np.int64)
    asked.segment[FORM] = address_of(form)
    probe.probe(arena.address, asked.segment.reshape(1, -1), ring.address, MASK, np.uint64(seen))
    wanted = ids.reshape(lengths.size, -1).sum(axis=1) % np.uint64(MODULUS)
    whole = (results == results[:, :1]).all(axis=1) & (results[:, 0] % MODULUS == wanted)
    bad = np.flatnonzero((done != 0) & ~whole)
    seen += int(np.count_nonzero(done))
    if bad.size:
        print(f"broken: a result of {lengths[bad[0]]} ids: {results[bad[0]]}", flush=True)
        sys.exit(1)
print(seen, flush=True)
