#include "context.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "sanitizers.h"

namespace cpu {
namespace {

#if defined(WITH_ASAN) || defined(WITH_TSAN)
constexpr size_t STACK_BYTES = 256 << 10;  // their frames are wider
#else
constexpr size_t STACK_BYTES = 64 << 10;
#endif
constexpr size_t GUARD_BYTES = 4096;

char* map_stack() {
    void* base = mmap(nullptr, GUARD_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED || mprotect(base, GUARD_BYTES, PROT_NONE) != 0) {
        perror("no memory for the stack of a kernel's thread");
        abort();
    }
    return (char*)base + GUARD_BYTES;
}

void unmap_stack(char* stack) { munmap(stack - GUARD_BYTES, GUARD_BYTES + STACK_BYTES); }

#if !defined(USE_UCONTEXT)
extern "C" void embcache_switch(void** save, void* load);
// Callee-saved registers onto the stack that is left, and off the one that is come back to.
asm(R"(
.text
.globl embcache_switch
.hidden embcache_switch
.type embcache_switch,@function
embcache_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size embcache_switch,.-embcache_switch
)");

void enter_at(Context& context, void (*entry)()) {
    void** top = (void**)(context.stack + context.stack_bytes);
    *--top = nullptr;  // where `entry` would return to; and what aligns its frame
    *--top = (void*)entry;
    for (int registers = 0; registers < 6; registers++) *--top = nullptr;
    context.top = top;
}

void go(Context& from, Context& to) { embcache_switch(&from.top, to.top); }
#else
void enter_at(Context& context, void (*entry)()) {
    getcontext(&context.state);
    context.state.uc_stack.ss_sp = context.stack;
    context.state.uc_stack.ss_size = context.stack_bytes;
    context.state.uc_link = nullptr;
    makecontext(&context.state, entry, 0);
}

void go(Context& from, Context& to) { swapcontext(&from.state, &to.state); }
#endif

Context* came_from;  // of the switch under way: AddressSanitizer tells its bounds only then

void depart([[maybe_unused]] Context& from, [[maybe_unused]] Context& to, [[maybe_unused]] bool for_good) {
    came_from = &from;
#if defined(WITH_ASAN)
    __sanitizer_start_switch_fiber(for_good ? nullptr : &from.fake_stack, to.stack, to.stack_bytes);
#endif
#if defined(WITH_TSAN)
    __tsan_switch_to_fiber(to.tsan, NO_ORDER);
#endif
}

}  // namespace

void arrive([[maybe_unused]] Context& here) {
#if defined(WITH_ASAN)
    const void* bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(here.fake_stack, &bottom, &bytes);
    came_from->stack = (char*)bottom;
    came_from->stack_bytes = bytes;
#endif
}

void unmake(Context& context) {
    if (context.stack) unmap_stack(context.stack);
    context.stack = nullptr;
#if defined(WITH_TSAN)
    if (context.tsan) __tsan_destroy_fiber(context.tsan);
    context.tsan = nullptr;
#endif
}

void make(Context& context, void (*entry)()) {
#if defined(WITH_TSAN)
    if (!context.stack)
        tsan_innocently([&] { context.tsan = __tsan_create_fiber(0), context.stack = map_stack(); });
#endif
    if (!context.stack) context.stack = map_stack();
    context.stack_bytes = STACK_BYTES;
    context.fake_stack = nullptr;
#if defined(WITH_ASAN)
    __asan_unpoison_memory_region(context.stack, STACK_BYTES);
#endif
    enter_at(context, entry);
}

void adopt([[maybe_unused]] Context& host) {
#if defined(WITH_TSAN)
    host.tsan = __tsan_get_current_fiber();
#endif
}

void change(Context& from, Context& to) {
    depart(from, to, false);
    go(from, to);
    arrive(from);
}

void leave(Context& from, Context& to) {
    depart(from, to, true);
    go(from, to);
    abort();
}

}  // namespace cpu
