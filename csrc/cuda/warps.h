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

}  // namespace md
