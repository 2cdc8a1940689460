// One mistake each; where a repaired twin is needed, `right` says which it is.

extern "C" __global__ void diverged_ballot(u32* out) {
    if (threadIdx.x < 16u) store_4(out, __ballot_sync(FULL, 1));
    else store_4(out + 1, __ballot_sync(FULL, 1));
}

extern "C" __global__ void ballot_without_the_rest(u32* out) {
    if (threadIdx.x < 16u) return;
    store_4(out, __ballot_sync(FULL, 1));
}

extern "C" __global__ void ballot_after_the_rest(u32* out) {
    if (threadIdx.x < 16u) return;
    for (u32 i = 0; i < 200u; i++) store_4(out + threadIdx.x, i);
    store_4(out, __ballot_sync(FULL, 1));
}

extern "C" __global__ void ballot_before_the_rest(u32* out) {
    if (threadIdx.x < 16u) {
        for (u32 i = 0; i < 200u; i++) store_4(out + threadIdx.x, i);
        return;
    }
    store_4(out, __ballot_sync(FULL, 1));
}

extern "C" __global__ void shuffle_from_outside(u32* out) {
    if (threadIdx.x < 16u) return;
    store_4(out + threadIdx.x, __shfl_sync(0xffff0000u, threadIdx.x, 3));
}

extern "C" __global__ void mask_without_caller(u32* out) { store_4(out + threadIdx.x, __ballot_sync(0x0000ffffu, 1)); }

extern "C" __global__ void full_mask(u32* out) { store_4(out + threadIdx.x, __ballot_sync(FULL, 1)); }

extern "C" __global__ void missing_barrier(const u32* in, u32* out, u32 right) {
    __shared__ u32 sum;
    if (threadIdx.x == 0) sum = 0;
    if (right) __syncthreads();
    atomicAdd(&sum, load_4(in + threadIdx.x));
    if (right) __syncthreads();
    if (threadIdx.x == 0) store_4(out, sum);
}

extern "C" __global__ void barrier_against_collective(u32* out) {
    if (threadIdx.x < 16u) __syncthreads();
    store_4(out + threadIdx.x, __ballot_sync(FULL, 1));
}

extern "C" __global__ void beyond_the_end(const u32* in, u32 count, u32* out) {
    const u32 i = this_thread();
    if (i <= count) store_4(out, load_4(in + i));
}

extern "C" __global__ void raw_beyond_the_end(const u32* in, u32 count, u32* out) {
    const u32 i = this_thread();
    if (i <= count) out[0] = in[i];
}

extern "C" __global__ void misaligned(const u8* in, u32 size, u32* out) {
    if (size == 16u) store_4(out, load_16((const uint4*)(in + 8)).x);
    if (size == 8u) store_4(out, load_8((const uint2*)(in + 4)).x);
    if (size == 4u) store_4(out, load_4((const u32*)(in + 2)));
    if (size == 2u) store_4(out, load_2((const u16*)(in + 1)));
}

extern "C" __global__ void shift_too_far(u32* out, u32 by) { store_4(out, 1u << by); }

extern "C" __global__ void kept_lock(u32* lock, u32* out) {
    while (atomicCAS(lock, 0u, 1u) != 0u) {
    }
    store_4(out, threadIdx.x);
}

// A deep call: each frame is a kilobyte of the thread's stack.
__device__ u32 deep(u32 depth, u32* out) {
    u32 frame[256];
    for (u32 i = 0; i < 256u; i++) frame[i] = depth ^ i;
    store_4(out, frame[depth & 255u]);
    return depth ? deep(depth - 1u, out) + frame[(depth * 7u) & 255u] : 0u;
}
extern "C" __global__ void recursion(u32* out, u32 depth) { store_4(out + 1, deep(depth, out)); }
