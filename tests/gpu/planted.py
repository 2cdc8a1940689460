"""The hot tier's own kernels with one mistake each: what the CPU's device is there to notice."""

from __future__ import annotations

from embcache.gpu.kernels import source

# name: (as it is, as it must never be). The text on the left stands in the kernels once.
MISTAKES = {
    # what a reader does
    "a digest is not looked at": (
        "u32 ways = match_16(load_acquire(digests), repeated) | match_16(load_acquire(digests + 1), repeated) << 16;",
        "u32 ways = load_acquire(digests).x | repeated | 0xffffffffu;",
    ),
    "a way in flux is looked into": (
        "match_16(load_acquire(digests + 1), repeated) << 16;",
        "match_16(load_acquire(digests + 1), repeated) << 16;\n"
        "    ways |= match_16(load_acquire(digests), FULL) | match_16(load_acquire(digests + 1), FULL) << 16;",
    ),
    "digests are loaded without acquire": (
        "match_16(load_acquire(digests), repeated) | match_16(load_acquire(digests + 1), repeated) << 16;",
        "match_16(load_relaxed(digests), repeated) | match_16(load_relaxed(digests + 1), repeated) << 16;",
    ),
    "digests are loaded as plain memory": (
        "match_16(load_acquire(digests), repeated) | match_16(load_acquire(digests + 1), repeated) << 16;",
        "match_16(load_16(digests), repeated) | match_16(load_16(digests + 1), repeated) << 16;",
    ),
    "slots come out of an L1 that is not kept true": (
        """load_acquire(digests), repeated) | match_16(load_acquire(digests + 1), repeated) << 16;
    while (ways) {
        const u32 row = place.set * WAYS + (u32)__ffs((i32)ways) - 1u;
        ways &= ways - 1u;
        if (is_of(load_relaxed(slot_of""",
        """load_relaxed(digests), repeated) | match_16(load_relaxed(digests + 1), repeated) << 16;
    while (ways) {
        const u32 row = place.set * WAYS + (u32)__ffs((i32)ways) - 1u;
        ways &= ways - 1u;
        if (is_of(load_16(slot_of""",
    ),
    "lanes copy rows before they have met": (
        "    __syncwarp();  // a lane's acquire covers",
        "    // a lane's acquire covers",
    ),
    "the low word stands for the id": (
        "slot.x == (u32)id && slot.y == (u32)(id >> 32) && slot.z == version;",
        "slot.x == (u32)id && slot.z == version;",
    ),
    "the id stands for its version": (
        "slot.y == (u32)(id >> 32) && slot.z == version;",
        "slot.y == (u32)(id >> 32) && (slot.z == version || true);",
    ),
    "the digest stands for the id": (
        "if (is_of(load_relaxed(slot_of(pool, row)), id, version)) return row;",
        "if (is_of(load_relaxed(slot_of(pool, row)), id, version) || true) return row;",
    ),
    # what a writer does
    "rows are written over without invalidation": (
        "    if (row != NONE) or_relaxed(digest_word(pool, row), IN_FLUX << digest_shift(row));",
        "    (void)row;",
    ),
    "deleted rows stay": (
        "    if (row != NONE) and_relaxed(digest_word(pool, row), ~(255u << digest_shift(row)));",
        "    (void)row;",
    ),
    "rows are published without release": (
        "    and_release(digest_word(pool, row), ~((IN_FLUX ^ digest) << digest_shift(row)));",
        "    and_relaxed(digest_word(pool, row), ~((IN_FLUX ^ digest) << digest_shift(row)));",
    ),
    "digests are published by a load and a store": (
        "    and_release(digest_word(pool, row), ~((IN_FLUX ^ digest) << digest_shift(row)));",
        "    u32* word = digest_word(pool, row);\n"
        "    store_release_system(word, load_relaxed(word) & ~((IN_FLUX ^ digest) << digest_shift(row)));",
    ),
    "a way is taken without asking whether it is free": (
        "atomicCAS(digest_word(pool, row), word, word | IN_FLUX << digest_shift(row)) == word;",
        "(or_relaxed(digest_word(pool, row), IN_FLUX << digest_shift(row)), true);",
    ),
    "a way is chosen by plain loads": (
        "const u32 word = load_relaxed(digest_word(pool, row)), digest",
        "const u32 word = load_4(digest_word(pool, row)), digest",
    ),
    "a way that another id is taking is chosen": (
        "digest != IN_FLUX && !(slot.w & PINNED)",
        "!(slot.w & PINNED)",
    ),
    "a pinned row is pushed out": ("IN_FLUX && !(slot.w & PINNED)", "IN_FLUX && !(slot.w & 0u)"),
    # which row leaves
    "queues are read by plain loads": (
        "ghosts = load_relaxed(ghosts_of(pool, set, lane));",
        "ghosts = load_4(ghosts_of(pool, set, lane));",
    ),
    "the newest row goes": (
        "((queues.clock - queues.order) & CLOCK) << 5",
        "((queues.order - queues.clock) & CLOCK) << 5",
    ),
    "rows are not spared": (
        "if (use < (from_small ? USE_TO_STAY : 1u)) return way;",
        "(void)use;\n        return way;",
    ),
    "rows of the small queue never stay": ("(from_small ? USE_TO_STAY : 1u)", "(from_small ? MOST_USE + 1u : 1u)"),
    "the small queue has no end": ("!main || __popc(small) > (i32)SMALL_WAYS", "!main"),
    "ids that come back are new": ("return __any_sync(FULL, low || high);", "return __all_sync(FULL, low && high);"),
    "what is spared is not the newest": ("queues.order = MAIN | queues.clock;", "queues.order |= MAIN;"),
    "hits are not counted": ("store_relaxed(use, (u8)(now + 1));", "store_relaxed(use, now);"),
    "a row is written a piece too far": (
        "q < (row_bytes + 15u) / 16u; q += 32u) store_16(to + q, load_16(from + q));",
        "q < row_bytes / 16u + 1u; q += 32u) store_16(to + q, load_16(from + q));",
    ),
    # where a lookup writes
    "a row is copied to the next whole piece": (
        "q < row_bytes / 4u; q += 32u) store_4((u32*)out + q, load_4((const u32*)from + q));",
        "q < (row_bytes + 15u) / 16u * 4u; q += 32u) store_4((u32*)out + q, load_4((const u32*)from + q));",
    ),
    "pieces of a row are counted up": (
        "    const u32 pieces = row_bytes / 16u;",
        "    const u32 pieces = row_bytes / 16u + 1u;",
    ),
    "elements beyond the last are expressed": (
        "for (u32 j = 0; j < 4u && 4u * q + j < dim; j++) store_4(to + j, __float_as_uint(e.v[j]));",
        "for (u32 j = 0; j < 4u; j++) store_4(to + j, __float_as_uint(e.v[j]));",
    ),
    "misses are listed without those before": (
        "store_4((u32*)tile.misses + missed + before, tile.first + i);",
        "store_4((u32*)tile.misses + before, tile.first + i);",
    ),
    # bags
    "tiles share their scratch": (
        "    u32* scratch = launch_scratch + tile.scratch;",
        "    u32* scratch = launch_scratch;",
    ),
    "rows of a bag that lacks some are kept back": (
        "        else hand_over(bag, scratch, lane);",
        "        else (void)hand_over;",
    ),
    "a bag that lacks some is pooled": (
        "        const bool complete = missed == missed_before;",
        "        const bool complete = missed == missed_before || bag.length > 1u;",
    ),
    # the end of a launch
    "the first block says that all is done": (
        "    if (atomicAdd(control->finished, 1u) + 1u != gridDim.x) return;",
        "    if (atomicAdd(control->finished, 1u) != 0u) return;",
    ),
    "blocks are not counted anew": ("    atomicExch(control->finished, 0u);\n", ""),
    "a block counts itself before it is through": (
        "    __syncthreads();\n    if (threadIdx.x != 0) return;",
        "    if (threadIdx.x != 0) return;",
    ),
    "a block counts itself without a fence": (
        "    __threadfence_system();\n    if (atomicAdd",
        "    if (atomicAdd",
    ),
}


def planted(name: str) -> str:
    """The kernels with this mistake; "" for none."""
    text = source()
    if not name:
        return text
    right, wrong = MISTAKES[name]
    assert text.count(right) == 1, f"{name}: {text.count(right)} times in the kernels, not once: {right}"
    return text.replace(right, wrong)
