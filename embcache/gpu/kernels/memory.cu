// How kernels touch memory that another stream may be writing. Words that decide what is read next (digests, slots) never
// come out of an SM's L1, which is not kept true: they are loaded at gpu scope. A digest is written as a part of its
// 32-bit word, the size in which it is loaded: accesses of mixed sizes give no ordering in PTX's memory model.
// On a CPU all of this comes from the machine that runs the kernels.
#if !defined(CUDA_ON_CPU)
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;

__device__ __forceinline__ u32 load_relaxed(const u32* p) {
    u32 v;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
__device__ __forceinline__ uint4 load_relaxed(const uint4* p) {
    uint4 v;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
    return v;
}
__device__ __forceinline__ uint4 load_acquire(const uint4* p) {
    uint4 v;
    asm volatile("ld.acquire.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
    return v;
}
__device__ __forceinline__ u8 load_relaxed(const u8* p) {
    u32 v;
    asm volatile("ld.relaxed.gpu.global.u8 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return (u8)v;
}
__device__ __forceinline__ void store_relaxed(u8* p, u8 v) {
    asm volatile("st.relaxed.gpu.global.u8 [%0], %1;" ::"l"(p), "r"((u32)v) : "memory");
}
__device__ __forceinline__ u16 load_relaxed(const u16* p) {
    u16 v;
    asm volatile("ld.relaxed.gpu.global.u16 %0, [%1];" : "=h"(v) : "l"(p) : "memory");
    return v;
}
__device__ __forceinline__ void store_relaxed(u16* p, u16 v) {
    asm volatile("st.relaxed.gpu.global.u16 [%0], %1;" ::"l"(p), "h"(v) : "memory");
}
__device__ __forceinline__ void store_relaxed(u32* p, u32 v) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
__device__ __forceinline__ void store_relaxed(uint4* p, uint4 v) {
    asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1,%2,%3,%4};"
                 ::"l"(p), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
__device__ __forceinline__ void or_relaxed(u32* p, u32 v) {
    asm volatile("red.relaxed.gpu.global.or.b32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
__device__ __forceinline__ void and_relaxed(u32* p, u32 v) {
    asm volatile("red.relaxed.gpu.global.and.b32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
__device__ __forceinline__ void and_release(u32* p, u32 v) {
    asm volatile("red.release.gpu.global.and.b32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
__device__ __forceinline__ void store_release_system(u32* p, u32 v) {
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}

__device__ __forceinline__ uint4 load_16(const uint4* p) { return *p; }
__device__ __forceinline__ uint2 load_8(const uint2* p) { return *p; }
__device__ __forceinline__ u32 load_4(const u32* p) { return *p; }
__device__ __forceinline__ u8 load_1(const u8* p) { return *p; }
__device__ __forceinline__ void store_16(uint4* p, uint4 v) { *p = v; }
__device__ __forceinline__ void store_8(uint2* p, uint2 v) { *p = v; }
__device__ __forceinline__ void store_4(u32* p, u32 v) { *p = v; }
__device__ __forceinline__ void store_2(u16* p, u16 v) { *p = v; }
__device__ __forceinline__ void store_1(u8* p, u8 v) { *p = v; }

__device__ __forceinline__ float f16_to_f32(u16 half) {
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(half));
    return v;
}
__device__ __forceinline__ u16 f32_to_f16(float value) {
    u16 half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
    return half;
}
#endif

#define FULL 0xffffffffu
#define NONE 0xffffffffu
