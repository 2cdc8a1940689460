"""Tiles: a lookup's queries cut into pieces of a warp's work, and what was missed gathered again. Compiled.

A question is one row of int64 for each query, addresses being such that the device reaches them.
"""

from __future__ import annotations

import numpy as np

from embcache.gpu.layout import BAGS, BYTES, COPY, EXPRESS, MOVE, MOVE_ROWS, TILE
from embcache.host import segment
from embcache.host.jit import kernel, part
from embcache.host.machine import copy_bytes, load_i32, load_u32, store_i32, store_u8, store_u32, store_u64

# Columns of a question. Addresses: ids u64 [n]; out, where rows go; status u8 [n]; misses i32 [n], where places of ids
# go that were not found; scale and bias f32, where the output is q8; and of bags lengths u32 [b], weights f32 [n] or 0,
# encoded u8 [n, row_bytes], done u8 [b].
IDS, OUT, STATUS, MISSES, SCALE, BIAS, LENGTHS, WEIGHTS, ENCODED, DONE = range(10)
COUNT, VERSION, POOL, DIM, ROW_BYTES, FORM, BAG_COUNT, OUT_BYTES = range(10, 18)
COLUMNS = 18
NOT_ASKED = -1  # as POOL

GROUP = 32  # ids that a warp looks for at once
MOST_TILES = 4096  # that one lookup is cut into, and one more for each of its queries
_BAG_IDS = 64  # about so many ids make a tile of bags
_BYTES = TILE.itemsize
MOVE_BYTES = MOVE.itemsize


def rows_a_tile(ids: int) -> int:
    """Ids of a tile, for a lookup of so many ids."""
    return GROUP * max(1, -(-ids // (GROUP * MOST_TILES)))


def bags_a_tile(ids: int, bags: int) -> int:
    """Bags of a tile, for a lookup of so many ids in so many bags."""
    return max(1, -(-bags // MOST_TILES), bags * _BAG_IDS // max(ids, 1)) if bags else 1


@part
def _put(tile, question, first, count, bag, bags, scratch):
    """Write one tile: `count` ids from `first` on, or `bags` bags from `bag` on, which hold them."""
    form = question[FORM]
    at = bag if (form >> 16) & 255 == BAGS else first
    for word in range(10):
        store_u64(tile + 8 * word, np.uint64(0))
    store_u64(tile + 8 * IDS, np.uint64(question[IDS] + 8 * first))
    store_u64(tile + 8 * OUT, np.uint64(question[OUT] + at * question[OUT_BYTES]))
    store_u64(tile + 8 * STATUS, np.uint64(question[STATUS] + first))
    store_u64(tile + 8 * MISSES, np.uint64(question[MISSES] + 4 * first))
    store_u64(tile + 8 * SCALE, np.uint64(question[SCALE] + 4 * at))
    store_u64(tile + 8 * BIAS, np.uint64(question[BIAS] + 4 * at))
    if bags:
        store_u64(tile + 8 * LENGTHS, np.uint64(question[LENGTHS] + 4 * bag))
        store_u64(tile + 8 * WEIGHTS, np.uint64(question[WEIGHTS] + 4 * first if question[WEIGHTS] else 0))
        store_u64(tile + 8 * ENCODED, np.uint64(question[ENCODED] + first * question[ROW_BYTES]))
        store_u64(tile + 8 * DONE, np.uint64(question[DONE] + bag))
    words = (count, first, question[VERSION], question[POOL], question[DIM], question[ROW_BYTES], form, bags, scratch)
    for word in range(9):
        store_u32(tile + 80 + 4 * word, np.uint32(words[word]))


@kernel
def cut(questions, row_step, bag_step, tiles):
    """Cut questions int64 [q, COLUMNS] into tiles at an address; -> how many there are.

    row_step: ids of a tile; bag_step: bags of a tile of bags. Queries without ids make none, nor do those NOT_ASKED.
    """
    made = 0
    scratch = 0
    for q in range(questions.shape[0]):
        question = questions[q]
        if question[POOL] == NOT_ASKED:
            continue
        count, bags = question[COUNT], question[BAG_COUNT]
        if (question[FORM] >> 16) & 255 != BAGS:
            for first in range(0, count, row_step):
                _put(tiles + _BYTES * made, question, first, min(row_step, count - first), 0, 0, 0)
                made += 1
            continue
        first = 0
        for bag in range(0, bags, bag_step):
            here = min(bag_step, bags - bag)
            ids = 0
            for b in range(here):
                ids += np.int64(load_u32(question[LENGTHS] + 4 * (bag + b)))
            _put(tiles + _BYTES * made, question, first, ids, bag, here, scratch)
            first += ids
            scratch += ids
            made += 1
    return made


@part
def _list_all(question):
    for i in range(question[COUNT]):
        store_i32(question[MISSES] + 4 * i, np.int32(i))
    if (question[FORM] >> 16) & 255 == BAGS:
        for bag in range(question[BAG_COUNT]):
            store_u8(question[DONE] + bag, np.uint8(0))
    return question[COUNT]


@kernel
def gather_misses(questions, row_step, bag_step, tiles, missed, left):
    """Bring together, for each question, the places that its tiles missed, at the beginning of its MISSES.

    missed: u32 of each tile, an array. left int64 [q]: how many there are, written. -> their sum.
    Of a question that was NOT_ASKED all places are left, and no bag is done.
    """
    total = 0
    made = 0
    for q in range(questions.shape[0]):
        question = questions[q]
        if question[POOL] == NOT_ASKED:
            left[q] = _list_all(question)
            total += left[q]
            continue
        bags = (question[FORM] >> 16) & 255 == BAGS
        count, step = (question[BAG_COUNT], bag_step) if bags else (question[COUNT], row_step)
        here = 0
        for _ in range(0, count, step):
            first = np.int64(load_u32(tiles + _BYTES * made + 84))
            for j in range(np.int64(missed[made])):
                store_i32(question[MISSES] + 4 * here, load_i32(question[MISSES] + 4 * (first + j)))
                here += 1
            made += 1
        left[q] = here
        total += here
    return total


@part
def _line(at, nbytes):
    """The first cache line behind `nbytes` bytes at an address."""
    return at + (nbytes + 63) // 64 * 64


@kernel
def lay_out(questions, memory):
    """Set aside, from an address at a cache line on, what questions read and write beside their results.

    IDS, LENGTHS and WEIGHTS hold addresses of the lookup's own and become those of copies; MISSES, DONE and ENCODED are
    written. What it takes is what `bytes_beside` says.
    """
    at = memory
    for q in range(questions.shape[0]):
        question = questions[q]
        count, bags = question[COUNT], question[BAG_COUNT]
        copy_bytes(at, question[IDS], 8 * count)
        question[IDS], at = at, _line(at, 8 * count)
        question[MISSES], at = at, _line(at, 4 * count)
        if (question[FORM] >> 16) & 255 != BAGS:
            continue
        copy_bytes(at, question[LENGTHS], 4 * bags)
        question[LENGTHS], at = at, _line(at, 4 * bags)
        question[DONE], at = at, _line(at, bags)
        if question[WEIGHTS]:
            copy_bytes(at, question[WEIGHTS], 4 * count)
            question[WEIGHTS], at = at, _line(at, 4 * count)
        question[ENCODED] = at
        at = _line(at, count * question[ROW_BYTES])


def bytes_beside(count: int, row_bytes: int, bags: int | None) -> int:
    """Bytes that `lay_out` takes at most for a question; bags: None for one without."""
    sizes = [8 * count, 4 * count]
    if bags is not None:
        sizes += [4 * bags, bags, 4 * count, count * row_bytes]
    return sum(-(-size // 64) * 64 for size in sizes)


@kernel
def settle(questions, row_step, bag_step, tiles, missed, segments):
    """Write MISSES and LEFT of each segment (host/segment.py), and OUT where a question is about bags: as ENCODED.

    The rest as gather_misses; -> how many places are left in all.
    """
    left = np.empty(questions.shape[0], np.int64)
    total = gather_misses(questions, row_step, bag_step, tiles, missed, left)
    for q in range(questions.shape[0]):
        segments[q, segment.LEFT], segments[q, segment.MISSES] = left[q], questions[q, MISSES]
        if (questions[q, FORM] >> 16) & 255 == BAGS:
            segments[q, segment.OUT] = questions[q, ENCODED]
    return total


@kernel
def cut_moves(arrays, moves):
    """Cut int64 [a, 5] of arrays whose rows are to move into the moves of kernels/moves.cu, written to an address.

    Columns: the addresses of source, target and places u32 [count]; bytes of a row; count. -> how many moves there are.
    """
    made = 0
    for a in range(arrays.shape[0]):
        count = arrays[a, 4]
        for first in range(0, count, MOVE_ROWS):
            move = moves + MOVE_BYTES * made
            store_u64(move, np.uint64(arrays[a, 0]))
            store_u64(move + 8, np.uint64(arrays[a, 1]))
            store_u64(move + 16, np.uint64(arrays[a, 2] + 4 * first))
            store_u32(move + 24, np.uint32(arrays[a, 3]))
            store_u32(move + 28, np.uint32(min(MOVE_ROWS, count - first)))
            made += 1
    return made


def kind_of(stored: int, wire: int, row_bytes: int, address: int, limit: int) -> int:
    """How rows without pooling go to an address: as they are stored where that is the wire's form, else expressed."""
    if stored != wire or stored == 3:
        return EXPRESS
    return COPY if row_bytes % 16 == 0 and row_bytes <= limit and address % 16 == 0 else BYTES
