// Vectors of 16 bytes of any of the types that networks compute in, and their values in float.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "float_types.h"

namespace md {

template <typename T>
struct Lanes {
  static constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(T));
};

template <typename T>
union Vector {
  uint4 bits;
  T values[Lanes<T>::kWidth];
  __device__ Vector() {}
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void from_float(float x, float& y) { y = x; }
__device__ __forceinline__ void from_float(float x, __half& y) { y = __float2half_rn(x); }
__device__ __forceinline__ void from_float(float x, __nv_bfloat16& y) { y = __float2bfloat16_rn(x); }

template <typename T>
__device__ __forceinline__ Vector<T> load_vector(const T* from) {
  Vector<T> vector;
  vector.bits = *reinterpret_cast<const uint4*>(from);
  return vector;
}

template <typename T>
__device__ __forceinline__ void store_vector(T* to, const Vector<T>& vector) {
  *reinterpret_cast<uint4*>(to) = vector.bits;
}

// Calls launch(T{}) with the C++ type of `type`, and returns what it returns.
template <class Launch>
auto dispatch_type(FloatType type, Launch launch) {
  if (type == FloatType::kHalf) return launch(__half{});
  if (type == FloatType::kBFloat16) return launch(__nv_bfloat16{});
  return launch(float{});
}

// Four neighbouring values: for kernels that hold many vectors at once, where whole ones would leave room for few threads.
constexpr int kFour = 4;
template <typename T>
struct alignas(kFour * sizeof(T)) Four {
  T values[kFour];
};

template <typename T>
__device__ __forceinline__ Four<T> load_four(const T* from) {
  return *reinterpret_cast<const Four<T>*>(from);
}

template <typename T>
__device__ __forceinline__ void store_four(T* to, const Four<T>& four) {
  *reinterpret_cast<Four<T>*>(to) = four;
}

}  // namespace md
