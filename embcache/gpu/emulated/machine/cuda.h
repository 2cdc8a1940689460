// CUDA C++ for g++, put before the kernels' source: each thread of a block is a fiber of the machine beside this file.
// What is not here does not exist for kernels: __ldg, for one, whose cache is not kept true.
// __shared__ variables stand in extern "C" entry points only (g++ drops the section of a template's statics).
#pragma once
#include "memory.h"

#define CUDA_ON_CPU 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("gpu_shared")))  // one for all blocks: swapped with its block

#define threadIdx (::cpu::thread_index())
#define blockIdx (::cpu::block_index())
#define blockDim (::cpu::block_size())
#define gridDim (::cpu::grid_size())

inline void __syncthreads(SITE) { cpu::meet_block(site); }
inline void __syncwarp(u32 mask = 0xffffffffu, SITE) { cpu::meet(cpu::SYNC, mask, 0, 0, site); }
inline u32 __ballot_sync(u32 mask, int vote, SITE) { return (u32)cpu::meet(cpu::BALLOT, mask, vote != 0, 0, site); }
inline int __any_sync(u32 mask, int vote, SITE) { return __ballot_sync(mask, vote, site) != 0; }
inline int __all_sync(u32 mask, int vote, SITE) { return __ballot_sync(mask, vote, site) == mask; }

namespace cpu {
template <class T>
T shuffle(u32 mask, T value, u32 from, Site site) {
    static_assert(std::is_arithmetic_v<T> && sizeof(T) >= 4, "shuffles are for 32 and 64 bits");
    u64 bits = 0;
    memcpy(&bits, &value, sizeof(T));
    bits = meet(SHUFFLE, mask, bits, from & 31u, site);
    memcpy(&value, &bits, sizeof(T));
    return value;
}
}  // namespace cpu

template <class T>
T __shfl_sync(u32 mask, T value, i32 from, SITE) {
    return cpu::shuffle(mask, value, (u32)from, site);
}
template <class T>
T __shfl_xor_sync(u32 mask, T value, i32 with, SITE) {
    return cpu::shuffle(mask, value, cpu::lane() ^ (u32)with, site);
}
template <class T>
T __shfl_down_sync(u32 mask, T value, u32 by, SITE) {
    return cpu::shuffle(mask, value, cpu::lane() + by < 32u ? cpu::lane() + by : cpu::lane(), site);
}
template <class T>
T __shfl_up_sync(u32 mask, T value, u32 by, SITE) {
    return cpu::shuffle(mask, value, cpu::lane() >= by ? cpu::lane() - by : cpu::lane(), site);
}
template <class T>
u32 __match_any_sync(u32 mask, T value, SITE) {
    static_assert(std::is_integral_v<T>);
    return (u32)cpu::meet(cpu::MATCH, mask, (u64)value, 0, site);
}
inline u32 __reduce_add_sync(u32 mask, u32 v, SITE) { return (u32)cpu::meet(cpu::SUM_OF, mask, v, 0, site); }
inline u32 __reduce_min_sync(u32 mask, u32 v, SITE) { return (u32)cpu::meet(cpu::LEAST_OF, mask, v, 0, site); }
inline u32 __reduce_max_sync(u32 mask, u32 v, SITE) { return (u32)cpu::meet(cpu::MOST_OF, mask, v, 0, site); }
inline u32 __reduce_and_sync(u32 mask, u32 v, SITE) { return (u32)cpu::meet(cpu::AND_OF, mask, v, 0, site); }
inline u32 __reduce_or_sync(u32 mask, u32 v, SITE) { return (u32)cpu::meet(cpu::OR_OF, mask, v, 0, site); }
inline u32 __reduce_xor_sync(u32 mask, u32 v, SITE) { return (u32)cpu::meet(cpu::XOR_OF, mask, v, 0, site); }
