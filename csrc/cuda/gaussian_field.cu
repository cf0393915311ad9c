// Gaussian weights and the density grid on the GPU.
//
// The grid is cut into tiles of 8^3 voxels. One thread per Gaussian inverts the covariance and sets the Gaussian's bit in the
// mask of every tile that it reaches; setting bits commutes, so the masks are the same every time. One CTA per tile then walks
// its mask in order, which makes the order of the sums, and so their bits, repeatable without any sort. Nothing depends on a
// value that the host would have to wait for.
#include "gaussian_field.h"

#include <algorithm>

namespace md {

namespace {

constexpr int kThreads = 256;
constexpr int kMarkThreads = 64;  // small CTAs, so that few Gaussians still spread over all multiprocessors
constexpr int kWarps = kThreads / 32;
constexpr int kTile = 8;                   // voxels along each edge of a tile
constexpr int kHalves = 2;                 // a warp owns 4 x 8 lines of 8 voxels, so two make a tile
constexpr int kSlices = kWarps / kHalves;  // and four pairs share the Gaussians of a tile
constexpr int kWordsPerChunk = kThreads;   // mask words unpacked at a time, one per thread
constexpr int kChunksAhead = 4;            // chunks whose words are fetched together, as most tiles are empty and only wait for them
constexpr int kBatch = kSlices * 32;       // Gaussians held in shared memory at a time, one per lane of a slice
constexpr int64_t kMaskBytes = int64_t{256} << 20;  // larger sets go through in slabs

struct Slab {
  int64_t begin;  // first Gaussian
  int count;
  int words;  // mask words per tile
};

struct Layout {
  int tiles;  // along each axis
  int64_t slab_words;
  int64_t slab_gaussians() const { return slab_words * 32; }
  int64_t mask_words() const { return slab_words * tiles * tiles * tiles; }
};

Layout layout_of(const FieldParams& p) {
  Layout layout;
  layout.tiles = (p.grid.resolution + kTile - 1) / kTile;
  const int64_t all_tiles = int64_t{layout.tiles} * layout.tiles * layout.tiles;
  const int64_t wanted = (p.num_gaussians + 31) / 32;
  layout.slab_words = std::max<int64_t>(1, std::min(wanted, kMaskBytes / 4 / all_tiles));
  return layout;
}

struct PackedBox {
  unsigned x, y, z;  // lo | hi << 16
};

template <typename T>
__global__ void __launch_bounds__(kThreads) coeff_kernel(const T* xyzs, const T* covs, T* weights, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) weights[i] = gaussian_weight(xyzs + 3 * i, covs + 6 * i);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    coeff_backward_kernel(const T* xyzs, const T* covs, const T* v_weights, T* v_xyzs, T* v_covs, int64_t count) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) gaussian_weight_backward(xyzs + 3 * i, covs + 6 * i, v_weights[i], v_xyzs + 3 * i, v_covs + 6 * i);
}

// One thread per Gaussian of the slab.
__global__ void __launch_bounds__(kMarkThreads)
    mark_tiles_kernel(FieldParams p, Slab slab, int tiles, FieldGaussian* gaussians, PackedBox* boxes, unsigned* mask) {
  const int local = blockIdx.x * kMarkThreads + threadIdx.x;
  if (local >= slab.count) return;
  const int64_t i = slab.begin + local;
  FieldGaussian g;
  const VoxelBox box = prepare_gaussian(p.means + 3 * i, p.covs + 6 * i, p.opacities[i], p.grid, g);
  if (is_empty(box)) return;
  gaussians[local] = g;
  boxes[local] = PackedBox{static_cast<unsigned>(box.lo[0]) | static_cast<unsigned>(box.hi[0]) << 16,
                           static_cast<unsigned>(box.lo[1]) | static_cast<unsigned>(box.hi[1]) << 16,
                           static_cast<unsigned>(box.lo[2]) | static_cast<unsigned>(box.hi[2]) << 16};
  const float step = 2.0f / static_cast<float>(p.grid.resolution - 1);
  // Half a tile, and a hundredth of a voxel for the rounding of this test.
  const float edge = 0.5f * static_cast<float>(kTile - 1) * step + 0.01f * step;
  const float half[3] = {edge, edge, edge};
  const auto offset = [&](int tile, int axis) {
    return -1.0f + (static_cast<float>(tile * kTile) + 0.5f * static_cast<float>(kTile - 1)) * step - g.mean[axis];
  };
  const unsigned bit = 1u << (local & 31);
  for (int tx = box.lo[0] / kTile; tx <= box.hi[0] / kTile; ++tx) {
    for (int ty = box.lo[1] / kTile; ty <= box.hi[1] / kTile; ++ty) {
      for (int tz = box.lo[2] / kTile; tz <= box.hi[2] / kTile; ++tz) {
        if (g.irregular == 0.0f && least_exponent(g, offset(tx, 0), offset(ty, 1), offset(tz, 2), half) > g.limit) continue;
        const int64_t tile = (int64_t{tx} * tiles + ty) * tiles + tz;
        atomicOr(mask + tile * slab.words + (local >> 5), bit);
      }
    }
  }
}

__device__ __forceinline__ float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Out of line: the double arithmetic of this rare case would take half of the registers of the loop that calls it.
__device__ __noinline__ float irregular_weight(const float* cov, float dx, float dy, float dz) {
  const float offset[3] = {dx, dy, dz};
  return gaussian_weight(offset, cov);
}

// Number of set bits in the words of the threads before this one; `total` receives the sum over the CTA.
__device__ int exclusive_sum(int value, int* warp_sums, int& total) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  int inclusive = value;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, inclusive, distance);
    if (lane >= distance) inclusive += other;
  }
  if (lane == 31) warp_sums[warp] = inclusive;
  __syncthreads();
  int before = 0;
  total = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    if (w == warp) before = total;
    total += warp_sums[w];
  }
  return before + inclusive - value;
}

// One CTA per tile. kCut: a block of the cull does not end on a tile's edge, so every voxel is tested against the box.
// Four CTAs per multiprocessor: the registers then hold the sums of a line and nothing spills.
template <bool kCut>
__global__ void __launch_bounds__(kThreads, 4)
    accumulate_kernel(FieldParams p, Slab slab, bool add_to_field, const FieldGaussian* gaussians, const PackedBox* boxes,
                      const unsigned* mask) {
  __shared__ unsigned fetched[kChunksAhead][kWordsPerChunk];  // a thread reads only what it wrote
  __shared__ unsigned short members[kWordsPerChunk * 32];
  __shared__ float4 staged[kBatch * 3];  // FieldGaussian as three float4
  __shared__ PackedBox staged_boxes[kCut ? kBatch : 1];
  __shared__ int staged_index[kBatch];
  __shared__ float partial[kSlices - 1][kHalves][kTile][32];
  __shared__ int warp_sums[kWarps];

  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int slice = warp / kHalves;
  const int resolution = p.grid.resolution;
  const float step = 2.0f / static_cast<float>(resolution - 1);
  const int x_first = blockIdx.z * kTile + (warp % kHalves) * (kTile / kHalves);
  const int y_first = blockIdx.y * kTile, z_first = blockIdx.x * kTile;
  const int x = x_first + lane / kTile, y = y_first + lane % kTile;
  const float px = grid_coordinate(x, resolution), py = grid_coordinate(y, resolution), pz = grid_coordinate(z_first, resolution);
  // Offsets within the line, so that the mean is taken from a near coordinate and keeps its digits.
  float along[kTile];
#pragma unroll
  for (int k = 0; k < kTile; ++k) along[k] = grid_coordinate(z_first + k, resolution) - pz;

  // Half edges and centre of the voxels of this warp, for its own cull.
  const float slack = 0.01f * step;
  const float half[3] = {0.5f * (kTile / kHalves - 1) * step + slack, 0.5f * (kTile - 1) * step + slack, 0.5f * (kTile - 1) * step + slack};
  const float centre_x = -1.0f + (x_first + 0.5f * (kTile / kHalves - 1)) * step;
  const float centre_y = -1.0f + (y_first + 0.5f * (kTile - 1)) * step;
  const float centre_z = -1.0f + (z_first + 0.5f * (kTile - 1)) * step;

  float sum[kTile] = {};
  const int64_t tile = (int64_t{blockIdx.z} * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned* words = mask + tile * slab.words;

  for (int chunk = 0; chunk < slab.words; chunk += kWordsPerChunk) {
    const int ahead = chunk / kWordsPerChunk % kChunksAhead;
    if (ahead == 0) {
#pragma unroll
      for (int k = 0; k < kChunksAhead; ++k) {
        const int word = chunk + k * kWordsPerChunk + threadIdx.x;
        fetched[k][threadIdx.x] = word < slab.words ? words[word] : 0u;
      }
    }
    unsigned bits = fetched[ahead][threadIdx.x];
    // Also the barrier after which the last chunk's lists are no longer read.
    if (!__syncthreads_or(bits != 0u)) continue;
    int count;
    int at = exclusive_sum(__popc(bits), warp_sums, count);
    for (; bits != 0u; bits &= bits - 1u) members[at++] = static_cast<unsigned short>(threadIdx.x * 32 + __ffs(bits) - 1);

    for (int batch = 0; batch < count; batch += kBatch) {
      const int in_batch = min(kBatch, count - batch);
      __syncthreads();
      for (int k = threadIdx.x; k < in_batch * 3; k += kThreads) {
        const int member = chunk * 32 + members[batch + k / 3];
        staged[k] = reinterpret_cast<const float4*>(gaussians + member)[k % 3];
        if (k % 3 == 0) {
          staged_index[k / 3] = member;
          if constexpr (kCut) staged_boxes[k / 3] = boxes[member];
        }
      }
      __syncthreads();

      // Each lane tests one Gaussian against this warp's voxels; the warp then works through those that pass.
      const int mine = slice * 32 + lane;
      bool reaches = false;
      if (mine < in_batch) {
        const FieldGaussian& g = reinterpret_cast<const FieldGaussian*>(staged)[mine];
        reaches =
            g.irregular != 0.0f || least_exponent(g, centre_x - g.mean[0], centre_y - g.mean[1], centre_z - g.mean[2], half) <= g.limit;
      }
      for (unsigned left = __ballot_sync(0xffffffffu, reaches); left != 0u; left &= left - 1u) {
        const int slot = slice * 32 + __ffs(left) - 1;
        const float4 head = staged[slot * 3], rows = staged[slot * 3 + 1], tail = staged[slot * 3 + 2];
        const float dx = px - head.x, dy = py - head.y, dz = pz - head.z;
        const float opacity = head.w;
        unsigned z_lo = 0, z_span = kTile - 1;
        if constexpr (kCut) {
          const PackedBox box = staged_boxes[slot];
          if (x < static_cast<int>(box.x & 0xffffu) || x > static_cast<int>(box.x >> 16)) continue;
          if (y < static_cast<int>(box.y & 0xffffu) || y > static_cast<int>(box.y >> 16)) continue;
          z_lo = (box.z & 0xffffu) - z_first;  // wraps below zero; the span test below is modular
          z_span = (box.z >> 16) - (box.z & 0xffffu);
        }
        if (tail.w != 0.0f) {
          const float* cov = p.covs + 6 * (slab.begin + staged_index[slot]);
#pragma unroll
          for (int k = 0; k < kTile; ++k) {
            if (!kCut || k - z_lo <= z_span) sum[k] += opacity * irregular_weight(cov, dx, dy, dz + along[k]);
          }
          continue;
        }
        const float r0 = rows.x * dx;
        const float r1 = fmaf(rows.y, dx, rows.z * dy);
        const float across = fmaf(r0, r0, r1 * r1);
        if (across > tail.z) continue;
        const float offset = fmaf(rows.w, dx, fmaf(tail.x, dy, tail.y * dz));
#pragma unroll
        for (int k = 0; k < kTile; ++k) {
          const float r2 = fmaf(tail.y, along[k], offset);
          const float weight = exp2_approximate(fmaf(-r2, r2, -across));
          if (!kCut || k - z_lo <= z_span) sum[k] = fmaf(opacity, weight, sum[k]);
        }
      }
    }
  }

  // The slices' sums are added in a fixed order.
  const int half_index = warp % kHalves;
  if (slice > 0) {
#pragma unroll
    for (int k = 0; k < kTile; ++k) partial[slice - 1][half_index][k][lane] = sum[k];
  }
  __syncthreads();
  if (slice > 0 || x >= resolution || y >= resolution) return;
#pragma unroll
  for (int k = 0; k < kTile; ++k) {
#pragma unroll
    for (int s = 0; s < kSlices - 1; ++s) sum[k] += partial[s][half_index][k][lane];
  }
  float* line = p.field + (int64_t{x} * resolution + y) * resolution + z_first;
  if (!add_to_field && resolution % 4 == 0 && z_first + kTile <= resolution) {
    reinterpret_cast<float4*>(line)[0] = make_float4(sum[0], sum[1], sum[2], sum[3]);
    reinterpret_cast<float4*>(line)[1] = make_float4(sum[4], sum[5], sum[6], sum[7]);
    return;
  }
#pragma unroll
  for (int k = 0; k < kTile; ++k) {
    if (z_first + k < resolution) line[k] = add_to_field ? line[k] + sum[k] : sum[k];
  }
}

}  // namespace

template <typename T>
cudaError_t gaussian_3d_coeff_cuda(const T* xyzs, const T* covs, T* weights, int64_t count, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  coeff_kernel<<<static_cast<unsigned>((count + kThreads - 1) / kThreads), kThreads, 0, stream>>>(xyzs, covs, weights, count);
  return cudaGetLastError();
}

template <typename T>
cudaError_t gaussian_3d_coeff_backward_cuda(const T* xyzs, const T* covs, const T* v_weights, T* v_xyzs, T* v_covs, int64_t count,
                                            cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const unsigned blocks = static_cast<unsigned>((count + kThreads - 1) / kThreads);
  coeff_backward_kernel<<<blocks, kThreads, 0, stream>>>(xyzs, covs, v_weights, v_xyzs, v_covs, count);
  return cudaGetLastError();
}

template cudaError_t gaussian_3d_coeff_cuda<float>(const float*, const float*, float*, int64_t, cudaStream_t);
template cudaError_t gaussian_3d_coeff_cuda<double>(const double*, const double*, double*, int64_t, cudaStream_t);
template cudaError_t gaussian_3d_coeff_backward_cuda<float>(const float*, const float*, const float*, float*, float*, int64_t,
                                                            cudaStream_t);
template cudaError_t gaussian_3d_coeff_backward_cuda<double>(const double*, const double*, const double*, double*, double*, int64_t,
                                                             cudaStream_t);

size_t extract_fields_scratch_bytes(const FieldParams& p) {
  const Layout layout = layout_of(p);
  return static_cast<size_t>(layout.slab_gaussians()) * (sizeof(FieldGaussian) + sizeof(PackedBox)) +
         static_cast<size_t>(layout.mask_words()) * sizeof(unsigned);
}

cudaError_t extract_fields_cuda(const FieldParams& p, void* scratch, cudaStream_t stream) {
  const Layout layout = layout_of(p);
  auto* gaussians = static_cast<FieldGaussian*>(scratch);
  auto* boxes = reinterpret_cast<PackedBox*>(gaussians + layout.slab_gaussians());
  auto* mask = reinterpret_cast<unsigned*>(boxes + layout.slab_gaussians());
  const dim3 tiles(layout.tiles, layout.tiles, layout.tiles);
  const bool cut = (p.grid.resolution / p.grid.num_blocks) % kTile != 0;
  if (p.num_gaussians == 0) {
    return cudaMemsetAsync(p.field, 0, sizeof(float) * int64_t{p.grid.resolution} * p.grid.resolution * p.grid.resolution, stream);
  }
  for (int64_t begin = 0; begin < p.num_gaussians; begin += layout.slab_gaussians()) {
    Slab slab;
    slab.begin = begin;
    slab.count = static_cast<int>(std::min(layout.slab_gaussians(), p.num_gaussians - begin));
    slab.words = (slab.count + 31) / 32;
    const size_t mask_bytes = sizeof(unsigned) * int64_t{slab.words} * layout.tiles * layout.tiles * layout.tiles;
    if (const cudaError_t error = cudaMemsetAsync(mask, 0, mask_bytes, stream); error != cudaSuccess) return error;
    mark_tiles_kernel<<<(slab.count + kMarkThreads - 1) / kMarkThreads, kMarkThreads, 0, stream>>>(p, slab, layout.tiles, gaussians, boxes,
                                                                                                   mask);
    if (cut) {
      accumulate_kernel<true><<<tiles, kThreads, 0, stream>>>(p, slab, begin > 0, gaussians, boxes, mask);
    } else {
      accumulate_kernel<false><<<tiles, kThreads, 0, stream>>>(p, slab, begin > 0, gaussians, boxes, mask);
    }
    if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace md
