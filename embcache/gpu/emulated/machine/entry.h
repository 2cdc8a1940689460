// How the generated table of kernels is made (build.py): each entry point behind a function that takes u64s.
#pragma once
#include <tuple>
#include <utility>

#include "cuda.h"

namespace cpu {

struct Kernel {  // as in grid.h
    const char* name;
    void (*run)(const u64* arguments);
    u32 parameters;
    u32 most_threads;
};

// The arguments' array is the machine's own.
__attribute__((noinline, no_sanitize("address", "thread"))) inline u64 word(const u64* arguments, size_t i) {
    return arguments[i];
}

template <class T>
T argument(const u64* arguments, size_t i) {  // its low bytes
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(u64), "a parameter has at most 8 bytes");
    const u64 bits = word(arguments, i);
    T value;
    memcpy(&value, &bits, sizeof(T));
    return value;
}

template <auto KERNEL>
struct Entry;
template <class... T, void (*KERNEL)(T...)>
struct Entry<KERNEL> {
    static constexpr u32 parameters = sizeof...(T);
    static void run([[maybe_unused]] const u64* arguments) {
        const auto call = [&]<size_t... I>(std::index_sequence<I...>) { KERNEL(argument<T>(arguments, I)...); };
        call(std::index_sequence_for<T...>{});
    }
};

}  // namespace cpu
