// Copying and clearing, as grids in their stream's order.
extern "C" __global__ void copy_bytes(u8* to, const u8* from, u64 bytes) {
    const u64 first = blockIdx.x * blockDim.x + threadIdx.x, stride = (u64)gridDim.x * blockDim.x;
    const bool wide = ((u64)to | (u64)from) % 16u == 0;
    const u64 pieces = wide ? bytes / 16u : 0;
    for (u64 i = first; i < pieces; i += stride) store_16((uint4*)to + i, load_16((const uint4*)from + i));
    for (u64 i = 16u * pieces + first; i < bytes; i += stride) store_1(to + i, load_1(from + i));
}

extern "C" __global__ void clear_bytes(u8* to, u64 bytes) {
    const u64 first = blockIdx.x * blockDim.x + threadIdx.x, stride = (u64)gridDim.x * blockDim.x;
    const u64 pieces = (u64)to % 16u == 0 ? bytes / 16u : 0;
    for (u64 i = first; i < pieces; i += stride) store_16((uint4*)to + i, make_uint4(0, 0, 0, 0));
    for (u64 i = 16u * pieces + first; i < bytes; i += stride) store_1(to + i, 0);
}
