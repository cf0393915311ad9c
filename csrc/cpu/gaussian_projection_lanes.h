// How the CPU's Gaussian rasteriser projects kLanes Gaussians at a time, forward and backward: the arithmetic of `make_splat` and
// `splat_gradient`, with what is the same in all views done once. For colours that do not depend on the view.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "gaussian_blend.h"
#include "gaussian_raster.h"
#include "lanes.h"

namespace md::raster {
inline namespace MD_LANES_NAMESPACE {

// Gaussians `first` to `first` + kLanes, as all views see them; those past the last one are the last one again.
struct GaussianLanes {
  Lanes mean[3], size[3], rotation[3][3];
  Lanes factor[3][3];  // rotation times sizes: its columns are the half axes

  GaussianLanes(const Inputs& in, int64_t first) {
    const auto values = [&](const float* from, int width, int k) {
      return each_lane([&](int i) { return from[width * std::min<int64_t>(first + i, in.gaussians - 1) + k]; });
    };
    for (int axis = 0; axis < 3; ++axis) {
      mean[axis] = values(in.means, 3, axis);
      size[axis] = values(in.scales, 3, axis) * in.scale_modifier;
    }
    float quaternions[kLanes][4];
    for (int i = 0; i < kLanes; ++i) unit_quaternion(in, static_cast<int>(std::min<int64_t>(first + i, in.gaussians - 1)), quaternions[i]);
    const auto part = [&](int k) { return each_lane([&](int i) { return quaternions[i][k]; }); };
    const Lanes w = part(0), x = part(1), y = part(2), z = part(3);
    rotation[0][0] = 1.f - 2.f * (y * y + z * z);
    rotation[0][1] = 2.f * (x * y - w * z);
    rotation[0][2] = 2.f * (x * z + w * y);
    rotation[1][0] = 2.f * (x * y + w * z);
    rotation[1][1] = 1.f - 2.f * (x * x + z * z);
    rotation[1][2] = 2.f * (y * z - w * x);
    rotation[2][0] = 2.f * (x * z - w * y);
    rotation[2][1] = 2.f * (y * z + w * x);
    rotation[2][2] = 1.f - 2.f * (x * x + y * y);
    for (int row = 0; row < 3; ++row) {
      for (int axis = 0; axis < 3; ++axis) factor[row][axis] = rotation[row][axis] * size[axis];
    }
  }
};

// As `Projection` is for one Gaussian, in the same order: whether a pixel's alpha reaches kMinAlpha hangs on the last digits.
struct ProjectionLanes {
  Lanes view[3], inverse_z, limited[2];
  LaneMask in_front, is_free[2];  // nearer things are culled; slopes within their limits
  Lanes jw[2][3], axes[2][3], xx, xy, yy, determinant;

  ProjectionLanes(const Camera& camera, const GaussianLanes& g) {
    for (int row = 0; row < 3; ++row) {
      const float* r = camera.r[row];
      view[row] = g.mean[0] * r[0] + g.mean[1] * r[1] + g.mean[2] * r[2] + camera.t[row];
    }
    const Lanes z = view[2];
    in_front = z > kNear;
    inverse_z = lanes(1.f) / z;
    const float focal[2] = {camera.fx, camera.fy};
    for (int axis = 0; axis < 2; ++axis) {
      const Lanes slope = view[axis] / z, low = lanes(camera.slope_min[axis]), high = lanes(camera.slope_max[axis]);
      is_free[axis] = (slope >= low) & (slope <= high);
      limited[axis] = select(is_free[axis], view[axis], smaller_lanes(larger_lanes(slope, low), high) * z);
      const Lanes along = lanes(focal[axis]) / z, across = -focal[axis] * limited[axis] / (z * z);
      for (int k = 0; k < 3; ++k) jw[axis][k] = along * camera.r[axis][k] + across * camera.r[2][k];
    }
    for (int row = 0; row < 2; ++row) {
      for (int axis = 0; axis < 3; ++axis)
        axes[row][axis] =
            g.size[axis] * (jw[row][0] * g.rotation[0][axis] + jw[row][1] * g.rotation[1][axis] + jw[row][2] * g.rotation[2][axis]);
    }
    const Lanes(*m)[3] = axes;
    const Lanes wide = m[0][0] * m[0][0] + m[0][1] * m[0][1] + m[0][2] * m[0][2];
    const Lanes high = m[1][0] * m[1][0] + m[1][1] * m[1][1] + m[1][2] * m[1][2];
    xy = m[0][0] * m[1][0] + m[0][1] * m[1][1] + m[0][2] * m[1][2];
    xx = wide + kLowPass;
    yy = high + kLowPass;
    const Lanes u = m[0][1] * m[1][2] - m[0][2] * m[1][1];
    const Lanes v = m[0][2] * m[1][0] - m[0][0] * m[1][2];
    const Lanes w = m[0][0] * m[1][1] - m[0][1] * m[1][0];
    determinant = u * u + v * v + w * w + (wide + high) * kLowPass + kLowPass * kLowPass;
  }
};

// The splats of Gaussians [begin, end) in all views, and their radii.
inline void project_gaussians(const Inputs& in, const Camera* cameras, int64_t begin, int64_t end, const State& state) {
  enum Row { kX, kY, kA, kB, kC, kExtent, kDepth, kRows };
  alignas(4 * kLanes) float rows[kRows][kLanes];
  for (int64_t first = begin; first < end; first += kLanes) {
    const int count = static_cast<int>(std::min<int64_t>(kLanes, end - first));
    const GaussianLanes gaussians(in, first);
    float colors[kLanes][3], reaches[kLanes];
    for (int i = 0; i < count; ++i) {
      const float opacity = in.opacities[first + i];
      gaussian_color(in, cameras[0], static_cast<int>(first + i), colors[i]);
      reaches[i] = opacity >= kMinAlpha ? 2.f * logf(opacity / kMinAlpha) + 1e-3f : -1.f;
    }
    const Lanes opacity = each_lane([&](int i) { return in.opacities[std::min<int64_t>(first + i, in.gaussians - 1)]; });
    for (int view = 0; view < in.views; ++view) {
      const Camera& camera = cameras[view];
      const int64_t at = static_cast<int64_t>(view) * in.gaussians + first;
      const ProjectionLanes p(camera, gaussians);
      Lanes x = camera.fx * p.view[0] / p.view[2] + camera.cx - 0.5f, y = camera.fy * p.view[1] / p.view[2] + camera.cy - 0.5f;
      if (in.means2d_offset) {
        const auto offset = [&](int axis) {
          return each_lane([&](int i) { return i < count ? in.means2d_offset[2 * (at + i) + axis] : 0.f; });
        };
        x += offset(0) * camera.half_width;
        y += offset(1) * camera.half_height;
      }
      const Lanes a = p.yy / p.determinant, b = -p.xy / p.determinant, c = p.xx / p.determinant;
      const Lanes middle = 0.5f * (p.xx + p.yy);
      const Lanes extent = 3.f * sqrt_lanes(middle + sqrt_lanes(larger_lanes(middle * middle - p.determinant, lanes(kMinSpread))));
      // A sum is finite only if every term is (the terms are far from the largest float, or culled rightly).
      const Lanes sum = x + y + a + b + c + opacity + extent + p.view[2];
      const uint32_t shown = bits(p.in_front & (sum <= 3e38f) & (sum >= -3e38f));
      const Lanes values[kRows] = {x, y, a, b, c, extent, p.view[2]};
      for (int row = 0; row < kRows; ++row) store_lanes(rows[row], values[row]);
      for (int i = 0; i < count; ++i) {
        Splat& splat = state.splats[at + i];
        const float radius = ceilf(rows[kExtent][i]);
        const bool is_shown = shown >> i & 1;
        const TileRect square = is_shown ? square_tiles(rows[kX][i], rows[kY][i], radius, in.width, in.height) : TileRect{};
        if (square.x0 >= square.x1 || square.y0 >= square.y1) {
          splat = Splat{};
          state.radii[at + i] = 0;
          continue;
        }
        splat = Splat{rows[kX][i],     rows[kY][i], rows[kA][i],  rows[kB][i],  rows[kC][i],  in.opacities[first + i],
                      rows[kDepth][i], reaches[i],  colors[i][0], colors[i][1], colors[i][2], radius};
        state.radii[at + i] = static_cast<int>(smaller(radius, 1073741824.f));
      }
    }
  }
}

// Gradients of Gaussians [begin, end) over all views, from those of their hits: hits[view] has a view's.
inline void gaussian_gradients(const Inputs& in, const Camera* cameras, const int* radii, const Hits* hits, int64_t begin, int64_t end,
                               const InputGradients& out) {
  alignas(4 * kLanes) float rows[kGradients][kLanes];
  for (int64_t first = begin; first < end; first += kLanes) {
    const int count = static_cast<int>(std::min<int64_t>(kLanes, end - first));
    const GaussianLanes gaussians(in, first);
    const Lanes zero = lanes(0.f);
    Lanes v_mean[3] = {zero, zero, zero}, v_factor[3][3], v_opacity = zero, v_color[3] = {zero, zero, zero};
    for (auto& row : v_factor) row[0] = row[1] = row[2] = zero;
    for (int view = 0; view < in.views; ++view) {
      const Camera& camera = cameras[view];
      const int64_t at = static_cast<int64_t>(view) * in.gaussians + first;
      bool any_shown = false;
      for (int i = 0; i < count; ++i) any_shown |= radii[at + i] > 0;
      std::memset(rows, 0, sizeof rows);
      if (any_shown) {
        for (int i = 0; i < count; ++i) {
          if (radii[at + i] <= 0) continue;
          const SplatGradient total = hits[view].sum(first + i);
          const float* sums = reinterpret_cast<const float*>(&total);
          for (int k = 0; k < kGradients; ++k) rows[k][i] = sums[k];
        }
        const auto of = [&](int k) { return load_lanes(rows[k]); };  // in the order of SplatGradient
        const LaneMask shown = each_lane([&](int i) { return i < count && radii[at + i] > 0 ? 1.f : 0.f; }) > 0.f;
        const ProjectionLanes p(camera, gaussians);
        // The steps of splat_gradient, one after the other.
        const Lanes inverse = lanes(1.f) / p.determinant;
        const Lanes a = p.yy * inverse, b = -(p.xy * inverse), c = p.xx * inverse;
        const Lanes v_a = of(2), h = 0.5f * of(3), v_c = of(4);
        const Lanes t00 = a * v_a + b * h, t01 = a * h + b * v_c, t10 = b * v_a + c * h, t11 = b * h + c * v_c;
        const Lanes v_xx = -(t00 * a + t01 * b), v_xy = -(t00 * b + t01 * c), v_yy = -(t10 * b + t11 * c);
        Lanes v_jw[2][3] = {{zero, zero, zero}, {zero, zero, zero}};
        for (int axis = 0; axis < 3; ++axis) {
          const Lanes v_wide = 2.f * (v_xx * p.axes[0][axis] + v_xy * p.axes[1][axis]);
          const Lanes v_high = 2.f * (v_xy * p.axes[0][axis] + v_yy * p.axes[1][axis]);
          for (int k = 0; k < 3; ++k) {
            v_jw[0][k] += v_wide * gaussians.factor[k][axis];
            v_jw[1][k] += v_high * gaussians.factor[k][axis];
            v_factor[k][axis] += select(shown, p.jw[0][k] * v_wide + p.jw[1][k] * v_high, zero);
          }
        }
        Lanes v_view[3] = {zero, zero, of(6)};
        const float focal[2] = {camera.fx, camera.fy};
        for (int axis = 0; axis < 2; ++axis) {
          const Lanes v_along = v_jw[axis][0] * camera.r[axis][0] + v_jw[axis][1] * camera.r[axis][1] + v_jw[axis][2] * camera.r[axis][2];
          const Lanes v_across = v_jw[axis][0] * camera.r[2][0] + v_jw[axis][1] * camera.r[2][1] + v_jw[axis][2] * camera.r[2][2];
          const Lanes f = p.inverse_z * focal[axis], steep = f * p.inverse_z;
          v_view[axis] += f * of(axis) - select(p.is_free[axis], steep * v_across, zero);
          v_view[2] += steep * (2.f * (p.inverse_z * p.limited[axis] * v_across) - p.view[axis] * of(axis) - v_along);
        }
        for (int k = 0; k < 3; ++k) {
          v_mean[k] += select(shown, v_view[0] * camera.r[0][k] + v_view[1] * camera.r[1][k] + v_view[2] * camera.r[2][k], zero);
        }
        v_opacity += of(5);
        for (int channel = 0; channel < 3; ++channel) v_color[channel] += of(7 + channel);
      }
      if (out.means2d_offset) {
        for (int i = 0; i < count; ++i) {
          out.means2d_offset[2 * (at + i)] = rows[0][i] * camera.half_width;
          out.means2d_offset[2 * (at + i) + 1] = rows[1][i] * camera.half_height;
        }
      }
    }
    alignas(4 * kLanes) float means[3][kLanes], scales[3][kLanes], rotations[3][3][kLanes], opacities[kLanes], colors[3][kLanes];
    store_lanes(opacities, v_opacity);
    for (int axis = 0; axis < 3; ++axis) {
      store_lanes(means[axis], v_mean[axis]);
      store_lanes(colors[axis], v_color[axis]);
      Lanes v_size = zero;
      for (int k = 0; k < 3; ++k) {
        store_lanes(rotations[k][axis], v_factor[k][axis] * gaussians.size[axis]);
        v_size += v_factor[k][axis] * gaussians.rotation[k][axis];
      }
      store_lanes(scales[axis], v_size * in.scale_modifier);
    }
    for (int i = 0; i < count; ++i) {
      const int64_t n = first + i;
      float v_rotation[3][3], quaternion[4], v_quaternion[4] = {};
      for (int axis = 0; axis < 3; ++axis) {
        out.means[3 * n + axis] = means[axis][i];
        out.scales[3 * n + axis] = scales[axis][i];
        for (int k = 0; k < 3; ++k) v_rotation[k][axis] = rotations[k][axis][i];
      }
      const SplatGradient v{.red = colors[0][i], .green = colors[1][i], .blue = colors[2][i]};
      float* v_appearance = out.appearance + 3 * n;
      v_appearance[0] = v_appearance[1] = v_appearance[2] = 0.f;
      if (in.coefficients == 0) {
        color_gradient<0>(in, cameras[0], static_cast<int>(n), v, v_appearance, nullptr);
      } else {
        color_gradient<1>(in, cameras[0], static_cast<int>(n), v, v_appearance, nullptr);
      }
      unit_quaternion(in, static_cast<int>(n), quaternion);
      rotation_matrix_gradient(quaternion, v_rotation, v_quaternion);
      unit_quaternion_gradient(in, static_cast<int>(n), v_quaternion);
      for (int k = 0; k < 4; ++k) out.rotations[4 * n + k] = v_quaternion[k];
      out.opacities[n] = opacities[i];
    }
  }
}

}  // namespace MD_LANES_NAMESPACE
}  // namespace md::raster
