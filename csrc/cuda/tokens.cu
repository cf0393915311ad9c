// Work on tokens on the GPU: every value is loaded and stored once, 16 bytes at a time.
#include "tokens.h"

#include <algorithm>

#include "float_vectors.h"
#include "warps.h"

namespace md {
namespace {

constexpr int kThreads = 256;
constexpr int kRowsPerBlock = kThreads / kWarp;  // of add_layer_norm: a warp takes a row

template <typename T>
__global__ void __launch_bounds__(kThreads)
    add_bias_kernel(const T* x, const T* residual, const T* bias, T* out, int64_t vectors, int row_vectors) {
  constexpr int kWidth = Lanes<T>::kWidth;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= vectors) return;
  Vector<T> sum = load_vector(x + i * kWidth);
  const Vector<T> added = load_vector(bias + i % row_vectors * kWidth);
  if (residual) {
    const Vector<T> other = load_vector(residual + i * kWidth);
#pragma unroll
    for (int k = 0; k < kWidth; ++k)
      from_float(to_float(sum.values[k]) + to_float(added.values[k]) + to_float(other.values[k]), sum.values[k]);
  } else {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) from_float(to_float(sum.values[k]) + to_float(added.values[k]), sum.values[k]);
  }
  store_vector(out + i * kWidth, sum);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    gated_gelu_kernel(const T* __restrict__ x, const T* __restrict__ beside, T* __restrict__ out, GatedGeluShape shape) {
  constexpr int kWidth = Lanes<T>::kWidth;
  const unsigned row_vectors = shape.width() / kWidth, i = blockIdx.x * kThreads + threadIdx.x;  // below 2^32: 64 GiB
  const int64_t row = i / row_vectors;
  if (row >= shape.rows) return;
  const int channel = static_cast<int>(i % row_vectors) * kWidth;
  Vector<T> value;
  if (channel < shape.channels) {
    const T* from = x + row * 2 * shape.channels + channel;
    value = load_vector(from);
    const Vector<T> gate = load_vector(from + shape.channels);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) from_float(to_float(value.values[k]) * gelu(to_float(gate.values[k])), value.values[k]);
  } else if (channel < shape.channels + shape.beside) {
    value = load_vector(beside + row * shape.beside + channel - shape.channels);
  } else {
    value.bits = make_uint4(0, 0, 0, 0);
    if (channel == shape.channels + shape.beside) from_float(1.0f, value.values[0]);
  }
  store_vector(out + int64_t{i} * kWidth, value);
}

// kVectors: of a row, in the registers of each lane. Without a residual there is no offset and no sum.
template <typename T, int kVectors>
__global__ void __launch_bounds__(kThreads) add_layer_norm_kernel(const T* x, const T* residual, const T* offset, const T* weight,
                                                                  const T* bias, T* sum, T* normed, TokenShape shape) {
  constexpr int kWidth = Lanes<T>::kWidth;
  const int64_t row = int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / kWarp;
  if (row >= shape.rows) return;
  const int lane = threadIdx.x % kWarp, row_vectors = shape.channels / kWidth;
  const int64_t start = row * shape.channels;
  const T* added = offset ? offset + row / shape.per_sample * shape.offset_stride : nullptr;
  Vector<T> values[kVectors];
  float total = 0.0f;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int at = (v * kWarp + lane) * kWidth;
    if (v * kWarp + lane >= row_vectors) continue;
    values[v] = load_vector(x + start + at);
    if (residual) {
      const Vector<T> other = load_vector(residual + start + at);
      Vector<T> own;
      if (added) own = load_vector(added + at);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        from_float(to_float(values[v].values[k]) + to_float(other.values[k]) + (added ? to_float(own.values[k]) : 0.0f),
                   values[v].values[k]);
      }
      store_vector(sum + start + at, values[v]);
    }
#pragma unroll
    for (int k = 0; k < kWidth; ++k) total += to_float(values[v].values[k]);
  }
  const float mean = sum_over_warp(total) / static_cast<float>(shape.channels);
  float squares = 0.0f;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (v * kWarp + lane >= row_vectors) continue;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const float value = to_float(values[v].values[k]) - mean;
      squares += value * value;
    }
  }
  const float rstd = rsqrtf(sum_over_warp(squares) / static_cast<float>(shape.channels) + shape.eps);
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int at = (v * kWarp + lane) * kWidth;
    if (v * kWarp + lane >= row_vectors) continue;
    const Vector<T> scale = load_vector(weight + at), shift = load_vector(bias + at);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      from_float((to_float(values[v].values[k]) - mean) * rstd * to_float(scale.values[k]) + to_float(shift.values[k]),
                 values[v].values[k]);
    }
    store_vector(normed + start + at, values[v]);
  }
}

unsigned blocks(int64_t count, int size) { return static_cast<unsigned>((count + size - 1) / size); }

template <typename T>
const T* as(const void* pointer) {
  return static_cast<const T*>(pointer);
}

template <typename T, int kVectors>
void launch_add_layer_norm(const void* x, const void* residual, const void* offset, const void* weight, const void* bias, void* sum,
                           void* normed, const TokenShape& shape, cudaStream_t stream) {
  add_layer_norm_kernel<T, kVectors><<<blocks(shape.rows, kRowsPerBlock), kThreads, 0, stream>>>(
      as<T>(x), as<T>(residual), as<T>(offset), as<T>(weight), as<T>(bias), static_cast<T*>(sum), static_cast<T*>(normed), shape);
}

}  // namespace

cudaError_t add_bias_cuda(const void* x, const void* residual, const void* bias, void* out, const TokenShape& shape, FloatType type,
                          cudaStream_t stream) {
  if (shape.rows == 0) return cudaSuccess;
  dispatch_type(type, [&](auto zero) {
    using T = decltype(zero);
    const int row_vectors = shape.channels / Lanes<T>::kWidth;
    const int64_t vectors = shape.rows * row_vectors;
    add_bias_kernel<T><<<blocks(vectors, kThreads), kThreads, 0, stream>>>(as<T>(x), as<T>(residual), as<T>(bias), static_cast<T*>(out),
                                                                           vectors, row_vectors);
  });
  return cudaGetLastError();
}

cudaError_t gated_gelu_cuda(const void* x, const void* beside, void* out, const GatedGeluShape& shape, FloatType type,
                            cudaStream_t stream) {
  if (shape.rows == 0) return cudaSuccess;
  dispatch_type(type, [&](auto zero) {
    using T = decltype(zero);
    const int64_t vectors = shape.rows * (shape.width() / Lanes<T>::kWidth);
    gated_gelu_kernel<T><<<blocks(vectors, kThreads), kThreads, 0, stream>>>(as<T>(x), as<T>(beside), static_cast<T*>(out), shape);
  });
  return cudaGetLastError();
}

cudaError_t add_layer_norm_cuda(const void* x, const void* residual, const void* offset, const void* weight, const void* bias, void* sum,
                                void* normed, const TokenShape& shape, FloatType type, cudaStream_t stream) {
  if (shape.rows == 0) return cudaSuccess;
  dispatch_type(type, [&](auto zero) {
    using T = decltype(zero);
    const int lane_vectors = (shape.channels / Lanes<T>::kWidth + kWarp - 1) / kWarp;
    if (lane_vectors <= 1) return launch_add_layer_norm<T, 1>(x, residual, offset, weight, bias, sum, normed, shape, stream);
    if (lane_vectors <= 2) return launch_add_layer_norm<T, 2>(x, residual, offset, weight, bias, sum, normed, shape, stream);
    if (lane_vectors <= 3) return launch_add_layer_norm<T, 3>(x, residual, offset, weight, bias, sum, normed, shape, stream);
    if (lane_vectors <= 5) return launch_add_layer_norm<T, 5>(x, residual, offset, weight, bias, sum, normed, shape, stream);
    return launch_add_layer_norm<T, kMostRowVectors / kWarp>(x, residual, offset, weight, bias, sum, normed, shape, stream);
  });
  return cudaGetLastError();
}

}  // namespace md
