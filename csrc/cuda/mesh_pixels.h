// What the kernels of meshes share: which pixel a thread has, and sums of what many pixels give to one vertex. Gradients of pixels that
// show one face are summed within a warp first; the deterministic mode adds in fixed point.
#pragma once

#include "fixed_point_sums.h"
#include "mesh_raster.h"
#include "mesh_raster_tiles.h"
#include "warps.h"

namespace md::mesh_raster {

constexpr int kBlock = 256;

inline int64_t blocks_for(int64_t count) { return (count + kBlock - 1) / kBlock; }

struct FastSum {
  float* out;
  __device__ void add(int64_t i, float value) const { atomicAdd(out + i, value); }
};

struct LargestContribution {
  unsigned* largest;  // bits of the magnitude; those of positive floats sort like the floats
  __device__ void add(int64_t i, float value) const { atomicMax(largest + i, __float_as_uint(fabsf(value))); }
};

struct FixedPointSum {
  const unsigned* largest;
  unsigned long long* sums;
  __device__ void add(int64_t i, float value) const {
    atomicAdd(sums + i, static_cast<unsigned long long>(__double2ll_rn(value * fixed_point_scale(largest[i]))));
  }
};

// Runs launch(sum) such that sum.add(i, value) adds to out[i], of `count` values: once with plain atomics, or, with a workspace
// of deterministic_bytes(count), twice.
template <class Launch>
cudaError_t sum_into(float* out, int64_t count, void* workspace, cudaStream_t stream, const Launch& launch) {
  if (count == 0) {
    launch(FastSum{out});  // what else the launch writes
    return cudaGetLastError();
  }
  if (workspace == nullptr) {
    const cudaError_t cleared = cudaMemsetAsync(out, 0, count * sizeof(float), stream);
    if (cleared != cudaSuccess) return cleared;
    launch(FastSum{out});
    return cudaGetLastError();
  }
  auto* sums = static_cast<unsigned long long*>(workspace);
  auto* largest = reinterpret_cast<unsigned*>(sums + count);
  const cudaError_t cleared = cudaMemsetAsync(workspace, 0, deterministic_bytes(count), stream);
  if (cleared != cudaSuccess) return cleared;
  launch(LargestContribution{largest});
  launch(FixedPointSum{largest, sums});
  fixed_to_float(count, largest, sums, out, stream);
  return cudaGetLastError();
}

// Lanes of a warp that hold the same face, and how to sum over them: the lowest of them ends with the total.
struct Peers {
  unsigned above;  // lanes of the same face to the right, as the reduction goes on
  int rank;
  bool leads;

  __device__ Peers(int64_t face, int lane) {
    const unsigned same = __match_any_sync(kAllLanes, static_cast<int>(face));
    const unsigned below = (1u << lane) - 1u;
    rank = __popc(same & below);
    leads = rank == 0;
    above = same & ~below & ~(1u << lane);
  }
};

// Sums values[count] over the peers of each lane, pairwise. The tree depends on the lanes' faces alone.
template <int Count>
__device__ void sum_over_peers(Peers peers, float (&values)[Count]) {
  while (__any_sync(kAllLanes, peers.above)) {
    const int next = __ffs(peers.above);
    for (int i = 0; i < Count; ++i) {
      const float other = __shfl_sync(kAllLanes, values[i], next > 0 ? next - 1 : 0);
      if (next > 0) values[i] += other;
    }
    const unsigned keep = __ballot_sync(kAllLanes, !(peers.rank & 1));
    peers.above &= keep;
    peers.rank >>= 1;
  }
}

// Warps of a block that show one face alone, and the same one: few large faces would else have all warps add to the same few places.
struct WarpPeers {
  static constexpr int kWarps = kBlock / kWarp;
  bool joined;   // whether any warps of the block have peers
  bool others;   // whether this one has
  bool leads;    // the first of them
  unsigned all;  // bits by warp

  // All threads of the block take part; face is -1 for none.
  __device__ explicit WarpPeers(int64_t face) {
    __shared__ int shown[kWarps];
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const unsigned covered = __ballot_sync(kAllLanes, face >= 0);
    const int one = __shfl_sync(kAllLanes, static_cast<int>(face), covered != 0 ? __ffs(covered) - 1 : 0);
    const bool alone = __all_sync(kAllLanes, face < 0 || face == one);
    if (lane == 0) shown[warp] = covered != 0 && alone ? one : -1 - warp;  // or what no other has
    __syncthreads();
    all = 0;
    for (int w = 0; w < kWarps; ++w) all |= (shown[w] == shown[warp] ? 1u : 0u) << w;
    others = __popc(all) > 1;
    leads = __ffs(all) - 1 == warp;
    joined = __syncthreads_or(others);
  }

  // Sums values[Count] of one lane of each warp over the warp's peers, in their order; the leading warp has the total. All threads of
  // the block take part where `joined`, `turn` is 0 and 1 by turns.
  template <int Count>
  __device__ void sum(bool from_this_lane, int turn, float (&values)[Count]) const {
    __shared__ float sums[2][kWarps][Count];
    if (others && from_this_lane) {
      for (int i = 0; i < Count; ++i) sums[turn][threadIdx.x / kWarp][i] = values[i];
    }
    __syncthreads();
    if (!others || !leads) return;
    for (unsigned rest = all & (all - 1); rest != 0; rest &= rest - 1) {
      for (int i = 0; i < Count; ++i) values[i] += sums[turn][__ffs(rest) - 1][i];
    }
  }
};

// Backward passes give a warp a tile of kTileX x kTileY pixels, whose lanes share more faces than those of a row would.
struct TiledPixel {
  int64_t picture;
  int x, y;
  bool inside;
  int64_t number;  // counted through all pictures
};

inline dim3 tiled_blocks(int64_t pictures, int width, int height) {
  return dim3(static_cast<unsigned>((width + 2 * kTileX - 1) / (2 * kTileX)),
              static_cast<unsigned>((height + 4 * kTileY - 1) / (4 * kTileY)), static_cast<unsigned>(pictures));
}

// A block covers 16 x 16 pixels: 2 x 4 tiles.
__device__ inline TiledPixel tiled_pixel(int width, int height) {
  static_assert(kBlock == 2 * kTileX * 4 * kTileY);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  TiledPixel p;
  p.picture = blockIdx.z;
  p.x = static_cast<int>(blockIdx.x * 2 + warp % 2) * kTileX + lane % kTileX;
  p.y = static_cast<int>(blockIdx.y * 4 + warp / 2) * kTileY + lane / kTileX;
  p.inside = p.x < width && p.y < height;
  p.number = (p.picture * height + p.y) * width + p.x;
  return p;
}

// Forward passes take the pixels of a picture row by row, so that a warp writes in one piece.
struct RowPixel {
  int64_t picture;
  int within;  // counted through the picture
  bool inside;
  int64_t number;  // counted through all pictures
};

inline dim3 row_blocks(int64_t pictures, int width, int height) {
  return dim3(static_cast<unsigned>(blocks_for(static_cast<int64_t>(height) * width)), static_cast<unsigned>(pictures));
}

__device__ inline RowPixel row_pixel(int width, int height) {
  RowPixel p;
  p.picture = blockIdx.y;
  p.within = static_cast<int>(blockIdx.x * kBlock + threadIdx.x);
  p.inside = p.within < height * width;
  p.number = p.picture * (static_cast<int64_t>(height) * width) + p.within;
  return p;
}

template <class Sum>
__device__ void add_position(const Sum& sum, int64_t vertex, float x, float y, float w) {
  sum.add(4 * vertex, x);
  sum.add(4 * vertex + 1, y);
  sum.add(4 * vertex + 3, w);
}

// One 16-byte atomic where the machine has it.
__device__ inline void add_position(const FastSum& sum, int64_t vertex, float x, float y, float w) {
#if __CUDA_ARCH__ >= 900
  atomicAdd(reinterpret_cast<float4*>(sum.out) + vertex, make_float4(x, y, 0.0f, w));
#else
  sum.add(4 * vertex, x);
  sum.add(4 * vertex + 1, y);
  sum.add(4 * vertex + 3, w);
#endif
}

}  // namespace md::mesh_raster
