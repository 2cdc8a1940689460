"""A reader process for test_torn.py: looks up until its standard input ends, and proves every row it gets.

Arguments: descriptor of the arena (read-only), directory entry, version, ids. Prints rows seen, or a broken row.
"""

from __future__ import annotations

import select
import sys

import numpy as np

from embcache.host.arena import Arena
from embcache.host.warm import warm_readers
from tests.host.proving import ROW_BYTES, broken
from tests.host.reader import Asked, Reader

arena_fd, entry, version, id_count = map(int, sys.argv[1:])
reader = Reader(Arena.adopt(arena_fd, writable=False))
random = np.random.default_rng(arena_fd)
seen = 0
warm_readers()  # else it compiles while the writer writes
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    ids = random.integers(0, id_count, 64, dtype=np.uint64)
    if random.integers(2):
        listed = np.arange(ids.size)
        rows, _, left = reader.lookup_region(entry, version, ROW_BYTES, ids)
    else:
        listed = random.permutation(ids.size)[: random.integers(1, ids.size)]
        asked = Asked(entry, version, ROW_BYTES, ids, listed)
        reader.probe_listed([asked])
        rows, left = asked.rows, asked.left
        if np.setdiff1d(left, listed).size or np.unique(left).size < left.size:
            print(f"broken: of the places {listed} those are left: {left}", flush=True)
            sys.exit(1)
    there = np.setdiff1d(listed, left)
    found = np.ascontiguousarray(rows[there])
    bad = broken(ids[there], found)
    seen += there.size
    if bad.size:
        print(f"broken: id {ids[there][bad[0]]}, words {found[bad[0]].view(np.uint64)[:4]}", flush=True)
        sys.exit(1)
print(seen, flush=True)
