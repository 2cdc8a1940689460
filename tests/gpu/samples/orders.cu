// Two grids at once, or two parts of one: which orders make what one wrote visible to the other. `how` picks the right
// way or a broken one.

#define RIGHT 0u
#define RELAXED_LOAD 1u
#define RELAXED_STORE 2u
#define NO_SYNCWARP 3u
#define FENCES 4u
#define NO_FENCE 5u
#define WARM 8u  // with it: what is going to be written is in the L1 already

// Eight words, then the word that says so.
extern "C" __global__ void publish(u32* data, u32* flag, u32 how) {
    how &= ~WARM;
    for (u32 i = 0; i < 8u; i++) store_4(data + i, i + 1u);
    if (how == FENCES) __threadfence();
    if (how == RELAXED_STORE || how == FENCES || how == NO_FENCE) store_relaxed(flag, 1u);
    else store_release(flag, 1u);
}

// A warp: lane 0 waits for the word, all lanes read. seen: how many lanes saw what was written.
extern "C" __global__ void subscribe(const u32* data, const u32* flag, u32* seen, u32 how) {
    const u32 lane = threadIdx.x & 31u;
    const u32 before = how & WARM ? load_4(data + (lane & 7u)) : 0u;
    how &= ~WARM;
    if (lane == 0) {
        if (how == RELAXED_LOAD || how == FENCES || how == NO_FENCE) {
            while (load_relaxed(flag) == 0u) {
            }
        } else {
            while (load_acquire(flag) == 0u) {
            }
        }
        if (how == FENCES) __threadfence();
    }
    if (how == NO_SYNCWARP) __ballot_sync(FULL, 1);
    else __syncwarp();
    const u32 after = load_4(data + (lane & 7u));
    if (before <= after && after == (lane & 7u) + 1u) atomicAdd(seen, 1u);
}

// Words that are read before and after the flag: a tag that decides something must not come out of an L1.
extern "C" __global__ void read_twice(const u32* tag, const u32* flag, u32* seen, u32 relaxed) {
    const u32 before = relaxed ? load_relaxed(tag) : load_4(tag);
    while (load_relaxed(flag) == 0u) {
    }
    const u32 after = relaxed ? load_relaxed(tag) : load_4(tag);
    if (before <= 1u && after == 1u) atomicAdd(seen, 1u);
}

// What a thread stores it reads back, and so does its block after a barrier, out of whatever cache.
extern "C" __global__ void read_back(u32* words, u32* wrong) {
    u32* mine = words + this_thread();
    const u32 before = load_4(mine);
    store_4(mine, before + 1u);
    if (load_4(mine) != before + 1u) atomicAdd(wrong, 1u);
    store_relaxed(mine, before + 2u);
    if (load_4(mine) != before + 2u) atomicAdd(wrong, 1u);
    __syncthreads();
    if (load_4(words + blockIdx.x * blockDim.x) != before + 2u) atomicAdd(wrong, 1u);
}

// A counter under a lock.
extern "C" __global__ void count_locked(u32* lock, u32* count, u32 how) {
    while (atomicCAS(lock, 0u, 1u) != 0u) {
    }
    if (how == RIGHT) __threadfence();
    store_4(count, load_4(count) + 1u);
    if (how == RIGHT) __threadfence();
    atomicExch(lock, 0u);
}

// A block hands its numbers round by one.
extern "C" __global__ void hand_round(u32* words, u32* out, u32 how) {
    store_4(words + threadIdx.x, threadIdx.x);
    if (how == RIGHT) __syncthreads();
    store_4(out + threadIdx.x, load_4(words + (threadIdx.x + 1u) % blockDim.x));
}
