// A fitting step's small work on the GPU: a thread per Gaussian, or per value of the pictures.
#include "gaussian_fit.h"

#include "warps.h"

namespace md::fit {
namespace {

constexpr int kThreads = 256;

unsigned blocks(int64_t count) { return static_cast<unsigned>((count + kThreads - 1) / kThreads); }

__device__ int64_t thread_index() { return int64_t{blockIdx.x} * kThreads + threadIdx.x; }

__global__ void __launch_bounds__(kThreads) activate_kernel(Raw in, Active out, int64_t count) {
  if (thread_index() < count) activate(in, out, thread_index());
}

__global__ void __launch_bounds__(kThreads) activate_backward_kernel(ActiveGradients in, RawGradients out, int64_t count) {
  if (thread_index() < count) activate_backward(in, out, thread_index());
}

__global__ void __launch_bounds__(kThreads) record_kernel(Statistics in) {
  if (thread_index() < in.count) record(in, thread_index());
}

// The sum of all threads' values, for thread 0 of a block of kCount.
template <int kCount>
__device__ float sum_over_block(float value) {
  __shared__ float sums[kCount / kWarp];
  value = sum_over_warp(value);
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = 0.0f;
  if (threadIdx.x == 0) {
    for (const float sum : sums) value += sum;
  }
  return value;
}

__device__ int64_t color_count(const Loss& in) { return 3 * (in.target_pixels + in.reference_pixels); }

__device__ bool has_target(const Loss& in, int64_t i) { return i < 3 * in.target_pixels; }

// What value i of the image should not be.
__device__ float color_error(const Loss& in, int64_t i) {
  return in.image[i] - (has_target(in, i) ? in.targets[i] : in.reference[i - 3 * in.target_pixels]);
}

__device__ float mask_error(const Loss& in, int64_t reference_pixel) {
  return in.alpha[in.target_pixels + reference_pixel] - in.mask[reference_pixel];
}

__global__ void __launch_bounds__(kThreads) loss_kernel(Loss in, float* partial_sums) {
  constexpr int64_t kStride = int64_t{kPartialSums} * kThreads;
  float sum = 0.0f;
#pragma unroll 4
  for (int64_t i = thread_index(); i < color_count(in); i += kStride) {
    sum += (has_target(in, i) ? in.weight : in.reference_weight) * fabsf(color_error(in, i));
  }
  for (int64_t i = thread_index(); i < in.reference_pixels; i += kStride) {
    const float error = mask_error(in, i);
    sum += in.mask_weight * error * error;
  }
  sum = sum_over_block<kThreads>(sum);
  if (threadIdx.x == 0) partial_sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kPartialSums) sum_kernel(const float* partial_sums, float* loss) {
  const float sum = sum_over_block<kPartialSums>(partial_sums[threadIdx.x]);
  if (threadIdx.x == 0) *loss = sum;
}

// A thread per value of the image and, where there is a reference, per pixel of alpha.
__global__ void __launch_bounds__(kThreads) loss_backward_kernel(Loss in, LossGradients out) {
  const int64_t i = thread_index(), colors = color_count(in);
  const float scale = *out.v_loss;
  if (i < colors) {
    const float error = color_error(in, i), weight = scale * (has_target(in, i) ? in.weight : in.reference_weight);
    out.v_image[i] = error > 0.0f ? weight : error < 0.0f ? -weight : 0.0f;
  } else if (in.reference && i - colors < in.target_pixels + in.reference_pixels) {
    const int64_t pixel = i - colors;
    out.v_alpha[pixel] = pixel < in.target_pixels ? 0.0f : scale * 2.0f * in.mask_weight * mask_error(in, pixel - in.target_pixels);
  }
}

}  // namespace

cudaError_t activate_cuda(const Raw& in, const Active& out, int64_t count, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  activate_kernel<<<blocks(count), kThreads, 0, stream>>>(in, out, count);
  return cudaGetLastError();
}

cudaError_t activate_backward_cuda(const ActiveGradients& in, const RawGradients& out, int64_t count, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  activate_backward_kernel<<<blocks(count), kThreads, 0, stream>>>(in, out, count);
  return cudaGetLastError();
}

cudaError_t record_cuda(const Statistics& in, cudaStream_t stream) {
  if (in.count == 0) return cudaSuccess;
  record_kernel<<<blocks(in.count), kThreads, 0, stream>>>(in);
  return cudaGetLastError();
}

cudaError_t loss_cuda(const Loss& in, float* partial_sums, float* loss, cudaStream_t stream) {
  loss_kernel<<<kPartialSums, kThreads, 0, stream>>>(in, partial_sums);
  sum_kernel<<<1, kPartialSums, 0, stream>>>(partial_sums, loss);
  return cudaGetLastError();
}

cudaError_t loss_backward_cuda(const Loss& in, const LossGradients& out, cudaStream_t stream) {
  const int64_t pixels = in.target_pixels + in.reference_pixels, count = (in.reference ? 4 : 3) * pixels;
  if (count == 0) return cudaSuccess;
  loss_backward_kernel<<<blocks(count), kThreads, 0, stream>>>(in, out);
  return cudaGetLastError();
}

}  // namespace md::fit
