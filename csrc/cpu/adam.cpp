// Adam on the CPU, tensor after tensor.
#include "adam.h"

#include <ATen/Parallel.h>

namespace md::adam {
namespace {

constexpr int64_t kGrain = 16384;  // values that one thread takes at least

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

void step_cpu(const Call& call) {
  for (int t = 0; t < call.tensor_count; ++t) {
    const Tensor& tensor = call.tensors[t];
    const Scale scale = scale_of(call, tensor, ++*tensor.step);
    at::parallel_for(0, tensor.count, kGrain, [&](int64_t begin, int64_t end) { update_range(tensor, scale, begin, end); });
  }
}

}  // namespace md::adam
