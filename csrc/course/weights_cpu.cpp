// The steps of weight_steps.h on the CPU.
#include <ATen/Parallel.h>

#include <algorithm>
#include <type_traits>

#include "course/weight_steps.h"
#include "cpu/lanes.h"

namespace md::course {

namespace {

constexpr int64_t kBlocksPerTask = 16;
constexpr float kLog2 = 0.693147181f;

// `kernel(first, end)` for the pairs of each of `blocks` blocks.
template <typename Kernel>
void launch(int64_t blocks, int64_t count, Kernel kernel) {
  at::parallel_for(0, blocks, kBlocksPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) { kernel(block * kWeightThreads, std::min(count, (block + 1) * kWeightThreads)); }
  });
}

// Eight weights at a time, by the arithmetic that one takes, from numbers that lie `kParts` apart.
template <int kParts>
void gather(const float* numbers, Lanes (&parts)[kParts]) {
  for (int part = 0; part < kParts; ++part) {
    float apart[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) apart[lane] = numbers[kParts * lane + part];
    parts[part] = load_lanes(apart);
  }
}

void eight_weights(const WeightParams<float>& p, int64_t first) {
  Lanes xyz[3], cov[6];
  gather(p.xyzs + 3 * first, xyz);
  gather(p.covs + 6 * first, cov);
  const Lanes exponent = exponent_of_two<Lanes, float>(xyz, cov);
  const Lanes weight = exp_lanes(larger_lanes(exponent, lanes(-125.0f)) * kLog2);
  store_lanes(p.weights + first, select((exponent > 0.0f) | (exponent < -125.0f), lanes(0.0f), weight));
}

}  // namespace

template <typename T>
void weights_cpu(const WeightParams<T>& p, WeightVariant variant) {
  const int64_t full = p.count / kWeightThreads, blocks = (p.count + kWeightThreads - 1) / kWeightThreads;
  const auto naive = [&](int64_t first, int64_t end) {
    for (int64_t i = first; i < end; ++i) p.weights[i] = gaussian_weight(p.xyzs + 3 * i, p.covs + 6 * i);
  };
  const auto fused = [&](int64_t first, int64_t end) {
    for (int64_t i = first; i < end; ++i) p.weights[i] = fused_weight(p.xyzs + 3 * i, p.covs + 6 * i);
  };
  switch (variant) {
    case WeightVariant::kNaive:
      return launch(blocks, p.count, naive);
    case WeightVariant::kWrongLaunch:
      return launch(full, p.count, naive);
    case WeightVariant::kFused:
      return launch(blocks, p.count, fused);
    case WeightVariant::kShared:
      return launch(blocks, p.count, [&](int64_t first, int64_t end) {
        T xyzs[3 * kWeightThreads], covs[6 * kWeightThreads];
        std::copy(p.xyzs + 3 * first, p.xyzs + 3 * end, xyzs);
        std::copy(p.covs + 6 * first, p.covs + 6 * end, covs);
        for (int64_t i = first; i < end; ++i) p.weights[i] = fused_weight(xyzs + 3 * (i - first), covs + 6 * (i - first));
      });
    case WeightVariant::kVectorised:
      return launch(blocks, p.count, [&](int64_t first, int64_t end) {
        if constexpr (std::is_same_v<T, float>) {
          for (; first + kLanes <= end; first += kLanes) eight_weights(p, first);
        }
        fused(first, end);  // what is left
      });
  }
}

template void weights_cpu<float>(const WeightParams<float>&, WeightVariant);
template void weights_cpu<double>(const WeightParams<double>&, WeightVariant);

}  // namespace md::course
