// A lookup: one launch for all its tables, or those of several lookups. The work comes in tiles (layout.py), which lie in
// pinned memory with the ids; a warp takes a tile, finds its ids and writes rows, statuses and the list of what it missed
// to where the tile says, which may be pinned memory or the device's own.

struct Tile {
    const u64* ids;       // [count]
    u8* out;              // rows [count], or [bags] where kind is BAGS
    u8* status;           // u8 [count]: HOT for an id that was found, else left alone
    i32* misses;          // places in their query of ids that were not found, in order
    u32* scale;           // f32 [count] or [bags], where wire is q8
    u32* bias;
    const u32* lengths;   // BAGS: ids of each bag [bags]
    const u32* weights;   // BAGS: f32 [count], or null
    u8* encoded;          // BAGS: rows as they are stored [count], of the bags that are not complete
    u8* done;             // BAGS: u8 [bags], whether the bag's row was written
    u32 count;
    u32 first;            // place in its query of the tile's first id
    u32 version;
    u32 pool;
    u32 dim;
    u32 row_bytes;        // of an encoded row
    u32 form;             // stored dtype | wire dtype << 8 | kind << 16 | pooling << 24
    u32 bags;
    u32 scratch;          // BAGS: where in the launch's scratch its ids begin
    u32 pad[3];
};
static_assert(sizeof(Tile) == TILE_BYTES, "layout.py: TILE");

struct Control {
    const Tile* tiles;
    u32* missed;          // of each tile: how many
    const Pool* pools;
    u32* finished;        // device memory: blocks that are done
    u32* scratch;         // device memory: a row number for each id of a bag
    u32 tile_count;
    u32 tick;             // another one for each launch: which ids' hits are noted as use, where not all are
    u32 number;           // of the launch
    u32 pad0[3];
    u32 done;             // becomes `number` once everything is written; on a line of its own
    u32 pad1[15];
};
static_assert(sizeof(Control) == CONTROL_BYTES, "layout.py: CONTROL");

// Which hits a launch notes as use: about as many of a large one as of a small one, whose hits are all noted. So who asks
// for little is heard as well as can be, and who reads at the speed of the memory does little else. A use that cannot grow
// is not written: in the long run next to no hit writes.
struct Noting {
    u32 tick;
    u32 mask;
};

__device__ __forceinline__ Noting noting_of(u32 tick, u32 tile_count) {
    u32 mask = 0;
    while (mask < SAMPLE - 1u && tile_count > NOTED_TILES * (mask + 1u)) mask = 2u * mask + 1u;
    return {tick, mask};
}

// A row was hit. Of two hits at once one may be lost: use is a hint, and no atomic is spent on it.
__device__ __forceinline__ void note_hit(const Pool& pool, u32 row) {
    u8* use = use_of(pool, row);
    const u8 now = load_relaxed(use);
    if (now < MOST_USE) store_relaxed(use, (u8)(now + 1));
}

struct Lane {
    u64 id;
    u32 row;  // NONE: not found
};

// Every lane looks for an id of its own. After it, all lanes may read all rows that were found.
__device__ __forceinline__ Lane find_one(const Pool& pool, const Tile& tile, u32 i, bool live, Noting noting) {
    Lane lane = {0, NONE};
    if (live) {
        lane.id = tile.ids[i];
        const u64 h = mix(lane.id, tile.version);
        lane.row = find_row(pool, lane.id, tile.version, place_of(pool, h));
        if (lane.row != NONE && (((u32)(h >> 8) + noting.tick) & noting.mask) == 0) note_hit(pool, lane.row);
    }
    __syncwarp();  // a lane's acquire covers those that copy for it; votes and shuffles order no memory
    return lane;
}

// Note of 32 ids which were found; -> how many were missed so far.
__device__ __forceinline__ u32 note_found(const Tile& tile, u32 lane, u32 i, bool live, u32 row, u32 missed) {
    const u32 misses = __ballot_sync(FULL, live && row == NONE);
    if (live && row != NONE) store_1(tile.status + i, HOT);
    if (misses >> lane & 1u) {
        const u32 before = (u32)__popc(misses & ((1u << lane) - 1u));
        store_4((u32*)tile.misses + missed + before, tile.first + i);
    }
    return missed + (u32)__popc(misses);
}

// Copy the 32 lanes' rows to out, as they are stored, 16 bytes at a time: four loads are under way before the first store.
__device__ __forceinline__ void copy_rows(const Pool& pool, u32 row_bytes, u32 lane, u32 row, u8* out) {
    const u32 pieces = row_bytes / 16u;
    const u32 inverse = (u32)(0xffffffffull / pieces) + 1u;  // exact below 2^16, and 0 stands for one piece a row
    for (u32 begin = 0; begin < 32u * pieces; begin += 128u) {
        uint4 piece[4];
        u32 from[4];
        for (u32 u = 0; u < 4u; u++) {
            const u32 p = begin + 32u * u + lane, k = pieces == 1u ? p : __umulhi(p, inverse);
            from[u] = __shfl_sync(FULL, row, (i32)(k & 31u));
            if (k >= 32u) from[u] = NONE;
            if (from[u] != NONE) piece[u] = load_relaxed((const uint4*)row_at(pool, from[u]) + (p - k * pieces));
        }
        for (u32 u = 0; u < 4u; u++) {
            if (from[u] != NONE) store_16((uint4*)out + begin + 32u * u + lane, piece[u]);
        }
    }
}

// The same for rows whose bytes are no multiple of 16, or that are very wide: one after the other.
__device__ __forceinline__ void copy_row_bytes(const Pool& pool, u32 row_bytes, u32 lane, u32 row, u8* out) {
    const u8* from = row_at(pool, row);
    if (row_bytes % 16u == 0 && (u64)out % 16u == 0) {
        for (u32 q = lane; q < row_bytes / 16u; q += 32u) store_16((uint4*)out + q, load_relaxed((const uint4*)from + q));
    } else if (row_bytes % 4u == 0 && (u64)out % 4u == 0) {
        for (u32 q = lane; q < row_bytes / 4u; q += 32u) store_4((u32*)out + q, load_4((const u32*)from + q));
    } else {
        for (u32 q = lane; q < row_bytes; q += 32u) store_1(out + q, load_1(from + q));
    }
}

__device__ __forceinline__ void express_rows(const Pool& pool, const Tile& tile, u32 lane, u32 base, u32 row) {
    const u32 stored = tile.form & 255u, wire = tile.form >> 8 & 255u, dim = tile.dim;
    const u32 out_bytes = wire == F32 ? 4u * dim : wire == Q8 ? dim : 2u * dim;
    for (u32 k = 0; k < 32u; k++) {
        const u32 from = __shfl_sync(FULL, row, (i32)k);
        if (from == NONE) continue;
        const u8* encoded = row_at(pool, from);
        u8* out = tile.out + (u64)(base + k) * out_bytes;
        if (stored == Q8 && wire == Q8) {
            for (u32 j = lane; j < dim; j += 32u) store_1(out + j, load_1(encoded + 8u + j));
            if (lane == 0) store_4(tile.scale + base + k, load_4((const u32*)encoded));
            if (lane == 0) store_4(tile.bias + base + k, load_4((const u32*)encoded + 1));
            continue;
        }
        express_row(wire, dim, lane, out, tile.scale + base + k, tile.bias + base + k,
                    [&](u32 q) { return decode_4(stored, encoded, q); });
    }
}

// -> how many ids were missed. ANY: whether rows may have to be expressed in another form.
template <bool ANY>
__device__ __forceinline__ u32 look_up_rows(const Pool& pool, const Tile& tile, u32 lane, Noting noting) {
    const u32 kind = tile.form >> 16 & 255u;
    u32 missed = 0;
    for (u32 base = 0; base < tile.count; base += 32u) {
        const u32 i = base + lane;
        const bool live = i < tile.count;
        const u32 row = find_one(pool, tile, i, live, noting).row;
        if (ANY && kind == EXPRESS) {
            express_rows(pool, tile, lane, base, row);
        } else if (kind == COPY) {
            copy_rows(pool, tile.row_bytes, lane, row, tile.out + (u64)base * tile.row_bytes);
        } else {
            for (u32 k = 0; k < 32u; k++) {
                const u32 from = __shfl_sync(FULL, row, (i32)k);
                if (from != NONE)
                    copy_row_bytes(pool, tile.row_bytes, lane, from, tile.out + (u64)(base + k) * tile.row_bytes);
            }
        }
        missed = note_found(tile, lane, i, live, row, missed);
    }
    return missed;
}
