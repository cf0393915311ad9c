// Moments of groups of channels: their reduction within a block of threads, and what is made of those of all slices.
#pragma once

#include "float_vectors.h"
#include "group_norm.h"

namespace md {

constexpr int kWarpLanes = 32;

__device__ __forceinline__ float sum_over_lanes(float value) {
#pragma unroll
  for (int step = kWarpLanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

// From count, mean and spread (sum of squared differences from the mean) of parts 0 .. number - 1 to those of all, by one whole warp.
template <class Part>
__device__ __forceinline__ void combine_parts(int number, Part part, float& count, float& mean, float& spread) {
  const int lane = threadIdx.x % kWarpLanes;
  float all = 0.0f, sum = 0.0f, squares = 0.0f, n, m, s;
  for (int i = lane; i < number; i += kWarpLanes) {
    part(i, n, m, s);
    all += n;
    sum += n * m;
  }
  count = sum_over_lanes(all);
  mean = count > 0.0f ? sum_over_lanes(sum) / count : 0.0f;
  for (int i = lane; i < number; i += kWarpLanes) {
    part(i, n, m, s);
    squares += s + n * (m - mean) * (m - mean);
  }
  spread = sum_over_lanes(squares);
}

// means, spreads: shared [rows, channels], of count_of(row) values each. Writes moments [groups, 3] of the block's slice. Whole block.
template <class CountOf>
__device__ void write_moments(const float* means, const float* spreads, int rows, int channels, int groups, CountOf count_of, float* moments) {
  const int width = channels / groups;
  for (int group = static_cast<int>(threadIdx.x) / kWarpLanes; group < groups; group += static_cast<int>(blockDim.x) / kWarpLanes) {
    float count, mean, spread;
    combine_parts(
        rows * width,
        [&](int i, float& n, float& m, float& s) {
          const int row = i / width, at = row * channels + group * width + i % width;
          n = count_of(row);
          m = means[at];
          s = spreads[at];
        },
        count, mean, spread);
    if (threadIdx.x % kWarpLanes == 0) {
      float* out = moments + group * kMoments;
      out[0] = count;
      out[1] = mean;
      out[2] = spread;
    }
  }
}

// Shared statistics [end - begin, 2], mean and reciprocal deviation of groups [begin, end), from one sample's moments. Whole block; the
// caller synchronises.
__device__ inline void load_statistics(const float* moments, int slices, int groups, int begin, int end, float eps, float* statistics) {
  for (int group = begin + static_cast<int>(threadIdx.x) / kWarpLanes; group < end; group += static_cast<int>(blockDim.x) / kWarpLanes) {
    float count, mean, spread;
    combine_parts(
        slices,
        [&](int s, float& n, float& m, float& d) {
          const float* at = moments + (s * groups + group) * kMoments;
          n = at[0];
          m = at[1];
          d = at[2];
        },
        count, mean, spread);
    if (threadIdx.x % kWarpLanes == 0) {
      statistics[2 * (group - begin)] = mean;
      statistics[2 * (group - begin) + 1] = rsqrtf((count > 0.0f ? spread / count : 0.0f) + eps);
    }
  }
}

// SiLU, for the smaller types by the fast exponential, whose error is far below their rounding.
template <typename T>
__device__ __forceinline__ float silu_for(float x) {
  if constexpr (sizeof(T) < sizeof(float)) return __fdividef(x, 1.0f + __expf(-x));
  return silu(x);
}

}  // namespace md
