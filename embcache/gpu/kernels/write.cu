// The steps of a change, see table.cu. One stream runs them, and whoever launches them does the waiting. Ids of a launch
// are distinct, all of one table version.

// The row of thread i's id, NONE where it has none: noted in rows for the steps that follow.
__device__ __forceinline__ u32 note_row(const Pool& pool, const u64* ids, u32 version, u32 i, u32* rows) {
    const u64 id = ids[i];
    const u32 row = find_row(pool, id, version, place_of(pool, mix(id, version)));
    store_4(rows + i, row);
    return row;
}

// Find the rows that are to be written anew, and take them from the readers. rows: their numbers, NONE where absent.
extern "C" __global__ void __launch_bounds__(128)
invalidate(const Pool* pools, u32 which, const u64* ids, u32 version, u32 count, u32* rows) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const Pool pool = pools[which];
    const u32 row = note_row(pool, ids, version, i, rows);
    if (row != NONE) or_relaxed(digest_word(pool, row), IN_FLUX << digest_shift(row));
}

// Take rows out for good. rows as above.
extern "C" __global__ void __launch_bounds__(128)
remove_rows(const Pool* pools, u32 which, const u64* ids, u32 version, u32 count, u32* rows) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const Pool pool = pools[which];
    const u32 row = note_row(pool, ids, version, i, rows);
    if (row != NONE) and_relaxed(digest_word(pool, row), ~(255u << digest_shift(row)));
}

// Of a set's ways, the one that an id should take: its own, an empty one, else that of the least use which is not pinned;
// among equals one that depends on the id. -> the way, or NONE. A way in flux is another id's of this launch.
__device__ __forceinline__ u32 choose(const Pool& pool, u32 lane, u32 row, u32 digest, uint4 slot, bool own, u64 h) {
    u32 worth = NONE;
    if (digest != IN_FLUX) {
        if (own) worth = 0;
        else if (digest == EMPTY) worth = 1;
        else if (!(slot.w & PINNED)) worth = 2u + load_relaxed(use_of(pool, row));
    }
    u32 best = worth == NONE ? NONE : worth << 5 | ((lane + (u32)(h >> 8)) & 31u);
    for (i32 x = 16; x; x >>= 1) {
        const u32 other = __shfl_xor_sync(FULL, best, x);
        best = other < best ? other : best;
    }
    return best == NONE ? NONE : (best - (u32)(h >> 8)) & 31u;
}

// Yesterday's favourites fade: with every eviction another way of the set loses one use.
__device__ __forceinline__ void age(const Pool& pool, u32 set, u64 h) {
    u8* use = use_of(pool, set * WAYS + ((u32)(h >> 16) & 31u));
    const u8 now = load_relaxed(use);
    if (now > 0) store_relaxed(use, (u8)(now - 1));
}

// Take a way for each id, a warp an id. rows: the row's number, NONE where all ways were in flux or pinned. said: {id,
// version, what} of the row that has to go for it and PUSHED_OUT, or of the id itself: NEW, REPLACED, or REFUSED.
// keep: rows that are here stay as they are, told as REPLACED, with NONE for their number.
extern "C" __global__ void __launch_bounds__(128)
claim(const Pool* pools, u32 which, const u64* ids, u32 version, u32 count, u32* rows, uint4* said, u32 keep) {
    const u32 lane = threadIdx.x & 31u, i = (blockIdx.x * blockDim.x + threadIdx.x) / 32u;
    if (i >= count) return;
    const Pool pool = pools[which];
    const u64 id = ids[i], h = mix(id, version);
    const Place place = place_of(pool, h);
    const u32 row = place.set * WAYS + lane;
    const uint4 slot = load_relaxed(slot_of(pool, row));
    for (;;) {
        const u32 word = load_relaxed(digest_word(pool, row)), digest = word >> digest_shift(row) & 255u;
        const bool own = digest == place.digest && is_of(slot, id, version);
        const u32 way = choose(pool, lane, row, digest, slot, own, h);
        bool taken = way == NONE;
        // Several warps may be after this way; the word tells whether it is still as it was.
        const bool stays = own && keep;
        if (lane == way)
            taken = stays || atomicCAS(digest_word(pool, row), word, word | IN_FLUX << digest_shift(row)) == word;
        if (!__any_sync(FULL, taken)) continue;
        if (way == NONE) {
            if (lane == 0) store_4(rows + i, NONE), store_16(said + i, make_uint4((u32)id, (u32)(id >> 32), version, REFUSED));
        } else if (lane == way) {
            store_4(rows + i, stays ? NONE : row);
            if (own || digest == EMPTY) {
                store_16(said + i, make_uint4((u32)id, (u32)(id >> 32), version, own ? REPLACED : NEW));
            } else {
                store_16(said + i, make_uint4(slot.x, slot.y, slot.z, PUSHED_OUT));
                age(pool, place.set, h);
            }
        }
        return;
    }
}

// Slots and rows, a warp an id. encoded: rows [count], `pitch` bytes apart, a multiple of 16; flags go into the slots.
extern "C" __global__ void __launch_bounds__(128)
write_rows(const Pool* pools, u32 which, const u64* ids, u32 version, u32 count, const u32* rows, const u8* encoded,
           u32 pitch, u32 row_bytes, u32 flags) {
    const u32 lane = threadIdx.x & 31u, i = (blockIdx.x * blockDim.x + threadIdx.x) / 32u;
    if (i >= count) return;
    const u32 row = load_4(rows + i);
    if (row == NONE) return;
    const Pool pool = pools[which];
    const uint4* from = (const uint4*)(encoded + (u64)i * pitch);
    uint4* to = (uint4*)row_at(pool, row);
    for (u32 q = lane; q < (row_bytes + 15u) / 16u; q += 32u) store_16(to + q, load_16(from + q));
    if (lane == 0) {
        const u64 id = ids[i];
        store_relaxed(slot_of(pool, row), make_uint4((u32)id, (u32)(id >> 32), version, flags));
    }
}

// Give the rows to the readers: IN_FLUX becomes the id's digest, in one step. fresh: whether their use begins anew.
extern "C" __global__ void __launch_bounds__(128)
publish(const Pool* pools, u32 which, const u64* ids, u32 version, u32 count, const u32* rows, u32 fresh) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const u32 row = load_4(rows + i);
    if (row == NONE) return;
    const Pool pool = pools[which];
    const u32 digest = place_of(pool, mix(ids[i], version)).digest;
    if (fresh) store_relaxed(use_of(pool, row), (u8)FIRST_USE);
    and_release(digest_word(pool, row), ~((IN_FLUX ^ digest) << digest_shift(row)));
}
