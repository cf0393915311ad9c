// Group normalisation over tokens on the GPU: sums of slices of every sample, then one pass that normalises.
//
// A thread keeps to one vector of neighbouring channels and walks down the pixels, so that every load and store is a whole
// coalesced vector whatever the width of a group is. Values are summed less the first value of their group, which keeps the
// digits of the variance where the mean is large. Sums are added in a fixed order: the same bits every time.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "group_norm.h"

namespace md {

namespace {

constexpr int kThreads = 256;        // about; a CTA is whole pixels
constexpr int kMaxThreads = 1024;
constexpr int kMaxSlices = 64;       // of a sample, each summed by one CTA
constexpr int kPixelsPerThread = 4;  // at least, before a sample is cut further
constexpr int kWantedCtas = 512;     // enough for every GPU of today to be busy

template <typename T>
struct Lanes {
  static constexpr int kWidth = kGroupNormVector / static_cast<int>(sizeof(T));
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void from_float(float x, float& y) { y = x; }
__device__ __forceinline__ void from_float(float x, __half& y) { y = __float2half_rn(x); }
__device__ __forceinline__ void from_float(float x, __nv_bfloat16& y) { y = __float2bfloat16_rn(x); }

template <typename T>
union Vector {
  uint4 bits;
  T values[Lanes<T>::kWidth];
  __device__ Vector() {}
};

struct Plan {
  int lanes;   // threads that cover the channels of one pixel
  int rows;    // pixels of a CTA at a time
  int slices;  // of a sample
};

Plan plan_for(const GroupNormShape& shape, int width) {
  Plan plan;
  plan.lanes = shape.channels / width;
  plan.rows = std::max(1, kThreads / plan.lanes);
  const int64_t useful = (shape.pixels + int64_t{plan.rows} * kPixelsPerThread - 1) / (int64_t{plan.rows} * kPixelsPerThread);
  const int64_t wanted = (kWantedCtas + shape.samples - 1) / shape.samples;
  plan.slices = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({useful, wanted, kMaxSlices})));
  return plan;
}

__device__ __forceinline__ void slice_of(int64_t pixels, int64_t& begin, int64_t& end) {
  const int64_t length = (pixels + gridDim.x - 1) / gridDim.x;
  begin = min(pixels, blockIdx.x * length);
  end = min(pixels, begin + length);
}

// partial [N, slices, groups, 2]: sum and sum of squares.
template <typename T>
__global__ void __launch_bounds__(kMaxThreads) sum_kernel(const T* x, float* partial, GroupNormShape shape, Plan plan) {
  constexpr int kWidth = Lanes<T>::kWidth;
  extern __shared__ float shared[];  // [2, rows, C]
  const int lane = threadIdx.x % plan.lanes, row = threadIdx.x / plan.lanes;
  const int group_width = shape.channels / shape.groups;
  const T* sample = x + int64_t{blockIdx.y} * shape.pixels * shape.channels;
  float shift[kWidth], sum[kWidth], squares[kWidth];
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    shift[k] = to_float(sample[(lane * kWidth + k) / group_width * group_width]);
    sum[k] = squares[k] = 0.0f;
  }
  int64_t begin, end;
  slice_of(shape.pixels, begin, end);
  for (int64_t p = begin + row; p < end; p += plan.rows) {
    Vector<T> vector;
    vector.bits = *reinterpret_cast<const uint4*>(sample + p * shape.channels + lane * kWidth);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const float value = to_float(vector.values[k]) - shift[k];
      sum[k] += value;
      squares[k] += value * value;
    }
  }
  float* sums = shared;
  float* all_squares = shared + plan.rows * shape.channels;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    sums[row * shape.channels + lane * kWidth + k] = sum[k];
    all_squares[row * shape.channels + lane * kWidth + k] = squares[k];
  }
  __syncthreads();
  for (int group = threadIdx.x; group < shape.groups; group += blockDim.x) {
    float group_sum = 0.0f, group_squares = 0.0f;
    for (int r = 0; r < plan.rows; ++r) {
      for (int c = group * group_width; c < (group + 1) * group_width; ++c) {
        group_sum += sums[r * shape.channels + c];
        group_squares += all_squares[r * shape.channels + c];
      }
    }
    float* out = partial + ((int64_t{blockIdx.y} * plan.slices + blockIdx.x) * shape.groups + group) * 2;
    out[0] = group_sum;
    out[1] = group_squares;
  }
}

template <typename T>
__global__ void __launch_bounds__(kMaxThreads)
    normalise_kernel(const T* x, const T* weight, const T* bias, T* out, const float* partial, GroupNormShape shape, Plan plan) {
  constexpr int kWidth = Lanes<T>::kWidth;
  extern __shared__ float shared[];  // mean and reciprocal deviation of every group: [groups, 2]
  const int group_width = shape.channels / shape.groups;
  const int64_t start = int64_t{blockIdx.y} * shape.pixels * shape.channels;
  for (int group = threadIdx.x; group < shape.groups; group += blockDim.x) {
    float sum = 0.0f, squares = 0.0f;
    for (int slice = 0; slice < plan.slices; ++slice) {
      const float* in = partial + ((int64_t{blockIdx.y} * plan.slices + slice) * shape.groups + group) * 2;
      sum += in[0];
      squares += in[1];
    }
    const float count = static_cast<float>(shape.pixels) * static_cast<float>(group_width);
    const float mean = sum / count;
    const float variance = fmaxf(squares / count - mean * mean, 0.0f);
    shared[2 * group] = mean + to_float(x[start + group * group_width]);
    shared[2 * group + 1] = rsqrtf(variance + shape.eps);
  }
  __syncthreads();
  const int lane = threadIdx.x % plan.lanes, row = threadIdx.x / plan.lanes;
  float mean[kWidth], scale[kWidth], offset[kWidth];
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    const int channel = lane * kWidth + k;
    mean[k] = shared[2 * (channel / group_width)];
    scale[k] = shared[2 * (channel / group_width) + 1] * to_float(weight[channel]);
    offset[k] = to_float(bias[channel]);
  }
  int64_t begin, end;
  slice_of(shape.pixels, begin, end);
  for (int64_t p = begin + row; p < end; p += plan.rows) {
    const int64_t at = start + p * shape.channels + lane * kWidth;
    Vector<T> vector;
    vector.bits = *reinterpret_cast<const uint4*>(x + at);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const float value = (to_float(vector.values[k]) - mean[k]) * scale[k] + offset[k];
      from_float(shape.silu ? silu(value) : value, vector.values[k]);
    }
    *reinterpret_cast<uint4*>(out + at) = vector.bits;
  }
}

template <typename T>
cudaError_t launch(const void* x, const void* weight, const void* bias, void* out, float* scratch, const GroupNormShape& shape,
                   cudaStream_t stream) {
  const Plan plan = plan_for(shape, Lanes<T>::kWidth);
  const dim3 grid(plan.slices, static_cast<unsigned>(shape.samples));
  const int threads = plan.lanes * plan.rows;
  const size_t sums = sizeof(float) * 2 * plan.rows * shape.channels;
  sum_kernel<<<grid, threads, sums, stream>>>(static_cast<const T*>(x), scratch, shape, plan);
  const size_t statistics = sizeof(float) * 2 * shape.groups;
  normalise_kernel<<<grid, threads, statistics, stream>>>(static_cast<const T*>(x), static_cast<const T*>(weight), static_cast<const T*>(bias),
                                                          static_cast<T*>(out), scratch, shape, plan);
  return cudaGetLastError();
}

}  // namespace

int64_t group_norm_scratch(const GroupNormShape& shape) { return shape.samples * kMaxSlices * shape.groups * 2; }

cudaError_t group_norm_cuda(const void* x, const void* weight, const void* bias, void* out, float* scratch, const GroupNormShape& shape,
                            GroupNormType type, cudaStream_t stream) {
  if (shape.samples == 0 || shape.pixels == 0) return cudaSuccess;
  if (type == GroupNormType::kHalf) return launch<__half>(x, weight, bias, out, scratch, shape, stream);
  if (type == GroupNormType::kBFloat16) return launch<__nv_bfloat16>(x, weight, bias, out, scratch, shape, stream);
  return launch<float>(x, weight, bias, out, scratch, shape, stream);
}

}  // namespace md
