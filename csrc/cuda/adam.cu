// Adam on the GPU: one launch counts the steps, one updates all tensors. Floor: 16 bytes read and 12 written a value.
#include "adam.h"

namespace md::adam {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = 4;  // values, loaded together
constexpr int64_t kPerBlock = kThreads * kPerThread;

struct Blocks {
  int64_t end[kMaxTensors];  // the first block past each tensor's
};

// A launch of its own, since blocks of the update start at any time: none may find a step already counted by another.
__global__ void count_kernel(const __grid_constant__ Call call) {
  if (threadIdx.x < call.tensor_count) *call.tensors[threadIdx.x].step += 1.0f;
}

__global__ void __launch_bounds__(kThreads) update_kernel(const __grid_constant__ Call call, const __grid_constant__ Blocks blocks) {
  const int64_t block = blockIdx.x;
  int t = 0;
  while (block >= blocks.end[t]) ++t;
  const Tensor& tensor = call.tensors[t];
  const Scale scale = scale_of(call, tensor, *tensor.step);
  const int64_t first = (block - (t ? blocks.end[t - 1] : 0)) * kPerBlock + threadIdx.x;
  float gradient[kPerThread], parameter[kPerThread], mean[kPerThread], mean_square[kPerThread];
#pragma unroll
  for (int k = 0; k < kPerThread; ++k) {
    const int64_t i = first + k * kThreads;
    if (i >= tensor.count) continue;
    gradient[k] = tensor.gradient[i];
    parameter[k] = tensor.parameter[i];
    mean[k] = tensor.mean[i];
    mean_square[k] = tensor.mean_square[i];
  }
#pragma unroll
  for (int k = 0; k < kPerThread; ++k) {
    const int64_t i = first + k * kThreads;
    if (i >= tensor.count) continue;
    update(gradient[k], scale, parameter[k], mean[k], mean_square[k]);
    tensor.parameter[i] = parameter[k];
    tensor.mean[i] = mean[k];
    tensor.mean_square[i] = mean_square[k];
  }
}

}  // namespace

cudaError_t step_cuda(const Call& call, cudaStream_t stream) {
  Blocks blocks{};
  int64_t total = 0;
  for (int t = 0; t < call.tensor_count; ++t) blocks.end[t] = total += (call.tensors[t].count + kPerBlock - 1) / kPerBlock;
  count_kernel<<<1, kMaxTensors, 0, stream>>>(call);
  if (total > 0) update_kernel<<<static_cast<unsigned>(total), kThreads, 0, stream>>>(call, blocks);
  return cudaGetLastError();
}

}  // namespace md::adam
