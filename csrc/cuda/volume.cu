// Volume rendering on CUDA. Rays are marched by a thread each, samples along a ray are worked on by a warp: their prefix sums need no
// memory between threads, and sums are added in an order that does not change, so every result repeats bit for bit. Lists are made in
// two passes, count and write, with a scan between them, and nothing waits for the device.
//
// Floor for M marched and K visible samples with C features: the march writes 16 M bytes, the choice reads 8 M and writes 16 K, the
// sum reads (12 + 4 C) K and writes 4 K. Rays are few beside their samples.
#include "volume.h"

#include "warps.h"

namespace md::volume {
namespace {

constexpr int kBlock = 256;
constexpr int kMarchBlock = 128;  // a ray's number of pieces is its own: small blocks end sooner

__device__ int cut(int offset, int64_t capacity) { return offset < capacity ? offset : static_cast<int>(capacity); }

__global__ void __launch_bounds__(kMarchBlock) count_pieces_kernel(March in, int* counts) {
  const int64_t ray = static_cast<int64_t>(blockIdx.x) * kMarchBlock + threadIdx.x;
  if (ray == 0) counts[0] = 0;
  if (ray >= in.rays) return;
  int count = 0;
  for_each_piece(in, ray, [&](float, float) { ++count; });
  counts[ray + 1] = count;
}

__global__ void __launch_bounds__(kMarchBlock) write_pieces_kernel(March in, const int* prefix, SampleLists out) {
  const int64_t ray = static_cast<int64_t>(blockIdx.x) * kMarchBlock + threadIdx.x;
  if (ray == 0) out.offsets[0] = 0;
  if (ray >= in.rays) return;
  int64_t at = prefix[ray];
  const int last = prefix[ray + 1];
  out.offsets[ray + 1] = cut(last, out.capacity);
  if (at == last || at >= out.capacity) return;
  for_each_piece(in, ray, [&](float start, float length) {
    if (at < out.capacity) {
      out.ray[at] = ray;
      out.start[at] = start;
      out.length[at] = length;
    }
    ++at;
  });
}

// ---- A warp for each ray ----

__device__ int64_t ray_of_warp() { return (static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x) / kWarp; }
__device__ int lane_of_thread() { return threadIdx.x % kWarp; }

// The sum of this lane's value and those of the lanes before it.
__device__ float sum_up_to_lane(float value) {
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const float other = __shfl_up_sync(kAllLanes, value, step);
    if (lane_of_thread() >= step) value += other;
  }
  return value;
}

// The sum of this lane's value and those of the lanes behind it.
__device__ float sum_from_lane(float value) {
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const float other = __shfl_down_sync(kAllLanes, value, step);
    if (lane_of_thread() + step < kWarp) value += other;
  }
  return value;
}

// Of a running sum with this lane's value, what lay before it; `carry` is the sum of earlier calls, and is moved on.
__device__ float sum_before_lane(float value, float& carry) {
  const float sum = sum_up_to_lane(value);
  const float earlier = __shfl_up_sync(kAllLanes, sum, 1);
  const float before = carry + (lane_of_thread() > 0 ? earlier : 0.f);
  carry += __shfl_sync(kAllLanes, sum, kWarp - 1);
  return before;
}

__global__ void __launch_bounds__(kBlock) count_visible_kernel(Visibility in, uint8_t* keep, int* counts) {
  const Packed& samples = in.samples;
  const int64_t ray = ray_of_warp();
  if (ray >= samples.rays) return;
  const int begin = samples.offsets[ray], end = samples.offsets[ray + 1];
  const float min_alpha = *in.min_alpha;
  float before_chunk = 0.f;
  int count = 0;
  for (int first = begin; first < end; first += kWarp) {
    const int i = first + lane_of_thread();
    const float density = i < end ? in.density[i] : 0.f;
    const float depth = i < end ? optical_depth(density, samples.length[i]) : 0.f;
    const float before = sum_before_lane(depth, before_chunk);
    const bool visible = i < end && is_visible(density, depth, before, min_alpha, in.min_transmittance);
    if (i < end) keep[i] = visible;
    count += __popc(__ballot_sync(kAllLanes, visible));
  }
  if (lane_of_thread() == 0) {
    counts[ray + 1] = count;
    if (ray == 0) counts[0] = 0;
  }
}

__global__ void __launch_bounds__(kBlock) write_visible_kernel(Visibility in, const uint8_t* keep, const int* prefix, SampleLists out) {
  const Packed& samples = in.samples;
  const int64_t ray = ray_of_warp();
  if (ray >= samples.rays) return;
  const int begin = samples.offsets[ray], end = samples.offsets[ray + 1], lane = lane_of_thread();
  if (lane == 0) {
    out.offsets[ray + 1] = cut(prefix[ray + 1], out.capacity);
    if (ray == 0) out.offsets[0] = 0;
  }
  int64_t at = prefix[ray];
  if (at == prefix[ray + 1]) return;
  for (int first = begin; first < end; first += kWarp) {
    const int i = first + lane;
    const bool visible = i < end && keep[i];
    const unsigned chosen = __ballot_sync(kAllLanes, visible);
    const int64_t place = at + __popc(chosen & ((1u << lane) - 1));
    if (visible && place < out.capacity) {
      out.ray[place] = ray;
      out.start[place] = samples.start[i];
      out.length[place] = samples.length[i];
      out.source[place] = i;
    }
    at += __popc(chosen);
  }
}

__global__ void __launch_bounds__(kBlock) sample_points_kernel(Places in) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= in.samples.capacity) return;
  const int64_t ray = 3 * in.samples.ray[i];
  locate_middle(in.origins + ray, in.directions + ray, in.samples.start[i], in.samples.length[i], in.points + 3 * i);
}

// A thread for each 16 bytes, so that neighbours read what lies side by side.
__global__ void __launch_bounds__(kBlock) take_rows_kernel(const uint4* table, const int* source, uint4* out, int64_t count, int pieces) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i < count) out[i] = table[static_cast<int64_t>(source[i / pieces]) * pieces + i % pieces];
}

__global__ void __launch_bounds__(kBlock) composite_kernel(Composition in, Sums out) {
  const Packed& samples = in.samples;
  const int64_t ray = ray_of_warp();
  if (ray >= samples.rays) return;
  const int begin = samples.offsets[ray], end = samples.offsets[ray + 1], lane = lane_of_thread();
  float before_chunk = 0.f, alpha = 0.f, distance = 0.f;
  for (int first = begin; first < end; first += kWarp) {
    const int i = first + lane;
    const float length = i < end ? samples.length[i] : 0.f;
    const float depth = i < end ? optical_depth(in.density[i], length) : 0.f;
    const float weight = expf(-sum_before_lane(depth, before_chunk)) * -expm1f(-depth);
    if (i >= end) continue;
    out.weights[i] = weight;
    alpha += weight;
    distance += weight * (samples.start[i] + 0.5f * length);
  }
  alpha = sum_over_warp(alpha);
  distance = sum_over_warp(distance);
  if (lane == 0) {
    out.alpha[ray] = alpha;
    out.depth[ray] = distance;
  }
  for (int64_t c = 0; c < in.channels; ++c) {
    float sum = 0.f;
    for (int i = begin + lane; i < end; i += kWarp) sum += out.weights[i] * in.features[i * in.channels + c];  // this lane's weights
    sum = sum_over_warp(sum);
    if (lane == 0) out.features[ray * in.channels + c] = sum;
  }
}

// As composite_backward_cpu: the list of the result holds transmittances until the way back.
__global__ void __launch_bounds__(kBlock)
    composite_backward_kernel(Composition in, const float* weights, SumGradients v, SampleGradients out) {
  const Packed& samples = in.samples;
  const int64_t ray = ray_of_warp(), channels = in.channels;
  if (ray >= samples.rays) return;
  const int begin = samples.offsets[ray], end = samples.offsets[ray + 1], lane = lane_of_thread();
  const float* v_features = v.features ? v.features + ray * channels : nullptr;
  if (out.features && v_features) {
    for (int i = begin + lane; i < end; i += kWarp) {
      for (int64_t c = 0; c < channels; ++c) out.features[i * channels + c] = weights[i] * v_features[c];
    }
  }
  if (!out.density) return;
  float before_chunk = 0.f;
  for (int first = begin; first < end; first += kWarp) {
    const int i = first + lane;
    const float depth = i < end ? optical_depth(in.density[i], samples.length[i]) : 0.f;
    const float passed = sum_before_lane(depth, before_chunk) + depth;
    if (i < end) out.density[i] = expf(-passed);
  }
  const float v_alpha = v.alpha ? v.alpha[ray] : 0.f, v_depth = v.depth ? v.depth[ray] : 0.f;
  float behind_chunk = 0.f;
  for (int first = begin + (end - begin - 1) / kWarp * kWarp; first >= begin && begin < end; first -= kWarp) {
    const int i = first + lane;
    float g = 0.f, share = 0.f;
    if (i < end) {
      g = v_alpha + v_depth * (samples.start[i] + 0.5f * samples.length[i]);
      if (v.weights) g += v.weights[i];
      for (int64_t c = 0; v_features && c < channels; ++c) g += v_features[c] * in.features[i * channels + c];
      share = g * weights[i];
    }
    const float sum = sum_from_lane(share);
    const float later = __shfl_down_sync(kAllLanes, sum, 1);
    const float behind = behind_chunk + (lane + 1 < kWarp ? later : 0.f);
    behind_chunk += __shfl_sync(kAllLanes, sum, 0);
    if (i < end) {
      const float length = samples.length[i];
      out.density[i] = is_sloped(in.density[i], length) ? length * (g * out.density[i] - behind) : 0.f;
    }
  }
}

unsigned blocks_for(int64_t threads, int block) { return static_cast<unsigned>((threads + block - 1) / block); }

}  // namespace

cudaError_t count_pieces_cuda(const March& in, int* counts, cudaStream_t stream) {
  if (in.rays == 0) return cudaMemsetAsync(counts, 0, sizeof(int), stream);
  count_pieces_kernel<<<blocks_for(in.rays, kMarchBlock), kMarchBlock, 0, stream>>>(in, counts);
  return cudaGetLastError();
}

cudaError_t write_pieces_cuda(const March& in, const int* prefix, const SampleLists& out, cudaStream_t stream) {
  if (in.rays == 0) return cudaMemsetAsync(out.offsets, 0, sizeof(int), stream);
  write_pieces_kernel<<<blocks_for(in.rays, kMarchBlock), kMarchBlock, 0, stream>>>(in, prefix, out);
  return cudaGetLastError();
}

cudaError_t count_visible_cuda(const Visibility& in, uint8_t* keep, int* counts, cudaStream_t stream) {
  const int64_t rays = in.samples.rays;
  if (rays == 0) return cudaMemsetAsync(counts, 0, sizeof(int), stream);
  count_visible_kernel<<<blocks_for(rays * kWarp, kBlock), kBlock, 0, stream>>>(in, keep, counts);
  return cudaGetLastError();
}

cudaError_t write_visible_cuda(const Visibility& in, const uint8_t* keep, const int* prefix, const SampleLists& out, cudaStream_t stream) {
  const int64_t rays = in.samples.rays;
  if (rays == 0) return cudaMemsetAsync(out.offsets, 0, sizeof(int), stream);
  write_visible_kernel<<<blocks_for(rays * kWarp, kBlock), kBlock, 0, stream>>>(in, keep, prefix, out);
  return cudaGetLastError();
}

cudaError_t sample_points_cuda(const Places& in, cudaStream_t stream) {
  if (in.samples.capacity == 0) return cudaSuccess;
  sample_points_kernel<<<blocks_for(in.samples.capacity, kBlock), kBlock, 0, stream>>>(in);
  return cudaGetLastError();
}

cudaError_t take_rows_cuda(const void* table, const int* source, void* out, int64_t rows, int64_t pieces, cudaStream_t stream) {
  const int64_t count = rows * pieces;
  if (count == 0) return cudaSuccess;
  take_rows_kernel<<<blocks_for(count, kBlock), kBlock, 0, stream>>>(static_cast<const uint4*>(table), source, static_cast<uint4*>(out),
                                                                     count, static_cast<int>(pieces));
  return cudaGetLastError();
}

cudaError_t composite_cuda(const Composition& in, const Sums& out, cudaStream_t stream) {
  const int64_t rays = in.samples.rays;
  if (rays == 0) return cudaSuccess;
  composite_kernel<<<blocks_for(rays * kWarp, kBlock), kBlock, 0, stream>>>(in, out);
  return cudaGetLastError();
}

cudaError_t composite_backward_cuda(const Composition& in, const float* weights, const SumGradients& v, const SampleGradients& out,
                                    cudaStream_t stream) {
  const int64_t rays = in.samples.rays;
  if (rays == 0) return cudaSuccess;
  composite_backward_kernel<<<blocks_for(rays * kWarp, kBlock), kBlock, 0, stream>>>(in, weights, v, out);
  return cudaGetLastError();
}

}  // namespace md::volume
