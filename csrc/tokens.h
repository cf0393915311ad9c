// What networks do to every token between two products, each in one pass over memory: launchers with plain pointers and sizes.
#pragma once

#include "float_types.h"

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>
#endif

namespace md {

struct TokenShape {
  int64_t rows;        // tokens of all samples
  int channels;        // of a result's row
  int64_t per_sample;  // tokens of one sample, which share an offset
  float eps;
  int64_t offset_stride;  // from one sample's offset to the next one's
};

// x Phi(x) with the normal distribution's Phi (Hendrycks and Gimpel 2016, arXiv 1606.08415), not its approximation by tanh.
MD_HOST_DEVICE float gelu(float x) { return 0.5f * x * (1.0f + std::erf(x * 0.70710678118654752f)); }

// x + bias, and + residual unless that is null: [rows, C] each, bias [C].
template <typename T>
void add_bias_cpu(const T* x, const T* residual, const T* bias, T* out, const TokenShape& shape);

// x [rows, 2 C] -> x[:, :C] gelu(x[:, C:]) (Shazeer 2020, arXiv 2002.05202, GEGLU). Where `beside` [rows, B] is not null, a row goes on
// with it, a one and zeros, kOneAndZeros values.
constexpr int kOneAndZeros = 8;
struct GatedGeluShape {
  int64_t rows;
  int channels, beside;  // C, B
  MD_HOST_DEVICE int width() const { return channels + (beside > 0 ? beside + kOneAndZeros : 0); }
};
template <typename T>
void gated_gelu_cpu(const T* x, const T* beside, T* out, const GatedGeluShape& shape);

// sum = x + residual + offset of the token's sample [samples, C], as rounded to T; normed = its layer normalisation (Ba et al. 2016,
// arXiv 1607.06450). Residual, offset and sum may be null, the latter
// two where residual is.
template <typename T>
void add_layer_norm_cpu(const T* x, const T* residual, const T* offset, const T* weight, const T* bias, T* sum, T* normed,
                        const TokenShape& shape);

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
// The longest row of add_layer_norm_cuda in vectors: a warp keeps it in registers.
constexpr int kMostRowVectors = 320;

cudaError_t add_bias_cuda(const void* x, const void* residual, const void* bias, void* out, const TokenShape& shape, FloatType type,
                          cudaStream_t stream);
cudaError_t gated_gelu_cuda(const void* x, const void* beside, void* out, const GatedGeluShape& shape, FloatType type, cudaStream_t stream);
cudaError_t add_layer_norm_cuda(const void* x, const void* residual, const void* offset, const void* weight, const void* bias, void* sum,
                                void* normed, const TokenShape& shape, FloatType type, cudaStream_t stream);
#endif

}  // namespace md
