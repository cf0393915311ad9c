// The obvious GPU version of the density grid, as a baseline for the benchmark: one thread per voxel goes through all Gaussians,
// applies the cull and evaluates the weight from the covariance, which it inverts again each time.
#include "gaussian_field.h"

namespace md {

namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) brute_force_kernel(FieldParams p) {
  const int resolution = p.grid.resolution;
  const int64_t voxel = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (voxel >= int64_t{resolution} * resolution * resolution) return;
  const int index[3] = {static_cast<int>(voxel / (int64_t{resolution} * resolution)), static_cast<int>(voxel / resolution % resolution),
                        static_cast<int>(voxel % resolution)};
  const int edge = resolution / p.grid.num_blocks;
  float at[3], lo[3], hi[3];
  for (int axis = 0; axis < 3; ++axis) {
    const int first = index[axis] / edge * edge;
    at[axis] = grid_coordinate(index[axis], resolution);
    lo[axis] = grid_coordinate(first, resolution) - p.grid.margin;
    hi[axis] = grid_coordinate(first + edge - 1, resolution) + p.grid.margin;
  }
  float sum = 0.0f;
  for (int64_t i = 0; i < p.num_gaussians; ++i) {
    const float x = p.means[3 * i], y = p.means[3 * i + 1], z = p.means[3 * i + 2];
    if (!(x > lo[0] && x < hi[0] && y > lo[1] && y < hi[1] && z > lo[2] && z < hi[2])) continue;
    const float* c = p.covs + 6 * i;
    const float xx = c[0], xy = c[1], xz = c[2], yy = c[3], yz = c[4], zz = c[5];
    const float a_xx = yy * zz - yz * yz, a_xy = xz * yz - xy * zz, a_xz = xy * yz - xz * yy;
    const float a_yy = xx * zz - xz * xz, a_yz = xy * xz - xx * yz, a_zz = xx * yy - xy * xy;
    const float inverse = 1.0f / (xx * a_xx + xy * a_xy + xz * a_xz + static_cast<float>(kDeterminantFloor));
    const float dx = at[0] - x, dy = at[1] - y, dz = at[2] - z;
    const float form = a_xx * dx * dx + a_yy * dy * dy + a_zz * dz * dz + 2.0f * (a_xy * dx * dy + a_xz * dx * dz + a_yz * dy * dz);
    const float exponent = -0.5f * form * inverse;
    if (exponent <= 0.0f) sum += p.opacities[i] * expf(exponent);
  }
  p.field[voxel] = sum;
}

}  // namespace

cudaError_t extract_fields_brute_force_cuda(const FieldParams& p, cudaStream_t stream) {
  const int64_t voxels = int64_t{p.grid.resolution} * p.grid.resolution * p.grid.resolution;
  brute_force_kernel<<<static_cast<unsigned>((voxels + kThreads - 1) / kThreads), kThreads, 0, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace md
