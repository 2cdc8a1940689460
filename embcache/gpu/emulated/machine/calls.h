// What a thread of a kernel asks of the machine that runs it (warp.cpp, access.cpp, schedule.cpp). Kernels are compiled
// with the sanitizers, the machine without: so whatever is called here is no access of the kernel's.
#pragma once
#include <source_location>

#include "words.h"

namespace cpu {

using Site = std::source_location;  // where in the kernels' source; a default argument takes the caller's

dim3 thread_index();
dim3 block_index();
dim3 block_size();
dim3 grid_size();
u32 lane();

// The schedule is decided here: at a point, some other thread may go on instead; `give_way` lets one go on if it can.
void point(Site);
void give_way(Site);

// Warp collectives: every lane of the mask comes to the same one, then all get their answers.
struct Gathered;
struct Collective {
    const char* name;
    bool orders;  // whether it makes what each lane did before it visible to the others: votes and shuffles do not
    void (*answer)(Gathered&);
};
extern const Collective BALLOT, SHUFFLE, MATCH, SYNC, SUM_OF, LEAST_OF, MOST_OF, AND_OF, OR_OF, XOR_OF;
u64 meet(const Collective&, u32 mask, u64 value, u32 from, Site);
void meet_block(Site);

// Around an access to memory: `reach` before it (alignment, and a point), the others right after.
void reach(const void*, u32 bytes, Site);
void loaded(const void*);                          // by a relaxed load or an atomic
void acquired();                                   // by an acquire load
void stored(const void*);                          // by any store or atomic
void through_l1(const void*, void* value, u32 bytes);  // a plain load's value, which an older one may take the place of
void fence(Site);
bool coin();

}  // namespace cpu
