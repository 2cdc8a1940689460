// The schedule: which grid begins, which block has its turn, which thread goes on.
#include "machine.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "sanitizers.h"
#include "turn.h"

extern "C" {  // the linker's names for the section of all shared memory; null where no kernel has any
extern char __start_gpu_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_gpu_shared[] __attribute__((weak, visibility("hidden")));
}

namespace cpu {

Machine* running;

namespace {
Turns& turns = *new Turns;  // for ever: a machine may still run while the process ends
Block* shared_of;  // whose shared memory stands in the section

constexpr size_t MOST_FIBERS = 4000;  // ThreadSanitizer has room for 8128

size_t shared_bytes() { return __start_gpu_shared ? (size_t)(__stop_gpu_shared - __start_gpu_shared) : 0; }
}  // namespace

u64 Machine::draw() {  // xorshift64*
    random_ ^= random_ >> 12, random_ ^= random_ << 25, random_ ^= random_ >> 27;
    return random_ * 0x2545F4914F6CDD1Dull >> 16;
}

Machine::~Machine() {
    const Turns::Held turn(turns);
    const Unseen unseen;
    for (auto& grid : waiting_) grid->after.clear();
    for (auto& grid : inbox_) grid->after.clear();
    for (auto& block : resident_)
        if (shared_of == block.get()) shared_of = nullptr;
    for (Thread& thread : threads_) unmake(thread.context);
}

bool Machine::step() {
    const Turns::Held turn(turns);
    const Unseen unseen;
    if (failed_) return false;
    running = this;
    take_in();
    const bool began = begin();
    admit();
    if (resident_.empty()) return began;
    if (Block* block = pick()) {
        run(*block);
        if (!failed_ && block->running == 0) retire(*block);
    } else {
        fail("deadlock: every thread waits for another\n" + stand(resident_));
    }
    return !failed_;
}

// Begin what may: grids whose predecessors have ended, some turns after that.
bool Machine::begin() {
    bool any = false;
    for (size_t i = 0; i < waiting_.size();) {
        Grid& grid = *waiting_[i];
        const auto has_ended = [](const std::shared_ptr<Grid>& before) { return before->ended.load(); };
        if (grid.held || !std::all_of(grid.after.begin(), grid.after.end(), has_ended)) {
            i++;
            continue;
        }
        std::shared_ptr<Grid> kept = std::move(waiting_[i]);
        waiting_.erase(waiting_.begin() + (long)i);
        begin(grid);
        if (grid.blocks) {
            begun_.push_back(std::move(kept));
        } else {
            grid.ended = true;
            i = 0;  // what waited for it may stand before it
        }
        any = true;
    }
    return any;
}

void Machine::begin(Grid& grid) {
    std::vector<const void*> before{&grid.begun_key};
    for (auto& predecessor : grid.after) before.push_back(&predecessor->ended_key);
    tsan_pass_on(before, grid.blocks ? &grid.begun_key : &grid.ended_key);
    grid.after.clear();
    grid.order.resize(grid.blocks);
    for (u32 i = 0; i < grid.blocks; i++) {
        grid.order[i] = i;
        std::swap(grid.order[i], grid.order[draw() % (i + 1)]);
    }
    grid.left = grid.blocks;
    grid.not_before = clock + (draw() % 2 ? 0 : draw() % (1ull << draw() % 15));
    grid.pace = 1u << 2 * (draw() % 5);
    grid.room = 1 + (u32)(draw() % options.most_resident);
}

void Machine::admit() {
    u64 now = clock;
    if (resident_.empty() && !begun_.empty()) {  // nothing else lets time pass
        const auto sooner = [](const auto& a, const auto& b) { return a->not_before < b->not_before; };
        now = std::max(now, (*std::min_element(begun_.begin(), begun_.end(), sooner))->not_before);
    }
    for (auto& grid : begun_) {
        if (grid->not_before > now) continue;
        while (grid->resident < grid->room && grid->admitted < grid->blocks && (!grid->resident || draw() % 2))
            admit_block(*grid);
    }
}

void Machine::admit_block(Grid& grid) {
    auto block = std::make_unique<Block>();
    block->grid = &grid;
    block->index = grid.order[grid.admitted++];
    block->sm = (u32)(draw() % SMS);
    block->running = grid.threads;
    grid.resident++;
    block->threads.reserve(grid.threads);
    block->ready.reserve(grid.threads);
    for (u32 i = 0; i < grid.threads; i++) {
        Thread* thread = new_thread(grid);
        thread->block = block.get();
        thread->index = i;
        block->threads.push_back(thread);
        block->alive[thread->warp()] |= 1u << thread->lane();
        wake(*thread);
    }
    resident_.push_back(std::move(block));
}

// Who ran before knows, by that, what happened until then: nothing new to ThreadSanitizer in grids of one stream, which
// are in order anyway, and little in blocks of one grid. So threads stay with their stream: fibers are slow to make.
std::vector<Thread*>& Machine::idle_of(const Grid& grid) { return idle_[TSAN ? grid.stream : 0]; }

Thread* Machine::new_thread(Grid& grid) {
    std::vector<Thread*>& idle = idle_of(grid).empty() ? unmade_ : idle_of(grid);
    if (idle.empty()) idle.push_back(&threads_.emplace_back());
    Thread* thread = idle.back();
    idle.pop_back();
    const Context context = thread->context;
    *thread = Thread{};
    thread->context = context;
    make(thread->context, body);
    return thread;
}

void Machine::dismiss(Thread& thread, const Grid& grid) {
    const bool keep = !TSAN || threads_.size() - unmade_.size() < MOST_FIBERS;
    if (!keep) unmake(thread.context);
    (keep ? idle_of(grid) : unmade_).push_back(&thread);
}

Block* Machine::pick() {
    const size_t count = resident_.size(), first = draw() % count;
    for (size_t i = 0; i < count; i++) {
        Block* block = resident_[(first + i) % count].get();
        if (!block->ready.empty()) return block;
    }
    return nullptr;
}

void Machine::run(Block& block) {
    swap_shared(&block);
    budget_ = 1 + (u32)(draw() % block.grid->pace);
    adopt(host_);
    Thread* thread = next(block);
    if (thread) change(host_, thread->context);
    current_ = nullptr;
}

void Machine::swap_shared(Block* block) {
    const size_t bytes = shared_bytes();
    if (shared_of == block || !bytes) return;
    tsan_shared(__start_gpu_shared, bytes);
    if (shared_of) shared_of->shared.assign(__start_gpu_shared, __stop_gpu_shared);
    if (block->shared.empty())
        for (size_t i = 0; i < bytes; i++) block->shared.push_back((char)draw());  // shared memory begins as noise
    std::copy(block->shared.begin(), block->shared.end(), __start_gpu_shared);
    shared_of = block;
}

// The block is over; and with the last one its grid.
void Machine::retire(Block& block) {
    Grid& grid = *block.grid;
    if (shared_of == &block) shared_of = nullptr;
    for (Thread* thread : block.threads) dismiss(*thread, grid);
    std::erase_if(resident_, [&](const auto& b) { return b.get() == &block; });
    grid.resident--;
    if (--grid.left) return;
    const auto place = std::find_if(begun_.begin(), begun_.end(), [&](const auto& g) { return g.get() == &grid; });
    const std::shared_ptr<Grid> kept = *place;
    begun_.erase(place);
    grid.ended = true;
}

// Who goes on in this block's turn; null: nobody, the turn is over.
Thread* Machine::next(Block& block) {
    if (!budget_ || block.ready.empty()) return nullptr;
    budget_--;
    const size_t i = draw() % block.ready.size();
    Thread* thread = block.ready[i];
    block.ready[i] = block.ready.back();
    block.ready.pop_back();
    schedule_ = (schedule_ ^ ((u64)block.index << 32 | thread->index)) * 0x9E3779B97F4A7C15ull;
    schedule_ ^= schedule_ >> 29;
    clock++;
    if (++thread->turns > options.most_turns) {
        block.ready.push_back(thread);
        fail("kernel " + std::string(block.grid->kernel->name) + " hangs: a thread had more than " +
             std::to_string(options.most_turns) + " turns\n" + stand(resident_));
        return nullptr;
    }
    current_ = thread;
    return thread;
}

void Machine::rest(Thread& thread) {
    Thread* to = next(*thread.block);
    if (to != &thread) change(thread.context, to ? to->context : host_);
}

void Machine::give_way(Thread& thread) {
    wake(thread);
    rest(thread);
}

void Machine::point(Site site) {
    current_->site = site;
    if ((draw() & 7) < options.yield_in_8) give_way(*current_);
}

// What a thread's fiber runs.
void Machine::body() {
    Thread& thread = *running->current_;
    arrive(thread.context);
    Grid& grid = *thread.block->grid;
    tsan_acquire(&grid.begun_key);
    grid.kernel->run(grid.arguments.data());
    tsan_release(&grid.ended_key);
    exit_thread(thread);
    Machine& machine = *running;
    Thread* to = machine.next(*thread.block);
    leave(thread.context, to ? to->context : machine.host_);
}

void Machine::fail(const std::string& what) {
    if (options.aborts) {
        dprintf(options.report_to, "\nA kernel failed on the emulated device: %s\n", what.c_str());
        abort();
    }
    const std::lock_guard lock(door_);
    failure_ = what;
    failed_ = true;
}

void Machine::die(const std::string& what, Site site) {
    Thread& thread = *current_;
    thread.site = site;
    fail("kernel " + std::string(thread.block->grid->kernel->name) + ": " + what + " at " + place(site) + ", block " +
         std::to_string(thread.block->index) + ", thread " + std::to_string(thread.index));
    leave(thread.context, host_);
}

}  // namespace cpu
