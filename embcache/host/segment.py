"""A lookup's segments: one row of int64 for each query, by which kernels know what to look up and where to put it."""

from __future__ import annotations

# Columns of a segment. From the table (DEFAULT_ROW: the address of an encoded row):
ENTRY, VERSION, ROW_BYTES, DEFAULT_ROW = range(4)
# From the query, addresses but for COUNT: ids u64 [n], encoded rows u8 [n, ROW_BYTES], status u8 [n], misses i32 [n].
COUNT, IDS, OUT, STATUS, MISSES = range(4, 9)
# Written by `probe`, and by whatever tier answers before or after it: how many ids are left, their places in the query
# being the first so many of MISSES.
LEFT = 9
# The address of a form, where rows are not given out as they are stored; else 0. Only `probe` minds it.
FORM = 10
SEGMENT_COLUMNS = 11

# Columns of a form. Results are rows or, where LENGTHS is the address of u32 [UNITS], one of the rows of each bag:
STORED, WIRE, DIM, POOLING, UNITS, LENGTHS, WEIGHTS = range(7)
# where they go, and u8 [UNITS] that are 1 for those that did; the others' rows are at OUT. KEPT is how many those are.
RESULTS, SCALE, BIAS, DONE, KEPT = range(7, 12)
TILE = 12  # the address of as many bytes as express.tile_room says, to work in
EXPRESS = 13  # where the kernel stands that makes results (express.address)
FORM_COLUMNS = 14

MISSING, HOT, WARM, COLD, LATE, FAILED, NEAR = range(7)
NO_STATUS = 255  # of an id that is left
