// Density of 3D Gaussians: the weight of one Gaussian at an offset and its derivatives, and, for sums over a grid,
// which voxels a Gaussian reaches. Packed symmetric matrices are (xx, xy, xz, yy, yz, zz).
#pragma once

#include "common.h"
#include "constants.h"

namespace md {

// Added to the determinant before the division. For sigmas below about 1e-4 it takes over and widens the Gaussian.

// A term opacity * weight below this is left out of the grid sum. The sum of what is left out at a voxel is at most
// 1e-7 times the Gaussians near it (for a uniform density, 5e-7 of the field's value), far below the 1e-4 that is promised.
constexpr float kNegligible = 1e-7f;

// Exponents are kept for base 2, the base of the hardware's exponential: exp(-m / 2) = 2^(-m log2(e) / 2).
constexpr double kHalfLog2E = 0.72134752044448170368;

struct Adjugate {
  double xx, xy, xz, yy, yz, zz;
  double determinant;
};

template <typename T>
MD_HOST_DEVICE Adjugate adjugate(const T* cov) {
  const double xx = cov[0], xy = cov[1], xz = cov[2], yy = cov[3], yz = cov[4], zz = cov[5];
  Adjugate a;
  a.xx = yy * zz - yz * yz;
  a.xy = xz * yz - xy * zz;
  a.xz = xy * yz - xz * yy;
  a.yy = xx * zz - xz * xz;
  a.yz = xy * xz - xx * yz;
  a.zz = xx * yy - xy * xy;
  a.determinant = xx * a.xx + xy * a.xy + xz * a.xz;
  return a;
}

// d^T adj(C) d: the squared Mahalanobis distance times the determinant.
MD_HOST_DEVICE double adjugate_form(const Adjugate& a, double x, double y, double z) {
  return a.xx * x * x + a.yy * y * y + a.zz * z * z + 2.0 * (a.xy * x * y + a.xz * x * z + a.yz * y * z);
}

// exp(-d^T C^-1 d / 2); 0 where an indefinite covariance would make the exponent positive.
// In double: the determinant of a flat Gaussian cancels to fewer digits than a float holds.
template <typename T>
MD_HOST_DEVICE T gaussian_weight(const T* xyz, const T* cov) {
  const Adjugate a = adjugate(cov);
  const double exponent = -0.5 * adjugate_form(a, xyz[0], xyz[1], xyz[2]) / (a.determinant + kDeterminantFloor);
  return exponent > 0.0 ? T(0) : static_cast<T>(exp(exponent));
}

// v_xyz [3] and v_cov [6] receive v_weight times the derivatives of gaussian_weight. Off-diagonal entries of the packed
// covariance stand for two matrix entries each, hence their factors of 2.
template <typename T>
MD_HOST_DEVICE void gaussian_weight_backward(const T* xyz, const T* cov, T v_weight, T* v_xyz, T* v_cov) {
  const double xx = cov[0], xy = cov[1], xz = cov[2], yy = cov[3], yz = cov[4], zz = cov[5];
  const double x = xyz[0], y = xyz[1], z = xyz[2];
  const Adjugate a = adjugate(cov);
  const double inverse = 1.0 / (a.determinant + kDeterminantFloor);
  const double distance2 = adjugate_form(a, x, y, z) * inverse;
  // A zero weight has zero gradient; the polynomials below may be infinite there.
  const double weight = -0.5 * distance2 > 0.0 ? 0.0 : exp(-0.5 * distance2);
  if (weight == 0.0) {
    for (int i = 0; i < 3; ++i) v_xyz[i] = T(0);
    for (int i = 0; i < 6; ++i) v_cov[i] = T(0);
    return;
  }
  const double v_distance2 = -0.5 * weight * static_cast<double>(v_weight) * inverse;
  v_xyz[0] = static_cast<T>(2.0 * v_distance2 * (a.xx * x + a.xy * y + a.xz * z));
  v_xyz[1] = static_cast<T>(2.0 * v_distance2 * (a.xy * x + a.yy * y + a.yz * z));
  v_xyz[2] = static_cast<T>(2.0 * v_distance2 * (a.xz * x + a.yz * y + a.zz * z));
  v_cov[0] = static_cast<T>(v_distance2 * (zz * y * y + yy * z * z - 2.0 * yz * y * z - distance2 * a.xx));
  v_cov[1] = static_cast<T>(2.0 * v_distance2 * (xz * y * z + yz * x * z - zz * x * y - xy * z * z - distance2 * a.xy));
  v_cov[2] = static_cast<T>(2.0 * v_distance2 * (yz * x * y + xy * y * z - yy * x * z - xz * y * y - distance2 * a.xz));
  v_cov[3] = static_cast<T>(v_distance2 * (zz * x * x + xx * z * z - 2.0 * xz * x * z - distance2 * a.yy));
  v_cov[4] = static_cast<T>(2.0 * v_distance2 * (xz * x * y + xy * x * z - xx * y * z - yz * x * x - distance2 * a.yz));
  v_cov[5] = static_cast<T>(v_distance2 * (yy * x * x + xx * y * y - 2.0 * xy * x * y - distance2 * a.zz));
}

struct FieldGrid {
  int resolution;  // R points on linspace(-1, 1, R) along each axis
  int num_blocks;  // blocks along each axis; R is a multiple of it
  float margin;    // relax_ratio * 2 / num_blocks
};

// Point i of linspace(-1, 1, R), counted from the nearer end as torch.linspace does, so that both give the same floats.
MD_HOST_DEVICE float grid_coordinate(int i, int resolution) {
  const float step = 2.0f / static_cast<float>(resolution - 1);
  return i < resolution / 2 ? fmaf(step, static_cast<float>(i), -1.0f) : fmaf(-step, static_cast<float>(resolution - 1 - i), 1.0f);
}

// One Gaussian made ready for the grid. With C = L L^T, the rows of L^-1 give
//   r0 = w0 dx,   r1 = w1x dx + w1 dy,   r2 = w2x dx + w2y dy + w2 dz,   weight = 2^-(r0^2 + r1^2 + r2^2).
// A sum of squares cannot go negative by rounding, and r0, r1 are constant along a line in z.
struct alignas(16) FieldGaussian {
  float mean[3];
  float opacity;
  float w0, w1x, w1, w2x;
  float w2y, w2;
  float limit;      // the weight is negligible where the sum of squares is above this
  float irregular;  // 1 if C is not positive definite: there are no rows then, use gaussian_weight instead
};

// Inclusive ranges of voxels; empty if hi < lo on any axis.
struct VoxelBox {
  int lo[3];
  int hi[3];
};

MD_HOST_DEVICE bool is_empty(const VoxelBox& box) { return box.hi[0] < box.lo[0] || box.hi[1] < box.lo[1] || box.hi[2] < box.lo[2]; }

MD_HOST_DEVICE int clamp_to_int(float value, int lo, int hi) {
  return value <= static_cast<float>(lo) ? lo : value >= static_cast<float>(hi) ? hi : static_cast<int>(value);
}

// Voxels of the blocks whose first..last coordinate, widened by the margin, holds `mean` strictly inside.
MD_HOST_DEVICE void block_range(float mean, const FieldGrid& grid, int& lo, int& hi) {
  const int edge = grid.resolution / grid.num_blocks;
  const int last = grid.num_blocks - 1;
  const float block_step = 2.0f * static_cast<float>(edge) / static_cast<float>(grid.resolution - 1);
  // Start a block outside the estimate, so that only whole blocks need testing.
  int first_block = clamp_to_int((mean - grid.margin + 1.0f) / block_step - 2.0f, 0, last);
  int last_block = clamp_to_int((mean + grid.margin + 1.0f) / block_step + 2.0f, 0, last);
  while (first_block <= last && !(mean < grid_coordinate((first_block + 1) * edge - 1, grid.resolution) + grid.margin)) ++first_block;
  while (last_block >= 0 && !(mean > grid_coordinate(last_block * edge, grid.resolution) - grid.margin)) --last_block;
  lo = first_block * edge;
  hi = (last_block + 1) * edge - 1;
}

// Fills `g` and returns the voxels that it reaches.
MD_HOST_DEVICE VoxelBox prepare_gaussian(const float* mean, const float* cov, float opacity, const FieldGrid& grid, FieldGaussian& g) {
  VoxelBox box;
  for (int axis = 0; axis < 3; ++axis) {
    g.mean[axis] = mean[axis];
    block_range(mean[axis], grid, box.lo[axis], box.hi[axis]);
  }
  g.opacity = opacity;
  g.w0 = g.w1x = g.w1 = g.w2x = g.w2y = g.w2 = 0.0f;
  g.limit = 0.0f;
  g.irregular = 1.0f;
  if (fabsf(opacity) <= kNegligible) {
    box.hi[0] = box.lo[0] - 1;
    return box;
  }
  const Adjugate a = adjugate(cov);
  const double floored = a.determinant + kDeterminantFloor;
  const double xx = cov[0];
  const double limit = log2(fabs(static_cast<double>(opacity)) / static_cast<double>(kNegligible));
  // The comparisons are false for NaN, which so goes the plain way and shows in the field.
  const bool regular = xx > 0.0 && a.zz > 0.0 && a.determinant > 0.0 && limit < 1e30;
  if (!regular) return box;

  // The inverse is adj(C) / (det + floor) = shrink * C^-1.
  const double shrink = a.determinant / floored;
  const double w0 = sqrt(kHalfLog2E * shrink / xx);
  const double w1 = sqrt(kHalfLog2E * shrink * xx / a.zz);
  const double w2 = sqrt(kHalfLog2E * a.zz / floored);
  g.w0 = static_cast<float>(w0);
  g.w1 = static_cast<float>(w1);
  g.w1x = static_cast<float>(-w1 * static_cast<double>(cov[1]) / xx);
  g.w2 = static_cast<float>(w2);
  g.w2x = static_cast<float>(w2 * a.xz / a.zz);
  g.w2y = static_cast<float>(w2 * a.yz / a.zz);
  g.limit = static_cast<float>(limit);
  g.irregular = 0.0f;

  const double reach2 = limit / (kHalfLog2E * shrink);
  const double diagonal[3] = {xx, static_cast<double>(cov[3]), static_cast<double>(cov[5])};
  const float per_step = 0.5f * static_cast<float>(grid.resolution - 1);
  for (int axis = 0; axis < 3; ++axis) {
    // A thousandth of a voxel covers the rounding of this bound itself.
    const float half = static_cast<float>(sqrt(reach2 * diagonal[axis])) * per_step + 1e-3f;
    const float middle = (mean[axis] + 1.0f) * per_step;
    const int lo = clamp_to_int(ceilf(middle - half), 0, grid.resolution);
    const int hi = clamp_to_int(floorf(middle + half), -1, grid.resolution - 1);
    if (lo > box.lo[axis]) box.lo[axis] = lo;
    if (hi < box.hi[axis]) box.hi[axis] = hi;
  }
  return box;
}

// A lower bound of the exponent over an axis-aligned box, by interval arithmetic on the rows; (x, y, z) is the box's centre
// minus the Gaussian's mean and `half` its half edges. Above `limit`, the Gaussian may be skipped.
MD_HOST_DEVICE float least_exponent(const FieldGaussian& g, float x, float y, float z, const float half[3]) {
  const float r0 = fabsf(g.w0 * x) - g.w0 * half[0];
  const float r1 = fabsf(g.w1x * x + g.w1 * y) - (fabsf(g.w1x) * half[0] + g.w1 * half[1]);
  const float r2 = fabsf(g.w2x * x + g.w2y * y + g.w2 * z) - (fabsf(g.w2x) * half[0] + fabsf(g.w2y) * half[1] + g.w2 * half[2]);
  return (r0 > 0.0f ? r0 * r0 : 0.0f) + (r1 > 0.0f ? r1 * r1 : 0.0f) + (r2 > 0.0f ? r2 * r2 : 0.0f);
}

}  // namespace md
