// Op adam_step: schema, argument checks, CPU and CUDA.
#include <utility>

#include "adam.h"
#include "checks.h"

namespace md::adam {
namespace {

Decay decay_of(double beta, const char* name) {
  TORCH_CHECK_VALUE(beta >= 0.0 && beta < 1.0, name, ": expected a number in [0, 1), got ", beta);
  return {static_cast<float>(1.0 - beta), static_cast<float>(std::log(beta))};
}

void check_like(const at::Tensor& tensor, const char* name, const at::Tensor& parameter, at::IntArrayRef shape) {
  check_tensor(tensor, name, at::kFloat, parameter.device());
  check_shape(tensor, name, shape);
}

Call checked_call(at::TensorList parameters, at::TensorList gradients, at::TensorList means, at::TensorList mean_squares,
                  at::TensorList steps, at::TensorList rates, at::ArrayRef<double> eps, double beta, double square_beta) {
  const size_t count = parameters.size();
  TORCH_CHECK_VALUE(count >= 1 && count <= kMaxTensors, "parameters: expected 1 to ", kMaxTensors, " tensors, got ", count);
  const std::pair<const char*, size_t> lengths[] = {
      {"gradients", gradients.size()}, {"means", means.size()}, {"mean_squares", mean_squares.size()},
      {"steps", steps.size()},         {"rates", rates.size()}, {"eps", eps.size()}};
  for (const auto& [name, length] : lengths) {
    TORCH_CHECK_VALUE(length == count, name, ": expected one for each of ", count, " parameters, got ", length);
  }
  Call call{};
  call.tensor_count = static_cast<int>(count);
  call.decay = decay_of(beta, "beta");
  call.square_decay = decay_of(square_beta, "square_beta");
  for (size_t t = 0; t < count; ++t) {
    const at::Tensor& parameter = parameters[t];
    check_like(parameter, "parameters", parameters[0], parameter.sizes());
    check_like(gradients[t], "gradients", parameter, parameter.sizes());
    check_like(means[t], "means", parameter, parameter.sizes());
    check_like(mean_squares[t], "mean_squares", parameter, parameter.sizes());
    check_like(steps[t], "steps", parameter, {});
    check_like(rates[t], "rates", parameter, {});
    TORCH_CHECK_VALUE(eps[t] >= 0.0, "eps: expected 0 or more, got ", eps[t]);
    call.tensors[t] = {parameter.mutable_data_ptr<float>(),
                       gradients[t].const_data_ptr<float>(),
                       means[t].mutable_data_ptr<float>(),
                       mean_squares[t].mutable_data_ptr<float>(),
                       steps[t].mutable_data_ptr<float>(),
                       rates[t].const_data_ptr<float>(),
                       parameter.numel(),
                       static_cast<float>(eps[t])};
  }
  return call;
}

void step_on_cpu(at::TensorList parameters, at::TensorList gradients, at::TensorList means, at::TensorList mean_squares,
                 at::TensorList steps, at::TensorList rates, at::ArrayRef<double> eps, double beta, double square_beta) {
  step_cpu(checked_call(parameters, gradients, means, mean_squares, steps, rates, eps, beta, square_beta));
}

#ifdef MD_WITH_CUDA
void step_on_cuda(at::TensorList parameters, at::TensorList gradients, at::TensorList means, at::TensorList mean_squares,
                  at::TensorList steps, at::TensorList rates, at::ArrayRef<double> eps, double beta, double square_beta) {
  const Call call = checked_call(parameters, gradients, means, mean_squares, steps, rates, eps, beta, square_beta);
  const c10::cuda::CUDAGuard guard(parameters[0].device());
  C10_CUDA_CHECK(step_cuda(call, c10::cuda::getCurrentCUDAStream()));
}
#endif

}  // namespace

TORCH_LIBRARY_FRAGMENT(microdreamer, m) {
  m.def(
      "adam_step(Tensor(a!)[] parameters, Tensor[] gradients, Tensor(b!)[] means, Tensor(c!)[] mean_squares, Tensor(d!)[] steps, "
      "Tensor[] rates, float[] eps, float beta, float square_beta) -> ()");
}

TORCH_LIBRARY_IMPL(microdreamer, CPU, m) { m.impl("adam_step", &step_on_cpu); }

#ifdef MD_WITH_CUDA
TORCH_LIBRARY_IMPL(microdreamer, CUDA, m) { m.impl("adam_step", &step_on_cuda); }
#endif

}  // namespace md::adam
