// What surrounds an access to memory: alignment, points, the stale L1, and fences as ThreadSanitizer grasps them.
#include "machine.h"
#include "sanitizers.h"

namespace cpu {

dim3 thread_index() { return {running->self().index, 0, 0}; }
dim3 block_index() { return {running->self().block->index, 0, 0}; }
dim3 block_size() { return {running->self().block->grid->threads, 1, 1}; }
dim3 grid_size() { return {running->self().block->grid->blocks, 1, 1}; }
u32 lane() { return running->self().lane(); }

void point(Site site) { running->point(site); }
bool coin() { return running->draw() & 1; }

void give_way(Site site) {
    running->self().site = site;
    running->give_way(running->self());
}

void reach(const void* p, u32 bytes, Site site) {
    if ((u64)p % bytes)
        running->die("a misaligned access: " + std::to_string(bytes) + " bytes at an address that is " +
                         std::to_string((u64)p % bytes) + " more than a multiple of it,", site);
    running->point(site);
}

// Fences: a relaxed load before one is an acquire of its address, a relaxed store after one a release.
void loaded([[maybe_unused]] const void* p) {
#if defined(WITH_TSAN)
    Thread& t = running->self();
    t.loads[t.load_count++ % t.loads.size()] = p;
#endif
}

void stored(const void* p) {
    Thread& t = running->self();
    if (running->options.stale_l1) {
        const Unseen unseen;
        t.block->grid->l1[t.block->sm].drop(p);
    }
    if (t.fenced) tsan_release(p);
}

void acquired() { running->self().fresh_since = ++running->clock; }

void fence(Site site) {
    running->point(site);
    Thread& t = running->self();
    for (u32 i = 0; i < t.load_count && i < t.loads.size(); i++) tsan_acquire(t.loads[i]);
    t.load_count = 0;
    t.fenced = true;
    acquired();
}

// The L1 of this SM answers with what it holds, unless this thread has to see newer memory.
void through_l1(const void* p, void* value, u32 bytes) {
    Machine& machine = *running;
    if (!machine.options.stale_l1) return;
    const Unseen unseen;
    Thread& t = machine.self();
    Sector& sector = t.block->grid->l1[t.block->sm].sector_of(p);
    if (sector.read_at <= t.fresh_since || machine.draw() % 64 == 0) L1::refresh(sector, p, ++machine.clock);
    memcpy(value, sector.bytes + (u64)p % sizeof sector.bytes, bytes);
}

}  // namespace cpu
