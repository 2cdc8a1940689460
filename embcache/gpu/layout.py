"""What host and kernels agree on: constants, and the structs that cross between them. No code touches memory here.

    pool     sets: set_count x 768 bytes, each a header, 32 slots and queues; then rows: 32 a set, `stride` bytes apart
    header   64 bytes: 32 digests, then 32 bytes of use
    slot     16 bytes: id low u32, id high u32, table version u32, flags u32
    queues   192 bytes: when each way's row came, 32 u16; the set's clock and next ghost, u16 each; 62 ghosts, u16

A digest is EMPTY, IN_FLUX (a writer is at work, readers pass by), or a byte of the id's hash. A stride is a multiple of
32 bytes, a sector, so that no two rows share one.
"""

from __future__ import annotations

import numpy as np

from embcache.host.segment import HOT

WAYS = 32
HEADER_BYTES = 64
SLOT_BYTES = 16
GHOSTS = 62  # of a set: ids that left it last
QUEUE_BYTES = 2 * WAYS + 4 + 2 * GHOSTS
SET_BYTES = HEADER_BYTES + WAYS * SLOT_BYTES + QUEUE_BYTES
SECTOR = 32

EMPTY, IN_FLUX = 0, 255  # digests
PINNED = 1  # a flag of a slot: no other row pushes it out
NEW, PUSHED_OUT, REFUSED, REPLACED = range(4)  # what becomes of an id that is to come in

# Which row leaves, see kernels/queues.cu.
MOST_USE = 3  # hits that are counted of a row
USE_TO_STAY = 2  # that take a row from the small queue into the main one
SMALL_WAYS = 3  # of the small queue, before one of them has to go rather than one of the main queue
NOTED_TILES = 128  # of a launch: all hits of so many are noted as use, of more of them a part
SAMPLE = 32  # one hit in so many at the least
KEEP, ESTABLISHED = 1, 2  # how rows come in: over their older selves or not; into which queue
NO_ROW = 0xFFFFFFFF

# What a tile wants: rows as they are stored, in whole 16-byte pieces or of any size; rows in the wire's form; bags.
COPY, BYTES, EXPRESS, BAGS = range(4)
COPY_LIMIT = 64 << 10  # bytes of a row; the pieces of wider ones are counted otherwise
SUM, MEAN = 0, 1

TILE = np.dtype(
    [
        *((name, np.uint64) for name in ("ids", "out", "status", "misses", "scale", "bias")),
        *((name, np.uint64) for name in ("lengths", "weights", "encoded", "done")),
        *((name, np.uint32) for name in ("count", "first", "version", "pool", "dim", "row_bytes", "form", "bags")),
        *((name, np.uint32) for name in ("scratch", "pad0", "pad1", "pad2")),
    ]
)
CONTROL = np.dtype(
    {
        "names": ["tiles", "missed", "pools", "finished", "scratch", "tile_count", "tick", "number", "done"],
        "formats": [*["u8"] * 5, *["u4"] * 4],
        "offsets": [0, 8, 16, 24, 32, 40, 44, 48, 64],
        "itemsize": 128,
    }
)
MOVE = np.dtype(
    [(name, np.uint64) for name in ("source", "target", "places")] + [("bytes", np.uint32), ("count", np.uint32)]
)
MOVE_ROWS = 8  # of a warp's move
POOL = np.dtype([("sets", np.uint64), ("rows", np.uint64), ("set_count", np.uint32), ("stride", np.uint32)])

DEFINES = {
    **{name: globals()[name] for name in ("WAYS", "HEADER_BYTES", "SET_BYTES", "EMPTY", "IN_FLUX", "PINNED")},
    **{name: globals()[name] for name in ("COPY", "BYTES", "EXPRESS", "BAGS")},
    **{name: globals()[name] for name in ("SLOT_BYTES", "GHOSTS", "MOST_USE", "USE_TO_STAY", "SMALL_WAYS")},
    **{name: globals()[name] for name in ("NOTED_TILES", "SAMPLE", "KEEP", "ESTABLISHED")},
    **{name: globals()[name] for name in ("NEW", "PUSHED_OUT", "REFUSED", "REPLACED")},
    **{"SUM": SUM, "MEAN": MEAN, "HOT": HOT},
    **{"TILE_BYTES": TILE.itemsize, "CONTROL_BYTES": CONTROL.itemsize, "POOL_BYTES": POOL.itemsize},
    "MOVE_BYTES": MOVE.itemsize,
}


def stride_of(row_bytes: int) -> int:
    """Bytes from one row of a pool to the next."""
    return -(-row_bytes // SECTOR) * SECTOR


def form_of(stored: int, wire: int, kind: int, pooling: int = SUM) -> int:
    """A tile's `form`."""
    return stored | wire << 8 | kind << 16 | pooling << 24
