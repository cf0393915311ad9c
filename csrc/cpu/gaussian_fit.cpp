// A fitting step's small work on the CPU.
#include "gaussian_fit.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace md::fit {
namespace {

constexpr int64_t kGaussians = 16384;  // that one thread takes at least: the work of one is less than waking another thread for it
constexpr int64_t kChunk = 16384;      // pixels' values summed in float
constexpr int64_t kChunksAtLeast = 8;  // that one thread takes
constexpr int64_t kSums = 16;          // of a chunk, side by side in the lanes of vectors

int64_t chunks_of(int64_t count) { return (count + kChunk - 1) / kChunk; }

// f(part, begin, end) for the chunks of arrays of `counts` values, one array after the other, all shared out among the threads at once.
template <size_t N, class F>
void for_chunks(const std::array<int64_t, N>& counts, F f) {
  int64_t all = 0;
  for (const int64_t count : counts) all += chunks_of(count);
  at::parallel_for(0, all, kChunksAtLeast, [&](int64_t begin, int64_t end) {
    int64_t first = 0;  // of an array's chunks
    for (size_t part = 0; part < N; first += chunks_of(counts[part++])) {
      const int64_t last = first + chunks_of(counts[part]);
      for (int64_t chunk = std::max(begin, first); chunk < std::min(end, last); ++chunk) {
        f(part, (chunk - first) * kChunk, std::min(counts[part], (chunk - first + 1) * kChunk));
      }
    }
  });
}

// Sum of term(a - b) over [begin, end).
template <class Term>
double sum_of(const float* a, const float* b, int64_t begin, int64_t end, Term term) {
  float lanes[kSums] = {};
  int64_t i = begin;
  for (; i + kSums <= end; i += kSums) {
    for (int64_t k = 0; k < kSums; ++k) lanes[k] += term(a[i + k] - b[i + k]);
  }
  for (; i < end; ++i) lanes[0] += term(a[i] - b[i]);
  double sum = 0.0;
  for (const float lane : lanes) sum += lane;
  return sum;
}

float signed_unit(float x) { return static_cast<float>((x > 0.0f) - (x < 0.0f)); }

}  // namespace

void activate_cpu(const Raw& in, const Active& out, int64_t count) {
  at::parallel_for(0, count, kGaussians, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) activate(in, out, i);
  });
}

void activate_backward_cpu(const ActiveGradients& in, const RawGradients& out, int64_t count) {
  at::parallel_for(0, count, kGaussians, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) activate_backward(in, out, i);
  });
}

void record_cpu(const Statistics& in) {
  at::parallel_for(0, in.count, kGaussians, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) record(in, i);
  });
}

// Chunks are summed one by one and then together, so that the result is the same for any number of threads.
float loss_cpu(const Loss& in) {
  const std::array<int64_t, 3> counts{3 * in.target_pixels, 3 * in.reference_pixels, in.reference_pixels};
  const float* shown[] = {in.image, in.image + 3 * in.target_pixels, in.reference ? in.alpha + in.target_pixels : nullptr};
  const float* wanted[] = {in.targets, in.reference, in.mask};
  std::array<std::vector<double>, 3> sums;
  for (size_t part = 0; part < counts.size(); ++part) sums[part].resize(chunks_of(counts[part]));
  for_chunks(counts, [&](size_t part, int64_t begin, int64_t end) {
    double& sum = sums[part][begin / kChunk];
    if (part < 2) {
      sum = sum_of(shown[part], wanted[part], begin, end, [](float x) { return std::fabs(x); });
    } else {
      sum = sum_of(shown[part], wanted[part], begin, end, [](float x) { return x * x; });
    }
  });
  const double weights[] = {in.weight, in.reference_weight, in.mask_weight};
  double loss = 0.0;
  for (size_t part = 0; part < counts.size(); ++part) {
    double total = 0.0;
    for (const double sum : sums[part]) total += sum;
    loss += weights[part] * total;
  }
  return static_cast<float>(loss);
}

void loss_backward_cpu(const Loss& in, const LossGradients& out) {
  const float weight = *out.v_loss * in.weight, reference_weight = *out.v_loss * in.reference_weight;
  const float mask_weight = *out.v_loss * 2.0f * in.mask_weight;
  const int64_t targets = 3 * in.target_pixels;
  const std::array<int64_t, 3> counts{targets, 3 * in.reference_pixels, in.reference_pixels};
  if (in.reference) std::fill_n(out.v_alpha, in.target_pixels, 0.0f);
  for_chunks(counts, [&](size_t part, int64_t begin, int64_t end) {
    if (part == 2) {
      const float *alpha = in.alpha + in.target_pixels, *mask = in.mask;
      float* v_alpha = out.v_alpha + in.target_pixels;
      for (int64_t i = begin; i < end; ++i) v_alpha[i] = mask_weight * (alpha[i] - mask[i]);
      return;
    }
    const float* image = in.image + (part ? targets : 0);
    const float* wanted = part ? in.reference : in.targets;
    float* v_image = out.v_image + (part ? targets : 0);
    const float scale = part ? reference_weight : weight;
    for (int64_t i = begin; i < end; ++i) v_image[i] = scale * signed_unit(image[i] - wanted[i]);
  });
}

}  // namespace md::fit
