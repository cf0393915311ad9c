// Group normalisation over tokens on the GPU.
//
// A group that fits into a CTA's shared memory is read once, by a CTA of its own. Otherwise slices of every sample are summed, then
// one pass normalises: a thread keeps to one vector of neighbouring channels and walks down the pixels, so that every load and store is a
// whole coalesced vector whatever the width of a group is. Values are summed less the first of them, which keeps the digits of the variance
// where the mean is large. Sums are added in a fixed order: the same bits every time.
#include "group_norm.h"

#include "group_moments.h"

namespace md {

namespace {

constexpr int kThreads = 256;  // where samples are cut into slices, about: a CTA is whole pixels
constexpr int kMaxThreads = 1024;

struct Plan {
  int lanes;                                                                  // threads that cover the channels of one pixel
  int rows;                                                                   // pixels of a CTA at a time
  int slices;                                                                 // of a sample
  int threads() const { return (lanes * rows + kWarp - 1) / kWarp * kWarp; }  // whole warps reduce
};

Plan plan_for(const GroupNormShape& shape, int width) {
  Plan plan;
  plan.lanes = shape.channels / width;
  plan.slices = static_cast<int>(moment_slices(shape.pixels));
  const int64_t length = (shape.pixels + plan.slices - 1) / plan.slices;
  plan.rows = static_cast<int>(std::clamp<int64_t>(kThreads / plan.lanes, 1, std::max<int64_t>(length, 1)));
  return plan;
}

__device__ __forceinline__ void slice_of(int64_t pixels, int64_t& begin, int64_t& end) {
  const int64_t length = (pixels + gridDim.x - 1) / gridDim.x;
  begin = min(pixels, blockIdx.x * length);
  end = min(pixels, begin + length);
}

// blockIdx.x: slice, blockIdx.y: sample. A thread sums its channels' values less the first of them.
template <typename T>
__global__ void __launch_bounds__(kMaxThreads)
    moments_kernel(const T* __restrict__ x, const T* __restrict__ offset, float* __restrict__ moments, GroupNormShape shape, Plan plan) {
  constexpr int kWidth = Lanes<T>::kWidth;
  extern __shared__ float shared[];  // [2, rows, C]
  const int lane = static_cast<int>(threadIdx.x) % plan.lanes, row = static_cast<int>(threadIdx.x) / plan.lanes;
  const T* sample = x + int64_t{blockIdx.y} * shape.pixels * shape.channels;
  int64_t begin, end;
  slice_of(shape.pixels, begin, end);
  const int own_pixels = static_cast<int>(end - begin);
  const auto count_of = [&](int r) { return static_cast<float>(max(0, (own_pixels - r + plan.rows - 1) / plan.rows)); };
  if (row < plan.rows) {
    float sum[kWidth] = {}, squares[kWidth] = {};
    Vector<T> first;
    if (begin + row < end) first = load_vector(sample + (begin + row) * shape.channels + lane * kWidth);
#pragma unroll 4
    for (int64_t p = begin + row; p < end; p += plan.rows) {
      const Vector<T> vector = load_vector(sample + p * shape.channels + lane * kWidth);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const float value = to_float(vector.values[k]) - to_float(first.values[k]);
        sum[k] += value;
        squares[k] += value * value;
      }
    }
    const float count = count_of(row), part = count > 0.0f ? 1.0f / count : 0.0f;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const int channel = lane * kWidth + k, at = row * shape.channels + channel;
      const float mean = sum[k] * part;
      const float added = offset ? to_float(offset[int64_t{blockIdx.y} * shape.offset_stride + channel]) : 0.0f;
      shared[at] = count > 0.0f ? to_float(first.values[k]) + added + mean : 0.0f;
      shared[plan.rows * shape.channels + at] = fmaxf(squares[k] - sum[k] * mean, 0.0f);
    }
  }
  __syncthreads();
  write_moments(shared, shared + plan.rows * shape.channels, plan.rows, shape.channels, shape.groups, count_of,
                moments + (int64_t{blockIdx.y} * plan.slices + blockIdx.x) * shape.groups * kMoments);
}

template <typename T>
__global__ void __launch_bounds__(kMaxThreads)
    normalise_kernel(const T* __restrict__ x, const T* __restrict__ offset, const T* __restrict__ weight, const T* __restrict__ bias,
                     T* __restrict__ out, const float* __restrict__ moments, GroupNormShape shape, Plan plan) {
  constexpr int kWidth = Lanes<T>::kWidth;
  extern __shared__ float shared[];  // mean and reciprocal deviation of every group: [groups, 2]
  const int group_width = shape.channels / shape.groups;
  const int lane = static_cast<int>(threadIdx.x) % plan.lanes, row = static_cast<int>(threadIdx.x) / plan.lanes;
  const int64_t start = int64_t{blockIdx.y} * shape.pixels * shape.channels;
  int64_t begin, end;
  slice_of(shape.pixels, begin, end);
  Vector<T> next;  // on its way while the statistics are added up
  if (row < plan.rows && begin + row < end) next = load_vector(x + start + (begin + row) * shape.channels + lane * kWidth);
  load_statistics(moments + int64_t{blockIdx.y} * plan.slices * shape.groups * kMoments, plan.slices, shape.groups, 0, shape.groups,
                  shape.eps, shared);
  __syncthreads();
  if (row >= plan.rows) return;
  float mean[kWidth], scale[kWidth], added[kWidth];  // x * scale + added once the mean is gone
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    const int channel = lane * kWidth + k;
    mean[k] = shared[2 * (channel / group_width)] - (offset ? to_float(offset[int64_t{blockIdx.y} * shape.offset_stride + channel]) : 0.0f);
    scale[k] = shared[2 * (channel / group_width) + 1] * to_float(weight[channel]);
    added[k] = to_float(bias[channel]);
  }
#pragma unroll 4
  for (int64_t p = begin + row; p < end; p += plan.rows) {
    const int64_t at = start + p * shape.channels + lane * kWidth;
    Vector<T> vector = next;
    if (p + plan.rows < end) next = load_vector(x + at + int64_t{plan.rows} * shape.channels);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const float value = (to_float(vector.values[k]) - mean[k]) * scale[k] + added[k];
      from_float(shape.silu ? silu_for<T>(value) : value, vector.values[k]);
    }
    store_vector(out + at, vector);
  }
}

// ---- Groups that fit into shared memory ----

constexpr int kMostGroupBytes = 96 * 1024;  // two CTAs of these and what they need besides fit into an SM of 228 KiB, one into 164 KiB

// Four bytes: one float or two of the smaller types.
template <typename T>
union Word {
  uint32_t bits;
  T values[4 / sizeof(T)];
  __device__ Word() {}
};

__device__ float sum_over_block(float value, float* scratch) {
  value = sum_over_warp(value);
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
#pragma unroll 4
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
    group_kernel(const T* __restrict__ x, const T* __restrict__ offset, const T* __restrict__ weight, const T* __restrict__ bias,
                 T* __restrict__ out, GroupNormShape shape) {
  constexpr int kPerWord = 4 / static_cast<int>(sizeof(T));
  extern __shared__ uint32_t kept[];  // [P, words], then [3, width] floats: offset, scale and bias of the channels
  __shared__ float scratch[kMaxThreads / kWarp];
  const int width = shape.channels / shape.groups, words = width / kPerWord;
  const int first = static_cast<int>(blockIdx.x) * width;
  const int64_t start = (int64_t{blockIdx.y} * shape.pixels * shape.channels + first) / kPerWord, stride = shape.channels / kPerWord;
  const uint32_t* __restrict__ in = reinterpret_cast<const uint32_t*>(x) + start;
  uint32_t* __restrict__ to = reinterpret_cast<uint32_t*>(out) + start;
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
    word.bits = kept[i] = __ldg(in + place);
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
      from_float(shape.silu ? silu_for<T>(value) : value, word.values[k]);
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
cudaError_t launch_moments(const void* x, const void* offset, float* moments, const GroupNormShape& shape, cudaStream_t stream) {
  const Plan plan = plan_for(shape, Lanes<T>::kWidth);
  const dim3 grid(static_cast<unsigned>(plan.slices), static_cast<unsigned>(shape.samples));
  const size_t shared = sizeof(float) * 2 * plan.rows * shape.channels;
  moments_kernel<<<grid, plan.threads(), shared, stream>>>(static_cast<const T*>(x), static_cast<const T*>(offset), moments, shape, plan);
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch_normalise(const void* x, const void* offset, const float* moments, const void* weight, const void* bias, void* out,
                             const GroupNormShape& shape, cudaStream_t stream) {
  const Plan plan = plan_for(shape, Lanes<T>::kWidth);
  const dim3 grid(static_cast<unsigned>(plan.slices), static_cast<unsigned>(shape.samples));
  const size_t shared = sizeof(float) * 2 * shape.groups;
  normalise_kernel<<<grid, plan.threads(), shared, stream>>>(static_cast<const T*>(x), static_cast<const T*>(offset),
                                                             static_cast<const T*>(weight), static_cast<const T*>(bias),
                                                             static_cast<T*>(out), moments, shape, plan);
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch(const void* x, const void* offset, const void* weight, const void* bias, void* out, float* scratch,
                   const GroupNormShape& shape, cudaStream_t stream) {
  if (const size_t bytes = group_bytes<T>(shape)) return launch_groups<T>(x, offset, weight, bias, out, shape, bytes, stream);
  const cudaError_t summed = launch_moments<T>(x, offset, scratch, shape, stream);
  return summed != cudaSuccess ? summed : launch_normalise<T>(x, offset, scratch, weight, bias, out, shape, stream);
}

// ---- Gradients ----
//
// With g = v_out times the slope of SiLU, c = x - mean, and means over the n values of a group:
// v_x = rstd (g w - mean(g w) - c rstd^2 mean(g w c)).

constexpr int kSums = 2;             // of g w and of g w c, [N, S, groups, 2]
constexpr int kMostChannels = 4096;  // of a pixel, which a CTA holds

template <typename T>
constexpr int kMostLanes = kMostChannels / Lanes<T>::kWidth;

// What a thread knows of its channels.
template <typename T>
struct Channels {
  static constexpr int kWidth = Lanes<T>::kWidth;
  float mean[kWidth], scale[kWidth], added[kWidth];

  // statistics: shared [groups, 2], as load_statistics fills them.
  __device__ Channels(const float* statistics, const T* offset, const T* weight, const T* bias, const GroupNormShape& shape, int first) {
    const int group_width = shape.channels / shape.groups;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const int channel = first + k;
      const float* of = statistics + 2 * (channel / group_width);
      mean[k] = of[0] - (offset ? to_float(offset[channel]) : 0.0f);
      scale[k] = of[1] * to_float(weight[channel]);
      added[k] = to_float(bias[channel]);
    }
  }
  // g of channel k, where x is `centred` above the mean.
  __device__ float slope(int k, float v_out, float centred, bool has_silu) const {
    return has_silu ? v_out * silu_slope_for<T>(centred * scale[k] + added[k]) : v_out;
  }
};

// blockIdx.x: slice, blockIdx.y: sample.
template <typename T>
__global__ void __launch_bounds__(kMostLanes<T>)
    gradient_sums_kernel(const T* __restrict__ v_out, const T* __restrict__ x, const T* __restrict__ offset, const T* __restrict__ weight,
                         const T* __restrict__ bias, const float* __restrict__ moments, float* __restrict__ sums, GroupNormShape shape,
                         Plan plan) {
  constexpr int kWidth = Lanes<T>::kWidth;
  extern __shared__ float shared[];  // [groups, 2] statistics, [2, rows, C] sums
  float* parts = shared + 2 * shape.groups;
  const int lane = static_cast<int>(threadIdx.x) % plan.lanes, row = static_cast<int>(threadIdx.x) / plan.lanes;
  const int64_t start = int64_t{blockIdx.y} * shape.pixels * shape.channels + lane * kWidth;
  int64_t begin, end;
  slice_of(shape.pixels, begin, end);
  load_statistics(moments + int64_t{blockIdx.y} * plan.slices * shape.groups * kMoments, plan.slices, shape.groups, 0, shape.groups,
                  shape.eps, shared);
  __syncthreads();
  if (row < plan.rows) {
    const T* own_offset = offset ? offset + int64_t{blockIdx.y} * shape.offset_stride : nullptr;
    const Channels<T> of(shared, own_offset, weight, bias, shape, lane * kWidth);
    float sum[kWidth] = {}, along[kWidth] = {};
#pragma unroll 2
    for (int64_t p = begin + row; p < end; p += plan.rows) {
      const Vector<T> v = load_vector(v_out + start + p * shape.channels), at = load_vector(x + start + p * shape.channels);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const float centred = to_float(at.values[k]) - of.mean[k];
        const float g = of.slope(k, to_float(v.values[k]), centred, shape.silu);
        sum[k] += g;
        along[k] += g * centred;
      }
    }
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const int channel = lane * kWidth + k;
      const float w = to_float(weight[channel]);
      parts[row * shape.channels + channel] = sum[k] * w;
      parts[(plan.rows + row) * shape.channels + channel] = along[k] * w;
    }
  }
  __syncthreads();
  const int width = shape.channels / shape.groups;
  float* out = sums + (int64_t{blockIdx.y} * plan.slices + blockIdx.x) * shape.groups * kSums;
  for_groups(0, shape.groups, [&](int group, int lane_of_group, int lanes) {
    float total[kSums] = {};
    for (int r = 0; group < shape.groups && r < plan.rows; ++r) {
      for (int c = group * width + lane_of_group; c < (group + 1) * width; c += lanes) {
        total[0] += parts[r * shape.channels + c];
        total[1] += parts[(plan.rows + r) * shape.channels + c];
      }
    }
    for (int step = lanes / 2; step > 0; step /= 2) {
      total[0] += __shfl_xor_sync(kAllLanes, total[0], step);
      total[1] += __shfl_xor_sync(kAllLanes, total[1], step);
    }
    if (group >= shape.groups || lane_of_group != 0) return;
    out[group * kSums] = total[0];
    out[group * kSums + 1] = total[1];
  });
}

template <typename T>
__global__ void __launch_bounds__(kMostLanes<T>)
    gradient_kernel(const T* __restrict__ v_out, const T* __restrict__ x, const T* __restrict__ offset, const T* __restrict__ weight,
                    const T* __restrict__ bias, T* __restrict__ v_x, const float* __restrict__ moments, const float* __restrict__ sums,
                    GroupNormShape shape, Plan plan) {
  constexpr int kWidth = Lanes<T>::kWidth;
  extern __shared__ float shared[];  // [groups, 2] statistics, [groups, 2]: rstd mean(g w) and rstd^3 mean(g w c)
  float* means = shared + 2 * shape.groups;
  const int group_width = shape.channels / shape.groups;
  const int lane = static_cast<int>(threadIdx.x) % plan.lanes, row = static_cast<int>(threadIdx.x) / plan.lanes;
  const int64_t start = int64_t{blockIdx.y} * shape.pixels * shape.channels + lane * kWidth;
  int64_t begin, end;
  slice_of(shape.pixels, begin, end);
  load_statistics(moments + int64_t{blockIdx.y} * plan.slices * shape.groups * kMoments, plan.slices, shape.groups, 0, shape.groups,
                  shape.eps, shared);
  __syncthreads();
  const float* own_sums = sums + int64_t{blockIdx.y} * plan.slices * shape.groups * kSums;
  const float part = 1.0f / (static_cast<float>(shape.pixels) * static_cast<float>(group_width));
  for_groups(0, shape.groups, [&](int group, int lane_of_group, int lanes) {
    float total[kSums] = {};
    for (int slice = lane_of_group; group < shape.groups && slice < plan.slices; slice += lanes) {
      total[0] += own_sums[(slice * shape.groups + group) * kSums];
      total[1] += own_sums[(slice * shape.groups + group) * kSums + 1];
    }
    for (int step = lanes / 2; step > 0; step /= 2) {
      total[0] += __shfl_xor_sync(kAllLanes, total[0], step);
      total[1] += __shfl_xor_sync(kAllLanes, total[1], step);
    }
    if (group >= shape.groups || lane_of_group != 0) return;
    const float rstd = shared[2 * group + 1];
    means[2 * group] = rstd * total[0] * part;
    means[2 * group + 1] = rstd * rstd * rstd * total[1] * part;
  });
  __syncthreads();
  if (row >= plan.rows) return;
  const T* own_offset = offset ? offset + int64_t{blockIdx.y} * shape.offset_stride : nullptr;
  const Channels<T> of(shared, own_offset, weight, bias, shape, lane * kWidth);
  float level[kWidth], tilt[kWidth];
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    level[k] = means[2 * ((lane * kWidth + k) / group_width)];
    tilt[k] = means[2 * ((lane * kWidth + k) / group_width) + 1];
  }
#pragma unroll 2
  for (int64_t p = begin + row; p < end; p += plan.rows) {
    Vector<T> v = load_vector(v_out + start + p * shape.channels);
    const Vector<T> at = load_vector(x + start + p * shape.channels);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const float centred = to_float(at.values[k]) - of.mean[k];
      from_float(of.slope(k, to_float(v.values[k]), centred, shape.silu) * of.scale[k] - level[k] - centred * tilt[k], v.values[k]);
    }
    store_vector(v_x + start + p * shape.channels, v);
  }
}

template <typename T>
cudaError_t launch_gradient(const void* v_out, const void* x, const void* offset, const void* weight, const void* bias, void* v_x,
                            float* scratch, const GroupNormShape& shape, cudaStream_t stream) {
  const cudaError_t summed = launch_moments<T>(x, offset, scratch, shape, stream);
  if (summed != cudaSuccess) return summed;
  const Plan plan = plan_for(shape, Lanes<T>::kWidth);
  const dim3 grid(static_cast<unsigned>(plan.slices), static_cast<unsigned>(shape.samples));
  const auto* v = static_cast<const T*>(v_out);
  const auto *values = static_cast<const T*>(x), *added = static_cast<const T*>(offset);
  const auto *w = static_cast<const T*>(weight), *b = static_cast<const T*>(bias);
  float* sums = scratch + group_norm_scratch(shape);
  const size_t shared = sizeof(float) * (2 * shape.groups + 2 * plan.rows * shape.channels);
  gradient_sums_kernel<<<grid, plan.threads(), shared, stream>>>(v, values, added, w, b, scratch, sums, shape, plan);
  const cudaError_t launched = cudaGetLastError();
  if (launched != cudaSuccess) return launched;
  gradient_kernel<<<grid, plan.threads(), sizeof(float) * 4 * shape.groups, stream>>>(v, values, added, w, b, static_cast<T*>(v_x), scratch,
                                                                                      sums, shape, plan);
  return cudaGetLastError();
}

// Calls launch(T{}) with the type, unless there is nothing to do.
template <class Launch>
cudaError_t dispatch(const GroupNormShape& shape, FloatType type, Launch launch) {
  if (shape.samples == 0 || shape.pixels == 0) return cudaSuccess;
  return dispatch_type(type, launch);
}

}  // namespace

int64_t group_norm_scratch(const GroupNormShape& shape) { return shape.samples * moment_slices(shape.pixels) * shape.groups * kMoments; }

cudaError_t group_norm_cuda(const void* x, const void* offset, const void* weight, const void* bias, void* out, float* scratch,
                            const GroupNormShape& shape, FloatType type, cudaStream_t stream) {
  return dispatch(shape, type, [&](auto zero) { return launch<decltype(zero)>(x, offset, weight, bias, out, scratch, shape, stream); });
}

int64_t group_norm_bwd_scratch(const GroupNormShape& shape) {
  return shape.samples * moment_slices(shape.pixels) * shape.groups * (kMoments + kSums);
}

cudaError_t group_norm_bwd_cuda(const void* v_out, const void* x, const void* offset, const void* weight, const void* bias, void* v_x,
                                float* scratch, const GroupNormShape& shape, FloatType type, cudaStream_t stream) {
  return dispatch(shape, type,
                  [&](auto zero) { return launch_gradient<decltype(zero)>(v_out, x, offset, weight, bias, v_x, scratch, shape, stream); });
}

cudaError_t group_moments_cuda(const void* x, const void* offset, float* moments, const GroupNormShape& shape, FloatType type,
                               cudaStream_t stream) {
  return dispatch(shape, type, [&](auto zero) { return launch_moments<decltype(zero)>(x, offset, moments, shape, stream); });
}

cudaError_t group_normalise_cuda(const void* x, const void* offset, const float* moments, const void* weight, const void* bias, void* out,
                                 const GroupNormShape& shape, FloatType type, cudaStream_t stream) {
  return dispatch(shape, type,
                  [&](auto zero) { return launch_normalise<decltype(zero)>(x, offset, moments, weight, bias, out, shape, stream); });
}

}  // namespace md
