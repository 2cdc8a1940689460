// The lookup's entry points: one for tiles of any kind, and one for rows that go out as they are stored, which gets along
// with fewer registers, so that more of them are on their way at once.
template <bool ANY>
__device__ __forceinline__ void look_up_tiles(Control* control) {
    const u32 lane = threadIdx.x & 31u, warps = gridDim.x * (blockDim.x / 32u);
    const u32 tile_count = control->tile_count;
    const Noting noting = noting_of(control->tick, tile_count);
    for (u32 t = (blockIdx.x * blockDim.x + threadIdx.x) / 32u; t < tile_count; t += warps) {
        const Tile tile = control->tiles[t];
        const Pool pool = control->pools[tile.pool];
        u32 missed;
        if (ANY && (tile.form >> 16 & 255u) == BAGS) missed = look_up_bags(pool, tile, control->scratch, lane, noting);
        else missed = look_up_rows<ANY>(pool, tile, lane, noting);
        if (lane == 0) store_4(control->missed + t, missed);
    }
    // The last block to come here says that all is written. The barrier and the fence make what the whole block wrote
    // visible to the host before the count that says so.
    __syncthreads();
    if (threadIdx.x != 0) return;
    __threadfence_system();
    if (atomicAdd(control->finished, 1u) + 1u != gridDim.x) return;
    atomicExch(control->finished, 0u);
    __threadfence_system();
    store_release_system(&control->done, control->number);
}

extern "C" __global__ void __launch_bounds__(128) look_up(Control* control) { look_up_tiles<true>(control); }

extern "C" __global__ void __launch_bounds__(128) look_up_stored(Control* control) { look_up_tiles<false>(control); }
