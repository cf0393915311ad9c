// Multiresolution hash grid on the CPU. Reading is parallel over points, writing over levels, whose entries are apart: sums are
// added in the order of the points whatever the number of threads, so every result repeats bit for bit.
#include "hash_grid.h"

#include <ATen/Parallel.h>

#include <algorithm>

namespace md::hash_grid {
namespace {

constexpr int64_t kBlock = 256;  // points whose encodings stay in the first cache while the levels take turns
constexpr int64_t kPointsPerTask = 2048;

// Calls visit(level, point, its cell), level after level for a block of points.
template <class Visit>
void for_each_cell(const Inputs& in, const Visit& visit) {
  at::parallel_for(0, in.count, kPointsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += kBlock) {
      const int64_t last = std::min(first + kBlock, end);
      for (int l = 0; l < in.grid.count; ++l) {
        const Level& level = in.grid.levels[l];
        for (int64_t i = first; i < last; ++i) visit(l, i, locate(level, in.points + 3 * i));
      }
    }
  });
}

template <int F>
void encode(const Inputs& in, float* encoding) {
  const int64_t width = static_cast<int64_t>(in.grid.count) * F;
  for_each_cell(in, [&](int l, int64_t i, const Cell& cell) {
    const Level& level = in.grid.levels[l];
    const float* table = in.params + level.offset * F;
    float sum[F] = {};
    for (int corner = 0; corner < kCorners; ++corner) {
      const float weight = corner_weight(cell, corner);
      const float* entry = table + static_cast<int64_t>(corner_entry(level, cell, corner)) * F;
      for (int f = 0; f < F; ++f) sum[f] += weight * entry[f];
    }
    float* out = encoding + i * width + l * F;
    for (int f = 0; f < F; ++f) out[f] = sum[f];
  });
}

template <int F>
void points_gradient(const Inputs& in, const float* v_encoding, float* v_points) {
  const int64_t width = static_cast<int64_t>(in.grid.count) * F;
  std::fill(v_points, v_points + 3 * in.count, 0.f);
  for_each_cell(in, [&](int l, int64_t i, const Cell& cell) {
    const Level& level = in.grid.levels[l];
    const float* table = in.params + level.offset * F;
    const float* v = v_encoding + i * width + l * F;
    float values[kCorners], sum[3] = {};
    for (int corner = 0; corner < kCorners; ++corner) {
      const float* entry = table + static_cast<int64_t>(corner_entry(level, cell, corner)) * F;
      values[corner] = 0.f;
      for (int f = 0; f < F; ++f) values[corner] += v[f] * entry[f];
    }
    add_blend_gradient(level, cell, values, sum);
    for (int axis = 0; axis < 3; ++axis) v_points[3 * i + axis] += sum[axis];
  });
}

template <int F>
void params_gradient(const Inputs& in, const float* v_encoding, float* v_params) {
  const int64_t width = static_cast<int64_t>(in.grid.count) * F;
  at::parallel_for(0, in.grid.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t l = begin; l < end; ++l) {
      const Level& level = in.grid.levels[l];
      float* table = v_params + level.offset * F;
      for (int64_t i = 0; i < in.count; ++i) {
        const Cell cell = locate(level, in.points + 3 * i);
        const float* v = v_encoding + i * width + l * F;
        for (int corner = 0; corner < kCorners; ++corner) {
          const float weight = corner_weight(cell, corner);
          float* entry = table + static_cast<int64_t>(corner_entry(level, cell, corner)) * F;
          for (int f = 0; f < F; ++f) entry[f] += weight * v[f];
        }
      }
    }
  });
}

}  // namespace

void encode_cpu(const Inputs& in, float* encoding) {
  switch (in.grid.features) {
    case 1:
      return encode<1>(in, encoding);
    case 2:
      return encode<2>(in, encoding);
    case 4:
      return encode<4>(in, encoding);
    default:
      return encode<8>(in, encoding);
  }
}

void points_gradient_cpu(const Inputs& in, const float* v_encoding, float* v_points) {
  switch (in.grid.features) {
    case 1:
      return points_gradient<1>(in, v_encoding, v_points);
    case 2:
      return points_gradient<2>(in, v_encoding, v_points);
    case 4:
      return points_gradient<4>(in, v_encoding, v_points);
    default:
      return points_gradient<8>(in, v_encoding, v_points);
  }
}

void params_gradient_cpu(const Inputs& in, const float* v_encoding, float* v_params) {
  switch (in.grid.features) {
    case 1:
      return params_gradient<1>(in, v_encoding, v_params);
    case 2:
      return params_gradient<2>(in, v_encoding, v_params);
    case 4:
      return params_gradient<4>(in, v_encoding, v_params);
    default:
      return params_gradient<8>(in, v_encoding, v_params);
  }
}

}  // namespace md::hash_grid
