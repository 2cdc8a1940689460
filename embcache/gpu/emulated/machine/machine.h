// The machine: grids of several streams, and their blocks, at once; one thread at a time, by a seeded schedule.
//
// A turn picks a resident block and lets its threads run: each until a point, a collective or a barrier, where the draw
// says who goes on. Only one machine of a library has a turn at a time, since shared memory is one section of it.
#pragma once
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "grid.h"

namespace cpu {

struct Options {
    u64 seed;
    u64 most_turns;    // of a thread: one that has had more hangs
    u32 yield_in_8;    // how often, in eighths, a point lets another thread go on
    u32 most_resident;  // blocks of a grid
    u32 stale_l1;
    u32 aborts;        // what a kernel's fault does: end the process, or else only this machine
    int report_to;     // the file descriptor for what is said then
};

class Machine {
  public:
    explicit Machine(const Options& options) : options(options), random_(options.seed * 0x9E3779B97F4A7C15ull + 1) {}
    ~Machine();

    // For the host's threads (streams.cpp).
    u32 new_stream();
    std::shared_ptr<Grid> tail(u32 stream);
    void add(u32 stream, std::shared_ptr<Grid> grid);  // behind all that the stream has
    void free_later(void* memory);  // once nothing runs that was added before
    void release();                 // grids that hang
    void serve();  // run what comes, until `stop`
    void stop();
    bool step();  // one turn; false if there is nothing to run
    bool failed() const { return failed_; }
    std::string failure();
    u64 schedule() const { return schedule_; }
    u64 switches() const { return clock; }

    // For the thread that runs (access.cpp, warp.cpp).
    Thread& self() { return *current_; }
    u64 draw();
    void point(Site);
    void give_way(Thread&);  // ready, but others first
    void rest(Thread&);      // until somebody makes it ready
    void wake(Thread& thread) { thread.state = State::ready, thread.block->ready.push_back(&thread); }
    [[noreturn]] void die(const std::string& what, Site);

    const Options options;
    u64 clock = 1;  // of the L1s: ticks with every switch and every acquire

  private:
    void take_in();
    bool begin();
    void begin(Grid&);
    void admit();
    void admit_block(Grid&);
    Block* pick();
    void run(Block&);
    void swap_shared(Block*);
    void retire(Block&);
    std::vector<Thread*>& idle_of(const Grid&);
    Thread* new_thread(Grid&);
    void dismiss(Thread&, const Grid&);
    Thread* next(Block&);
    void fail(const std::string& what);
    static void body();

    std::mutex door_;  // of what the host's threads share with the one that runs
    std::condition_variable bell_;
    std::vector<std::shared_ptr<Grid>> tails_, inbox_, holding_;
    bool stopping_ = false;
    std::atomic<bool> mail_{false};
    std::atomic<bool> failed_{false};
    std::string failure_;

    std::vector<std::shared_ptr<Grid>> waiting_, begun_;
    std::vector<std::unique_ptr<Block>> resident_;
    std::map<u32, std::vector<Thread*>> idle_;  // by stream
    std::vector<Thread*> unmade_;
    std::deque<Thread> threads_;
    Context host_;
    Thread* current_ = nullptr;
    u32 budget_ = 0;  // switches left in this turn
    u64 random_, schedule_ = 0;
};

extern Machine* running;  // whose turn it is
std::string stand(const std::vector<std::unique_ptr<Block>>&);  // where all threads stand, for people
std::string place(Site);
void exit_thread(Thread&);  // it has left its kernel

}  // namespace cpu
