// What the machine runs: grids, in the order of their streams; their blocks; the blocks' threads.
#pragma once
#include <array>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "calls.h"
#include "context.h"
#include "l1.h"

namespace cpu {

// An entry point; arguments arrive as u64 each.
struct Kernel {
    const char* name;
    void (*run)(const u64* arguments);
    u32 parameters;
    u32 most_threads;  // of a block: __launch_bounds__
};

constexpr u32 WARP = 32;
constexpr u32 SMS = 4;

// One element of a stream: a launch, or, without blocks, a place where streams join; or what frees memory in the end.
struct Grid {
    Grid() = default;
    Grid(const Grid&) = delete;
    ~Grid() { free(frees); }

    const Kernel* kernel = nullptr;
    u32 stream = 0, blocks = 0, threads = 0;
    std::vector<u64> arguments;
    std::vector<std::shared_ptr<Grid>> after;  // what has to end first; empty once this has begun
    std::atomic<bool> held{false};             // a launch that hangs, until it is released
    std::atomic<bool> ended{false};
    void* frees = nullptr;

    // Drawn as it begins, so that one seed runs it first and slowly, another last and at once.
    std::vector<u32> order;  // of its blocks
    u64 not_before = 0;      // by the machine's clock
    u32 pace = 1;            // most switches in one turn
    u32 room = 1;            // most blocks at a time
    u32 admitted = 0, resident = 0, left = 0;

    std::array<L1, SMS> l1;
    char begun_key = 0, ended_key = 0;  // what happened before it, and in it: for ThreadSanitizer
};

enum class State : u8 { ready, meeting, at_barrier, exited };

struct Block;

struct Thread {
    Context context;
    Block* block = nullptr;
    u32 index = 0;
    State state = State::ready;
    Site site;  // where it was seen last
    u64 turns = 0;

    const Collective* collective = nullptr;  // where it waits for its lanes
    u32 mask = 0, from = 0;
    u64 value = 0, answer = 0;

    u64 fresh_since = 0;  // by the machine's clock: what an L1 read before that it may not see any more
    bool fenced = false;  // its stores are releases, for ThreadSanitizer, which knows no fences
    std::array<const void*, 8> loads{};  // those before its next fence
    u32 load_count = 0;

    u32 lane() const { return index % WARP; }
    u32 warp() const { return index / WARP; }
};

struct Block {
    Grid* grid = nullptr;
    u32 index = 0, sm = 0;
    u32 running = 0;     // threads that have not exited
    u32 at_barrier = 0;  // threads that wait for the others
    std::vector<Thread*> threads;
    std::vector<Thread*> ready;
    std::vector<char> shared;          // its shared memory while another block runs
    std::array<u32, WARP> alive{};     // of each warp: the mask of lanes that have not exited
    std::array<u32, WARP> meeting{};   // of each warp: how many lanes wait in a collective
    std::array<char, WARP> warp_keys;  // for ThreadSanitizer
    char barrier_key = 0;

    Thread* lane_of(const Thread& t, u32 lane) const {  // null: the block has no such thread
        const u32 index = t.index - t.lane() + lane;
        return index < threads.size() ? threads[index] : nullptr;
    }
};

}  // namespace cpu
