// CUDA's plain types and arithmetic, for g++: nothing here touches memory that threads share.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;

struct dim3 {
    u32 x, y, z;
};
struct alignas(8) uint2 {
    u32 x, y;
};
struct alignas(16) uint4 {
    u32 x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline int __popc(u32 v) { return std::popcount(v); }
inline int __popcll(u64 v) { return std::popcount(v); }
inline int __clz(i32 v) { return std::countl_zero((u32)v); }
inline int __ffs(i32 v) { return __builtin_ffs(v); }
inline u32 __umulhi(u32 a, u32 b) { return (u32)((u64)a * b >> 32); }
inline u32 __brev(u32 v) {
    u32 reversed = 0;
    for (int i = 0; i < 32; i++) reversed |= (v >> i & 1u) << (31 - i);
    return reversed;
}
inline u32 __vcmpeq4(u32 a, u32 b) {  // 0xff in each byte that is the same
    u32 same = 0;
    for (int i = 0; i < 32; i += 8)
        if ((a >> i & 255u) == (b >> i & 255u)) same |= 255u << i;
    return same;
}

// Compiled with -ffp-contract=off: none of these is fused with another.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __uint_as_float(u32 bits) { return std::bit_cast<float>(bits); }
inline u32 __float_as_uint(float value) { return std::bit_cast<u32>(value); }
inline float __int_as_float(i32 bits) { return std::bit_cast<float>(bits); }
inline i32 __float_as_int(float value) { return std::bit_cast<i32>(value); }

// As PTX's cvt.f32.f16.
inline float f16_to_f32(u16 half) {
    const u32 sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31u, fraction = half & 1023u;
    if (exponent == 0) return (sign ? -1.0f : 1.0f) * ((float)fraction * 0x1p-24f);
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
    return __uint_as_float(sign | (exponent + 112u) << 23 | fraction << 13);
}

// As PTX's cvt.rn.f16.f32: to the nearest, ties to even; from 65520 on infinity; one NaN for all.
inline u16 f32_to_f16(float value) {
    const u32 bits = __float_as_uint(value), magnitude = bits & 0x7fffffffu, sign = bits >> 16 & 0x8000u;
    if (magnitude > 0x7f800000u) return 0x7fffu;
    if (magnitude >= 0x477ff000u) return (u16)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) return (u16)(sign | (u32)rintf(fabsf(value) * 0x1p24f));  // steps of a subnormal
    const u32 rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
    return (u16)(sign | (rounded - 0x38000000u) >> 13);
}
