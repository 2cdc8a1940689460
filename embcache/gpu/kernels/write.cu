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

// Of a set's ways, the one that an id should take: its own, an empty one, else that of the row which goes for it. -> the
// way, or NONE. A way in flux is another id's of this launch.
__device__ __forceinline__ u32 choose(Queues& queues, u32 lane, u32 digest, uint4 slot, bool own, u64 h) {
    const u32 here = __ballot_sync(FULL, own), empty = __ballot_sync(FULL, digest == EMPTY);
    if (here) return (u32)__ffs((i32)here) - 1u;
    if (empty) {  // one that depends on the id: others of this launch may be after one, too
        const u32 first = (u32)(h >> 8) & 31u, turned = empty >> first | empty << (-first & 31u);
        return ((u32)__ffs((i32)turned) - 1u + first) & 31u;
    }
    return push_out(queues, lane, digest != IN_FLUX && !(slot.w & PINNED));
}

// Take a way for each id, a warp an id. rows: the row's number, NONE where all ways were in flux or pinned. said: {id,
// version, what} of the row that has to go for it and PUSHED_OUT, or of the id itself: NEW, REPLACED, or REFUSED.
// how: KEEP, rows that are here stay as they are, with one hit more, told as REPLACED, with NONE for their number;
// ESTABLISHED, new rows begin in the main queue.
extern "C" __global__ void __launch_bounds__(128)
claim(const Pool* pools, u32 which, const u64* ids, u32 version, u32 count, u32* rows, uint4* said, u32 how) {
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
        Queues queues = load_queues(pool, place.set, lane);
        const bool back = came_back(queues, lane, fingerprint(h));
        const u32 way = choose(queues, lane, digest, slot, own, h);
        bool taken = way == NONE;
        // Several warps may be after this way; the word tells whether it is still as it was.
        const bool stays = own && (how & KEEP);
        if (lane == way)
            taken = stays || atomicCAS(digest_word(pool, row), word, word | IN_FLUX << digest_shift(row)) == word;
        if (!__any_sync(FULL, taken)) continue;
        if (way == NONE) {
            if (lane == 0) store_4(rows + i, NONE), store_16(said + i, make_uint4((u32)id, (u32)(id >> 32), version, REFUSED));
            return;
        }
        const bool goes = !own && digest != EMPTY;
        if (lane == way) {
            store_4(rows + i, stays ? NONE : row);
            if (stays) note_hit(pool, row);
            if (goes) store_16(said + i, make_uint4(slot.x, slot.y, slot.z, PUSHED_OUT));
            else store_16(said + i, make_uint4((u32)id, (u32)(id >> 32), version, own ? REPLACED : NEW));
        }
        if (__shfl_sync(FULL, (u32)goes, (i32)way))
            remember(queues, lane, __shfl_sync(FULL, fingerprint(mix((u64)slot.y << 32 | slot.x, slot.z)), (i32)way));
        if (__shfl_sync(FULL, (u32)own, (i32)way)) return;
        let_in(queues, pool, place.set, lane, way, back || (how & ESTABLISHED));
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

// Give the rows to the readers: IN_FLUX becomes the id's digest, in one step. fresh: their use begins anew, at one less than
// this; 0 where it goes on.
extern "C" __global__ void __launch_bounds__(128)
publish(const Pool* pools, u32 which, const u64* ids, u32 version, u32 count, const u32* rows, u32 fresh) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const u32 row = load_4(rows + i);
    if (row == NONE) return;
    const Pool pool = pools[which];
    const u32 digest = place_of(pool, mix(ids[i], version)).digest;
    if (fresh) store_relaxed(use_of(pool, row), (u8)(fresh - 1u));
    and_release(digest_word(pool, row), ~((IN_FLUX ^ digest) << digest_shift(row)));
}
