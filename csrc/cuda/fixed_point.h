// Sums of floats that no order changes: of each sum the largest contribution is found first, then whole multiples of 2^-40 of it add up.
#pragma once

#include <cmath>
#include <cstdint>

namespace md {

constexpr int kFixedPointBits = 40;  // leaves 2^22 contributions of the largest size in 63 bits

// 2^(bits - 1 - e) where the largest contribution is below 2^(e + 1): a contribution is at most 2^bits units.
__device__ __forceinline__ double fixed_point_scale(unsigned largest, int bits = kFixedPointBits) {
  return ldexp(1.0, bits - 1 - (static_cast<int>(largest >> 23) - 127));
}

// A sum of units as a float; where a contribution was not finite the sum is not.
__device__ __forceinline__ float fixed_to_float(unsigned largest, unsigned long long sum, int bits = kFixedPointBits) {
  const float most = __uint_as_float(largest);
  return !isfinite(most) ? most
         : most == 0.f   ? 0.f
                         : static_cast<float>(static_cast<double>(static_cast<long long>(sum)) / fixed_point_scale(largest, bits));
}

}  // namespace md
