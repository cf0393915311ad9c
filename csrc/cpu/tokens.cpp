// Work on tokens on the CPU, row after row.
#include "tokens.h"

#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>

namespace md {
namespace {

template <class Row>
void for_rows(int64_t rows, int channels, Row row) {
  const int64_t grain = std::max<int64_t>(1, 16384 / std::max(channels, 1));
  at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) row(r);
  });
}

}  // namespace

template <typename T>
void add_bias_cpu(const T* x, const T* residual, const T* bias, T* out, const TokenShape& shape) {
  for_rows(shape.rows, shape.channels, [&](int64_t row) {
    for (int c = 0; c < shape.channels; ++c) {
      const int64_t at = row * shape.channels + c;
      out[at] =
          static_cast<T>(static_cast<float>(x[at]) + static_cast<float>(bias[c]) + (residual ? static_cast<float>(residual[at]) : 0.0f));
    }
  });
}

template <typename T>
void gated_gelu_cpu(const T* x, const T* beside, T* out, const GatedGeluShape& shape) {
  for_rows(shape.rows, shape.channels, [&](int64_t row) {
    const T* value = x + row * 2 * shape.channels;
    const T* gate = value + shape.channels;
    T* to = out + row * shape.width();
    for (int c = 0; c < shape.channels; ++c) to[c] = static_cast<T>(static_cast<float>(value[c]) * gelu(static_cast<float>(gate[c])));
    if (!beside) return;
    std::copy_n(beside + row * shape.beside, shape.beside, to + shape.channels);
    std::fill_n(to + shape.channels + shape.beside, kOneAndZeros, static_cast<T>(0.0f));
    to[shape.channels + shape.beside] = static_cast<T>(1.0f);
  });
}

template <typename T>
void add_layer_norm_cpu(const T* x, const T* residual, const T* offset, const T* weight, const T* bias, T* sum, T* normed,
                        const TokenShape& shape) {
  for_rows(shape.rows, shape.channels, [&](int64_t row) {
    const T* added = offset ? offset + row / shape.per_sample * shape.offset_stride : nullptr;
    const int64_t start = row * shape.channels;
    const auto value_at = [&](int c) {
      const float residue = (residual ? static_cast<float>(residual[start + c]) : 0.0f) + (added ? static_cast<float>(added[c]) : 0.0f);
      return static_cast<double>(static_cast<T>(static_cast<float>(x[start + c]) + residue));
    };
    double total = 0.0;
    for (int c = 0; c < shape.channels; ++c) total += value_at(c);
    const double mean = total / shape.channels;
    double squares = 0.0;
    for (int c = 0; c < shape.channels; ++c) squares += (value_at(c) - mean) * (value_at(c) - mean);
    const double rstd = 1.0 / std::sqrt(squares / shape.channels + static_cast<double>(shape.eps));
    for (int c = 0; c < shape.channels; ++c) {
      const double value = value_at(c);
      if (sum) sum[start + c] = static_cast<T>(value);
      normed[start + c] =
          static_cast<T>(static_cast<float>((value - mean) * rstd) * static_cast<float>(weight[c]) + static_cast<float>(bias[c]));
    }
  });
}

#define MD_INSTANTIATE(T)                                                          \
  template void add_bias_cpu(const T*, const T*, const T*, T*, const TokenShape&); \
  template void gated_gelu_cpu(const T*, const T*, T*, const GatedGeluShape&);     \
  template void add_layer_norm_cpu(const T*, const T*, const T*, const T*, const T*, T*, T*, const TokenShape&);
MD_INSTANTIATE(float)
MD_INSTANTIATE(c10::Half)
MD_INSTANTIATE(c10::BFloat16)
#undef MD_INSTANTIATE

}  // namespace md
