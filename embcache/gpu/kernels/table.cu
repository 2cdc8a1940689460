// A pool: rows of one stride in sets of 32 ways. A set is a header of 64 bytes, 32 digests and 32 bytes of use; 32 slots
// of 16 bytes: {id low, id high, table version, flags}; and its queues, which are the writer's (queues.cu). Its rows stand
// apart, 32 to a set, each at a multiple of 32 bytes, so that no two share a sector. Layout and constants: layout.py.
//
// A digest says what a way holds: EMPTY, IN_FLUX (a writer is at work; nobody may look at slot or row), else a byte of
// the id's hash. A row belongs to an id if digest, id and version are the same: a hash places ids, it never stands for
// them.
//
// Order, by which no reader sees a row half-written or another id's (each step is a launch of its own, on one stream):
//   1. invalidate or claim: digests become IN_FLUX;
//   2. wait for every lookup that was launched before 1 was complete: it may have seen the digest that was there;
//   3. write_rows: slots and rows;
//   4. publish: digests, with release.
// A lookup that finds a digest, with acquire, therefore sees the slot and the row written before it, and for as long as it
// runs nobody writes them. A way in flux is a miss: lookups never wait.

struct Pool {
    u8* sets;
    u8* rows;
    u32 set_count;
    u32 stride;  // bytes from one row to the next
};
static_assert(sizeof(Pool) == POOL_BYTES, "layout.py: POOL");

struct Place {
    u32 set;
    u32 digest;
};

__device__ __forceinline__ u64 mix(u64 id, u32 version) {
    u64 h = id ^ (u64)version * 0x9E3779B97F4A7C15ull;
    h = (h ^ h >> 32) * 0xD6E8FEB86659FD93ull;
    h = (h ^ h >> 32) * 0xD6E8FEB86659FD93ull;
    return h ^ h >> 32;
}

__device__ __forceinline__ Place place_of(const Pool& pool, u64 h) {
    u32 digest = (u32)h & 255u;
    digest = digest == EMPTY ? 1u : digest == IN_FLUX ? IN_FLUX - 1u : digest;
    return {__umulhi((u32)(h >> 32), pool.set_count), digest};
}

__device__ __forceinline__ u8* header_of(const Pool& pool, u32 set) { return pool.sets + (u64)set * SET_BYTES; }

__device__ __forceinline__ u8* use_of(const Pool& pool, u32 row) { return header_of(pool, row / WAYS) + WAYS + row % WAYS; }

__device__ __forceinline__ uint4* slot_of(const Pool& pool, u32 row) {
    return (uint4*)(header_of(pool, row / WAYS) + HEADER_BYTES) + row % WAYS;
}

__device__ __forceinline__ u8* row_at(const Pool& pool, u32 row) { return pool.rows + (u64)row * pool.stride; }

__device__ __forceinline__ bool is_of(uint4 slot, u64 id, u32 version) {
    return slot.x == (u32)id && slot.y == (u32)(id >> 32) && slot.z == version;
}

// The 32-bit word that a way's digest is part of, and where in it.
__device__ __forceinline__ u32* digest_word(const Pool& pool, u32 row) {
    return (u32*)header_of(pool, row / WAYS) + row % WAYS / 4u;
}
__device__ __forceinline__ u32 digest_shift(u32 row) { return row % 4u * 8u; }

// Bits 0 to 3: which bytes of a word equal the byte that `repeated` has four times.
__device__ __forceinline__ u32 match_4(u32 word, u32 repeated) {
    u32 same = __vcmpeq4(word, repeated);
    return (same & 1u) | (same >> 7 & 2u) | (same >> 14 & 4u) | (same >> 21 & 8u);
}
__device__ __forceinline__ u32 match_16(uint4 digests, u32 repeated) {
    return match_4(digests.x, repeated) | match_4(digests.y, repeated) << 4 | match_4(digests.z, repeated) << 8 |
           match_4(digests.w, repeated) << 12;
}

// The row (its number in the pool) that holds an id, or NONE. For one thread: 32 bytes of digests, then the slots that
// these name. Rows may be read after it, by other lanes after a __syncwarp too.
__device__ __forceinline__ u32 find_row(const Pool& pool, u64 id, u32 version, Place place) {
    const uint4* digests = (const uint4*)header_of(pool, place.set);
    const u32 repeated = place.digest * 0x01010101u;
    u32 ways = match_16(load_acquire(digests), repeated) | match_16(load_acquire(digests + 1), repeated) << 16;
    while (ways) {
        const u32 row = place.set * WAYS + (u32)__ffs((i32)ways) - 1u;
        ways &= ways - 1u;
        if (is_of(load_relaxed(slot_of(pool, row)), id, version)) return row;
    }
    return NONE;
}
