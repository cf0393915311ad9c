// The steps from the obvious kernel of the density grid to csrc/cuda/gaussian_field.cu, one idea each, and four mistakes (docs/course).
//
// What one thread computes stands here once, for both compilers. cuda.cu gives a thread to every voxel; cpu.cpp goes through the same
// blocks and threads in a loop, and so shows without a GPU what the kernels do right and wrong.
#pragma once

#include "gaussian_field.h"

namespace md::course {

enum class Variant {
  kBruteForce,    // every voxel goes through all Gaussians and inverts each covariance again
  kPrepared,      // covariances are inverted once, before; a box tells which voxels a Gaussian reaches
  kShared,        // a block of voxels fetches the Gaussians together, a batch at a time, into shared memory
  kCulled,        // and works only on those whose box touches its tile
  kWrongGrid,     // brute force at the centres of voxels instead of the points of the grid
  kWrongInput,    // prepared, but writes into its input
  kWrongBarrier,  // culled, but without waiting until a batch is there
  kWrongBound,    // brute force, but the last block does not end where the grid does
};

constexpr int kThreads = 256;                      // of a block
constexpr int kTileX = 4, kTileY = 8, kTileZ = 8;  // voxels of a block that fetches together: one for each thread
constexpr int kWarp = 32;                          // threads that run in step
constexpr int kWarps = kThreads / kWarp;           // also the words of a set of kBatch bits
constexpr int kBatch = kThreads;                   // Gaussians fetched at a time

struct Prepared {
  FieldGaussian gaussian;
  VoxelBox box;
};

struct Voxel {
  int at[3];
};

MD_HOST_DEVICE int64_t voxels_of(const FieldGrid& grid) { return int64_t{grid.resolution} * grid.resolution * grid.resolution; }

MD_HOST_DEVICE Voxel voxel_of(int64_t index, int resolution) {
  return {{static_cast<int>(index / (int64_t{resolution} * resolution)), static_cast<int>(index / resolution % resolution),
           static_cast<int>(index % resolution)}};
}

MD_HOST_DEVICE int tile_edge(int axis) { return axis == 0 ? kTileX : axis == 1 ? kTileY : kTileZ; }

MD_HOST_DEVICE int tiles_along(int axis, const FieldGrid& grid) { return (grid.resolution + tile_edge(axis) - 1) / tile_edge(axis); }

MD_HOST_DEVICE Voxel voxel_of_thread(const Voxel& tile, int thread) {
  return {{tile.at[0] + thread / (kTileY * kTileZ), tile.at[1] + thread / kTileZ % kTileY, tile.at[2] + thread % kTileZ}};
}

// ---- Brute force ----

// opacity * exp(-d^T C^-1 d / 2) with C^-1 from the covariance as it is given: 27 multiplications that every voxel repeats.
MD_HOST_DEVICE float term_by_inverting(const float* mean, const float* c, float opacity, const float at[3]) {
  const float xx = c[0], xy = c[1], xz = c[2], yy = c[3], yz = c[4], zz = c[5];
  const float a_xx = yy * zz - yz * yz, a_xy = xz * yz - xy * zz, a_xz = xy * yz - xz * yy;
  const float a_yy = xx * zz - xz * xz, a_yz = xy * xz - xx * yz, a_zz = xx * yy - xy * xy;
  const float inverse = 1.0f / (xx * a_xx + xy * a_xy + xz * a_xz + static_cast<float>(kDeterminantFloor));
  const float dx = at[0] - mean[0], dy = at[1] - mean[1], dz = at[2] - mean[2];
  const float form = a_xx * dx * dx + a_yy * dy * dy + a_zz * dz * dz + 2.0f * (a_xy * dx * dy + a_xz * dx * dz + a_yz * dy * dz);
  const float exponent = -0.5f * form * inverse;
  return exponent <= 0.0f ? opacity * expf(exponent) : 0.0f;
}

// The field at one voxel. `centres` is the mistake of kWrongGrid.
MD_HOST_DEVICE float brute_force(const FieldParams& p, int64_t index, bool centres = false) {
  const int resolution = p.grid.resolution, edge = resolution / p.grid.num_blocks;
  const Voxel voxel = voxel_of(index, resolution);
  float at[3], lo[3], hi[3];  // the point, and where a mean must lie to count for the point's block
  for (int axis = 0; axis < 3; ++axis) {
    const int first = voxel.at[axis] / edge * edge;
    at[axis] = centres ? -1.0f + (2.0f * static_cast<float>(voxel.at[axis]) + 1.0f) / static_cast<float>(resolution)
                       : grid_coordinate(voxel.at[axis], resolution);
    lo[axis] = grid_coordinate(first, resolution) - p.grid.margin;
    hi[axis] = grid_coordinate(first + edge - 1, resolution) + p.grid.margin;
  }
  float sum = 0.0f;
  for (int64_t i = 0; i < p.num_gaussians; ++i) {
    const float* m = p.means + 3 * i;
    if (!(m[0] > lo[0] && m[0] < hi[0] && m[1] > lo[1] && m[1] < hi[1] && m[2] > lo[2] && m[2] < hi[2])) continue;
    sum += term_by_inverting(m, p.covs + 6 * i, p.opacities[i], at);
  }
  return sum;
}

// ---- Prepared Gaussians ----

// `write_input` is the mistake of kWrongInput: a Gaussian that reaches no voxel is switched off for good.
MD_HOST_DEVICE void prepare(const FieldParams& p, int64_t i, bool write_input, Prepared& prepared) {
  prepared.box = prepare_gaussian(p.means + 3 * i, p.covs + 6 * i, p.opacities[i], p.grid, prepared.gaussian);
  if (write_input && is_empty(prepared.box)) const_cast<float*>(p.opacities)[i] = 0.0f;
}

MD_HOST_DEVICE bool holds(const VoxelBox& box, const Voxel& voxel) {
  for (int axis = 0; axis < 3; ++axis) {
    if (voxel.at[axis] < box.lo[axis] || voxel.at[axis] > box.hi[axis]) return false;
  }
  return true;
}

MD_HOST_DEVICE bool touches(const VoxelBox& box, const Voxel& tile) {
  for (int axis = 0; axis < 3; ++axis) {
    if (tile.at[axis] + tile_edge(axis) <= box.lo[axis] || tile.at[axis] > box.hi[axis]) return false;
  }
  return !is_empty(box);
}

// What Gaussian `i` adds to a voxel.
MD_HOST_DEVICE float term(const Prepared& prepared, const FieldParams& p, int64_t i, const Voxel& voxel) {
  if (!holds(prepared.box, voxel)) return 0.0f;
  const FieldGaussian& g = prepared.gaussian;
  float d[3];
  for (int axis = 0; axis < 3; ++axis) d[axis] = grid_coordinate(voxel.at[axis], p.grid.resolution) - g.mean[axis];
  if (g.irregular != 0.0f) return g.opacity * gaussian_weight(d, p.covs + 6 * i);
  const float r0 = g.w0 * d[0], r1 = g.w1x * d[0] + g.w1 * d[1], r2 = g.w2x * d[0] + g.w2y * d[1] + g.w2 * d[2];
  return g.opacity * exp2f(-(r0 * r0 + r1 * r1 + r2 * r2));
}

// ---- Launchers ----

// For the prepared Gaussians; unused by the variants that have none.
inline int64_t scratch_bytes(const FieldParams& p) { return p.num_gaussians * static_cast<int64_t>(sizeof(Prepared)); }

// Throws std::out_of_range where a thread would write outside of the field.
void extract_fields_cpu(const FieldParams& p, Variant variant, Prepared* scratch);

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
cudaError_t extract_fields_cuda(const FieldParams& p, Variant variant, Prepared* scratch, cudaStream_t stream);
#endif

}  // namespace md::course
