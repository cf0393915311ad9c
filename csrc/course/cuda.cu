// The steps of field_steps.h on the GPU: one thread for each voxel.
#include "course/field_steps.h"

namespace md::course {

namespace {

unsigned blocks_for(int64_t threads) { return static_cast<unsigned>((threads + kThreads - 1) / kThreads); }

template <bool kCentres, bool kBound>
__global__ void __launch_bounds__(kThreads) brute_force_kernel(FieldParams p) {
  const int64_t voxel = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (kBound && voxel >= voxels_of(p.grid)) return;
  p.field[voxel] = brute_force(p, voxel, kCentres);
}

template <bool kWriteInput>
__global__ void __launch_bounds__(kThreads) prepare_kernel(FieldParams p, Prepared* prepared) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < p.num_gaussians) prepare(p, i, kWriteInput, prepared[i]);
}

__global__ void __launch_bounds__(kThreads) prepared_kernel(FieldParams p, const Prepared* prepared) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= voxels_of(p.grid)) return;
  const Voxel voxel = voxel_of(index, p.grid.resolution);
  float sum = 0.0f;
  for (int64_t i = 0; i < p.num_gaussians; ++i) sum += term(prepared[i], p, i, voxel);
  p.field[index] = sum;
}

template <bool kCull, bool kBarrier>
__global__ void __launch_bounds__(kThreads) staged_kernel(FieldParams p, const Prepared* prepared) {
  __shared__ float4 staged[kBatch * sizeof(Prepared) / sizeof(float4)];
  __shared__ unsigned members[kWarps];  // a bit for each Gaussian of the batch that this tile needs
  const Prepared* batch = reinterpret_cast<const Prepared*>(staged);
  const int thread = threadIdx.x, resolution = p.grid.resolution;
  const Voxel tile{{static_cast<int>(blockIdx.z) * kTileX, static_cast<int>(blockIdx.y) * kTileY, static_cast<int>(blockIdx.x) * kTileZ}};
  const Voxel voxel = voxel_of_thread(tile, thread);
  float sum = 0.0f;
  for (int64_t first = 0; first < p.num_gaussians; first += kBatch) {
    const int count = static_cast<int>(min(int64_t{kBatch}, p.num_gaussians - first));
    // Coalesced: neighbouring threads fetch neighbouring 16 bytes, whatever Gaussian those belong to.
    const float4* source = reinterpret_cast<const float4*>(prepared + first);
    const int pieces = count * static_cast<int>(sizeof(Prepared) / sizeof(float4));
    for (int k = thread; k < pieces; k += kThreads) staged[k] = source[k];
    if (kBarrier) __syncthreads();
    const bool wanted = thread < count && (!kCull || touches(batch[thread].box, tile));
    const unsigned bits = __ballot_sync(0xffffffffu, wanted);
    if (thread % kWarp == 0) members[thread / kWarp] = bits;
    if (kBarrier) __syncthreads();
    for (int word = 0; word < kWarps; ++word) {
      for (unsigned left = members[word]; left != 0u; left &= left - 1u) {
        const int k = word * kWarp + __ffs(left) - 1;
        sum += term(batch[k], p, first + k, voxel);
      }
    }
    if (kBarrier) __syncthreads();  // or the next batch overwrites what a slower warp still reads
  }
  if (voxel.at[0] >= resolution || voxel.at[1] >= resolution || voxel.at[2] >= resolution) return;
  p.field[(int64_t{voxel.at[0]} * resolution + voxel.at[1]) * resolution + voxel.at[2]] = sum;
}

template <bool kCull, bool kBarrier>
void launch_staged(const FieldParams& p, const Prepared* prepared, cudaStream_t stream) {
  const dim3 tiles(tiles_along(2, p.grid), tiles_along(1, p.grid), tiles_along(0, p.grid));
  staged_kernel<kCull, kBarrier><<<tiles, kThreads, 0, stream>>>(p, prepared);
}

}  // namespace

cudaError_t extract_fields_cuda(const FieldParams& p, Variant variant, Prepared* scratch, cudaStream_t stream) {
  const unsigned voxel_blocks = blocks_for(voxels_of(p.grid)), gaussian_blocks = blocks_for(p.num_gaussians);
  switch (variant) {
    case Variant::kBruteForce:
      brute_force_kernel<false, true><<<voxel_blocks, kThreads, 0, stream>>>(p);
      return cudaGetLastError();
    case Variant::kWrongGrid:
      brute_force_kernel<true, true><<<voxel_blocks, kThreads, 0, stream>>>(p);
      return cudaGetLastError();
    case Variant::kWrongBound:
      brute_force_kernel<false, false><<<voxel_blocks, kThreads, 0, stream>>>(p);
      return cudaGetLastError();
    default:
      break;
  }
  if (gaussian_blocks > 0) {
    if (variant == Variant::kWrongInput) {
      prepare_kernel<true><<<gaussian_blocks, kThreads, 0, stream>>>(p, scratch);
    } else {
      prepare_kernel<false><<<gaussian_blocks, kThreads, 0, stream>>>(p, scratch);
    }
  }
  switch (variant) {
    case Variant::kShared:
      launch_staged<false, true>(p, scratch, stream);
      break;
    case Variant::kCulled:
      launch_staged<true, true>(p, scratch, stream);
      break;
    case Variant::kWrongBarrier:
      launch_staged<true, false>(p, scratch, stream);
      break;
    default:
      prepared_kernel<<<voxel_blocks, kThreads, 0, stream>>>(p, scratch);
  }
  return cudaGetLastError();
}

}  // namespace md::course
