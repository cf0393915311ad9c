// Group normalisation over tokens on the GPU.
//
// A group that fits into a CTA's shared memory is read once, by a CTA of its own. Otherwise slices of every sample are summed, then
// one pass normalises: a thread keeps to one vector of neighbouring channels and walks down the pixels, so that every load and store is a whole
// coalesced vector whatever the width of a group is. Values are summed less the first value of their group, which keeps the
// digits of the variance where the mean is large. Sums are added in a fixed order: the same bits every time.
#include "group_norm.h"

#include <algorithm>

#include "float_vectors.h"

namespace md {

namespace {

constexpr int kThreads = 256;        // where samples are cut into slices, about: a CTA is whole pixels
constexpr int kMaxThreads = 1024;
constexpr int kMaxSlices = 64;       // of a sample, each summed by one CTA
constexpr int kPixelsPerThread = 4;  // at least, before a sample is cut further
constexpr int kWantedCtas = 512;     // enough for every GPU of today to be busy

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
__global__ void __launch_bounds__(kMaxThreads) sum_kernel(const T* __restrict__ x, const T* __restrict__ offset, float* __restrict__ partial, GroupNormShape shape, Plan plan) {
  constexpr int kWidth = Lanes<T>::kWidth;
  extern __shared__ float shared[];  // [2, rows, C]
  const int lane = threadIdx.x % plan.lanes, row = threadIdx.x / plan.lanes;
  const int group_width = shape.channels / shape.groups;
  const T* sample = x + int64_t{blockIdx.y} * shape.pixels * shape.channels;
  float shift[kWidth], sum[kWidth], squares[kWidth];
  const T* own_offset = offset + int64_t{blockIdx.y} * shape.offset_stride;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    const int channel = lane * kWidth + k, first = channel / group_width * group_width;
    shift[k] = to_float(sample[first]);
    if (offset) shift[k] += to_float(own_offset[first]) - to_float(own_offset[channel]);
    sum[k] = squares[k] = 0.0f;
  }
  int64_t begin, end;
  slice_of(shape.pixels, begin, end);
#pragma unroll 4
  for (int64_t p = begin + row; p < end; p += plan.rows) {
    const Vector<T> vector = load_vector(sample + p * shape.channels + lane * kWidth);
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
    normalise_kernel(const T* __restrict__ x, const T* __restrict__ offset, const T* __restrict__ weight, const T* __restrict__ bias,
                     T* __restrict__ out, const float* __restrict__ partial, GroupNormShape shape, Plan plan) {
  constexpr int kWidth = Lanes<T>::kWidth;
  extern __shared__ float shared[];  // mean and reciprocal deviation of every group: [groups, 2]
  const int group_width = shape.channels / shape.groups;
  const int64_t start = int64_t{blockIdx.y} * shape.pixels * shape.channels;
  const T* own_offset = offset + int64_t{blockIdx.y} * shape.offset_stride;
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
    shared[2 * group] = mean + to_float(x[start + group * group_width]) + (offset ? to_float(own_offset[group * group_width]) : 0.0f);
    shared[2 * group + 1] = rsqrtf(variance + shape.eps);
  }
  __syncthreads();
  const int lane = threadIdx.x % plan.lanes, row = threadIdx.x / plan.lanes;
  float mean[kWidth], scale[kWidth], added[kWidth];  // x * scale + added once the mean is gone
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    const int channel = lane * kWidth + k;
    mean[k] = shared[2 * (channel / group_width)] - (offset ? to_float(own_offset[channel]) : 0.0f);
    scale[k] = shared[2 * (channel / group_width) + 1] * to_float(weight[channel]);
    added[k] = to_float(bias[channel]);
  }
  int64_t begin, end;
  slice_of(shape.pixels, begin, end);
#pragma unroll 4
  for (int64_t p = begin + row; p < end; p += plan.rows) {
    const int64_t at = start + p * shape.channels + lane * kWidth;
    Vector<T> vector = load_vector(x + at);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const float value = (to_float(vector.values[k]) - mean[k]) * scale[k] + added[k];
      from_float(shape.silu ? silu(value) : value, vector.values[k]);
    }
    store_vector(out + at, vector);
  }
}

// ---- Groups that fit into shared memory ----

constexpr int kWarp = 32;
constexpr int kMostGroupBytes = 96 * 1024;  // two CTAs of these and what they need besides fit into an SM of 228 KiB, one into 164 KiB
constexpr unsigned kAllLanes = 0xffffffffu;

// Four bytes: one float or two of the smaller types.
template <typename T>
union Word {
  uint32_t bits;
  T values[4 / sizeof(T)];
  __device__ Word() {}
};

__device__ float sum_over_block(float value, float* scratch) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  __syncthreads();  // scratch may still be read from the call before
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
  __syncthreads();
  float sum = 0.0f;
  for (int w = 0; w < static_cast<int>(blockDim.x) / kWarp; ++w) sum += scratch[w];
  return sum;
}

// Calls visit(i, place, channel) for this thread's words of a group of `words` words a pixel: their number in shared memory, where
// in x they lie in words, and their first channel within the group.
template <int kPerWord, class Visit>
__device__ void for_words(int64_t pixels, int words, int64_t stride, Visit visit) {
  const int total = static_cast<int>(pixels) * words, threads = static_cast<int>(blockDim.x);
  int pixel = static_cast<int>(threadIdx.x) / words, word = static_cast<int>(threadIdx.x) % words;
  const int pixel_step = threads / words, word_step = threads % words;
  for (int i = threadIdx.x; i < total; i += threads) {
    visit(i, pixel * stride + word, word * kPerWord);
    pixel += pixel_step;
    word += word_step;
    if (word >= words) {
      word -= words;
      ++pixel;
    }
  }
}

// blockIdx.x: group, blockIdx.y: sample. Statistics are those of the values as read, the variance from differences to the mean.
template <typename T>
__global__ void __launch_bounds__(kMaxThreads)
    group_kernel(const T* x, const T* offset, const T* weight, const T* bias, T* out, GroupNormShape shape) {
  constexpr int kPerWord = 4 / static_cast<int>(sizeof(T));
  extern __shared__ uint32_t kept[];  // [P, words], then [3, width] floats: offset, scale and bias of the channels
  __shared__ float scratch[kMaxThreads / kWarp];
  const int width = shape.channels / shape.groups, words = width / kPerWord;
  const int first = static_cast<int>(blockIdx.x) * width;
  const int64_t start = (int64_t{blockIdx.y} * shape.pixels * shape.channels + first) / kPerWord, stride = shape.channels / kPerWord;
  const uint32_t* in = reinterpret_cast<const uint32_t*>(x) + start;
  uint32_t* to = reinterpret_cast<uint32_t*>(out) + start;
  float* added = reinterpret_cast<float*>(kept + shape.pixels * words);
  float* scale = added + width;
  float* shift = scale + width;
  for (int c = threadIdx.x; c < width; c += blockDim.x) {
    added[c] = offset ? to_float(offset[int64_t{blockIdx.y} * shape.offset_stride + first + c]) : 0.0f;
  }
  __syncthreads();
  Word<T> first_word;
  first_word.bits = in[0];
  const float near_mean = to_float(first_word.values[0]) + added[0];  // keeps the digits of the sum where the mean is large
  float sum = 0.0f;
  for_words<kPerWord>(shape.pixels, words, stride, [&](int i, int64_t place, int channel) {
    Word<T> word;
    word.bits = kept[i] = in[place];
#pragma unroll
    for (int k = 0; k < kPerWord; ++k) sum += to_float(word.values[k]) + added[channel + k] - near_mean;
  });
  const float count = static_cast<float>(shape.pixels) * static_cast<float>(width);
  const float mean = near_mean + sum_over_block(sum, scratch) / count;
  float squares = 0.0f;
  for_words<kPerWord>(shape.pixels, words, stride, [&](int i, int64_t, int channel) {
    Word<T> word;
    word.bits = kept[i];
#pragma unroll
    for (int k = 0; k < kPerWord; ++k) {
      const float value = to_float(word.values[k]) + added[channel + k] - mean;
      squares += value * value;
    }
  });
  const float rstd = rsqrtf(sum_over_block(squares, scratch) / count + shape.eps);
  for (int c = threadIdx.x; c < width; c += blockDim.x) {
    scale[c] = rstd * to_float(weight[first + c]);
    shift[c] = to_float(bias[first + c]);
  }
  __syncthreads();
  for_words<kPerWord>(shape.pixels, words, stride, [&](int i, int64_t place, int channel) {
    Word<T> word;
    word.bits = kept[i];
#pragma unroll
    for (int k = 0; k < kPerWord; ++k) {
      const int c = channel + k;
      const float value = (to_float(word.values[k]) + added[c] - mean) * scale[c] + shift[c];
      from_float(shape.silu ? silu(value) : value, word.values[k]);
    }
    to[place] = word.bits;
  });
}

// Bytes of shared memory that a group wants, 0 where its rows are not whole words or it is too large.
template <typename T>
size_t group_bytes(const GroupNormShape& shape) {
  const int64_t width = shape.channels / shape.groups;
  const int64_t bytes = width * (shape.pixels * static_cast<int64_t>(sizeof(T)) + 3 * static_cast<int64_t>(sizeof(float)));
  return width * sizeof(T) % 4 != 0 || bytes > kMostGroupBytes ? 0 : static_cast<size_t>(bytes);
}

template <typename T>
cudaError_t launch_groups(const void* x, const void* offset, const void* weight, const void* bias, void* out, const GroupNormShape& shape,
                          size_t bytes, cudaStream_t stream) {
  // Per device and context, so at every call; it costs less than a microsecond.
  const cudaError_t allowed = cudaFuncSetAttribute(group_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostGroupBytes);
  if (allowed != cudaSuccess) return allowed;
  const int64_t words = shape.pixels * (shape.channels / shape.groups) * static_cast<int64_t>(sizeof(T)) / 4;
  const int threads = words >= 8192 ? 512 : words >= 512 ? 256 : 64;
  const dim3 grid(static_cast<unsigned>(shape.groups), static_cast<unsigned>(shape.samples));
  group_kernel<T><<<grid, threads, bytes, stream>>>(static_cast<const T*>(x), static_cast<const T*>(offset), static_cast<const T*>(weight),
                                                    static_cast<const T*>(bias), static_cast<T*>(out), shape);
  return cudaGetLastError();
}

// ----

template <typename T>
cudaError_t launch(const void* x, const void* offset, const void* weight, const void* bias, void* out, float* scratch,
                   const GroupNormShape& shape, cudaStream_t stream) {
  if (const size_t bytes = group_bytes<T>(shape)) return launch_groups<T>(x, offset, weight, bias, out, shape, bytes, stream);
  const Plan plan = plan_for(shape, Lanes<T>::kWidth);
  const dim3 grid(plan.slices, static_cast<unsigned>(shape.samples));
  const int threads = plan.lanes * plan.rows;
  const size_t sums = sizeof(float) * 2 * plan.rows * shape.channels;
  sum_kernel<<<grid, threads, sums, stream>>>(static_cast<const T*>(x), static_cast<const T*>(offset), scratch, shape, plan);
  const size_t statistics = sizeof(float) * 2 * shape.groups;
  normalise_kernel<<<grid, threads, statistics, stream>>>(static_cast<const T*>(x), static_cast<const T*>(offset), static_cast<const T*>(weight),
                                                          static_cast<const T*>(bias), static_cast<T*>(out), scratch, shape, plan);
  return cudaGetLastError();
}

}  // namespace

int64_t group_norm_scratch(const GroupNormShape& shape) { return shape.samples * kMaxSlices * shape.groups * 2; }

cudaError_t group_norm_cuda(const void* x, const void* offset, const void* weight, const void* bias, void* out, float* scratch,
                            const GroupNormShape& shape, FloatType type, cudaStream_t stream) {
  if (shape.samples == 0 || shape.pixels == 0) return cudaSuccess;
  if (type == FloatType::kHalf) return launch<__half>(x, offset, weight, bias, out, scratch, shape, stream);
  if (type == FloatType::kBFloat16) return launch<__nv_bfloat16>(x, offset, weight, bias, out, scratch, shape, stream);
  return launch<float>(x, offset, weight, bias, out, scratch, shape, stream);
}

}  // namespace md
