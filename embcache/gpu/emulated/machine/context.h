// Fibers: a stack each, and the switch from one to another.
#pragma once
#include <cstddef>

#if !defined(__x86_64__) || defined(WITH_UCONTEXT)
#define USE_UCONTEXT 1
#include <ucontext.h>
#endif

namespace cpu {

struct Context {
    void* top = nullptr;     // where its stack ends while another runs
    char* stack = nullptr;   // its lowest byte; null for the thread that the fibers run on
    size_t stack_bytes = 0;
    void* fake_stack = nullptr;  // AddressSanitizer's
    void* tsan = nullptr;        // ThreadSanitizer's
#if defined(USE_UCONTEXT)
    ucontext_t state;
#endif
};

// A context for `entry`, which calls `arrive` first and never returns. Its stack has a guard page below. One that has
// run before keeps its stack, and what ThreadSanitizer knows of it, until it is unmade.
void make(Context&, void (*entry)());
void unmake(Context&);

// The context of the thread that calls, as the place to come back to. Fibers may go on in another thread later.
void adopt(Context&);

void arrive(Context& here);               // the first thing that a new fiber does
void change(Context& from, Context& to);  // returns when somebody changes to `from`
[[noreturn]] void leave(Context& from, Context& to);  // `from` is not come back to

}  // namespace cpu
