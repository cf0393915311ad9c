// Ops perceptron, perceptron_bwd: schemas, argument checks, CPU and CUDA. The Python face is microdreamer/kernels/perceptron.py.
#include <tuple>

#include <ATen/Functions.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "checks.h"
#include "float_dispatch.h"
#include "perceptron.h"

namespace md::perceptron {
namespace {

Shape checked_shape(const at::Tensor& x, const at::Tensor& first, const at::Tensor& second) {
  TORCH_CHECK_VALUE(x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16, "x: expected float32 or bfloat16, got ",
                    x.scalar_type());
  check_tensor(x, "x", x.scalar_type(), x.device());
  check_shape(x, "x", {-1, -1});
  check_tensor(first, "first", at::kFloat, x.device());
  check_shape(first, "first", {-1, x.size(1)});
  check_tensor(second, "second", at::kFloat, x.device());
  check_shape(second, "second", {-1, first.size(0)});
  return {x.size(0), static_cast<int>(x.size(1)), static_cast<int>(first.size(0)), static_cast<int>(second.size(0))};
}

void check_v_out(const at::Tensor& v_out, const at::Tensor& x, const Shape& shape) {
  check_tensor(v_out, "v_out", at::kFloat, x.device());
  check_shape(v_out, "v_out", {shape.rows, shape.outputs});
}

// PyTorch's products within an op are not to be rounded, whatever the caller's autocast is.
using WithoutAutocast = c10::impl::ExcludeDispatchKeyGuard;

at::Tensor perceptron_on_cpu(const at::Tensor& x, const at::Tensor& first, const at::Tensor& second) {
  checked_shape(x, first, second);
  const WithoutAutocast guard(c10::autocast_dispatch_keyset);
  return at::relu(x.to(at::kFloat).mm(first.t())).mm(second.t());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> perceptron_bwd_on_cpu(const at::Tensor& v_out, const at::Tensor& x, const at::Tensor& first,
                                                                     const at::Tensor& second, bool for_x) {
  check_v_out(v_out, x, checked_shape(x, first, second));
  const WithoutAutocast guard(c10::autocast_dispatch_keyset);
  const at::Tensor inputs = x.to(at::kFloat), hidden = at::relu(inputs.mm(first.t()));
  const at::Tensor v_hidden = v_out.mm(second).mul(hidden.gt(0));
  return {for_x ? v_hidden.mm(first).to(x.scalar_type()) : at::empty({0}, x.options()), v_hidden.t().mm(inputs), v_out.t().mm(hidden)};
}

#ifdef MD_WITH_CUDA
void check_cuda_sizes(const at::Tensor& x, const Shape& shape) {
  TORCH_CHECK_VALUE(shape.inputs >= kInputStep && shape.inputs % kInputStep == 0 && shape.inputs <= kMostInputs,
                    "x: expected a multiple of ", kInputStep, " inputs, at most ", kMostInputs, ", got ", shape.inputs);
  TORCH_CHECK_VALUE(shape.hidden >= 1 && shape.hidden <= kMostHidden && shape.outputs >= 1 && shape.outputs <= kMostOutputs,
                    "first, second: expected 1 to ", kMostHidden, " hidden units and 1 to ", kMostOutputs, " outputs, got ", shape.hidden,
                    " and ", shape.outputs);
  TORCH_CHECK_VALUE(reinterpret_cast<uintptr_t>(x.const_data_ptr()) % kVectorBytes == 0, "x: expected data on a multiple of ", kVectorBytes,
                    " bytes; call .clone() first");
}

at::Tensor perceptron_on_cuda(const at::Tensor& x, const at::Tensor& first, const at::Tensor& second) {
  const Shape shape = checked_shape(x, first, second);
  check_cuda_sizes(x, shape);
  const c10::cuda::CUDAGuard guard(x.device());
  const at::Tensor out = at::empty({shape.rows, shape.outputs}, first.options());
  C10_CUDA_CHECK(forward_cuda(x.const_data_ptr(), float_type(x), first.const_data_ptr<float>(), second.const_data_ptr<float>(),
                              out.mutable_data_ptr<float>(), shape, c10::cuda::getCurrentCUDAStream()));
  return out;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> perceptron_bwd_on_cuda(const at::Tensor& v_out, const at::Tensor& x, const at::Tensor& first,
                                                                      const at::Tensor& second, bool for_x) {
  const Shape shape = checked_shape(x, first, second);
  check_v_out(v_out, x, shape);
  check_cuda_sizes(x, shape);
  const c10::cuda::CUDAGuard guard(x.device());
  const int64_t parts = backward_parts(shape), units = int64_t{slabs(shape)} * kSlab;
  const at::Tensor v_x = for_x ? at::empty_like(x) : at::empty({0}, x.options());
  const at::Tensor v_first = at::empty({parts, units, shape.inputs}, first.options());
  const at::Tensor v_second = at::empty({parts, units, kMostOutputs}, first.options());
  C10_CUDA_CHECK(backward_cuda(v_out.const_data_ptr<float>(), x.const_data_ptr(), float_type(x), first.const_data_ptr<float>(),
                               second.const_data_ptr<float>(), for_x ? v_x.mutable_data_ptr() : nullptr, v_first.mutable_data_ptr<float>(),
                               v_second.mutable_data_ptr<float>(), shape, c10::cuda::getCurrentCUDAStream()));
  const at::Tensor of_second = v_second.sum(0).slice(0, 0, shape.hidden).slice(1, 0, shape.outputs);
  return {v_x, v_first.sum(0).slice(0, 0, shape.hidden).contiguous(), of_second.t().contiguous()};
}
#endif

}  // namespace

TORCH_LIBRARY_FRAGMENT(microdreamer, m) {
  m.def("perceptron(Tensor x, Tensor first, Tensor second) -> Tensor");
  m.def("perceptron_bwd(Tensor v_out, Tensor x, Tensor first, Tensor second, bool for_x) -> (Tensor v_x, Tensor v_first, Tensor v_second)");
}

TORCH_LIBRARY_IMPL(microdreamer, CPU, m) {
  m.impl("perceptron", &perceptron_on_cpu);
  m.impl("perceptron_bwd", &perceptron_bwd_on_cpu);
}

#ifdef MD_WITH_CUDA
TORCH_LIBRARY_IMPL(microdreamer, CUDA, m) {
  m.impl("perceptron", &perceptron_on_cuda);
  m.impl("perceptron_bwd", &perceptron_bwd_on_cuda);
}
#endif

}  // namespace md::perceptron
