// Volume rendering on the CPU, parallel over rays, each of which is one thread's from front to back: every result repeats bit for bit,
// whatever the number of threads.
#include "volume.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <iterator>

namespace md::volume {
namespace {

constexpr int64_t kRaysPerTask = 256;

template <class Visit>
void for_each_ray(int64_t rays, const Visit& visit) {
  at::parallel_for(0, rays, kRaysPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t ray = begin; ray < end; ++ray) visit(ray);
  });
}

// Most cells of a box are empty, so rays need not look at all of it.
void shrink_to_occupied(March& in) {
  const int resolution = in.resolution;
  int low[3] = {resolution, resolution, resolution}, high[3] = {0, 0, 0};
  const auto include = [&](int axis, int cell) {
    low[axis] = std::min(low[axis], cell);
    high[axis] = std::max(high[axis], cell + 1);
  };
  for (int x = 0; x < resolution; ++x) {
    for (int y = 0; y < resolution; ++y) {
      const bool* row = in.occupied + (static_cast<int64_t>(x) * resolution + y) * resolution;
      const bool* first = std::find(row, row + resolution, true);
      if (first == row + resolution) continue;
      const bool* last = std::find(std::reverse_iterator(row + resolution), std::reverse_iterator(first), true).base();
      include(0, x);
      include(1, y);
      include(2, static_cast<int>(first - row));
      include(2, static_cast<int>(last - row) - 1);
    }
  }
  if (low[0] == resolution) {  // none is occupied: somewhere outside
    std::fill_n(low, 3, 3 * resolution);
    std::fill_n(high, 3, 3 * resolution);
  }
  for (int axis = 0; axis < 3; ++axis) {
    in.low[axis] = static_cast<float>(low[axis]) / in.scale - in.radius;
    in.high[axis] = static_cast<float>(high[axis]) / in.scale - in.radius;
  }
}

int64_t tasks_of(int64_t rays) { return (rays + kRaysPerTask - 1) / kRaysPerTask; }

void write_offsets(const int* prefix, int64_t rays, const SampleLists& out) {
  for (int64_t ray = 0; ray <= rays; ++ray) out.offsets[ray] = static_cast<int>(std::min<int64_t>(prefix[ray], out.capacity));
}

}  // namespace

std::vector<Pieces> count_pieces_cpu(const March& given, int* counts) {
  March in = given;
  shrink_to_occupied(in);
  counts[0] = 0;
  std::vector<Pieces> found(tasks_of(in.rays));
  at::parallel_for(0, static_cast<int64_t>(found.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      Pieces& pieces = found[task];
      for (int64_t ray = task * kRaysPerTask; ray < std::min((task + 1) * kRaysPerTask, in.rays); ++ray) {
        const size_t before = pieces.start.size();
        for_each_piece(in, ray, [&](float start, float length) {
          pieces.start.push_back(start);
          pieces.length.push_back(length);
        });
        counts[ray + 1] = static_cast<int>(pieces.start.size() - before);
      }
    }
  });
  return found;
}

void write_pieces_cpu(const std::vector<Pieces>& found, int64_t rays, const int* prefix, const SampleLists& out) {
  write_offsets(prefix, rays, out);
  at::parallel_for(0, static_cast<int64_t>(found.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = prefix[task * kRaysPerTask], room = std::max<int64_t>(out.capacity - first, 0);
      const int64_t count = std::min(static_cast<int64_t>(found[task].start.size()), room);
      if (count == 0) continue;
      std::copy_n(found[task].start.begin(), count, out.start + first);
      std::copy_n(found[task].length.begin(), count, out.length + first);
      for (int64_t ray = task * kRaysPerTask; ray < std::min((task + 1) * kRaysPerTask, rays); ++ray) {
        std::fill(out.ray + out.offsets[ray], out.ray + out.offsets[ray + 1], ray);
      }
    }
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
      out.source[at] = static_cast<int>(i);
      ++at;
    }
  });
}

void sample_points_cpu(const Places& in) {
  const Packed& samples = in.samples;
  at::parallel_for(0, samples.capacity, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t ray = 3 * samples.ray[i];
      locate_middle(in.origins + ray, in.directions + ray, samples.start[i], samples.length[i], in.points + 3 * i);
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
