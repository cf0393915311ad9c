// Adam (Kingma and Ba 2015, arXiv 1412.6980) on many tensors in one call. One formula, two compilers.
#pragma once

#include "common.h"
#include "constants.h"

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>
#endif

namespace md::adam {

struct Tensor {
  float* parameter;  // [count] each
  const float* gradient;
  float* mean;         // of past gradients
  float* mean_square;  // of past gradients
  float* step;         // updates done, one number
  const float* rate;   // one number
  int64_t count;
  float eps;
};

// Of one moment: the weight of a new gradient, 1 - beta, and log beta, as the CPU rounds them from double: in float, 1 - 0.999f is
// wrong from the fifth digit on.
struct Decay {
  float weight, log;
};

struct Call {
  Tensor tensors[kMaxTensors];
  int tensor_count;
  Decay decay, square_decay;
};

// What all values of a tensor share.
struct Scale {
  float weight, square_weight;
  float rate;          // over the first moment's bias, 1 - beta1^step
  float inverse_root;  // of the second moment's bias
  float eps;
};

// Of update number `step`, from 1.
MD_HOST_DEVICE Scale scale_of(const Call& call, const Tensor& tensor, float step) {
  // expm1 keeps the digits of 1 - beta^step where that is small.
  const float bias = -expm1f(step * call.decay.log), square_bias = -expm1f(step * call.square_decay.log);
  return {call.decay.weight, call.square_decay.weight, *tensor.rate / bias, 1.0f / sqrtf(square_bias), tensor.eps};
}

MD_HOST_DEVICE void update(float gradient, const Scale& scale, float& parameter, float& mean, float& mean_square) {
  mean += scale.weight * (gradient - mean);
  mean_square += scale.square_weight * (gradient * gradient - mean_square);
  parameter -= scale.rate * mean / (sqrtf(mean_square) * scale.inverse_root + scale.eps);
}

void step_cpu(const Call& call);

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
cudaError_t step_cuda(const Call& call, cudaStream_t stream);
#endif

}  // namespace md::adam
