// Gaussian weights and the density grid on the CPU.
#include "gaussian_field.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <bit>
#include <vector>

namespace md {

namespace {

constexpr int64_t kWeightsPerTask = 4096;

// 2^x for x <= 0 to 3e-7 relative; vectorises, which std::exp2 does not. 2^x = 2^n 2^f with f in [-0.5, 0.5]; 2^f by its
// Taylor series, whose first term left out is below 2e-7.
inline float exp2_nonpositive(float x) {
  x = std::max(x, -126.0f);
  const float rounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer
  const float shifted = x + rounder;
  const float f = x - (shifted - rounder);
  float p = 1.5403530e-4f;
  p = p * f + 1.3333558e-3f;
  p = p * f + 9.6181291e-3f;
  p = p * f + 5.5504109e-2f;
  p = p * f + 2.4022651e-1f;
  p = p * f + 6.9314718e-1f;
  p = p * f + 1.0f;
  const int32_t exponent = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(rounder);
  return std::bit_cast<float>(std::bit_cast<int32_t>(p) + (exponent << 23));
}

// Adds one Gaussian to the line in z at (dx, dy) from its mean, on voxels [box.lo[2], box.hi[2]].
void add_line(const FieldGaussian& g, float dx, float dy, int z_lo, int z_hi, const float* coordinates, float per_step, float* line) {
  const float r0 = g.w0 * dx;
  const float r1 = g.w1x * dx + g.w1 * dy;
  const float across = r0 * r0 + r1 * r1;
  if (across > g.limit) return;
  // Along the line the exponent is across + (w2 dz + offset)^2, so the voxels that count form one interval.
  const float offset = g.w2x * dx + g.w2y * dy;
  const float steps_per_row = per_step / std::max(g.w2, 1e-12f);
  const float half = std::sqrt(g.limit - across) * steps_per_row + 1e-3f;
  const float middle = (g.mean[2] + 1.0f) * per_step - offset * steps_per_row;
  const int first = std::max(z_lo, clamp_to_int(std::ceil(middle - half), z_lo, z_hi + 1));
  const int last = std::min(z_hi, clamp_to_int(std::floor(middle + half), z_lo - 1, z_hi));
  const float mean_z = g.mean[2], w2 = g.w2, opacity = g.opacity;
  for (int z = first; z <= last; ++z) {
    const float r2 = offset + w2 * (coordinates[z] - mean_z);
    line[z] += opacity * exp2_nonpositive(-(across + r2 * r2));
  }
}

void add_irregular_line(const float* cov, const FieldGaussian& g, float dx, float dy, int z_lo, int z_hi, const float* coordinates,
                        float* line) {
  for (int z = z_lo; z <= z_hi; ++z) {
    const float offset[3] = {dx, dy, coordinates[z] - g.mean[2]};
    line[z] += g.opacity * gaussian_weight(offset, cov);
  }
}

}  // namespace

template <typename T>
void gaussian_3d_coeff_cpu(const T* xyzs, const T* covs, T* weights, int64_t count) {
  at::parallel_for(0, count, kWeightsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) weights[i] = gaussian_weight(xyzs + 3 * i, covs + 6 * i);
  });
}

template <typename T>
void gaussian_3d_coeff_backward_cpu(const T* xyzs, const T* covs, const T* v_weights, T* v_xyzs, T* v_covs, int64_t count) {
  at::parallel_for(0, count, kWeightsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      gaussian_weight_backward(xyzs + 3 * i, covs + 6 * i, v_weights[i], v_xyzs + 3 * i, v_covs + 6 * i);
    }
  });
}

template void gaussian_3d_coeff_cpu<float>(const float*, const float*, float*, int64_t);
template void gaussian_3d_coeff_cpu<double>(const double*, const double*, double*, int64_t);
template void gaussian_3d_coeff_backward_cpu<float>(const float*, const float*, const float*, float*, float*, int64_t);
template void gaussian_3d_coeff_backward_cpu<double>(const double*, const double*, const double*, double*, double*, int64_t);

void extract_fields_cpu(const FieldParams& params) {
  const int64_t resolution = params.grid.resolution;
  std::vector<FieldGaussian> gaussians(params.num_gaussians);
  std::vector<VoxelBox> boxes(params.num_gaussians);
  at::parallel_for(0, params.num_gaussians, 256, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      boxes[i] = prepare_gaussian(params.means + 3 * i, params.covs + 6 * i, params.opacities[i], params.grid, gaussians[i]);
    }
  });
  std::vector<float> coordinates(resolution);
  for (int64_t i = 0; i < resolution; ++i) coordinates[i] = grid_coordinate(static_cast<int>(i), params.grid.resolution);

  // A task is one plane of constant x: no two write the same voxel, and each adds its Gaussians in order whatever the thread
  // count, so the result is the same bits every time.
  std::vector<std::vector<int32_t>> members(resolution);
  for (int64_t i = 0; i < params.num_gaussians; ++i) {
    if (is_empty(boxes[i])) continue;
    for (int x = boxes[i].lo[0]; x <= boxes[i].hi[0]; ++x) members[x].push_back(static_cast<int32_t>(i));
  }
  const float per_step = 0.5f * static_cast<float>(resolution - 1);
  at::parallel_for(0, resolution, 1, [&](int64_t begin, int64_t end) {
    for (int64_t x = begin; x < end; ++x) {
      float* plane = params.field + x * resolution * resolution;
      std::fill(plane, plane + resolution * resolution, 0.0f);
      for (const int32_t i : members[x]) {
        const FieldGaussian& g = gaussians[i];
        const VoxelBox& box = boxes[i];
        const float dx = coordinates[x] - g.mean[0];
        for (int y = box.lo[1]; y <= box.hi[1]; ++y) {
          const float dy = coordinates[y] - g.mean[1];
          float* line = plane + y * resolution;
          if (g.irregular != 0.0f) {
            add_irregular_line(params.covs + 6 * i, g, dx, dy, box.lo[2], box.hi[2], coordinates.data(), line);
          } else {
            add_line(g, dx, dy, box.lo[2], box.hi[2], coordinates.data(), per_step, line);
          }
        }
      }
    }
  });
}

}  // namespace md
