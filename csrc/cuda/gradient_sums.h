// How the gradients of many points come together in the entries of one table.
//
// Fast: floating-point additions, in any order. Deterministic: a first pass finds the largest contribution to each value, a second adds
// whole multiples of a small part of it (fixed_point.h); neither minds the order.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>

#include "fixed_point.h"

namespace md::gradient_sums {

enum class Sum { kFast, kLargest, kFixed };

struct Targets {
  float* fast;
  uint32_t* largest;          // bits of the largest contribution's magnitude
  unsigned long long* fixed;  // in units that `largest` fixes
  int bits;                   // a contribution is at most 2^bits units
};

inline size_t workspace_bytes(int64_t values) { return static_cast<size_t>(values) * (sizeof(unsigned long long) + sizeof(uint32_t)); }

inline Targets fast_targets(float* sums) { return {sums, nullptr, nullptr, kFixedPointBits}; }

// The targets of the two passes for so many values, which take at most `contributions` each; clears `workspace`.
inline cudaError_t repeating_targets(float* sums, int64_t values, int64_t contributions, void* workspace, cudaStream_t stream,
                                     Targets* to) {
  *to = fast_targets(sums);
  while (to->bits > 1 && contributions >> (62 - to->bits) != 0) --to->bits;  // the sum has to fit into 63 bits
  to->fixed = static_cast<unsigned long long*>(workspace);
  to->largest = reinterpret_cast<uint32_t*>(to->fixed + values);
  return cudaMemsetAsync(workspace, 0, workspace_bytes(values), stream);
}

// Adds F neighbouring floats, aligned to as many; from sm_90 on two or four of them in one instruction.
template <int F>
__device__ __forceinline__ void add_entry(float* target, const float (&value)[F]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  constexpr int kTogether = F % 4 == 0 ? 4 : F;
#else
  constexpr int kTogether = 1;
#endif
#pragma unroll
  for (int f = 0; f < F; f += kTogether) {
    if constexpr (kTogether == 4) {
      atomicAdd(reinterpret_cast<float4*>(target + f), make_float4(value[f], value[f + 1], value[f + 2], value[f + 3]));
    } else if constexpr (kTogether == 2) {
      atomicAdd(reinterpret_cast<float2*>(target + f), make_float2(value[f], value[f + 1]));
    } else {
      atomicAdd(target + f, value[f]);
    }
  }
}

// What a pass does with the contributions to the values from `first` on.
template <int F, Sum kSum>
__device__ __forceinline__ void contribute(const Targets& to, int64_t first, const float (&value)[F]) {
  if constexpr (kSum == Sum::kFast) {
    add_entry<F>(to.fast + first, value);
  } else {
#pragma unroll
    for (int f = 0; f < F; ++f) {
      if constexpr (kSum == Sum::kLargest) {
        atomicMax(to.largest + first + f, __float_as_uint(fabsf(value[f])));
      } else {
        const double units = value[f] * fixed_point_scale(to.largest[first + f], to.bits);
        atomicAdd(to.fixed + first + f, static_cast<unsigned long long>(__double2ll_rn(units)));
      }
    }
  }
}

// After both passes: the sums as floats.
__device__ __forceinline__ float fixed_to_float(const Targets& from, int64_t i) {
  return md::fixed_to_float(from.largest[i], from.fixed[i], from.bits);
}

}  // namespace md::gradient_sums
