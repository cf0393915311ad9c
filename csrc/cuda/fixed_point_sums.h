// Many fixed-point sums as floats.
#pragma once

#include "fixed_point.h"

namespace md {

namespace fixed_point {

constexpr int kBlock = 256;

static __global__ void __launch_bounds__(kBlock)
    to_float(int64_t count, const unsigned* largest, const unsigned long long* sums, float* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= count) return;
  out[i] = fixed_to_float(largest[i], sums[i]);
}

}  // namespace fixed_point

inline void fixed_to_float(int64_t count, const unsigned* largest, const unsigned long long* sums, float* out, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((count + fixed_point::kBlock - 1) / fixed_point::kBlock);
  fixed_point::to_float<<<blocks, fixed_point::kBlock, 0, stream>>>(count, largest, sums, out);
}

}  // namespace md
