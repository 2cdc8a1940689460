// What the schedule looks like from inside.

// Threads and blocks in the order in which they come here.
extern "C" __global__ void order_of_coming(u32* count, u32* came) {
    store_4(came + atomicAdd(count, 1u), this_thread());
}

extern "C" __global__ void fill(u32* out, u32 count, u32 value) {
    if (this_thread() < count) store_4(out + this_thread(), value);
}

extern "C" __global__ void count_equal(const u32* in, u32 count, u32 value, u32* equal) {
    if (this_thread() < count && load_4(in + this_thread()) == value) atomicAdd(equal, 1u);
}

extern "C" __global__ void say(u32* word, u32 value) { store_release_system(word, value); }

extern "C" __global__ void noise_of_shared(u32* out) {
    __shared__ u32 word;
    store_4(out + blockIdx.x, word);
}

extern "C" __global__ void until_word(const u32* word, u32 value) {
    while (load_acquire_system(word) != value) __nanosleep(100);
}
