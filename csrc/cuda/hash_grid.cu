// Multiresolution hash grid on CUDA: a thread per (point, level). Blocks come in the order chunk of points, level, points, so that
// the GPU reads one or two levels' tables at a time (4 MiB each at 2^19 entries of two floats) and the rows of a chunk, of which
// every level touches 8 bytes in each 128, stay in the second cache until they are whole.
//
// Floor for N points and 16 levels of two floats: 12 N + 128 N bytes and the tables once from memory; the gathers, 8 entries a
// point and level of which the two along x share a sector three times in four, take 5 sectors of 32 bytes from the second cache,
// 2.6 KB a point. The latter bounds the time. The gradient of the tables turns the gathers into additions there.
#include "hash_grid.h"

#include "float_vectors.h"
#include "warps.h"
#include "gradient_sums.h"

namespace md::hash_grid {
namespace {

using gradient_sums::Sum;
using gradient_sums::Targets;

constexpr int kBlock = 256;
constexpr int64_t kChunk = int64_t{1} << 17;  // points; 16 MiB of encodings at 16 levels of two

template <int F, typename T = float>
struct alignas(sizeof(T) * F) Entry {
  T v[F];
};

// Entry number `at` of a row or a table, as floats.
template <int F, typename T>
__device__ __forceinline__ Entry<F> load_entry(const T* from, int64_t at) {
  const Entry<F, T> stored = reinterpret_cast<const Entry<F, T>*>(from)[at];
  Entry<F> entry;
#pragma unroll
  for (int f = 0; f < F; ++f) entry.v[f] = to_float(stored.v[f]);
  return entry;
}

template <int F>
__device__ __forceinline__ bool is_zero(const Entry<F>& entry) {
  bool zero = true;
#pragma unroll
  for (int f = 0; f < F; ++f) zero &= entry.v[f] == 0.f;
  return zero;
}

// How many of the points count.
__device__ __forceinline__ int64_t used_points(const Inputs& in) {
  const int64_t used = in.used ? *in.used : in.count;
  return used < in.count ? used : in.count;
}

// Points that all levels take before the next ones come.
int64_t points_of_chunk(const Inputs& in) { return in.count < kChunk ? (in.count + kBlock - 1) / kBlock * kBlock : kChunk; }

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

template <int F, typename T>
__global__ void __launch_bounds__(kBlock) encode_kernel(Inputs in, T* encoding) {
  const Place place = place_of_thread(in);
  if (place.point >= in.count) return;
  Entry<F, T>& out = reinterpret_cast<Entry<F, T>*>(encoding)[place.point * in.grid.count + place.level];
  if (place.point >= used_points(in)) {
    out = {};
    return;
  }
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
  Entry<F, T> rounded;
#pragma unroll
  for (int f = 0; f < F; ++f) from_float(sum.v[f], rounded.v[f]);
  out = rounded;
}

// A thread per point: adds up the levels without atomics.
template <int F, typename T>
__global__ void __launch_bounds__(kBlock) points_gradient_kernel(Inputs in, const T* v_encoding, float* v_points) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= in.count) return;
  if (i >= used_points(in)) {
    for (int axis = 0; axis < 3; ++axis) v_points[3 * i + axis] = 0.f;
    return;
  }
  const float point[3] = {in.points[3 * i], in.points[3 * i + 1], in.points[3 * i + 2]};
  float v_point[3] = {0.f, 0.f, 0.f};
  for (int l = 0; l < in.grid.count; ++l) {
    const Level& level = in.grid.levels[l];
    const Cell cell = locate(level, point);
    const Entry<F>* table = reinterpret_cast<const Entry<F>*>(in.params) + level.offset;
    const Entry<F> v = load_entry<F>(v_encoding, i * in.grid.count + l);
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

template <int F, Sum kSum, typename T>
__global__ void __launch_bounds__(kBlock) params_gradient_kernel(Inputs in, const T* v_encoding, Targets to) {
  const Place place = place_of_thread(in);
  if (place.point >= used_points(in)) return;
  const Level& level = in.grid.levels[place.level];
  const Entry<F> v = load_entry<F>(v_encoding, place.point * in.grid.count + place.level);
  if (is_zero(v)) return;  // what only fills a list up has no gradient
  const Cell cell = locate(level, in.points + 3 * place.point);
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

// ---- The fast sum ----
//
// Additions in the second cache bound it, by their number. Points come along rays, so that on coarse levels several neighbours in the
// list share their cell: a thread adds those up itself. And two threads share a point, one for each side of its cell along x: what they
// add lies side by side in the table and goes out in one request, three times in four also where it is hashed.

constexpr int kSides = 2, kFaces = 4;  // of a cell along x, and corners of a side
constexpr int kRun = 16;               // neighbours in the list that a thread takes on a coarse level
constexpr float kCoarse = 160.f;       // cells along the unit interval; rays of the fields take steps of a 300th

// Adds what the points [point, end), of which several may share a cell, say to the corners of their cells on one side.
template <int F, int kLength, typename T>
__device__ __forceinline__ void add_run(const Inputs& in, const T* v_encoding, float* v_params, int l, int side, int64_t point,
                                        int64_t end) {
  const Level& level = in.grid.levels[l];
  float sums[kFaces][F] = {};
  Cell held = {};
  bool holds = false;
  const auto flush = [&] {
#pragma unroll
    for (int face = 0; face < kFaces; ++face) {
      gradient_sums::add_entry<F>(v_params + (level.offset + corner_entry(level, held, 2 * face + side)) * F, sums[face]);
#pragma unroll
      for (int f = 0; f < F; ++f) sums[face][f] = 0.f;
    }
  };
#pragma unroll 1
  for (int n = 0; n < kLength; ++n, ++point) {
    if (point >= end) break;
    const Entry<F> v = load_entry<F>(v_encoding, point * in.grid.count + l);
    if (is_zero(v)) continue;  // what only fills a list up has no gradient
    const Cell cell = locate(level, in.points + 3 * point);
    if (holds && !(cell.lower[0] == held.lower[0] && cell.lower[1] == held.lower[1] && cell.lower[2] == held.lower[2])) flush();
    held = cell, holds = true;
#pragma unroll
    for (int face = 0; face < kFaces; ++face) {
      const float weight = corner_weight(cell, 2 * face + side);
#pragma unroll
      for (int f = 0; f < F; ++f) sums[face][f] += weight * v.v[f];
    }
  }
  if (holds) flush();
}

// Blocks in the order chunk, level, points, as above; `coarse` levels come first, whose threads take kRun points each.
struct FastLayout {
  int64_t chunk;                   // points
  int coarse;                      // levels
  int coarse_blocks, fine_blocks;  // of a level and a chunk
  __host__ __device__ int64_t blocks_of_chunk(int levels) const {
    return int64_t{coarse} * coarse_blocks + int64_t{levels - coarse} * fine_blocks;
  }
};

FastLayout fast_layout(const Inputs& in) {
  FastLayout layout{};
  layout.chunk = points_of_chunk(in);
  while (layout.coarse < in.grid.count && in.grid.levels[layout.coarse].scale < kCoarse) ++layout.coarse;
  layout.fine_blocks = static_cast<int>(layout.chunk * kSides / kBlock);
  layout.coarse_blocks = (layout.fine_blocks + kRun - 1) / kRun;
  return layout;
}

template <int F, typename T>
__global__ void __launch_bounds__(kBlock) params_gradient_fast_kernel(Inputs in, const T* v_encoding, float* v_params, FastLayout layout) {
  const int64_t blocks_of_chunk = layout.blocks_of_chunk(in.grid.count), chunk = blockIdx.x / blocks_of_chunk;
  int block = static_cast<int>(blockIdx.x - chunk * blocks_of_chunk);
  const int64_t begin = chunk * layout.chunk, used = used_points(in), end = begin + layout.chunk < used ? begin + layout.chunk : used;
  const int of_coarse = layout.coarse * layout.coarse_blocks;
  if (block < of_coarse) {
    const int level = block / layout.coarse_blocks;
    const int64_t thread = static_cast<int64_t>(block - level * layout.coarse_blocks) * kBlock + threadIdx.x;
    add_run<F, kRun>(in, v_encoding, v_params, level, thread % kSides, begin + thread / kSides * kRun, end);
  } else {
    block -= of_coarse;
    const int level = block / layout.fine_blocks;
    const int64_t thread = static_cast<int64_t>(block - level * layout.fine_blocks) * kBlock + threadIdx.x;
    add_run<F, 1>(in, v_encoding, v_params, layout.coarse + level, thread % kSides, begin + thread / kSides, end);
  }
}

__global__ void __launch_bounds__(kBlock) fixed_to_float_kernel(int64_t count, Targets from) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i < count) from.fast[i] = gradient_sums::fixed_to_float(from, i);
}

unsigned blocks(int64_t count) { return static_cast<unsigned>((count + kBlock - 1) / kBlock); }
unsigned blocks_of_all_levels(const Inputs& in) { return static_cast<unsigned>((in.count + kBlock - 1) / kBlock * in.grid.count); }
static_assert(kChunk % kBlock == 0, "every chunk but the last has whole blocks");

// Calls launch with the number of features as a constant and a null pointer to the type of encodings.
template <class Launch>
cudaError_t dispatch(int features, FloatType type, const Launch& launch) {
  const auto with_type = [&](auto* none) {
    switch (features) {
      case 1:
        launch.template operator()<1>(none);
        break;
      case 2:
        launch.template operator()<2>(none);
        break;
      case 4:
        launch.template operator()<4>(none);
        break;
      default:
        launch.template operator()<8>(none);
    }
  };
  if (type == FloatType::kBFloat16) {
    with_type(static_cast<__nv_bfloat16*>(nullptr));
  } else {
    with_type(static_cast<float*>(nullptr));
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t encode_cuda(const Inputs& in, void* encoding, FloatType type, cudaStream_t stream) {
  if (in.count == 0) return cudaSuccess;
  return dispatch(in.grid.features, type, [&]<int F, typename T>(T*) {
    encode_kernel<F><<<blocks_of_all_levels(in), kBlock, 0, stream>>>(in, static_cast<T*>(encoding));
  });
}

cudaError_t points_gradient_cuda(const Inputs& in, const void* v_encoding, FloatType type, float* v_points, cudaStream_t stream) {
  if (in.count == 0) return cudaSuccess;
  return dispatch(in.grid.features, type, [&]<int F, typename T>(T*) {
    points_gradient_kernel<F><<<blocks(in.count), kBlock, 0, stream>>>(in, static_cast<const T*>(v_encoding), v_points);
  });
}

size_t params_gradient_workspace_bytes(int64_t params) { return gradient_sums::workspace_bytes(params); }

cudaError_t params_gradient_cuda(const Inputs& in, const void* v_encoding, FloatType type, float* v_params, int64_t params,
                                 bool deterministic, void* workspace, cudaStream_t stream) {
  if (in.count == 0) return cudaSuccess;
  Targets to = gradient_sums::fast_targets(v_params);
  if (!deterministic) {
    const FastLayout layout = fast_layout(in);
    const int64_t count = (in.count + layout.chunk - 1) / layout.chunk * layout.blocks_of_chunk(in.grid.count);
    return dispatch(in.grid.features, type, [&]<int F, typename T>(T*) {
      params_gradient_fast_kernel<F>
          <<<static_cast<unsigned>(count), kBlock, 0, stream>>>(in, static_cast<const T*>(v_encoding), v_params, layout);
    });
  }
  // An entry takes at most all corners of all points.
  const cudaError_t cleared = gradient_sums::repeating_targets(v_params, params, in.count * kCorners, workspace, stream, &to);
  if (cleared != cudaSuccess) return cleared;
  return dispatch(in.grid.features, type, [&]<int F, typename T>(T*) {
    const T* v = static_cast<const T*>(v_encoding);
    params_gradient_kernel<F, Sum::kLargest><<<blocks_of_all_levels(in), kBlock, 0, stream>>>(in, v, to);
    params_gradient_kernel<F, Sum::kFixed><<<blocks_of_all_levels(in), kBlock, 0, stream>>>(in, v, to);
    fixed_to_float_kernel<<<blocks(params), kBlock, 0, stream>>>(params, to);
  });
}

}  // namespace md::hash_grid
