// The machine for ctypes (library.py). Waits answer 1 (it came), 0 (not in time, or nothing is left to run) or -1: a
// kernel failed.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <mutex>
#include <thread>

#include "machine.h"
#include "sanitizers.h"

using cpu::Grid;
using cpu::Kernel;
using cpu::Machine;

// What it stands behind; null: nothing.
class Event {
  public:
    std::shared_ptr<Grid> last() {
        const std::lock_guard lock(mutex_);
        return last_;
    }
    void record(std::shared_ptr<Grid> last) {
        const std::lock_guard lock(mutex_);
        last_ = std::move(last);
    }

  private:
    std::mutex mutex_;
    std::shared_ptr<Grid> last_;
};

namespace {

template <class Came>
int wait_until(Machine& machine, bool drive, double limit_s, const Came& came) {
    using Clock = std::chrono::steady_clock;
    const auto end = Clock::now() + std::chrono::duration<double>(std::min(limit_s, 1e6));
    std::chrono::microseconds nap(20);
    for (;;) {
        if (machine.failed()) return -1;
        if (came()) return 1;
        if (drive) {
            if (!machine.step() && !machine.failed()) return came();
        } else {
            if (Clock::now() >= end) return 0;
            std::this_thread::sleep_for(nap);
            nap = std::min(nap * 2, std::chrono::microseconds(500));
        }
    }
}

bool has_ended(const std::shared_ptr<Grid>& grid) {
    if (!grid) return true;
    if (!grid->ended) return false;
    cpu::tsan_acquire(&grid->ended_key);
    return true;
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT Machine* machine_new(const cpu::Options* options) { return new Machine(*options); }
EXPORT void machine_free(Machine* machine) { delete machine; }
EXPORT void machine_serve(Machine* machine) { machine->serve(); }
EXPORT void machine_stop(Machine* machine) { machine->stop(); }
EXPORT void machine_release(Machine* machine) { machine->release(); }
EXPORT void machine_free_later(Machine* machine, void* memory) { machine->free_later(memory); }
EXPORT u32 machine_stream(Machine* machine) { return machine->new_stream(); }
EXPORT u64 machine_schedule(Machine* machine) { return machine->schedule(); }
EXPORT u64 machine_switches(Machine* machine) { return machine->switches(); }

EXPORT int machine_failure(Machine* machine, char* text, u64 room) {
    if (!machine->failed()) return 0;
    if (room) strncpy(text, machine->failure().c_str(), room - 1);
    return 1;
}

EXPORT void machine_launch(Machine* machine, u32 stream, const Kernel* kernel, u32 blocks, u32 threads,
                           const u64* arguments, int held) {
    auto grid = std::make_shared<Grid>();
    grid->kernel = kernel;
    grid->blocks = blocks;
    grid->threads = threads;
    grid->arguments.assign(arguments, arguments + kernel->parameters);
    grid->held = held;
    machine->add(stream, std::move(grid));
}

EXPORT Event* event_new() { return new Event; }
EXPORT void event_free(Event* event) { delete event; }
EXPORT int event_done(Event* event) { return has_ended(event->last()); }
EXPORT void machine_record(Machine* machine, Event* event, u32 stream) { event->record(machine->tail(stream)); }

EXPORT void machine_follow(Machine* machine, u32 stream, Event* event) {
    const auto last = event->last();
    if (!last) return;
    auto join = std::make_shared<Grid>();
    join->after.push_back(last);
    machine->add(stream, std::move(join));
}

EXPORT int machine_wait(Machine* machine, Event* event, double limit_s, int drive) {
    return wait_until(*machine, drive, limit_s, [last = event->last()] { return has_ended(last); });
}

EXPORT int machine_wait_word(Machine* machine, const u32* word, u32 value, double limit_s, int drive) {
    return wait_until(*machine, drive, limit_s, [&] {
        if (__atomic_load_n(word, __ATOMIC_ACQUIRE) != value) return false;
        cpu::tsan_acquire_word(word);
        return true;
    });
}

EXPORT int machine_run(Machine* machine) {
    while (machine->step()) {
    }
    return machine->failed() ? -1 : 1;
}
