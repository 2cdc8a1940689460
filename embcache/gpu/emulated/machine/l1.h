// A first-level cache that is not kept true, as an SM's is not: 32-byte sectors, as they were when one was last read.
#pragma once
#include <cstring>
#include <unordered_map>

#include "words.h"

namespace cpu {

struct Sector {
    char bytes[32];
    u64 read_at = 0;  // by the machine's clock
};

class L1 {
  public:
    static u64 number(const void* p) { return (u64)p / sizeof(Sector::bytes); }

    Sector& sector_of(const void* p) { return sectors_[number(p)]; }
    void drop(const void* p) { sectors_.erase(number(p)); }

    // Read from memory, as no sanitizer sees it: the sector may go beyond what the kernel may touch.
    static void refresh(Sector& sector, const void* p, u64 now) {
        memcpy(sector.bytes, (const char*)(number(p) * sizeof sector.bytes), sizeof sector.bytes);
        sector.read_at = now;
    }

  private:
    std::unordered_map<u64, Sector> sectors_;
};

}  // namespace cpu
