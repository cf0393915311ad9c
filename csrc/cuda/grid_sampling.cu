// Features of points from grids of texels on CUDA. Channels lie together: neighbouring threads take vectors of one texel's channels,
// 128 bytes for 32 of them, so that every access is of whole sectors. Blocks come in the order points, grid, batch, so that the GPU
// reads one grid at a time, 512 KiB at 64x64 texels of 32 channels.
//
// Floor for P points and three planes of 32 channels: 12 P + 384 P bytes to and from memory. The gradient of the grids has as many to
// read; its additions, 1.5 KiB a point, happen in the second cache and would take three times as long. But neighbours along a ray share
// cells, and so do the four points of a difference: a thread adds up a run of points for as long as their cell stays the same, and
// only then adds to the grid.
#include "grid_sampling.h"

#include <algorithm>

#include "gradient_sums.h"
#include "warps.h"

namespace md::grid_sampling {
namespace {

using gradient_sums::Sum;
using gradient_sums::Targets;

constexpr int kBlock = 256;
constexpr int kRun = 32;  // points that a thread adds up

template <int V>
struct alignas(sizeof(float) * V) Values {
  float v[V];
};

template <int V>
__device__ __forceinline__ Values<V> load(const float* from) {
  return *reinterpret_cast<const Values<V>*>(from);
}

__device__ __forceinline__ const float* grid_of(const Inputs& in, int64_t batch, int grid) {
  return in.grids + (batch * in.layout.grids + grid) * in.layout.texels * in.layout.channels;
}

// Threads x take the channels of a texel, V at a time; threads y points.
template <int D, int V>
__global__ void __launch_bounds__(kBlock) sample_kernel(Inputs in, float* features) {
  const Layout& layout = in.layout;
  const int64_t point = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (point >= in.count) return;
  const int g = blockIdx.y;
  const int64_t i = blockIdx.z * in.count + point;
  const Cell<D> cell = locate<D>(layout, g, in.points + 3 * i);
  const float* grid = grid_of(in, blockIdx.z, g);
  float* out = features + (i * layout.grids + g) * layout.channels;
  for (int c = threadIdx.x * V; c < layout.channels; c += blockDim.x * V) {
    Values<V> corners[1 << D];
#pragma unroll
    for (int corner = 0; corner < 1 << D; ++corner) {
      const int texel = corner_texel(layout, cell, corner);
      corners[corner] = texel == kOutside ? Values<V>{} : load<V>(grid + static_cast<int64_t>(texel) * layout.channels + c);
    }
    Values<V> sum = {};
#pragma unroll
    for (int corner = 0; corner < 1 << D; ++corner) {
      const float weight = corner_weight(cell, corner);
#pragma unroll
      for (int k = 0; k < V; ++k) sum.v[k] += weight * corners[corner].v[k];
    }
    *reinterpret_cast<Values<V>*>(out + c) = sum;
  }
}

// A warp per point.
template <int D, int V>
__global__ void __launch_bounds__(kBlock) points_gradient_kernel(Inputs in, const float* v_features, float* v_points) {
  const Layout& layout = in.layout;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * (kBlock / kWarp) + threadIdx.x / kWarp;
  if (i >= in.batch * in.count) return;  // the whole warp
  const int64_t batch = i / in.count;
  float v_point[kDims] = {0.f, 0.f, 0.f};
  for (int g = 0; g < layout.grids; ++g) {
    const Cell<D> cell = locate<D>(layout, g, in.points + 3 * i);
    const float* grid = grid_of(in, batch, g);
    const float* row = v_features + (i * layout.grids + g) * layout.channels;
    float values[1 << D] = {};
    for (int c = threadIdx.x % kWarp * V; c < layout.channels; c += kWarp * V) {
      const Values<V> v = load<V>(row + c);
#pragma unroll
      for (int corner = 0; corner < 1 << D; ++corner) {
        const int texel = corner_texel(layout, cell, corner);
        if (texel == kOutside) continue;
        const Values<V> at = load<V>(grid + static_cast<int64_t>(texel) * layout.channels + c);
#pragma unroll
        for (int k = 0; k < V; ++k) values[corner] += v.v[k] * at.v[k];
      }
    }
    add_blend_gradient(layout, g, cell, values, v_point);
  }
  for (int axis = 0; axis < kDims; ++axis) v_point[axis] = sum_over_warp(v_point[axis]);
  if (threadIdx.x % kWarp == 0) {
    for (int axis = 0; axis < kDims; ++axis) v_points[3 * i + axis] = v_point[axis];
  }
}

// Threads x take the channels of a texel, V at a time; threads y runs of points.
template <int D, int V, Sum kSum>
__global__ void __launch_bounds__(kBlock) grids_gradient_kernel(Inputs in, const float* v_features, Targets to) {
  const Layout& layout = in.layout;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y) * kRun;
  const int64_t last = first + kRun < in.count ? first + kRun : in.count;
  const int g = blockIdx.y;
  const int64_t grid = (static_cast<int64_t>(blockIdx.z) * layout.grids + g) * layout.texels;  // its first texel
  for (int c = threadIdx.x * V; c < layout.channels; c += blockDim.x * V) {
    Cell<D> held;
    bool holds = false;
    float sums[1 << D][V];
    const auto hand_over = [&] {
#pragma unroll
      for (int corner = 0; corner < 1 << D; ++corner) {
        const int texel = corner_texel(layout, held, corner);
        if (texel != kOutside) gradient_sums::contribute<V, kSum>(to, (grid + texel) * layout.channels + c, sums[corner]);
      }
    };
    for (int64_t point = first; point < last; ++point) {
      const int64_t i = blockIdx.z * in.count + point;
      const Values<V> v = load<V>(v_features + (i * layout.grids + g) * layout.channels + c);
      bool adds = false;  // where rays end early, much has no gradient
#pragma unroll
      for (int k = 0; k < V; ++k) adds |= v.v[k] != 0.f;
      if (!adds) continue;
      const Cell<D> cell = locate<D>(layout, g, in.points + 3 * i);
      const bool stays = holds && same_place(cell, held);
      if (holds && !stays) hand_over();
#pragma unroll
      for (int corner = 0; corner < 1 << D; ++corner) {
        const float weight = corner_weight(cell, corner);
#pragma unroll
        for (int k = 0; k < V; ++k) sums[corner][k] = (stays ? sums[corner][k] : 0.f) + weight * v.v[k];
      }
      held = cell;
      holds = true;
    }
    if (holds) hand_over();
  }
}

__global__ void __launch_bounds__(kBlock) fixed_to_float_kernel(int64_t count, Targets from) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i < count) from.fast[i] = gradient_sums::fixed_to_float(from, i);
}

unsigned blocks(int64_t count, int64_t of_each) { return static_cast<unsigned>((count + of_each - 1) / of_each); }

template <int D, int V>
struct Shape {
  static constexpr int kGridDims = D;
  static constexpr int kVector = V;
};

bool is_aligned(const void* pointer, int floats) { return reinterpret_cast<uintptr_t>(pointer) % (sizeof(float) * floats) == 0; }

// Calls launch(shape, threads of a block) with the grids' dimensions and the floats of a vector as constants.
template <class Launch>
cudaError_t with_shape(const Inputs& in, const float* features, const float* others, const Launch& launch) {
  const bool vectors = in.layout.channels % 4 == 0 && is_aligned(in.grids, 4) && is_aligned(features, 4) && is_aligned(others, 4);
  const int lanes = std::min(vectors ? in.layout.channels / 4 : in.layout.channels, kWarp);
  const dim3 threads(lanes, kBlock / lanes);
  if (in.layout.dims == 2) {
    vectors ? launch(Shape<2, 4>{}, threads) : launch(Shape<2, 1>{}, threads);
  } else {
    vectors ? launch(Shape<3, 4>{}, threads) : launch(Shape<3, 1>{}, threads);
  }
  return cudaGetLastError();
}

dim3 blocks_of_all(const Inputs& in, int64_t points_of_each) {
  return {blocks(in.count, points_of_each), static_cast<unsigned>(in.layout.grids), static_cast<unsigned>(in.batch)};
}

}  // namespace

cudaError_t sample_cuda(const Inputs& in, float* features, cudaStream_t stream) {
  if (in.count == 0 || in.batch == 0) return cudaSuccess;
  return with_shape(in, features, features, [&]<class S>(S, dim3 threads) {
    sample_kernel<S::kGridDims, S::kVector><<<blocks_of_all(in, threads.y), threads, 0, stream>>>(in, features);
  });
}

cudaError_t points_gradient_cuda(const Inputs& in, const float* v_features, float* v_points, cudaStream_t stream) {
  if (in.count == 0 || in.batch == 0) return cudaSuccess;
  return with_shape(in, v_features, v_features, [&]<class S>(S, dim3) {
    const unsigned count = blocks(in.batch * in.count, kBlock / kWarp);
    points_gradient_kernel<S::kGridDims, S::kVector><<<count, kBlock, 0, stream>>>(in, v_features, v_points);
  });
}

size_t grids_gradient_workspace_bytes(int64_t values) { return gradient_sums::workspace_bytes(values); }

cudaError_t grids_gradient_cuda(const Inputs& in, const float* v_features, float* v_grids, int64_t values, bool deterministic,
                                void* workspace, cudaStream_t stream) {
  if (in.count == 0 || in.batch == 0) return cudaSuccess;
  Targets to = gradient_sums::fast_targets(v_grids);
  if (deterministic) {
    // At most every point contributes once to a texel for each of a cell's corners.
    const int64_t contributions = in.count << in.layout.dims;
    const cudaError_t cleared = gradient_sums::repeating_targets(v_grids, values, contributions, workspace, stream, &to);
    if (cleared != cudaSuccess) return cleared;
  }
  return with_shape(in, v_features, v_grids, [&]<class S>(S, dim3 threads) {
    constexpr int D = S::kGridDims, V = S::kVector;
    const dim3 count = blocks_of_all(in, static_cast<int64_t>(threads.y) * kRun);
    if (!deterministic) {
      grids_gradient_kernel<D, V, Sum::kFast><<<count, threads, 0, stream>>>(in, v_features, to);
    } else {
      grids_gradient_kernel<D, V, Sum::kLargest><<<count, threads, 0, stream>>>(in, v_features, to);
      grids_gradient_kernel<D, V, Sum::kFixed><<<count, threads, 0, stream>>>(in, v_features, to);
      fixed_to_float_kernel<<<blocks(values, kBlock), kBlock, 0, stream>>>(values, to);
    }
  });
}

}  // namespace md::grid_sampling
