// Bags: a warp finds all ids of a bag, and if it has them all, pools their rows, so that one row leaves the device. A bag
// that lacks some is left to the host: its rows that are here go there as they are stored.
// Sums are made in f32 in the order of the ids, as on the host: so it does not matter which tier a bag is pooled in.

struct Bag {
    const Pool* pool;
    const Tile* tile;
    u32 begin;    // place in the tile of its first id
    u32 length;
    u32 first32;  // this lane's row of the first 32 ids
};

// This lane's row of the 32 ids from `base` on: in a register, or noted by this very lane.
__device__ __forceinline__ u32 row_in_bag(const Bag& bag, const u32* scratch, u32 base, u32 lane) {
    if (base == 0) return bag.first32;
    return base + lane < bag.length ? load_4(scratch + bag.begin + base + lane) : NONE;
}

// Elements [4 q, 4 q + 4) of a whole bag's pooled row. All lanes of the warp call it together.
__device__ __forceinline__ Float4 pooled_4(const Bag& bag, const u32* scratch, u32 lane, u32 q) {
    const Tile& tile = *bag.tile;
    const u32 stored = tile.form & 255u;
    const bool wanted = q < elements_of(tile.dim);
    Float4 sum = {{0.0f, 0.0f, 0.0f, 0.0f}};
    for (u32 base = 0; base < bag.length; base += 32u) {
        const u32 mine = row_in_bag(bag, scratch, base, lane);
        const u32 here = bag.length - base < 32u ? bag.length - base : 32u;
        for (u32 k = 0; k < here; k++) {
            const u32 from = __shfl_sync(FULL, mine, (i32)k);
            if (!wanted) continue;
            const Float4 e = decode_4(stored, row_at(*bag.pool, from), q);
            if (tile.weights) {
                const float weight = __uint_as_float(load_4(tile.weights + bag.begin + base + k));
                for (u32 j = 0; j < 4u; j++) sum.v[j] = __fadd_rn(sum.v[j], __fmul_rn(e.v[j], weight));
            } else {
                for (u32 j = 0; j < 4u; j++) sum.v[j] = __fadd_rn(sum.v[j], e.v[j]);
            }
        }
    }
    if ((tile.form >> 24) == MEAN && bag.length)
        for (u32 j = 0; j < 4u; j++) sum.v[j] = __fdiv_rn(sum.v[j], (float)bag.length);
    return sum;
}

// All lanes go through the same q blocks, since `pooled_4` is a warp's.
__device__ __forceinline__ void write_bag(const Bag& bag, const u32* scratch, u32 lane, u32 at) {
    const Tile& tile = *bag.tile;
    const u32 wire = tile.form >> 8 & 255u, dim = tile.dim, count = elements_of(dim);
    u8* out = tile.out + (u64)at * (wire == F32 ? 4u * dim : wire == Q8 ? dim : 2u * dim);
    if (wire != Q8) {
        for (u32 block = 0; block < count; block += 32u) {
            const Float4 e = pooled_4(bag, scratch, lane, block + lane);
            if (block + lane < count) encode_4(wire, out, dim, block + lane, e);
        }
        return;
    }
    float low = __uint_as_float(0x7f800000u), high = __uint_as_float(0xff800000u);
    for (u32 block = 0; block < count; block += 32u) {
        const Float4 e = pooled_4(bag, scratch, lane, block + lane);
        for (u32 j = 0; j < 4u && 4u * (block + lane) + j < dim; j++) low = fminf(low, e.v[j]), high = fmaxf(high, e.v[j]);
    }
    extremes(low, high);
    const Scale s = scale_of(low, high);
    if (lane == 0) store_4(tile.scale + at, __float_as_uint(s.scale)), store_4(tile.bias + at, __float_as_uint(s.low));
    for (u32 block = 0; block < count; block += 32u) {
        const Float4 e = pooled_4(bag, scratch, lane, block + lane);
        if (block + lane < count) encode_codes(out, dim, block + lane, s, e);
    }
}

__device__ __forceinline__ void hand_over(const Bag& bag, const u32* scratch, u32 lane) {
    const Tile& tile = *bag.tile;
    for (u32 base = 0; base < bag.length; base += 32u) {
        const u32 mine = row_in_bag(bag, scratch, base, lane);
        for (u32 k = 0; k < 32u; k++) {
            const u32 from = __shfl_sync(FULL, mine, (i32)k);
            if (from != NONE)
                copy_row_bytes(*bag.pool, tile.row_bytes, lane, from,
                               tile.encoded + (u64)(bag.begin + base + k) * tile.row_bytes);
        }
    }
}

// -> how many ids were missed.
__device__ __forceinline__ u32
look_up_bags(const Pool& pool, const Tile& tile, u32* launch_scratch, u32 lane, Noting noting) {
    u32* scratch = launch_scratch + tile.scratch;
    u32 missed = 0;
    Bag bag = {&pool, &tile, 0, 0, NONE};
    for (u32 b = 0; b < tile.bags; b++, bag.begin += bag.length) {
        bag.length = tile.lengths[b];
        bag.first32 = NONE;
        const u32 missed_before = missed;
        for (u32 base = 0; base < bag.length; base += 32u) {
            const u32 i = bag.begin + base + lane;
            const bool live = base + lane < bag.length;
            const u32 row = find_one(pool, tile, i, live, noting).row;
            if (base == 0) bag.first32 = row;
            else if (live) store_4(scratch + i, row);
            missed = note_found(tile, lane, i, live, row, missed);
        }
        const bool complete = missed == missed_before;
        if (complete) write_bag(bag, scratch, lane, b);
        else hand_over(bag, scratch, lane);
        if (lane == 0) store_1(tile.done + b, complete ? 1 : 0);
    }
    return missed;
}
