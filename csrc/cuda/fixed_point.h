// Sums of floats that no order changes: of each sum the largest contribution is found first, then whole multiples of 2^-40 of it add up.
#pragma once

#include <cmath>
#include <cstdint>

namespace md {

constexpr int kFixedPointBits = 40;  // leaves 2^22 contributions of the largest size in 63 bits

// 2^(kFixedPointBits - 1 - e) where the largest contribution is below 2^(e + 1).
__device__ inline double fixed_point_scale(unsigned largest) {
  return ldexp(1.0, kFixedPointBits - 1 - (static_cast<int>(largest >> 23) - 127));
}

namespace fixed_point {

constexpr int kBlock = 256;

static __global__ void __launch_bounds__(kBlock)
    to_float(int64_t count, const unsigned* largest, const unsigned long long* sums, float* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= count) return;
  const float most = __uint_as_float(largest[i]);
  out[i] = !isfinite(most) ? most
           : most == 0.0f  ? 0.0f
                           : static_cast<float>(static_cast<long long>(sums[i]) / fixed_point_scale(largest[i]));
}

}  // namespace fixed_point

// The `count` sums as floats; where a contribution was not finite the sum is not.
inline void fixed_to_float(int64_t count, const unsigned* largest, const unsigned long long* sums, float* out, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((count + fixed_point::kBlock - 1) / fixed_point::kBlock);
  fixed_point::to_float<<<blocks, fixed_point::kBlock, 0, stream>>>(count, largest, sums, out);
}

}  // namespace md
