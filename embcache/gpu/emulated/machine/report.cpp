// Where threads stand, in words.
#include <cstring>

#include "machine.h"

namespace cpu {

std::string place(Site site) {
    const char* slash = strrchr(site.file_name(), '/');
    if (!site.line()) return "its start";
    return std::string(slash ? slash + 1 : site.file_name()) + ":" + std::to_string(site.line());
}

namespace {

constexpr size_t MOST_LINES = 40;

std::string doing(const Thread& thread) {
    switch (thread.state) {
        case State::ready: return "runs, seen last at " + place(thread.site);
        case State::meeting: return "waits in " + std::string(thread.collective->name) + " at " + place(thread.site);
        case State::at_barrier: return "waits in __syncthreads at " + place(thread.site);
        case State::exited: break;
    }
    return "has exited";
}

std::string threads_text(u32 first, u32 last) {
    if (first == last) return "thread " + std::to_string(first) + " ";
    return "threads " + std::to_string(first) + " to " + std::to_string(last) + ", each: ";
}

}  // namespace

// A line for each run of neighbours that do the same.
std::string stand(const std::vector<std::unique_ptr<Block>>& blocks) {
    std::string text;
    size_t lines = 0;
    for (auto& block : blocks) {
        const auto& threads = block->threads;
        for (u32 first = 0, last; first < threads.size(); first = last + 1) {
            const std::string what = doing(*threads[first]);
            for (last = first; last + 1 < threads.size() && doing(*threads[last + 1]) == what;) last++;
            if (threads[first]->state == State::exited) continue;
            if (++lines > MOST_LINES) return text + "  ...\n";
            text += "  " + std::string(block->grid->kernel->name) + ", block " + std::to_string(block->index) + ", " +
                    threads_text(first, last) + what + "\n";
        }
    }
    return text;
}

}  // namespace cpu
