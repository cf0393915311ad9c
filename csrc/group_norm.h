// Launchers of group normalisation over tokens: plain pointers and sizes, so that no .cu file needs a PyTorch header.
#pragma once

#include <cstdint>

#include "float_types.h"

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>
#endif

namespace md {

// Group normalisation (Wu and He 2018) of x [N, P, C], C innermost, plus an offset [N, C], [1, C] or none: every group of C / groups
// channels of every sample gets mean 0 and variance 1 over its P pixels, then weight and bias of its channels, then SiLU if wanted.
struct GroupNormShape {
  int64_t samples;  // N
  int64_t pixels;   // P
  int channels;     // C
  int groups;
  float eps;
  bool silu;
  int offset_stride;  // from one sample's offset to the next one's: C, or 0 where all share one
};

MD_HOST_DEVICE float silu(float x) { return x / (1.0f + std::exp(-x)); }

template <typename T>
void group_norm_cpu(const T* x, const T* offset, const T* weight, const T* bias, T* out, const GroupNormShape& shape);

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
// Floats of scratch memory that group_norm_cuda needs.
int64_t group_norm_scratch(const GroupNormShape& shape);
cudaError_t group_norm_cuda(const void* x, const void* offset, const void* weight, const void* bias, void* out, float* scratch,
                            const GroupNormShape& shape, FloatType type, cudaStream_t stream);
#endif

}  // namespace md
