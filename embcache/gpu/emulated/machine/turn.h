// Whose turn it is, in the order of asking: a plain mutex would let one machine keep it.
#pragma once
#include <condition_variable>
#include <mutex>

#include "words.h"

namespace cpu {

class Turns {
  public:
    class Held {
      public:
        explicit Held(Turns& turns) : turns_(turns) {
            std::unique_lock lock(turns.mutex_);
            const u64 mine = turns.next_++;
            turns.moved_.wait(lock, [&] { return turns.now_ == mine; });
        }
        ~Held() {
            const std::lock_guard lock(turns_.mutex_);
            turns_.now_++;
            if (turns_.now_ != turns_.next_) turns_.moved_.notify_all();
        }
        Held(const Held&) = delete;

      private:
        Turns& turns_;
    };

  private:
    std::mutex mutex_;
    std::condition_variable moved_;
    u64 next_ = 0, now_ = 0;
};

}  // namespace cpu
