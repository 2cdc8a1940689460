// Where threads wait for each other: the collectives of a warp, and the barrier of a block. Both are strict: what CUDA
// leaves undefined (a mask without the caller, lanes that have exited or come by another way) is a fault here.
#include <cstdio>

#include "machine.h"
#include "sanitizers.h"

namespace cpu {

// The lanes of a mask, all come to the same collective.
struct Gathered {
    u32 mask;
    Thread* lanes[WARP];  // null where the mask lacks it
};

namespace {

template <class Visit>
void each(const Gathered& g, const Visit& visit) {
    for (u32 lane = 0; lane < WARP; lane++)
        if (g.lanes[lane]) visit(*g.lanes[lane], lane);
}

void answer_all(Gathered& g, u64 answer) {
    each(g, [&](Thread& t, u32) { t.answer = answer; });
}

void ballot(Gathered& g) {
    u32 votes = 0;
    each(g, [&](Thread& t, u32 lane) { votes |= (u32)t.value << lane; });
    answer_all(g, votes);
}

void shuffle(Gathered& g) {
    each(g, [&](Thread& t, u32) {
        if (!g.lanes[t.from])
            running->die("lane " + std::to_string(t.lane()) + " takes from lane " + std::to_string(t.from) +
                             ", which the mask of its shuffle lacks,", t.site);
        t.answer = g.lanes[t.from]->value;
    });
}

void match(Gathered& g) {
    each(g, [&](Thread& t, u32) {
        u32 same = 0;
        each(g, [&](Thread& other, u32 lane) { same |= (u32)(other.value == t.value) << lane; });
        t.answer = same;
    });
}

void sync(Gathered&) {}

template <class Join>
void reduce(Gathered& g, u32 start, const Join& join) {
    each(g, [&](Thread& t, u32) { start = join(start, (u32)t.value); });
    answer_all(g, start);
}

std::string mask_text(u32 mask) {
    char text[16];
    snprintf(text, sizeof text, "%08x", mask);
    return text;
}

bool same_meeting(const Thread& a, const Thread& b) {
    return a.collective == b.collective && a.mask == b.mask && a.site.line() == b.site.line() &&
           a.site.column() == b.site.column();
}

std::string call_text(const Thread& t) { return std::string(t.collective->name) + "(" + mask_text(t.mask) + ")"; }

// Whether a lane of the mask is here too.
bool is_here(const Thread& t, const Thread& other) {
    if (other.state != State::meeting) return false;
    if (same_meeting(t, other)) return true;
    if (other.mask >> t.lane() & 1u)
        running->die(call_text(t) + ": lane " + std::to_string(other.lane()) + " waits for this one in " +
                         call_text(other) + " at " + place(other.site) + ", not", t.site);
    return false;
}

// The lanes of the mask can come.
void check_lanes(const Thread& t) {
    if (!(t.mask >> t.lane() & 1u)) running->die(call_text(t) + ": the mask lacks the lane that calls,", t.site);
    const u32 lacking = t.mask & ~t.block->alive[t.warp()];
    if (!lacking) return;
    const u32 lane = (u32)__builtin_ctz(lacking);
    const char* why = t.block->lane_of(t, lane) ? " has exited," : " is none of the block's,";
    running->die(call_text(t) + ": lane " + std::to_string(lane) + why, t.site);
}

void complete(Gathered& g) {
    const int first = __builtin_ctz(g.mask);
    const Collective& collective = *g.lanes[first]->collective;
    collective.answer(g);
    u64 fresh = 0;
    each(g, [&](Thread& t, u32) { fresh = t.fresh_since > fresh ? t.fresh_since : fresh; });
    each(g, [&](Thread& t, u32) {
        if (collective.orders) t.fresh_since = fresh;
        running->wake(t);
    });
    g.lanes[first]->block->meeting[g.lanes[first]->warp()] -= (u32)__builtin_popcount(g.mask);
}

void settle(Thread& t) {
    if (t.block->meeting[t.warp()] < (u32)__builtin_popcount(t.mask)) return;  // not all of them can be here
    Gathered g{t.mask, {}};
    bool all = true;
    for (u32 lane = 0; lane < WARP; lane++) {
        if (!(t.mask >> lane & 1u)) continue;
        g.lanes[lane] = t.block->lane_of(t, lane);
        all &= is_here(t, *g.lanes[lane]);
    }
    if (all) complete(g);
}

void settle_barrier(Block& block) {
    if (block.at_barrier < block.running) return;
    block.at_barrier = 0;
    u64 fresh = 0;
    for (const Thread* t : block.threads) fresh = t->fresh_since > fresh ? t->fresh_since : fresh;
    for (Thread* t : block.threads)
        if (t->state == State::at_barrier) t->fresh_since = fresh, running->wake(*t);
}

}  // namespace

const Collective BALLOT{"a vote", false, ballot};
const Collective SHUFFLE{"a shuffle", false, shuffle};
const Collective MATCH{"__match_any_sync", false, match};
const Collective SYNC{"__syncwarp", true, sync};
#define REDUCTION(NAME, text, start, expression) \
    const Collective NAME{text, false, [](Gathered& g) { reduce(g, start, [](u32 a, u32 b) { return expression; }); }}
REDUCTION(SUM_OF, "__reduce_add_sync", 0, a + b);
REDUCTION(LEAST_OF, "__reduce_min_sync", ~0u, a < b ? a : b);
REDUCTION(MOST_OF, "__reduce_max_sync", 0, a > b ? a : b);
REDUCTION(AND_OF, "__reduce_and_sync", ~0u, a & b);
REDUCTION(OR_OF, "__reduce_or_sync", 0, a | b);
REDUCTION(XOR_OF, "__reduce_xor_sync", 0, a ^ b);

u64 meet(const Collective& collective, u32 mask, u64 value, u32 from, Site site) {
    Thread& t = running->self();
    t.collective = &collective, t.mask = mask, t.value = value, t.from = from, t.site = site;
    check_lanes(t);
    const char* key = &t.block->warp_keys[t.warp()];
    if (collective.orders) tsan_release(key);
    t.state = State::meeting;
    t.block->meeting[t.warp()]++;
    settle(t);
    running->rest(t);
    if (collective.orders) tsan_acquire(key);
    return t.answer;
}

void meet_block(Site site) {
    Thread& t = running->self();
    t.site = site;
    tsan_release(&t.block->barrier_key);
    t.state = State::at_barrier;
    t.block->at_barrier++;
    settle_barrier(*t.block);
    running->rest(t);
    tsan_acquire(&t.block->barrier_key);
}

void check_nobody_waits_for(const Thread& t) {
    for (u32 lane = 0; lane < WARP; lane++) {
        const Thread* other = t.block->lane_of(t, lane);
        if (!other || other->state != State::meeting || !(other->mask >> t.lane() & 1u)) continue;
        running->die("it exits, and lane " + std::to_string(lane) + " waits for it in " + call_text(*other) + " at " +
                         place(other->site) + "; seen last", t.site);
    }
}

void exit_thread(Thread& t) {
    t.state = State::exited;
    t.block->running--;
    t.block->alive[t.warp()] &= ~(1u << t.lane());
    if (t.block->meeting[t.warp()]) check_nobody_waits_for(t);
    settle_barrier(*t.block);
}

}  // namespace cpu
