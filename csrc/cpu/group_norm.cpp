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

template <typename T>
void group_norm_bwd_cpu(const T* v_out, const T* x, const T* offset, const T* weight, const T* bias, T* v_x, const GroupNormShape& shape) {
  const int64_t width = shape.channels / shape.groups;
  if (shape.pixels == 0) return;
  at::parallel_for(0, shape.samples * shape.groups, 1, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t first = index % shape.groups * width;
      const int64_t start = index / shape.groups * shape.pixels * shape.channels + first;
      const T* added = offset ? offset + index / shape.groups * shape.offset_stride + first : nullptr;
      const auto for_values = [&](auto visit) {
        for (int64_t p = 0; p < shape.pixels; ++p) {
          for (int64_t c = 0; c < width; ++c) {
            const int64_t at = start + p * shape.channels + c;
            visit(at, first + c, static_cast<double>(x[at]) + (added ? static_cast<double>(added[c]) : 0.0));
          }
        }
      };
      const double count = static_cast<double>(shape.pixels * width);
      double mean = 0.0, variance = 0.0;
      for_values([&](int64_t, int64_t, double value) { mean += value / count; });
      for_values([&](int64_t, int64_t, double value) { variance += (value - mean) * (value - mean) / count; });
      const double rstd = 1.0 / std::sqrt(variance + static_cast<double>(shape.eps));
      // The gradient of the normalised value before its weight.
      const auto v_normed = [&](int64_t at, int64_t channel, double normed) {
        const double w = static_cast<double>(weight[channel]);
        const float out = static_cast<float>(normed * w + static_cast<double>(bias[channel]));
        return static_cast<double>(v_out[at]) * w * (shape.silu ? static_cast<double>(silu_slope(out)) : 1.0);
      };
      double v_mean = 0.0, v_along = 0.0;
      for_values([&](int64_t at, int64_t channel, double value) {
        const double normed = (value - mean) * rstd, v = v_normed(at, channel, normed);
        v_mean += v / count;
        v_along += v * normed / count;
      });
      for_values([&](int64_t at, int64_t channel, double value) {
        const double normed = (value - mean) * rstd;
        v_x[at] = static_cast<T>(static_cast<float>(rstd * (v_normed(at, channel, normed) - v_mean - normed * v_along)));
      });
    }
  });
}

template <typename T>
void group_moments_cpu(const T* x, float* moments, const GroupNormShape& shape) {
  const int64_t width = shape.channels / shape.groups, slices = moment_slices(shape.pixels), length = (shape.pixels + slices - 1) / slices;
  at::parallel_for(0, shape.samples * slices, 1, [&](int64_t first, int64_t last) {
    for (int64_t index = first; index < last; ++index) {
      const int64_t begin = std::min(shape.pixels, index % slices * length), end = std::min(shape.pixels, begin + length);
      const T* slice = x + index / slices * shape.pixels * shape.channels;
      for (int64_t group = 0; group < shape.groups; ++group) {
        const auto sum_of = [&](auto of) {
          double sum = 0.0;
          for (int64_t p = begin; p < end; ++p) {
            for (int64_t c = group * width; c < (group + 1) * width; ++c) sum += of(static_cast<double>(slice[p * shape.channels + c]));
          }
          return sum;
        };
        const double count = static_cast<double>((end - begin) * width);
        const double mean = count > 0.0 ? sum_of([](double value) { return value; }) / count : 0.0;
        float* out = moments + (index * shape.groups + group) * kMoments;
        out[0] = static_cast<float>(count);
        out[1] = static_cast<float>(mean);
        out[2] = static_cast<float>(sum_of([&](double value) { return (value - mean) * (value - mean); }));
      }
    }
  });
}

template <typename T>
void group_normalise_cpu(const T* x, const float* moments, const T* weight, const T* bias, T* out, const GroupNormShape& shape) {
  const int64_t width = shape.channels / shape.groups, slices = moment_slices(shape.pixels);
  at::parallel_for(0, shape.samples * shape.groups, 1, [&](int64_t first, int64_t last) {
    for (int64_t index = first; index < last; ++index) {
      const int64_t sample = index / shape.groups, group = index % shape.groups;
      const GroupStatistics of =
          combine_moments(moments + sample * slices * shape.groups * kMoments, slices, shape.groups, static_cast<int>(group), shape.eps);
      for (int64_t p = 0; p < shape.pixels; ++p) {
        for (int64_t c = group * width; c < (group + 1) * width; ++c) {
          const int64_t at = (sample * shape.pixels + p) * shape.channels + c;
          const float value =
              (static_cast<float>(x[at]) - of.mean) * (of.rstd * static_cast<float>(weight[c])) + static_cast<float>(bias[c]);
          out[at] = static_cast<T>(shape.silu ? silu(value) : value);
        }
      }
    }
  });
}

#define INSTANTIATE(T)                                                                                           \
  template void group_norm_cpu(const T*, const T*, const T*, const T*, T*, const GroupNormShape&);               \
  template void group_norm_bwd_cpu(const T*, const T*, const T*, const T*, const T*, T*, const GroupNormShape&); \
  template void group_moments_cpu(const T*, float*, const GroupNormShape&);                                      \
  template void group_normalise_cpu(const T*, const float*, const T*, const T*, T*, const GroupNormShape&);
INSTANTIATE(float)
INSTANTIATE(c10::Half)
INSTANTIATE(c10::BFloat16)
#undef INSTANTIATE

}  // namespace md
