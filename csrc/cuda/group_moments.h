// Moments of groups of channels: their reduction within a block of threads, and what is made of those of all slices.
#pragma once

#include "float_vectors.h"
#include "group_norm.h"
#include "warps.h"

namespace md {

// Count, mean and spread (sum of squared differences from the mean) of parts, added up relative to a mean near theirs.
struct MomentSums {
  float pivot, count = 0.0f, sum = 0.0f, squares = 0.0f;

  __device__ void add(float n, float mean, float spread) {
    const float difference = mean - pivot;
    count += n;
    sum += n * difference;
    squares += spread + n * difference * difference;
  }
  // Over `lanes` neighbouring threads, a power of two. By whole warps.
  __device__ void reduce(int lanes) {
    for (int step = lanes / 2; step > 0; step /= 2) {
      count += __shfl_xor_sync(kAllLanes, count, step);
      sum += __shfl_xor_sync(kAllLanes, sum, step);
      squares += __shfl_xor_sync(kAllLanes, squares, step);
    }
  }
  __device__ float mean() const { return count > 0.0f ? pivot + sum / count : 0.0f; }
  __device__ float spread() const { return count > 0.0f ? fmaxf(squares - sum * sum / count, 0.0f) : 0.0f; }
};

// Calls visit(group, lane, lanes) by whole warps for groups begin, ..., as many at a time as the block's threads suffice for; `group` may
// be end or more.
template <class Visit>
__device__ __forceinline__ void for_groups(int begin, int end, Visit visit) {
  const int threads = static_cast<int>(blockDim.x);
  int lanes = kWarp;
  while (lanes > 1 && lanes * (end - begin) > threads) lanes /= 2;
  for (int first = begin; first < end; first += threads / lanes)
    visit(first + static_cast<int>(threadIdx.x) / lanes, static_cast<int>(threadIdx.x) % lanes, lanes);
}

// means, spreads: shared [rows, channels], of count_of(row) values each. Writes moments [groups, 3] of the block's slice. Whole block.
template <class CountOf>
__device__ void write_moments(const float* means, const float* spreads, int rows, int channels, int groups, CountOf count_of,
                              float* moments) {
  const int width = channels / groups;
  for_groups(0, groups, [&](int group, int lane, int lanes) {
    MomentSums sums{group < groups ? means[group * width] : 0.0f};
    for (int row = 0; group < groups && row < rows; ++row) {
      const float count = count_of(row);
      for (int c = group * width + lane; c < (group + 1) * width; c += lanes)
        sums.add(count, means[row * channels + c], spreads[row * channels + c]);
    }
    sums.reduce(lanes);
    if (group >= groups || lane != 0) return;
    float* out = moments + group * kMoments;
    out[0] = sums.count;
    out[1] = sums.mean();
    out[2] = sums.spread();
  });
}

// Shared statistics [end - begin, 2], mean and reciprocal deviation of groups [begin, end), from one sample's moments. Whole block; the
// caller synchronises.
__device__ inline void load_statistics(const float* moments, int slices, int groups, int begin, int end, float eps, float* statistics) {
  for_groups(begin, end, [&](int group, int lane, int lanes) {
    MomentSums sums{group < end ? moments[group * kMoments + 1] : 0.0f};
#pragma unroll 4
    for (int slice = lane; slice < slices; slice += lanes) {
      const float* part = moments + (slice * groups + min(group, end - 1)) * kMoments;
      sums.add(part[0], part[1], part[2]);
    }
    sums.reduce(lanes);
    if (group >= end || lane != 0) return;
    statistics[2 * (group - begin)] = sums.mean();
    statistics[2 * (group - begin) + 1] = rsqrtf((sums.count > 0.0f ? sums.spread() / sums.count : 0.0f) + eps);
  });
}

// SiLU, for the smaller types by the fast exponential, whose error is far below their rounding.
template <typename T>
__device__ __forceinline__ float silu_for(float x) {
  if constexpr (sizeof(T) < sizeof(float)) return __fdividef(x, 1.0f + __expf(-x));
  return silu(x);
}
template <typename T>
__device__ __forceinline__ float silu_slope_for(float x) {
  if constexpr (sizeof(T) == sizeof(float)) return silu_slope(x);
  const float share = __fdividef(1.0f, 1.0f + __expf(-x));
  return share * (1.0f + x * (1.0f - share));
}

}  // namespace md
