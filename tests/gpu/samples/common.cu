#define FULL 0xffffffffu

__device__ __forceinline__ u32 this_thread() { return blockIdx.x * blockDim.x + threadIdx.x; }
