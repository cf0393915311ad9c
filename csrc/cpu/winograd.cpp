// What stands around the products of a Winograd convolution, on the CPU: one tile's channel after another.
#include "winograd.h"

#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <vector>

namespace md::winograd {

template <typename T>
void input_cpu(const T* x, const Norm& norm, T* planes, const Shape& shape) {
  const int half_height = shape.height / 2, half_width = shape.width / 2, channels = shape.channels;
  const bool enlarged = shape.sides == kPlacesEnlarged;
  const int height = enlarged ? half_height : shape.height, width = enlarged ? half_width : shape.width;  // of x
  const int64_t slices = moment_slices(static_cast<int64_t>(shape.height) * shape.width);
  const T *weight = static_cast<const T*>(norm.weight), *bias = static_cast<const T*>(norm.bias);
  at::parallel_for(0, shape.samples, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scale(channels, 1.0f), shift(channels, 0.0f);
    for (int64_t n = begin; n < end; ++n) {
      for (int c = 0; norm.moments && c < channels; ++c) {
        const int group = c / (channels / norm.groups);
        const GroupStatistics of =
            combine_moments(norm.moments + n * slices * norm.groups * kMoments, slices, norm.groups, group, norm.eps);
        scale[c] = of.rstd * static_cast<float>(weight[c]);
        shift[c] = static_cast<float>(bias[c]) - of.mean * scale[c];
      }
      const auto value_at = [&](int row, int column, int c) {
        if (row < 0 || row >= height || column < 0 || column >= width) return 0.0f;
        const float value = static_cast<float>(x[((n * height + row) * width + column) * channels + c]);
        if (!norm.moments) return value;
        const float normed = value * scale[c] + shift[c];
        return static_cast<float>(static_cast<T>(norm.silu ? silu(normed) : normed));
      };
      for (int tile = 0; tile < half_height * half_width; ++tile) {
        const int top = tile / half_width, left = tile % half_width;
        for (int c = 0; c < channels; ++c) {
          float d[4][4], v[4][4];
          for (int i = 0; i < 4; ++i) {
            for (int j = 0; j < 4; ++j) {
              d[i][j] =
                  enlarged ? value_at(top - 1 + (i + 1) / 2, left - 1 + (j + 1) / 2, c) : value_at(2 * top - 1 + i, 2 * left - 1 + j, c);
            }
          }
          transform_patch(d, v);
          for (int i = 0; i < shape.sides; ++i) {
            for (int j = 0; j < shape.sides; ++j) {
              planes[((i * shape.sides + j) * shape.tiles() + n * shape.tiles_per_sample() + tile) * channels + c] =
                  static_cast<T>(v[place(shape.sides, i)][place(shape.sides, j)]);
            }
          }
        }
      }
    }
  });
}

template <typename T>
void output_cpu(const T* products, const Output& output, const Shape& shape) {
  const int half_height = shape.height / 2, half_width = shape.width / 2, channels = shape.channels;
  T* pictures = static_cast<T*>(output.pictures);
  at::parallel_for(0, shape.samples * half_height, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t n = row / half_height;
      const T* offset = static_cast<const T*>(output.offset) + n * output.offset_stride;
      for (int column = 0; column < half_width; ++column) {
        for (int c = 0; c < channels; ++c) {
          float y[2][2] = {};
          for (int j = 0; j < shape.sides; ++j) {
            float m[4] = {};
            for (int i = 0; i < shape.sides; ++i) {
              m[place(shape.sides, i)] =
                  static_cast<float>(products[((i * shape.sides + j) * shape.tiles() + row * half_width + column) * channels + c]);
            }
            add_products(place(shape.sides, j), m, y);
          }
          for (int i = 0; i < 2; ++i) {
            for (int j = 0; j < 2; ++j) {
              const int64_t at = ((2 * row + i) * shape.width + 2 * column + j) * channels + c;
              const float residual = output.residual ? static_cast<float>(static_cast<const T*>(output.residual)[at]) : 0.0f;
              pictures[at] = static_cast<T>(y[i][j] + static_cast<float>(offset[c]) + residual);
            }
          }
        }
      }
    }
  });
  if (output.groups > 0) {
    group_moments_cpu(pictures, output.moments,
                      {shape.samples, static_cast<int64_t>(shape.height) * shape.width, channels, output.groups, 1.0f, false, 0});
  }
}

#define INSTANTIATE(T)                                              \
  template void input_cpu(const T*, const Norm&, T*, const Shape&); \
  template void output_cpu(const T*, const Output&, const Shape&);
INSTANTIATE(float)
INSTANTIATE(c10::Half)
INSTANTIATE(c10::BFloat16)
#undef INSTANTIATE

}  // namespace md::winograd
