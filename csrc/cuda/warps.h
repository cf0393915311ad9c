// What the 32 threads of a warp do together.
#pragma once

namespace md {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// The sum of all lanes' values, for every lane.
__device__ __forceinline__ float sum_over_warp(float value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

// The sum of the values of the lanes up to this one, its own included.
__device__ __forceinline__ int sum_up_to(int value, int lane) {
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const int other = __shfl_up_sync(kAllLanes, value, step);
    if (lane >= step) value += other;
  }
  return value;
}

}  // namespace md
