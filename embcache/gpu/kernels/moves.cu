// Rows that the host found, to arrays in device memory: one launch for all arrays of a lookup.

struct Move {
    const u8* from;       // an array of rows of `bytes` bytes, in pinned memory
    u8* to;               // an array of as many, the device's
    const u32* places;    // which rows [count]
    u32 bytes;
    u32 count;            // at most MOVE_ROWS
};
static_assert(sizeof(Move) == MOVE_BYTES, "layout.py: MOVE");

__device__ __forceinline__ uint4 load_piece(const uint4* p) { return load_16(p); }
__device__ __forceinline__ u32 load_piece(const u32* p) { return load_4(p); }
__device__ __forceinline__ u8 load_piece(const u8* p) { return load_1(p); }
__device__ __forceinline__ void store_piece(uint4* p, uint4 v) { store_16(p, v); }
__device__ __forceinline__ void store_piece(u32* p, u32 v) { store_4(p, v); }
__device__ __forceinline__ void store_piece(u8* p, u8 v) { store_1(p, v); }

// A warp's move in pieces of a size that divides rows and addresses. Four loads cross the bus before the first store.
template <typename Piece>
__device__ __forceinline__ void move_rows(const Move& move, u32 lane) {
    const u32 pieces = move.bytes / (u32)sizeof(Piece), all = pieces * move.count;
    for (u32 begin = lane; begin < all; begin += 128u) {
        Piece piece[4];
        u64 at[4];
        for (u32 u = 0; u < 4u; u++) {
            const u32 p = begin + 32u * u;
            if (p >= all) break;
            at[u] = (u64)load_4(move.places + p / pieces) * pieces + p % pieces;
            piece[u] = load_piece((const Piece*)move.from + at[u]);
        }
        for (u32 u = 0; u < 4u && begin + 32u * u < all; u++) store_piece((Piece*)move.to + at[u], piece[u]);
    }
}

// A warp a move.
extern "C" __global__ void __launch_bounds__(128) scatter(const Move* moves, u32 count) {
    const u32 lane = threadIdx.x & 31u, i = (blockIdx.x * blockDim.x + threadIdx.x) / 32u;
    if (i >= count) return;
    const Move move = moves[i];
    const u64 all = (u64)move.from | (u64)move.to | move.bytes;
    if (all % 16u == 0) move_rows<uint4>(move, lane);
    else if (all % 4u == 0) move_rows<u32>(move, lane);
    else move_rows<u8>(move, lane);
}
