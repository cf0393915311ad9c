// The steps of weight_steps.h on the GPU: a thread for each pair, or for each four.
#include "course/weight_steps.h"

#include <algorithm>

namespace md::course {

namespace {

template <typename T>
__global__ void __launch_bounds__(kWeightThreads) naive_kernel(WeightParams<T> p) {
  const int64_t i = int64_t{blockIdx.x} * kWeightThreads + threadIdx.x;
  if (i < p.count) p.weights[i] = gaussian_weight(p.xyzs + 3 * i, p.covs + 6 * i);
}

template <typename T>
__global__ void __launch_bounds__(kWeightThreads) fused_kernel(WeightParams<T> p) {
  const int64_t i = int64_t{blockIdx.x} * kWeightThreads + threadIdx.x;
  if (i < p.count) p.weights[i] = fused_weight(p.xyzs + 3 * i, p.covs + 6 * i);
}

template <typename T>
__global__ void __launch_bounds__(kWeightThreads) shared_kernel(WeightParams<T> p) {
  __shared__ T xyzs[3 * kWeightThreads], covs[6 * kWeightThreads];
  const int thread = threadIdx.x;
  const int64_t first = int64_t{blockIdx.x} * kWeightThreads;
  const int count = static_cast<int>(min(int64_t{kWeightThreads}, p.count - first));
  for (int k = thread; k < 3 * count; k += kWeightThreads) xyzs[k] = p.xyzs[3 * first + k];
  for (int k = thread; k < 6 * count; k += kWeightThreads) covs[k] = p.covs[6 * first + k];
  __syncthreads();
  if (thread < count) p.weights[first + thread] = fused_weight(xyzs + 3 * thread, covs + 6 * thread);
}

// Both begin on 16 bytes, and kCount numbers end on them.
template <int kCount, typename T>
__device__ void copy_pieces(const T* from, T* to) {
  constexpr int kPieces = kCount * sizeof(T) / sizeof(int4);
#pragma unroll
  for (int k = 0; k < kPieces; ++k) reinterpret_cast<int4*>(to)[k] = reinterpret_cast<const int4*>(from)[k];
}

template <typename T>
__global__ void __launch_bounds__(kWeightThreads) vectorised_kernel(WeightParams<T> p, bool aligned) {
  const int64_t first = kPairs * (int64_t{blockIdx.x} * kWeightThreads + threadIdx.x);
  if (!aligned || first + kPairs > p.count) {  // one by one: the last pairs, or a tensor that begins in the middle of another
    for (int64_t i = first; i < min(first + kPairs, p.count); ++i) p.weights[i] = fused_weight(p.xyzs + 3 * i, p.covs + 6 * i);
    return;
  }
  alignas(16) T xyzs[3 * kPairs], covs[6 * kPairs], weights[kPairs];
  copy_pieces<3 * kPairs>(p.xyzs + 3 * first, xyzs);
  copy_pieces<6 * kPairs>(p.covs + 6 * first, covs);
#pragma unroll
  for (int k = 0; k < kPairs; ++k) weights[k] = fused_weight(xyzs + 3 * k, covs + 6 * k);
  copy_pieces<kPairs>(weights, p.weights + first);
}

bool begins_on_16_bytes(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace

template <typename T>
cudaError_t weights_cuda(const WeightParams<T>& p, WeightVariant variant, cudaStream_t stream) {
  const int64_t pairs_of_block = variant == WeightVariant::kVectorised ? kPairs * kWeightThreads : kWeightThreads;
  const int64_t round_up = variant == WeightVariant::kWrongLaunch ? 0 : pairs_of_block - 1;
  const unsigned blocks = static_cast<unsigned>((p.count + round_up) / pairs_of_block);
  if (blocks == 0) return cudaSuccess;
  switch (variant) {
    case WeightVariant::kNaive:
    case WeightVariant::kWrongLaunch:
      naive_kernel<<<blocks, kWeightThreads, 0, stream>>>(p);
      break;
    case WeightVariant::kFused:
      fused_kernel<<<blocks, kWeightThreads, 0, stream>>>(p);
      break;
    case WeightVariant::kShared:
      shared_kernel<<<blocks, kWeightThreads, 0, stream>>>(p);
      break;
    case WeightVariant::kVectorised:
      vectorised_kernel<<<blocks, kWeightThreads, 0, stream>>>(
          p, begins_on_16_bytes(p.xyzs) && begins_on_16_bytes(p.covs) && begins_on_16_bytes(p.weights));
  }
  return cudaGetLastError();
}

template cudaError_t weights_cuda<float>(const WeightParams<float>&, WeightVariant, cudaStream_t);
template cudaError_t weights_cuda<double>(const WeightParams<double>&, WeightVariant, cudaStream_t);

}  // namespace md::course
