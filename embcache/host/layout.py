"""The arena's layout: what the owner writes and every reader maps. Constants only; no code touches memory here.

    offset 0      head: one page of words, each on a cache line of its own
    offset 4096   directory: MAX_REGIONS entries of 128 bytes, one for each table version held in memory
    HEAP          regions, each a multiple of 4096 bytes:
                      heads   sets x 64 bytes: a stamp word, then the feature IDs of the set's 7 ways
                      slots   sets x 7 x `stride` bytes: the rows; way w of set s is slot s * 7 + w
                      absent  absent sets x 64 bytes: a stamp word and 7 ids that are known to have no row

A head is one cache line, so that a lookup reads one line to know all that a set can say of an id, and then the
lines of its row. Regions of 2 MiB and more begin at a multiple of that, for huge pages (huge.py).

A stamp word says in one load what a reader needs of a set:

    bit 0        set while the owner changes the set (a reader that sees it tries again)
    bits 1..7    way w = bit - 1 holds a feature ID (any u64 is a valid one, so no id can mean "empty")
    bits 8..15   how many ids whose first set this is stand in their second set; 255 sticks
    bits 16..63  counts changes, so that a reader notices one that began and ended while it read

An id has two candidate sets. It stands in the second only when the first was full of rows in use, and
then the first one's count says so: a miss costs one set unless that count is set. The idea of an
overflow count beside the keys is F14's (Folly); two choices are what lets a table fill to over 95%.

All words are little-endian u64. Version numbers start at 1, so that a zeroed entry belongs to nobody.
"""

from __future__ import annotations

MAGIC = 0x3141_4552_4142_4D45  # "EMBAREA1"
LAYOUT = 2

# Head: byte offsets of its words.
HEAD_MAGIC = 0
HEAD_LAYOUT = 8
HEAD_SIZE = 16
HEAD_ALIVE = 64
HEAD_GENERATION = 128
HEAD_POSITION = 192
HEAD_BYTES = 4096

# Directory: byte offsets within an entry.
DIRECTORY = HEAD_BYTES
ENTRY_BYTES = 128
ENTRY_STAMP = 0  # odd while the entry changes
ENTRY_VERSION = 8
ENTRY_HEADS = 16  # byte offset from the arena's start
ENTRY_SET_COUNT = 24
ENTRY_SLOTS = 32
ENTRY_STRIDE = 40
ENTRY_ABSENT = 48
ENTRY_ABSENT_COUNT = 56
ENTRY_WORDS = 7  # after the stamp
MAX_REGIONS = 1024
HEAP = DIRECTORY + MAX_REGIONS * ENTRY_BYTES

# Sets, of rows and of absent marks alike.
WAYS = 7
SET_BYTES = 64
LINE = 64
PAGE = 4096


def stride_of(row_bytes: int) -> int:
    """Bytes from one row to the next: whole words."""
    return -(-row_bytes // 8) * 8


def slots_of(sets: int, stride: int) -> int:
    """Bytes of the rows of so many sets, up to the first absent set."""
    return -(-sets * WAYS * stride // LINE) * LINE
