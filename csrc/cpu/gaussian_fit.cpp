// A fitting step's small work on the CPU.
#include "gaussian_fit.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

namespace md::fit {
namespace {

constexpr int64_t kGaussians = 2048;  // that one thread takes at least
constexpr int64_t kChunk = 16384;     // pixels' values summed in float, and taken by one thread at least
constexpr int64_t kSums = 16;         // of a chunk, side by side in the lanes of vectors

// Sum of term(difference) over `count` differences a - b. The same for any number of threads.
template <class Term>
double sum_of(const float* a, const float* b, int64_t count, Term term) {
  std::vector<double> sums((count + kChunk - 1) / kChunk);
  at::parallel_for(0, static_cast<int64_t>(sums.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t last = std::min(count, (chunk + 1) * kChunk);
      float lanes[kSums] = {};
      int64_t i = chunk * kChunk;
      for (; i + kSums <= last; i += kSums) {
        for (int64_t k = 0; k < kSums; ++k) lanes[k] += term(a[i + k] - b[i + k]);
      }
      for (; i < last; ++i) lanes[0] += term(a[i] - b[i]);
      for (const float lane : lanes) sums[chunk] += lane;
    }
  });
  double total = 0.0;
  for (const double sum : sums) total += sum;
  return total;
}

// out = gradient(a - b).
template <class Gradient>
void differentiate(const float* a, const float* b, float* out, int64_t count, Gradient gradient) {
  at::parallel_for(0, count, kChunk, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) out[i] = gradient(a[i] - b[i]);
  });
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

float loss_cpu(const Loss& in) {
  const auto absolute = [](float x) { return std::fabs(x); };
  double loss = in.weight * sum_of(in.image, in.targets, 3 * in.target_pixels, absolute);
  if (in.reference) {
    const float* shown = in.image + 3 * in.target_pixels;
    const float* covered = in.alpha + in.target_pixels;
    loss += in.reference_weight * sum_of(shown, in.reference, 3 * in.reference_pixels, absolute);
    loss += in.mask_weight * sum_of(covered, in.mask, in.reference_pixels, [](float x) { return x * x; });
  }
  return static_cast<float>(loss);
}

void loss_backward_cpu(const Loss& in, const LossGradients& out) {
  const float weight = *out.v_loss * in.weight, reference_weight = *out.v_loss * in.reference_weight;
  const float mask_weight = *out.v_loss * 2.0f * in.mask_weight;
  const int64_t targets = 3 * in.target_pixels;
  differentiate(in.image, in.targets, out.v_image, targets, [=](float x) { return weight * signed_unit(x); });
  if (!in.reference) return;
  differentiate(in.image + targets, in.reference, out.v_image + targets, 3 * in.reference_pixels,
                [=](float x) { return reference_weight * signed_unit(x); });
  std::fill_n(out.v_alpha, in.target_pixels, 0.0f);
  differentiate(in.alpha + in.target_pixels, in.mask, out.v_alpha + in.target_pixels, in.reference_pixels,
                [=](float x) { return mask_weight * x; });
}

}  // namespace md::fit
