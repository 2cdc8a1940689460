// What AddressSanitizer and ThreadSanitizer are told of fibers and of what comes before what. Nothing in a plain build.
// The machine itself is compiled without either: they see the kernels alone.
#pragma once
#include <cstddef>
#include <vector>

#if defined(WITH_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(WITH_TSAN)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
unsigned __tsan_atomic32_load(const volatile unsigned*, int);
void AnnotateBenignRaceSized(const char*, int, const volatile void*, unsigned long, const char*);
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#endif

namespace cpu {

#if defined(WITH_TSAN)
constexpr bool TSAN = true;
constexpr unsigned NO_ORDER = 1;  // switch fibers without a happens-before edge
inline void tsan_acquire(const void* key) { __tsan_acquire(const_cast<void*>(key)); }
inline void tsan_release(const void* key) { __tsan_release(const_cast<void*>(key)); }
inline void tsan_acquire_word(const unsigned* word) { __tsan_atomic32_load(word, __ATOMIC_ACQUIRE); }

// While one of these lives, nothing that the thread or fiber does to memory is looked at. The machine is not
// instrumented, but calls malloc, free and memcpy, which are.
class Unseen {
  public:
    Unseen() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__), AnnotateIgnoreWritesBegin(__FILE__, __LINE__); }
    ~Unseen() { AnnotateIgnoreWritesEnd(__FILE__, __LINE__), AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
    Unseen(const Unseen&) = delete;
};

// Blocks have their shared memory at one address, one after the other: so no order can be asked of it.
inline void tsan_shared(const char* begin, unsigned long bytes) {
    AnnotateBenignRaceSized(__FILE__, __LINE__, begin, bytes, "shared memory");
}

// A fiber knows, from its birth, what its maker knows, and memory was written first by its mapper; but a scheduler has
// heard of everything. So both is done by one that knows nothing.
template <class Work>
void tsan_innocently(const Work& work) {
    static void* const innocent = __tsan_create_fiber(0);
    void* const here = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(innocent, NO_ORDER);
    work();
    __tsan_switch_to_fiber(here, NO_ORDER);
}

// What happened before all of `from` happens before `to`.
inline void tsan_pass_on(const std::vector<const void*>& from, const void* to) {
    void* const here = __tsan_get_current_fiber();
    void* courier = nullptr;
    tsan_innocently([&] { courier = __tsan_create_fiber(0); });
    __tsan_switch_to_fiber(courier, NO_ORDER);
    for (const void* key : from) tsan_acquire(key);
    tsan_release(to);
    __tsan_switch_to_fiber(here, NO_ORDER);
    __tsan_destroy_fiber(courier);
}
#else
constexpr bool TSAN = false;
inline void tsan_acquire(const void*) {}
inline void tsan_release(const void*) {}
inline void tsan_acquire_word(const unsigned*) {}
inline void tsan_pass_on(const std::vector<const void*>&, const void*) {}
inline void tsan_shared(const char*, unsigned long) {}
struct Unseen {
    Unseen() {}
};
#endif

}  // namespace cpu
