// Device memory as kernels touch it, the CPU's twin of kernels/memory.cu. Relaxed, acquire and release accesses are
// atomic, in 32-bit parts: 16 bytes promise no more, and their parts come in any order. Plain ones are not atomic, so
// that ThreadSanitizer judges them, and where the machine is told so they may be answered by a stale L1: what a grid
// both stores and loads must go through these functions then, both ways.
#pragma once
#include <concepts>
#include <cstring>
#include <type_traits>

#include "calls.h"

#define SITE ::cpu::Site site = ::cpu::Site::current()

namespace cpu {

// The order is a constant: g++ makes one that is not the strongest there is.
template <int ORDER, class T>
T load_atomic(const T* p, Site site) {
    reach(p, sizeof(T), site);
    const T value = __atomic_load_n(p, ORDER);
    ORDER == __ATOMIC_RELAXED ? loaded(p) : acquired();
    return value;
}

template <int ORDER, class T>
void store_atomic(T* p, T value, Site site) {
    reach(p, sizeof(T), site);
    stored(p);
    __atomic_store_n(p, value, ORDER);
}

template <class T>
T load_plain(const T* p, Site site) {
    reach(p, sizeof(T), site);
    T value = *p;
    through_l1(p, &value, sizeof(T));
    return value;
}

template <class T>
void store_plain(T* p, T value, Site site) {
    reach(p, sizeof(T), site);
    stored(p);
    *p = value;
}

// Do something to the two halves of 16 bytes, with points before both.
template <class Half>
void in_halves(const void* p, Site site, const Half& half) {
    const u32 first = coin() ? 2u : 0u;
    reach(p, 16, site);
    half(first);
    point(site);
    half(2u - first);
}

template <int ORDER>
uint4 load_parts(const uint4* p, Site site) {
    u32 parts[4];
    const u32* from = (const u32*)p;
    in_halves(p, site, [&](u32 i) {
        parts[i] = __atomic_load_n(from + i, ORDER);
        parts[i + 1] = __atomic_load_n(from + i + 1, ORDER);
    });
    ORDER == __ATOMIC_RELAXED ? loaded(p) : acquired();
    return {parts[0], parts[1], parts[2], parts[3]};
}

}  // namespace cpu

inline u8 load_relaxed(const u8* p, SITE) { return cpu::load_atomic<__ATOMIC_RELAXED>(p, site); }
inline u16 load_relaxed(const u16* p, SITE) { return cpu::load_atomic<__ATOMIC_RELAXED>(p, site); }
inline u32 load_relaxed(const u32* p, SITE) { return cpu::load_atomic<__ATOMIC_RELAXED>(p, site); }
inline u64 load_relaxed(const u64* p, SITE) { return cpu::load_atomic<__ATOMIC_RELAXED>(p, site); }
inline uint4 load_relaxed(const uint4* p, SITE) { return cpu::load_parts<__ATOMIC_RELAXED>(p, site); }
inline u32 load_acquire(const u32* p, SITE) { return cpu::load_atomic<__ATOMIC_ACQUIRE>(p, site); }
inline uint4 load_acquire(const uint4* p, SITE) { return cpu::load_parts<__ATOMIC_ACQUIRE>(p, site); }
inline u32 load_acquire_system(const u32* p, SITE) { return cpu::load_atomic<__ATOMIC_ACQUIRE>(p, site); }

inline void store_relaxed(u8* p, u8 v, SITE) { cpu::store_atomic<__ATOMIC_RELAXED>(p, v, site); }
inline void store_relaxed(u16* p, u16 v, SITE) { cpu::store_atomic<__ATOMIC_RELAXED>(p, v, site); }
inline void store_relaxed(u32* p, u32 v, SITE) { cpu::store_atomic<__ATOMIC_RELAXED>(p, v, site); }
inline void store_relaxed(u64* p, u64 v, SITE) { cpu::store_atomic<__ATOMIC_RELAXED>(p, v, site); }
inline void store_release(u32* p, u32 v, SITE) { cpu::store_atomic<__ATOMIC_RELEASE>(p, v, site); }
inline void store_release_system(u32* p, u32 v, SITE) { cpu::store_atomic<__ATOMIC_RELEASE>(p, v, site); }
inline void store_relaxed(uint4* p, uint4 v, SITE) {
    const u32 parts[4] = {v.x, v.y, v.z, v.w};
    u32* to = (u32*)p;
    cpu::in_halves(p, site, [&](u32 i) {
        cpu::stored(to + i);
        __atomic_store_n(to + i, parts[i], __ATOMIC_RELAXED);
        __atomic_store_n(to + i + 1, parts[i + 1], __ATOMIC_RELAXED);
    });
}

inline u8 load_1(const u8* p, SITE) { return cpu::load_plain(p, site); }
inline u16 load_2(const u16* p, SITE) { return cpu::load_plain(p, site); }
inline u32 load_4(const u32* p, SITE) { return cpu::load_plain(p, site); }
inline u32 load_u32(const u32* p, SITE) { return cpu::load_plain(p, site); }
inline uint2 load_8(const uint2* p, SITE) { return cpu::load_plain(p, site); }
inline uint4 load_16(const uint4* p, SITE) {
    u32 parts[4];
    const u32* from = (const u32*)p;
    cpu::in_halves(p, site, [&](u32 i) { parts[i] = from[i], parts[i + 1] = from[i + 1]; });
    cpu::through_l1(p, parts, 16);
    return {parts[0], parts[1], parts[2], parts[3]};
}

inline void store_1(u8* p, u8 v, SITE) { cpu::store_plain(p, v, site); }
inline void store_2(u16* p, u16 v, SITE) { cpu::store_plain(p, v, site); }
inline void store_4(u32* p, u32 v, SITE) { cpu::store_plain(p, v, site); }
inline void store_8(uint2* p, uint2 v, SITE) { cpu::store_plain(p, v, site); }
inline void store_16(uint4* p, uint4 v, SITE) {
    const u32 parts[4] = {v.x, v.y, v.z, v.w};
    u32* to = (u32*)p;
    cpu::in_halves(p, site, [&](u32 i) { cpu::stored(to + i), to[i] = parts[i], to[i + 1] = parts[i + 1]; });
}

// Atomics on 32 and 64 bits, relaxed as CUDA's are unless the name says more.
template <class T>
concept Word = std::same_as<T, u32> || std::same_as<T, u64> || std::same_as<T, i32>;

namespace cpu {
template <Word T, class Change>
T change(T* p, Site site, const Change& make) {
    reach(p, sizeof(T), site);
    loaded(p), stored(p);
    return make();
}
// The new value from the old one; nobody comes in between, since a thread loses its turn at points alone.
template <Word T, class Next>
T change_to(T* p, Site site, const Next& next) {
    return change(p, site, [&] {
        T old = __atomic_load_n(p, __ATOMIC_RELAXED);
        while (!__atomic_compare_exchange_n(p, &old, next(old), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
        }
        return old;
    });
}
}  // namespace cpu

template <Word T>
T atomicAdd(T* p, std::type_identity_t<T> v, SITE) {
    return cpu::change(p, site, [&] { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); });
}
template <Word T>
T atomicSub(T* p, std::type_identity_t<T> v, SITE) {
    return cpu::change(p, site, [&] { return __atomic_fetch_sub(p, v, __ATOMIC_RELAXED); });
}
template <Word T>
T atomicExch(T* p, std::type_identity_t<T> v, SITE) {
    return cpu::change(p, site, [&] { return __atomic_exchange_n(p, v, __ATOMIC_RELAXED); });
}
template <Word T>
T atomicOr(T* p, std::type_identity_t<T> v, SITE) {
    return cpu::change(p, site, [&] { return __atomic_fetch_or(p, v, __ATOMIC_RELAXED); });
}
template <Word T>
T atomicAnd(T* p, std::type_identity_t<T> v, SITE) {
    return cpu::change(p, site, [&] { return __atomic_fetch_and(p, v, __ATOMIC_RELAXED); });
}
template <Word T>
T atomicMax(T* p, std::type_identity_t<T> v, SITE) {
    return cpu::change_to(p, site, [&](T old) { return old > v ? old : v; });
}
template <Word T>
T atomicMin(T* p, std::type_identity_t<T> v, SITE) {
    return cpu::change_to(p, site, [&](T old) { return old < v ? old : v; });
}
template <Word T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v, SITE) {
    const T old = cpu::change(p, site, [&] {
        T found = expected;
        __atomic_compare_exchange_n(p, &found, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
        return found;
    });
    if (old != expected) cpu::give_way(site);  // who waits for a lock lets its holder go on
    return old;
}

inline void or_relaxed(u32* p, u32 v, SITE) { atomicOr(p, v, site); }
inline void and_relaxed(u32* p, u32 v, SITE) { atomicAnd(p, v, site); }
inline void or_release(u32* p, u32 v, SITE) {
    cpu::change(p, site, [&] { return __atomic_fetch_or(p, v, __ATOMIC_RELEASE); });
}
inline void and_release(u32* p, u32 v, SITE) {
    cpu::change(p, site, [&] { return __atomic_fetch_and(p, v, __ATOMIC_RELEASE); });
}

inline void __threadfence(SITE) { cpu::fence(site); }
inline void __threadfence_system(SITE) { cpu::fence(site); }
inline void __nanosleep(u32, SITE) { cpu::give_way(site); }
