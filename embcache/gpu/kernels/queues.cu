// Which row leaves a full set. The queues are S3-FIFO's (Yang et al., "FIFO queues are all you need for cache eviction",
// 2023), kept in each set by when its rows came instead of as lists. A row begins in the small queue. If that has more
// than SMALL_WAYS of the set its oldest row goes, unless it was hit USE_TO_STAY times: then it joins the main queue. Else
// the oldest of the main queue goes; one that was hit since it was last looked at is spared, with one hit less, as if it
// had just come. An id that left a short while ago and comes again begins in the main queue. So rows seen once push out
// each other, and not a row in use.
//
// What a set knows beside the use that lookups note, which are hits up to MOST_USE:
//   32 u16   of each way: bit 15 says that its row is of the main queue, the others when it came, by the set's clock
//   u16      the clock: rows that came, or were spared
//   u16      which ghost is written over next
//   62 u16   ghosts: fingerprints of the ids that were pushed out last; 0 for none
// Ways that hold nothing or are pinned are of no queue, whatever stands there. Pushing out is the only way to become a
// ghost: what was deleted, or had no way, is none.
//
// Only `claim` writes this, a warp an id. Where several warps are in one set each has a way of its own by its digest; of
// the rest a warp's word may be lost to another's, which costs a miss at most. No id depends on it.

#define MAIN 0x8000u
#define CLOCK 0x7fffu

struct Queues {
    u32 order;   // of the lane's way
    u32 use;
    u32 ghosts;  // the lane's two; of lane 0 it is clock and next as they were
    u32 clock;
    u32 next;
    bool spared;  // whether the lane's order and use are to be written
};

__device__ __forceinline__ u8* queues_at(const Pool& pool, u32 set) {
    return header_of(pool, set) + HEADER_BYTES + WAYS * SLOT_BYTES;
}
__device__ __forceinline__ u16* order_of(const Pool& pool, u32 row) {
    return (u16*)queues_at(pool, row / WAYS) + row % WAYS;
}
__device__ __forceinline__ u32* ghosts_of(const Pool& pool, u32 set, u32 lane) {
    return (u32*)(queues_at(pool, set) + 2u * WAYS) + lane;
}

// Of an id's hash: bits that choose neither its set nor its digest. Never 0.
__device__ __forceinline__ u32 fingerprint(u64 h) { return ((u32)(h >> 8) & 0xffffu) | 1u; }

__device__ __forceinline__ Queues load_queues(const Pool& pool, u32 set, u32 lane) {
    const u32 row = set * WAYS + lane, ghosts = load_relaxed(ghosts_of(pool, set, lane));
    const u32 first = __shfl_sync(FULL, ghosts, 0);
    return {load_relaxed(order_of(pool, row)), load_relaxed(use_of(pool, row)), ghosts, first & CLOCK, first >> 16, false};
}

// Whether an id was pushed out a short while ago, as far as one can tell; it is no ghost any more.
__device__ __forceinline__ bool came_back(Queues& queues, u32 lane, u32 wanted) {
    const bool low = lane && (queues.ghosts & 0xffffu) == wanted, high = lane && queues.ghosts >> 16 == wanted;
    if (low) queues.ghosts &= 0xffff0000u;
    if (high) queues.ghosts &= 0xffffu;
    return __any_sync(FULL, low || high);
}

// An id is pushed out: it becomes a ghost, in the place of the oldest one.
__device__ __forceinline__ void remember(Queues& queues, u32 lane, u32 gone) {
    const u32 shift = queues.next % 2u * 16u;
    if (lane == 1u + queues.next / 2u) queues.ghosts = (queues.ghosts & ~(0xffffu << shift)) | gone << shift;
    queues.next = queues.next + 1u < GHOSTS ? queues.next + 1u : 0u;
}

// The lane of a queue whose row came first.
__device__ __forceinline__ u32 oldest(const Queues& queues, u32 lane, bool in_queue) {
    u32 most = in_queue ? ((queues.clock - queues.order) & CLOCK) << 5 | (31u - lane) : 0u;
    for (i32 x = 16; x; x >>= 1) {
        const u32 other = __shfl_xor_sync(FULL, most, x);
        most = other > most ? other : most;
    }
    return 31u - (most & 31u);
}

// The way whose row goes, of those that `may_go`; NONE where there is none. Rows before it are spared.
__device__ __forceinline__ u32 push_out(Queues& queues, u32 lane, bool may_go) {
    for (;;) {
        const bool is_main = queues.order & MAIN;
        const u32 small = __ballot_sync(FULL, may_go && !is_main), main = __ballot_sync(FULL, may_go && is_main);
        if (!(small | main)) return NONE;
        const bool from_small = !main || __popc(small) > (i32)SMALL_WAYS;
        const u32 way = oldest(queues, lane, may_go && is_main != from_small);
        const u32 use = __shfl_sync(FULL, queues.use, (i32)way);
        if (use < (from_small ? USE_TO_STAY : 1u)) return way;
        queues.clock = (queues.clock + 1u) & CLOCK;
        if (lane == way) {
            queues.order = MAIN | queues.clock;
            queues.use = from_small ? 0u : use - 1u;
            queues.spared = true;
        }
    }
}

// A row has come into a way, into the main queue or the small one; write what is known now.
__device__ __forceinline__ void let_in(Queues& queues, const Pool& pool, u32 set, u32 lane, u32 way, bool is_main) {
    queues.clock = (queues.clock + 1u) & CLOCK;
    if (lane == way) queues.order = (is_main ? MAIN : 0u) | queues.clock;
    if (lane == way || queues.spared) store_relaxed(order_of(pool, set * WAYS + lane), (u16)queues.order);
    if (queues.spared) store_relaxed(use_of(pool, set * WAYS + lane), (u8)queues.use);
    store_relaxed(ghosts_of(pool, set, lane), lane ? queues.ghosts : queues.next << 16 | queues.clock);
}
