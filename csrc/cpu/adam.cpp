// Adam on the CPU.
#include "adam.h"

#include <ATen/Parallel.h>

#include <algorithm>

namespace md::adam {
namespace {

constexpr int64_t kGrain = 32768;  // values that one thread takes at least

// Pointers of its own, since the compiler vectorises only where it knows that they do not overlap.
void update_range(const Tensor& tensor, const Scale& scale, int64_t begin, int64_t end) {
  float* __restrict parameter = tensor.parameter;
  float* __restrict mean = tensor.mean;
  float* __restrict mean_square = tensor.mean_square;
  const float* __restrict gradient = tensor.gradient;
  const Scale own = scale;
  for (int64_t i = begin; i < end; ++i) update(gradient[i], own, parameter[i], mean[i], mean_square[i]);
}

}  // namespace

// All tensors in one go, shared out by their values.
void step_cpu(const Call& call) {
  Scale scales[kMaxTensors];
  int64_t first[kMaxTensors + 1] = {0};
  for (int t = 0; t < call.tensor_count; ++t) {
    const Tensor& tensor = call.tensors[t];
    scales[t] = scale_of(call, tensor, ++*tensor.step);
    first[t + 1] = first[t] + tensor.count;
  }
  at::parallel_for(0, first[call.tensor_count], kGrain, [&](int64_t begin, int64_t end) {
    for (int t = 0; t < call.tensor_count; ++t) {
      const int64_t from = std::max(begin, first[t]), to = std::min(end, first[t + 1]);
      if (from < to) update_range(call.tensors[t], scales[t], from - first[t], to - first[t]);
    }
  });
}

}  // namespace md::adam
