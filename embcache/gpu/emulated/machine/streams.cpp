// What the host's threads share with the one that runs: streams, grids that hang, the door and its bell.
#include "machine.h"
#include "sanitizers.h"

namespace cpu {

u32 Machine::new_stream() {
    const std::lock_guard lock(door_);
    tails_.emplace_back();
    return (u32)tails_.size() - 1;
}

std::shared_ptr<Grid> Machine::tail(u32 stream) {
    const std::lock_guard lock(door_);
    return tails_[stream];
}

void Machine::add(u32 stream, std::shared_ptr<Grid> grid) {
    tsan_release(&grid->begun_key);  // what this thread did until now happens before it
    grid->stream = stream;
    const std::lock_guard lock(door_);
    if (tails_[stream]) grid->after.push_back(tails_[stream]);
    if (grid->held) holding_.push_back(grid);
    tails_[stream] = grid;
    inbox_.push_back(std::move(grid));
    mail_ = true;
    bell_.notify_one();
}

// As CUDA, where freeing waits for the device; but here nobody has to wait.
void Machine::free_later(void* memory) {
    const Unseen unseen;
    const std::lock_guard lock(door_);
    auto grid = std::make_shared<Grid>();
    grid->frees = memory;
    for (auto& last : tails_)
        if (last && !last->ended) grid->after.push_back(last);
    if (grid->after.empty()) return;
    inbox_.push_back(std::move(grid));
    mail_ = true;
    bell_.notify_one();
}

void Machine::release() {
    const std::lock_guard lock(door_);
    for (auto& grid : holding_) grid->held = false;
    holding_.clear();
    mail_ = true;
    bell_.notify_one();
}

void Machine::take_in() {
    if (!mail_) return;
    const std::lock_guard lock(door_);
    waiting_.insert(waiting_.end(), inbox_.begin(), inbox_.end());
    inbox_.clear();
    mail_ = false;
}

void Machine::serve() {
    for (;;) {
        const bool ran = step();
        std::unique_lock lock(door_);
        if (!ran) bell_.wait(lock, [&] { return stopping_ || (mail_ && !failed_); });
        if (stopping_) return;
    }
}

void Machine::stop() {
    const std::lock_guard lock(door_);
    stopping_ = true;
    bell_.notify_one();
}

std::string Machine::failure() {
    const std::lock_guard lock(door_);
    return failure_;
}

}  // namespace cpu
