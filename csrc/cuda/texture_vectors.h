// What the kernels of textures share: a texel's floats, some at a time, and how many fit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace md::texture {

constexpr int kCopyBlock = 256;      // threads of the kernels that stride over their items
constexpr int kMaxBlocks = 1 << 20;  // of these

inline int blocks_for(int64_t items, int block) { return static_cast<int>(std::min<int64_t>((items + block - 1) / block, kMaxBlocks)); }

template <int kVec>
struct alignas(4 * kVec) Vec {
  float v[kVec];
};

// Of what no kernel writes while it runs.
template <int kVec>
__device__ __forceinline__ Vec<kVec> load(const float* from) {
  Vec<kVec> r;
  if constexpr (kVec == 4) {
    const float4 all = __ldg(reinterpret_cast<const float4*>(from));
    r.v[0] = all.x, r.v[1] = all.y, r.v[2] = all.z, r.v[3] = all.w;
  } else if constexpr (kVec == 2) {
    const float2 all = __ldg(reinterpret_cast<const float2*>(from));
    r.v[0] = all.x, r.v[1] = all.y;
  } else {
    r.v[0] = __ldg(from);
  }
  return r;
}

template <int kVec>
__device__ __forceinline__ void store(float* to, const Vec<kVec>& value) {
  *reinterpret_cast<Vec<kVec>*>(to) = value;
}

template <int kVec>
__device__ __forceinline__ void add_to(float* to, const Vec<kVec>& value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if constexpr (kVec == 4) {
    asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(value.v[0]), "f"(value.v[1]), "f"(value.v[2]),
                 "f"(value.v[3])
                 : "memory");
  } else if constexpr (kVec == 2) {
    asm volatile("red.relaxed.gpu.global.add.v2.f32 [%0], {%1, %2};" ::"l"(to), "f"(value.v[0]), "f"(value.v[1]) : "memory");
  } else {
    atomicAdd(to, value.v[0]);
  }
#else
#pragma unroll
  for (int c = 0; c < kVec; ++c) {
    if (value.v[c] != 0.f) atomicAdd(to + c, value.v[c]);  // the padding of a texel always is 0
  }
#endif
}

// Up to kVec channels; the rest is 0.
template <int kVec>
__device__ __forceinline__ Vec<kVec> load_some(const float* from, int channels) {
  Vec<kVec> r;
#pragma unroll
  for (int c = 0; c < kVec; ++c) r.v[c] = c < channels ? __ldg(from + c) : 0.f;
  return r;
}

template <int kVec>
__device__ __forceinline__ void store_some(float* to, const Vec<kVec>& value, int channels) {
#pragma unroll
  for (int c = 0; c < kVec; ++c) {
    if (c < channels) to[c] = value.v[c];
  }
}

// Calls `run` with the number of floats of a texel that are handled together, as a constant: what divides them and fits the alignment.
template <class Run>
cudaError_t with_vector(int floats, const void* a, const void* b, Run run) {
  const auto places = reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b);
  if (floats % 4 == 0 && places % 16 == 0) return run(std::integral_constant<int, 4>());
  if (floats % 2 == 0 && places % 8 == 0) return run(std::integral_constant<int, 2>());
  return run(std::integral_constant<int, 1>());
}

#define MD_RETURN_IF_FAILED(call)             \
  do {                                        \
    const cudaError_t status = (call);        \
    if (status != cudaSuccess) return status; \
  } while (false)

}  // namespace md::texture
