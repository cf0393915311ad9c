// Features of points from grids of texels, on the CPU. Reading is parallel over points, writing over grids and blocks of channels,
// which are apart: sums are added in the order of the points whatever the number of threads, so every result repeats bit for bit.
#include "grid_sampling.h"

#include <ATen/Parallel.h>

#include <algorithm>

namespace md::grid_sampling {
namespace {

constexpr int64_t kPointsPerTask = 1024;
constexpr int kChannelBlock = 16;  // whole lines of the cache

// Calls visit(batch, point of all, its coordinates).
template <class Visit>
void for_each_point(const Inputs& in, const Visit& visit) {
  at::parallel_for(0, in.batch * in.count, kPointsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) visit(i / in.count, i, in.points + 3 * i);
  });
}

const float* grid_of(const Inputs& in, int64_t batch, int grid) {
  return in.grids + (batch * in.layout.grids + grid) * in.layout.texels * in.layout.channels;
}

// Zero, or not a number where the point is not finite: what a sum over the corners starts from.
template <int D>
float nothing(const Cell<D>& cell) {
  float sum = 0.f;
  for (int d = 0; d < D; ++d) sum += cell.fraction[d];
  return 0.f * sum;
}

template <int D>
void sample(const Inputs& in, float* features) {
  const Layout& layout = in.layout;
  const int channels = layout.channels;
  for_each_point(in, [&](int64_t batch, int64_t i, const float* point) {
    for (int g = 0; g < layout.grids; ++g) {
      const Cell<D> cell = locate<D>(layout, g, point);
      const float* grid = grid_of(in, batch, g);
      float* out = features + (i * layout.grids + g) * channels;
      std::fill(out, out + channels, nothing(cell));
      for (int corner = 0; corner < 1 << D; ++corner) {
        const int texel = corner_texel(layout, cell, corner);
        if (texel == kOutside) continue;
        const float weight = corner_weight(cell, corner);
        const float* values = grid + static_cast<int64_t>(texel) * channels;
        for (int c = 0; c < channels; ++c) out[c] += weight * values[c];
      }
    }
  });
}

template <int D>
void points_gradient(const Inputs& in, const float* v_features, float* v_points) {
  const Layout& layout = in.layout;
  const int channels = layout.channels;
  for_each_point(in, [&](int64_t batch, int64_t i, const float* point) {
    float sum[kDims] = {};
    for (int g = 0; g < layout.grids; ++g) {
      const Cell<D> cell = locate<D>(layout, g, point);
      const float* grid = grid_of(in, batch, g);
      const float* v = v_features + (i * layout.grids + g) * channels;
      float values[1 << D];
      for (int corner = 0; corner < 1 << D; ++corner) {
        const int texel = corner_texel(layout, cell, corner);
        values[corner] = 0.f;
        if (texel == kOutside) continue;
        const float* at = grid + static_cast<int64_t>(texel) * channels;
        for (int c = 0; c < channels; ++c) values[corner] += v[c] * at[c];
      }
      add_blend_gradient(layout, g, cell, values, sum);
    }
    for (int axis = 0; axis < kDims; ++axis) v_points[3 * i + axis] = sum[axis];
  });
}

template <int D>
void grids_gradient(const Inputs& in, const float* v_features, float* v_grids) {
  const Layout& layout = in.layout;
  const int channels = layout.channels, blocks = (channels + kChannelBlock - 1) / kChannelBlock;
  at::parallel_for(0, in.batch * layout.grids * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t of_all = task / blocks, batch = of_all / layout.grids;  // which grid
      const int g = static_cast<int>(of_all % layout.grids);
      const int first = static_cast<int>(task % blocks) * kChannelBlock, last = std::min(first + kChannelBlock, channels);
      float* grid = v_grids + of_all * layout.texels * channels;
      for (int64_t i = batch * in.count; i < (batch + 1) * in.count; ++i) {
        const Cell<D> cell = locate<D>(layout, g, in.points + 3 * i);
        const float* v = v_features + (i * layout.grids + g) * channels;
        for (int corner = 0; corner < 1 << D; ++corner) {
          const int texel = corner_texel(layout, cell, corner);
          if (texel == kOutside) continue;
          const float weight = corner_weight(cell, corner);
          float* values = grid + static_cast<int64_t>(texel) * channels;
          for (int c = first; c < last; ++c) values[c] += weight * v[c];
        }
      }
    }
  });
}

}  // namespace

void sample_cpu(const Inputs& in, float* features) { in.layout.dims == 2 ? sample<2>(in, features) : sample<3>(in, features); }

void points_gradient_cpu(const Inputs& in, const float* v_features, float* v_points) {
  in.layout.dims == 2 ? points_gradient<2>(in, v_features, v_points) : points_gradient<3>(in, v_features, v_points);
}

void grids_gradient_cpu(const Inputs& in, const float* v_features, float* v_grids) {
  in.layout.dims == 2 ? grids_gradient<2>(in, v_features, v_grids) : grids_gradient<3>(in, v_features, v_grids);
}

}  // namespace md::grid_sampling
