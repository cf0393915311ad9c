// Multiresolution hash grid on CUDA: a thread per (point, level). Blocks come in the order chunk of points, level, points, so that
// the GPU reads one or two levels' tables at a time (4 MiB each at 2^19 entries of two floats) and the rows of a chunk, of which
// every level touches 8 bytes in each 128, stay in the second cache until they are whole.
//
// Floor for N points and 16 levels of two floats: 12 N + 128 N bytes and the tables once from memory; the gathers, 8 entries a
// point and level of which the two along x share a sector three times in four, take 5 sectors of 32 bytes from the second cache,
// 2.6 KB a point. The latter bounds the time. The gradient of the tables turns the gathers into additions there.
#include "hash_grid.h"

#include "gradient_sums.h"

namespace md::hash_grid {
namespace {

using gradient_sums::Sum;
using gradient_sums::Targets;

constexpr int kBlock = 256;
constexpr int64_t kChunk = int64_t{1} << 17;  // points; 16 MiB of encodings at 16 levels of two

template <int F>
struct alignas(4 * F) Entry {
  float v[F];
};

struct Place {
  int level;
  int64_t point;  // may lie past the last
};

__device__ Place place_of_thread(const Inputs& in) {
  constexpr int64_t kBlocksPerChunk = kChunk / kBlock;
  const int64_t block = blockIdx.x, blocks_of_chunk = kBlocksPerChunk * in.grid.count;
  const int64_t chunk = block / blocks_of_chunk;
  // The last chunk has as many blocks a level as it needs.
  const int64_t left = (in.count - chunk * kChunk + kBlock - 1) / kBlock;
  const int64_t blocks_of_level = left < kBlocksPerChunk ? left : kBlocksPerChunk;
  const int64_t within = block - chunk * blocks_of_chunk;
  const int64_t level = within / blocks_of_level;
  return {static_cast<int>(level), chunk * kChunk + (within - level * blocks_of_level) * kBlock + threadIdx.x};
}

template <int F>
__global__ void __launch_bounds__(kBlock) encode_kernel(Inputs in, float* encoding) {
  const Place place = place_of_thread(in);
  if (place.point >= in.count) return;
  const Level& level = in.grid.levels[place.level];
  const Cell cell = locate(level, in.points + 3 * place.point);
  const Entry<F>* table = reinterpret_cast<const Entry<F>*>(in.params) + level.offset;
  Entry<F> corners[kCorners];
#pragma unroll
  for (int corner = 0; corner < kCorners; ++corner) corners[corner] = table[corner_entry(level, cell, corner)];
  Entry<F> sum = {};
#pragma unroll
  for (int corner = 0; corner < kCorners; ++corner) {
    const float weight = corner_weight(cell, corner);
#pragma unroll
    for (int f = 0; f < F; ++f) sum.v[f] += weight * corners[corner].v[f];
  }
  reinterpret_cast<Entry<F>*>(encoding)[place.point * in.grid.count + place.level] = sum;
}

// A thread per point: adds up the levels without atomics.
template <int F>
__global__ void __launch_bounds__(kBlock) points_gradient_kernel(Inputs in, const float* v_encoding, float* v_points) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= in.count) return;
  const float point[3] = {in.points[3 * i], in.points[3 * i + 1], in.points[3 * i + 2]};
  float v_point[3] = {0.f, 0.f, 0.f};
  for (int l = 0; l < in.grid.count; ++l) {
    const Level& level = in.grid.levels[l];
    const Cell cell = locate(level, point);
    const Entry<F>* table = reinterpret_cast<const Entry<F>*>(in.params) + level.offset;
    const Entry<F> v = reinterpret_cast<const Entry<F>*>(v_encoding)[i * in.grid.count + l];
    float values[kCorners];
#pragma unroll
    for (int corner = 0; corner < kCorners; ++corner) {
      const Entry<F> entry = table[corner_entry(level, cell, corner)];
      values[corner] = 0.f;
#pragma unroll
      for (int f = 0; f < F; ++f) values[corner] += v.v[f] * entry.v[f];
    }
    add_blend_gradient(level, cell, values, v_point);
  }
  for (int axis = 0; axis < 3; ++axis) v_points[3 * i + axis] = v_point[axis];
}

template <int F, Sum kSum>
__global__ void __launch_bounds__(kBlock) params_gradient_kernel(Inputs in, const float* v_encoding, Targets to) {
  const Place place = place_of_thread(in);
  if (place.point >= in.count) return;
  const Level& level = in.grid.levels[place.level];
  const Cell cell = locate(level, in.points + 3 * place.point);
  const Entry<F> v = reinterpret_cast<const Entry<F>*>(v_encoding)[place.point * in.grid.count + place.level];
  bool adds = false;  // what only fills a list up has no gradient
#pragma unroll
  for (int f = 0; f < F; ++f) adds |= v.v[f] != 0.f;
  if (!adds) return;
#pragma unroll
  for (int corner = 0; corner < kCorners; ++corner) {
    const float weight = corner_weight(cell, corner);
    const int64_t first = (level.offset + corner_entry(level, cell, corner)) * F;
    float value[F];
#pragma unroll
    for (int f = 0; f < F; ++f) value[f] = weight * v.v[f];
    gradient_sums::contribute<F, kSum>(to, first, value);
  }
}

__global__ void __launch_bounds__(kBlock) fixed_to_float_kernel(int64_t count, Targets from) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i < count) from.fast[i] = gradient_sums::fixed_to_float(from, i);
}

unsigned blocks(int64_t count) { return static_cast<unsigned>((count + kBlock - 1) / kBlock); }
unsigned blocks_of_all_levels(const Inputs& in) { return static_cast<unsigned>((in.count + kBlock - 1) / kBlock * in.grid.count); }
static_assert(kChunk % kBlock == 0, "every chunk but the last has whole blocks");

// Calls launch with the number of features as a constant.
template <class Launch>
cudaError_t with_features(int features, const Launch& launch) {
  switch (features) {
    case 1:
      launch.template operator()<1>();
      break;
    case 2:
      launch.template operator()<2>();
      break;
    case 4:
      launch.template operator()<4>();
      break;
    default:
      launch.template operator()<8>();
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t encode_cuda(const Inputs& in, float* encoding, cudaStream_t stream) {
  if (in.count == 0) return cudaSuccess;
  return with_features(in.grid.features, [&]<int F>() { encode_kernel<F><<<blocks_of_all_levels(in), kBlock, 0, stream>>>(in, encoding); });
}

cudaError_t points_gradient_cuda(const Inputs& in, const float* v_encoding, float* v_points, cudaStream_t stream) {
  if (in.count == 0) return cudaSuccess;
  return with_features(in.grid.features,
                       [&]<int F>() { points_gradient_kernel<F><<<blocks(in.count), kBlock, 0, stream>>>(in, v_encoding, v_points); });
}

size_t params_gradient_workspace_bytes(int64_t params) { return gradient_sums::workspace_bytes(params); }

cudaError_t params_gradient_cuda(const Inputs& in, const float* v_encoding, float* v_params, int64_t params, bool deterministic,
                                 void* workspace, cudaStream_t stream) {
  if (in.count == 0) return cudaSuccess;
  Targets to = gradient_sums::fast_targets(v_params);
  if (!deterministic) {
    return with_features(in.grid.features, [&]<int F>() {
      params_gradient_kernel<F, Sum::kFast><<<blocks_of_all_levels(in), kBlock, 0, stream>>>(in, v_encoding, to);
    });
  }
  // An entry takes at most all corners of all points.
  const cudaError_t cleared = gradient_sums::repeating_targets(v_params, params, in.count * kCorners, workspace, stream, &to);
  if (cleared != cudaSuccess) return cleared;
  return with_features(in.grid.features, [&]<int F>() {
    params_gradient_kernel<F, Sum::kLargest><<<blocks_of_all_levels(in), kBlock, 0, stream>>>(in, v_encoding, to);
    params_gradient_kernel<F, Sum::kFixed><<<blocks_of_all_levels(in), kBlock, 0, stream>>>(in, v_encoding, to);
    fixed_to_float_kernel<<<blocks(params), kBlock, 0, stream>>>(params, to);
  });
}

}  // namespace md::hash_grid
