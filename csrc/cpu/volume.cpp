// Volume rendering on the CPU, parallel over rays, each of which is one thread's from front to back: every result repeats bit for bit,
// whatever the number of threads.
#include "volume.h"

#include <ATen/Parallel.h>

#include <algorithm>

namespace md::volume {
namespace {

constexpr int64_t kRaysPerTask = 256;

template <class Visit>
void for_each_ray(int64_t rays, const Visit& visit) {
  at::parallel_for(0, rays, kRaysPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t ray = begin; ray < end; ++ray) visit(ray);
  });
}

void write_offsets(const int* prefix, int64_t rays, const SampleLists& out) {
  for (int64_t ray = 0; ray <= rays; ++ray) out.offsets[ray] = static_cast<int>(std::min<int64_t>(prefix[ray], out.capacity));
}

}  // namespace

void count_pieces_cpu(const March& in, int* counts) {
  counts[0] = 0;
  for_each_ray(in.rays, [&](int64_t ray) {
    int count = 0;
    for_each_piece(in, ray, [&](float, float) { ++count; });
    counts[ray + 1] = count;
  });
}

void write_pieces_cpu(const March& in, const int* prefix, const SampleLists& out) {
  write_offsets(prefix, in.rays, out);
  for_each_ray(in.rays, [&](int64_t ray) {
    int64_t at = prefix[ray];
    if (at == prefix[ray + 1] || at >= out.capacity) return;
    for_each_piece(in, ray, [&](float start, float length) {
      if (at < out.capacity) {
        out.ray[at] = ray;
        out.start[at] = start;
        out.length[at] = length;
      }
      ++at;
    });
  });
}

void count_visible_cpu(const Visibility& in, uint8_t* keep, int* counts) {
  counts[0] = 0;
  const Packed& samples = in.samples;
  for_each_ray(samples.rays, [&](int64_t ray) {
    int count = 0;
    float before = 0.f;
    for (int64_t i = samples.offsets[ray]; i < samples.offsets[ray + 1]; ++i) {
      const float depth = optical_depth(in.density[i], samples.length[i]);
      keep[i] = is_visible(in.density[i], depth, before, *in.min_alpha, in.min_transmittance);
      count += keep[i];
      before += depth;
    }
    counts[ray + 1] = count;
  });
}

void write_visible_cpu(const Visibility& in, const uint8_t* keep, const int* prefix, const SampleLists& out) {
  const Packed& samples = in.samples;
  write_offsets(prefix, samples.rays, out);
  for_each_ray(samples.rays, [&](int64_t ray) {
    int64_t at = prefix[ray];
    for (int64_t i = samples.offsets[ray]; i < samples.offsets[ray + 1] && at < out.capacity; ++i) {
      if (!keep[i]) continue;
      out.ray[at] = ray;
      out.start[at] = samples.start[i];
      out.length[at] = samples.length[i];
      ++at;
    }
  });
}

void composite_cpu(const Composition& in, const Sums& out) {
  const Packed& samples = in.samples;
  const int64_t channels = in.channels;
  for_each_ray(samples.rays, [&](int64_t ray) {
    float* sum = out.features + ray * channels;
    std::fill(sum, sum + channels, 0.f);
    float before = 0.f, alpha = 0.f, distance = 0.f;
    for (int64_t i = samples.offsets[ray]; i < samples.offsets[ray + 1]; ++i) {
      const float depth = optical_depth(in.density[i], samples.length[i]);
      const float weight = expf(-before) * -expm1f(-depth);
      const float* features = in.features + i * channels;
      for (int64_t c = 0; c < channels; ++c) sum[c] += weight * features[c];
      alpha += weight;
      distance += weight * (samples.start[i] + 0.5f * samples.length[i]);
      out.weights[i] = weight;
      before += depth;
    }
    out.alpha[ray] = alpha;
    out.depth[ray] = distance;
  });
}

// With g_i the gradient of weight i, that of optical depth i is g_i T_{i+1} - sum_{j>i} g_j w_j. The list of the result holds the
// transmittances T_{i+1} until the way back, so that nothing is divided by them.
void composite_backward_cpu(const Composition& in, const float* weights, const SumGradients& v, const SampleGradients& out) {
  const Packed& samples = in.samples;
  const int64_t channels = in.channels;
  for_each_ray(samples.rays, [&](int64_t ray) {
    const int64_t begin = samples.offsets[ray], end = samples.offsets[ray + 1];
    const float* v_features = v.features ? v.features + ray * channels : nullptr;
    if (out.features && v_features) {
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t c = 0; c < channels; ++c) out.features[i * channels + c] = weights[i] * v_features[c];
      }
    }
    if (!out.density) return;
    float passed = 0.f;
    for (int64_t i = begin; i < end; ++i) {
      passed += optical_depth(in.density[i], samples.length[i]);
      out.density[i] = expf(-passed);
    }
    float behind = 0.f;
    for (int64_t i = end; i-- > begin;) {
      float g = v.weights ? v.weights[i] : 0.f;
      if (v.alpha) g += v.alpha[ray];
      if (v.depth) g += v.depth[ray] * (samples.start[i] + 0.5f * samples.length[i]);
      for (int64_t c = 0; v_features && c < channels; ++c) g += v_features[c] * in.features[i * channels + c];
      const bool sloped = is_sloped(in.density[i], samples.length[i]);
      out.density[i] = sloped ? samples.length[i] * (g * out.density[i] - behind) : 0.f;
      behind += g * weights[i];
    }
  });
}

}  // namespace md::volume
