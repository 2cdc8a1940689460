// What each collective, atomic and conversion gives, for tests to hold against NumPy.

extern "C" __global__ void votes(const u32* in, u32* out) {
    const u32 i = this_thread(), v = load_4(in + i);
    store_4(out + 4u * i, __ballot_sync(FULL, v & 1u));
    store_4(out + 4u * i + 1, (u32)__any_sync(FULL, v & 1u));
    store_4(out + 4u * i + 2, (u32)__all_sync(FULL, v & 1u));
    store_4(out + 4u * i + 3, __match_any_sync(FULL, v & 3u));
}

extern "C" __global__ void shuffles(const u32* in, u32* out) {
    const u32 i = this_thread(), v = load_4(in + i);
    store_4(out + 5u * i, __shfl_sync(FULL, v, 7));
    store_4(out + 5u * i + 1, __shfl_xor_sync(FULL, v, 5));
    store_4(out + 5u * i + 2, __shfl_down_sync(FULL, v, 3u));
    store_4(out + 5u * i + 3, __shfl_up_sync(FULL, v, 3u));
    store_4(out + 5u * i + 4, (u32)(__shfl_sync(FULL, (u64)v << 32, 9) >> 32));
}

extern "C" __global__ void reductions(const u32* in, u32* out) {
    const u32 i = this_thread(), v = load_4(in + i);
    store_4(out + 6u * i, __reduce_add_sync(FULL, v));
    store_4(out + 6u * i + 1, __reduce_min_sync(FULL, v));
    store_4(out + 6u * i + 2, __reduce_max_sync(FULL, v));
    store_4(out + 6u * i + 3, __reduce_and_sync(FULL, v));
    store_4(out + 6u * i + 4, __reduce_or_sync(FULL, v));
    store_4(out + 6u * i + 5, __reduce_xor_sync(FULL, v));
}

// The two halves of a warp go ways of their own, each with its mask.
extern "C" __global__ void half_warps(const u32* in, u32* out) {
    const u32 i = this_thread(), v = load_4(in + i);
    if ((i & 31u) < 16u) store_4(out + i, __reduce_add_sync(0x0000ffffu, v));
    else store_4(out + i, __reduce_max_sync(0xffff0000u, v));
}

// A block's sum, by way of its shared memory; and the sum of all.
extern "C" __global__ void __launch_bounds__(256) sums(const u32* in, u32 count, u32* of_block, u32* of_all) {
    __shared__ u32 sum;
    if (threadIdx.x == 0) sum = 0;
    __syncthreads();
    if (this_thread() < count) atomicAdd(&sum, load_4(in + this_thread()));
    __syncthreads();
    if (threadIdx.x != 0) return;
    store_4(of_block + blockIdx.x, sum);
    atomicAdd(of_all, sum);
}

// All threads at the same words: what each atomic leaves behind.
extern "C" __global__ void atomics(u32* words, u64* wide) {
    const u32 i = this_thread();
    atomicAdd(words, 1u), atomicSub(words + 1, 1u);
    atomicOr(words + 2, 1u << (i & 31u)), atomicAnd(words + 3, ~(1u << (i & 31u)));
    atomicMax(words + 4, i), atomicMin(words + 5, i);
    for (;;) {
        const u32 old = load_relaxed(words + 6);
        if (atomicCAS(words + 6, old, old + 2u) == old) break;
    }
    atomicAdd(words + 7, atomicExch(words + 8, i + 1u));
    atomicAdd(wide, 1ull << 32), atomicMax(wide + 1, (u64)i << 32);
}

extern "C" __global__ void halves(const u32* bits, u16* to_half, const u16* half, u32* from_half, u32 count) {
    const u32 i = this_thread();
    if (i >= count) return;
    store_2(to_half + i, f32_to_f16(__uint_as_float(load_4(bits + i))));
    if (i < 65536u) store_4(from_half + i, __float_as_uint(f16_to_f32(load_2(half + i))));
}

// Bytes of each kind of access, one after the other, from in to out: 16, 16, 16, 8, 4, 2, 1.
extern "C" __global__ void accesses(const u8* in, u8* out) {
    store_16((uint4*)out, load_16((const uint4*)in));
    store_relaxed((uint4*)out + 1, load_relaxed((const uint4*)in + 1));
    store_16((uint4*)out + 2, load_acquire((const uint4*)in + 2));
    store_8((uint2*)out + 6, load_8((const uint2*)in + 6));
    store_4((u32*)out + 14, load_4((const u32*)in + 14));
    store_2((u16*)out + 30, load_2((const u16*)in + 30));
    store_1(out + 62, load_1(in + 62));
    store_relaxed(out + 63, load_relaxed(in + 63));
}

extern "C" __global__ void arithmetic(const u32* in, u32* out) {
    const u32 i = this_thread(), v = load_4(in + i);
    store_4(out + 6u * i, (u32)__popc(v));
    store_4(out + 6u * i + 1, (u32)__ffs((i32)v));
    store_4(out + 6u * i + 2, (u32)__clz((i32)v));
    store_4(out + 6u * i + 3, __brev(v));
    store_4(out + 6u * i + 4, __umulhi(v, 0x9e3779b9u));
    store_4(out + 6u * i + 5, __vcmpeq4(v, 0x01020304u));
}
