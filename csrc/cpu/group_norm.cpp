// Group normalisation over tokens on the CPU, one sample's group after another.
#include "group_norm.h"

#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

namespace md {

template <typename T>
void group_norm_cpu(const T* x, const T* offset, const T* weight, const T* bias, T* out, const GroupNormShape& shape) {
  const int64_t width = shape.channels / shape.groups;
  if (shape.pixels == 0) return;
  at::parallel_for(0, shape.samples * shape.groups, 1, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t first = index % shape.groups * width;
      const int64_t start = index / shape.groups * shape.pixels * shape.channels + first;
      double sum = 0.0, squares = 0.0;
      const T* added = offset ? offset + index / shape.groups * shape.offset_stride + first : nullptr;
      const auto value_at = [&](int64_t p, int64_t c) {
        return static_cast<float>(x[start + p * shape.channels + c]) + (added ? static_cast<float>(added[c]) : 0.0f);
      };
      const double shift = static_cast<double>(value_at(0, 0));  // keeps the digits of the variance where the mean is large
      for (int64_t p = 0; p < shape.pixels; ++p) {
        for (int64_t c = 0; c < width; ++c) {
          const double value = static_cast<double>(value_at(p, c)) - shift;
          sum += value;
          squares += value * value;
        }
      }
      const double count = static_cast<double>(shape.pixels * width);
      const double mean = sum / count;
      const double rstd = 1.0 / std::sqrt(std::max(squares / count - mean * mean, 0.0) + static_cast<double>(shape.eps));
      for (int64_t p = 0; p < shape.pixels; ++p) {
        for (int64_t c = 0; c < width; ++c) {
          const int64_t at = start + p * shape.channels + c;
          const float scale = static_cast<float>(rstd) * static_cast<float>(weight[first + c]);
          const float value = (value_at(p, c) - static_cast<float>(mean + shift)) * scale + static_cast<float>(bias[first + c]);
          out[at] = static_cast<T>(shape.silu ? silu(value) : value);
        }
      }
    }
  });
}

template void group_norm_cpu(const float*, const float*, const float*, const float*, float*, const GroupNormShape&);
template void group_norm_cpu(const c10::Half*, const c10::Half*, const c10::Half*, const c10::Half*, c10::Half*, const GroupNormShape&);
template void group_norm_cpu(const c10::BFloat16*, const c10::BFloat16*, const c10::BFloat16*, const c10::BFloat16*, c10::BFloat16*, const GroupNormShape&);

}  // namespace md
