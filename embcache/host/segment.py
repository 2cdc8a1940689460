"""A lookup's segments: one row of int64 for each query, by which kernels know what to look up and where to put it."""

from __future__ import annotations

# Columns of a segment. From the table (DEFAULT_ROW: the address of an encoded row):
ENTRY, VERSION, ROW_BYTES, DEFAULT_ROW = range(4)
# From the query, addresses but for COUNT: ids u64 [n], encoded rows u8 [n, ROW_BYTES], status u8 [n], misses i32 [n].
COUNT, IDS, OUT, STATUS, MISSES = range(4, 9)
# Written by `probe`, and by whatever tier answers before or after it: how many ids are left, their places in the query
# being the first so many of MISSES.
LEFT = 9
SEGMENT_COLUMNS = 10

MISSING, HOT, WARM, COLD, LATE, FAILED, NEAR = range(7)
