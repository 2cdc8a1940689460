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

// One lane of the mask, as a newcomer finds it; -> whether it is here.
bool is_here(const Thread& t, u32 lane, const Thread* other) {
    const auto die = [&](const std::string& what) {
        running->die(call_text(t) + ": lane " + std::to_string(lane) + what, t.site);
    };
    if (!other) die(" is none of the block's,");
    if (other->state == State::exited) die(" has exited,");
    if (other->state != State::meeting) return false;
    if (same_meeting(t, *other)) return true;
    if (other->mask >> t.lane() & 1u)
        die(" waits for this one in " + call_text(*other) + " at " + place(other->site) + ", not");
    return false;
}

void complete(Gathered& g) {
    const Collective& collective = *g.lanes[__builtin_ctz(g.mask)]->collective;
    collective.answer(g);
    u64 fresh = 0;
    each(g, [&](Thread& t, u32) { fresh = t.fresh_since > fresh ? t.fresh_since : fresh; });
    each(g, [&](Thread& t, u32) {
        if (collective.orders) t.fresh_since = fresh;
        running->wake(t);
    });
}

void settle(Thread& t) {
    Gathered g{t.mask, {}};
    bool all = true;
    for (u32 lane = 0; lane < WARP; lane++) {
        if (!(t.mask >> lane & 1u)) continue;
        g.lanes[lane] = t.block->lane_of(t, lane);
        all &= is_here(t, lane, g.lanes[lane]);
    }
    if (all) complete(g);
}

void settle_barrier(Block& block) {
    u64 fresh = 0;
    for (Thread* t : block.threads) {
        if (t->state != State::at_barrier && t->state != State::exited) return;
        fresh = t->fresh_since > fresh ? t->fresh_since : fresh;
    }
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
    if (!(mask >> t.lane() & 1u))
        running->die(call_text(t) + ": the mask lacks the lane that calls,", site);
    const char* key = &t.block->warp_keys[t.index / WARP];
    if (collective.orders) tsan_release(key);
    t.state = State::meeting;
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
    settle_barrier(*t.block);
    running->rest(t);
    tsan_acquire(&t.block->barrier_key);
}

void exit_thread(Thread& t) {
    t.state = State::exited;
    t.block->running--;
    for (u32 lane = 0; lane < WARP; lane++) {
        const Thread* other = t.block->lane_of(t, lane);
        if (!other || other->state != State::meeting || !(other->mask >> t.lane() & 1u)) continue;
        running->die("it exits, and lane " + std::to_string(lane) + " waits for it in " + call_text(*other) + " at " +
                         place(other->site) + "; seen last", t.site);
    }
    settle_barrier(*t.block);
}

}  // namespace cpu
