// What a pool holds, and what breaks its invariants; while no change is under way. counts u32 [8]: 0 ids held, 1 digests
// that are not their id's, 2 ids in a set that is not theirs, 3 ids that stand twice in a set, 4 ways in flux, 5 pinned,
// 6 rows of more use than is counted, 7 sets whose clock or next ghost is none.
// A warp a set. listed: the slots of all ids held, as many as `room`, or null.
extern "C" __global__ void __launch_bounds__(128) audit(const Pool* pools, u32 which, u32* counts, uint4* listed, u32 room) {
    const u32 lane = threadIdx.x & 31u, set = (blockIdx.x * blockDim.x + threadIdx.x) / 32u;
    const Pool pool = pools[which];
    if (set >= pool.set_count) return;
    const u32 row = set * WAYS + lane;
    const u32 digest = load_relaxed(digest_word(pool, row)) >> digest_shift(row) & 255u;
    const uint4 slot = load_relaxed(slot_of(pool, row));
    const bool held = digest != EMPTY && digest != IN_FLUX;
    if (digest == IN_FLUX) atomicAdd(counts + 4, 1u);
    if (load_relaxed(use_of(pool, row)) > MOST_USE) atomicAdd(counts + 6, 1u);
    const u32 clock = load_relaxed(ghosts_of(pool, set, 0));
    if (lane == 0 && ((clock & 0xffffu) > CLOCK || clock >> 16 >= GHOSTS)) atomicAdd(counts + 7, 1u);
    bool twice = false;
    for (u32 k = 0; k < 32u; k++) {
        const u32 low = __shfl_sync(FULL, slot.x, (i32)k), high = __shfl_sync(FULL, slot.y, (i32)k);
        const u32 version = __shfl_sync(FULL, slot.z, (i32)k), there = __shfl_sync(FULL, (u32)held, (i32)k);
        twice |= there && k < lane && low == slot.x && high == slot.y && version == slot.z;
    }
    if (!held) return;
    const Place place = place_of(pool, mix((u64)slot.y << 32 | slot.x, slot.z));
    const u32 at = atomicAdd(counts, 1u);
    if (place.digest != digest) atomicAdd(counts + 1, 1u);
    if (place.set != set) atomicAdd(counts + 2, 1u);
    if (twice) atomicAdd(counts + 3, 1u);
    if (slot.w & PINNED) atomicAdd(counts + 5, 1u);
    if (listed && at < room) store_16(listed + at, slot);
}

// How many rows a pool holds of each of some table versions u32 [count], ascending: added to counts u32 [count]. A warp a
// set; other versions are not counted.
extern "C" __global__ void __launch_bounds__(128)
census(const Pool* pools, u32 which, const u32* versions, u32 count, u32* counts) {
    const u32 lane = threadIdx.x & 31u, set = (blockIdx.x * blockDim.x + threadIdx.x) / 32u;
    const Pool pool = pools[which];
    if (set >= pool.set_count) return;
    const u32 row = set * WAYS + lane, digest = load_relaxed(digest_word(pool, row)) >> digest_shift(row) & 255u;
    if (digest == EMPTY || digest == IN_FLUX) return;
    const u32 version = load_relaxed(slot_of(pool, row)).z;
    u32 low = 0, high = count;
    while (low < high) {
        const u32 middle = (low + high) / 2u;
        if (versions[middle] < version) low = middle + 1u;
        else high = middle;
    }
    if (low < count && versions[low] == version) atomicAdd(counts + low, 1u);
}
