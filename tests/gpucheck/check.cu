// Kernels of the check's own, compiled behind the hot tier's: what makes ids and rows on the device, what proves rows,
// and the plain gather that lookups are compared with. A row proves itself as in tests/host/proving.py: its first 8-byte
// word is the writing, word k is id * MIX + writing + k.
#define PROVING_MIX 0x9E3779B97F4A7C15ull

__device__ __forceinline__ uint4 two_words(u64 a, u64 b) { return make_uint4((u32)a, (u32)(a >> 32), (u32)b, (u32)(b >> 32)); }

// Distinct ids [count], the ones after `first`.
extern "C" __global__ void __launch_bounds__(128) make_ids(u64* ids, u64 first, u32 count) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) ids[i] = (first + i + 1u) * PROVING_MIX;
}

// Rows [count] of `pieces` pieces of 16 bytes, a thread a piece.
extern "C" __global__ void __launch_bounds__(128) make_rows(const u64* ids, u32 count, u64 writing, uint4* rows, u32 pieces) {
    const u32 p = blockIdx.x * blockDim.x + threadIdx.x;
    if (p >= count * pieces) return;
    const u32 k = 2u * (p % pieces);
    const u64 base = ids[p / pieces] * PROVING_MIX + writing;
    store_16(rows + p, two_words(k ? base + k : writing, base + k + 1u));
}

// Look at rows [count], a warp a row, those alone whose status is HOT. counts u32 [3]: 0 such rows, 1 those that are torn
// or another id's, 2 those of a writing before `least`.
extern "C" __global__ void __launch_bounds__(128)
prove_rows(const u64* ids, u32 count, const u8* status, const uint4* rows, u32 pieces, u64 least, u32* counts) {
    const u32 lane = threadIdx.x & 31u, i = (blockIdx.x * blockDim.x + threadIdx.x) / 32u;
    if (i >= count || load_1(status + i) != HOT) return;
    const uint4* row = rows + (u64)i * pieces;
    const uint4 head = load_16(row);
    const u64 writing = (u64)head.y << 32 | head.x, base = ids[i] * PROVING_MIX + writing;
    bool broken = false;
    for (u32 q = lane; q < pieces; q += 32u) {
        const uint4 there = load_16(row + q), wanted = two_words(q ? base + 2u * q : writing, base + 2u * q + 1u);
        broken |= there.x != wanted.x || there.y != wanted.y || there.z != wanted.z || there.w != wanted.w;
    }
    broken = __any_sync(FULL, broken);
    if (lane != 0) return;
    atomicAdd(counts, 1u);
    if (broken) atomicAdd(counts + 1, 1u);
    if (writing < least) atomicAdd(counts + 2, 1u);
}

// The ids [count] that stand in these of the slots that `audit` listed.
extern "C" __global__ void __launch_bounds__(128) pick_ids(const uint4* listed, const u32* places, u32 count, u64* ids) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const uint4 slot = load_16(listed + load_4(places + i));
    ids[i] = (u64)slot.y << 32 | slot.x;
}

// Copy rows of 16 << shift bytes from random places, four loads under way before the first store: what no lookup can
// beat, since it has to find its places, too.
extern "C" __global__ void __launch_bounds__(128)
gather(const uint4* rows, const u32* places, u32 count, u32 shift, uint4* out) {
    const u64 lane = threadIdx.x & 31u, warp = ((u64)blockIdx.x * blockDim.x + threadIdx.x) / 32u;
    const u64 begin = warp * 128u + lane, pieces = (u64)count << shift;
    uint4 piece[4];
    for (u32 u = 0; u < 4u; u++) {
        const u64 p = begin + 32u * u;
        if (p < pieces) piece[u] = load_16(rows + (((u64)load_4(places + (p >> shift)) << shift) | (p & ((1ull << shift) - 1u))));
    }
    for (u32 u = 0; u < 4u; u++) {
        if (begin + 32u * u < pieces) store_16(out + begin + 32u * u, piece[u]);
    }
}
