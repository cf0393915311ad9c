// Launchers of group normalisation over tokens: plain pointers and sizes, so that no .cu file needs a PyTorch header.
#pragma once

#include <algorithm>

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
  int64_t offset_stride;  // from one sample's offset to the next one's, 0 where all share one
};

// Moments [N, S, groups, 3] float: how many values slice s of a sample's pixels has in a group, their mean, and the sum of their squared
// differences from it. A slice may be empty. Few pixels are cut into as many slices as keep a GPU busy and are soon added up again.
constexpr int kMoments = 3;
MD_HOST_DEVICE int64_t moment_slices(int64_t pixels) {
  if (pixels < 8192) return pixels < 8 ? 1 : pixels < 128 ? pixels / 4 : 32;
  return pixels < 32768 ? pixels / 256 : 128;
}

MD_HOST_DEVICE float silu(float x) { return x / (1.0f + std::exp(-x)); }
MD_HOST_DEVICE float silu_slope(float x) {
  const float share = 1.0f / (1.0f + std::exp(-x));
  return share * (1.0f + x * (1.0f - share));
}

template <typename T>
void group_norm_cpu(const T* x, const T* offset, const T* weight, const T* bias, T* out, const GroupNormShape& shape);
// v_x from v_out, the gradient of the output; weight, bias and offset count as constants.
template <typename T>
void group_norm_bwd_cpu(const T* v_out, const T* x, const T* offset, const T* weight, const T* bias, T* v_x, const GroupNormShape& shape);
template <typename T>
void group_moments_cpu(const T* x, float* moments, const GroupNormShape& shape);
template <typename T>
void group_normalise_cpu(const T* x, const float* moments, const T* weight, const T* bias, T* out, const GroupNormShape& shape);

// Of moments of one sample: mean and reciprocal deviation of `group`.
struct GroupStatistics {
  float mean, rstd;
};
inline GroupStatistics combine_moments(const float* moments, int64_t slices, int groups, int group, float eps) {
  double count = 0.0, sum = 0.0, spread = 0.0;
  for (int64_t s = 0; s < slices; ++s) {
    const float* m = moments + (s * groups + group) * kMoments;
    count += m[0];
    sum += static_cast<double>(m[0]) * m[1];
  }
  const double mean = count > 0.0 ? sum / count : 0.0;
  for (int64_t s = 0; s < slices; ++s) {
    const float* m = moments + (s * groups + group) * kMoments;
    spread += m[2] + m[0] * (m[1] - mean) * (m[1] - mean);
  }
  return {static_cast<float>(mean), static_cast<float>(1.0 / std::sqrt((count > 0.0 ? spread / count : 0.0) + static_cast<double>(eps)))};
}

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
// Floats of scratch memory that group_norm_cuda and group_norm_bwd_cuda need.
int64_t group_norm_scratch(const GroupNormShape& shape);
cudaError_t group_norm_cuda(const void* x, const void* offset, const void* weight, const void* bias, void* out, float* scratch,
                            const GroupNormShape& shape, FloatType type, cudaStream_t stream);
int64_t group_norm_bwd_scratch(const GroupNormShape& shape);
cudaError_t group_norm_bwd_cuda(const void* v_out, const void* x, const void* offset, const void* weight, const void* bias, void* v_x,
                                float* scratch, const GroupNormShape& shape, FloatType type, cudaStream_t stream);
cudaError_t group_moments_cuda(const void* x, const void* offset, float* moments, const GroupNormShape& shape, FloatType type,
                               cudaStream_t stream);
cudaError_t group_normalise_cuda(const void* x, const void* offset, const float* moments, const void* weight, const void* bias, void* out,
                                 const GroupNormShape& shape, FloatType type, cudaStream_t stream);
#endif

}  // namespace md
