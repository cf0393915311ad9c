// Op group_norm: schema, argument checks, CPU and CUDA.
#include <ATen/Dispatch.h>

#include "checks.h"
#include "group_norm.h"

namespace md {
namespace {

#ifdef MD_WITH_CUDA
constexpr int64_t kMostChannels = 4096;  // a CTA holds the channels of a pixel: 1024 threads of four floats, 32 KiB of sums
#endif

GroupNormShape check_arguments(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, int64_t groups, double eps, bool silu) {
  const at::ScalarType dtype = x.scalar_type();
  TORCH_CHECK_VALUE(dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16, "x: expected float32, float16 or bfloat16, got ", dtype);
  check_tensor(x, "x", dtype, x.device());
  check_shape(x, "x", {-1, -1, -1});
  const int64_t channels = x.size(2);
  TORCH_CHECK_VALUE(groups >= 1 && channels >= 1 && channels % groups == 0, "groups: expected a divisor of the ", channels, " channels, got ", groups);
  check_tensor(weight, "weight", dtype, x.device());
  check_shape(weight, "weight", {channels});
  check_tensor(bias, "bias", dtype, x.device());
  check_shape(bias, "bias", {channels});
  TORCH_CHECK_VALUE(eps > 0.0, "eps: expected more than 0, got ", eps);
  return {x.size(0), x.size(1), static_cast<int>(channels), static_cast<int>(groups), static_cast<float>(eps), silu};
}

at::Tensor group_norm_on_cpu(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, int64_t groups, double eps, bool silu) {
  const GroupNormShape shape = check_arguments(x, weight, bias, groups, eps, silu);
  at::Tensor out = at::empty_like(x);
  AT_DISPATCH_SWITCH(x.scalar_type(), "group_norm",
                     AT_DISPATCH_CASE(at::kFloat, [&] {
                       group_norm_cpu(x.const_data_ptr<scalar_t>(), weight.const_data_ptr<scalar_t>(), bias.const_data_ptr<scalar_t>(),
                                      out.mutable_data_ptr<scalar_t>(), shape);
                     }) AT_DISPATCH_CASE(at::kHalf, [&] {
                       group_norm_cpu(x.const_data_ptr<scalar_t>(), weight.const_data_ptr<scalar_t>(), bias.const_data_ptr<scalar_t>(),
                                      out.mutable_data_ptr<scalar_t>(), shape);
                     }) AT_DISPATCH_CASE(at::kBFloat16, [&] {
                       group_norm_cpu(x.const_data_ptr<scalar_t>(), weight.const_data_ptr<scalar_t>(), bias.const_data_ptr<scalar_t>(),
                                      out.mutable_data_ptr<scalar_t>(), shape);
                     }));
  return out;
}

#ifdef MD_WITH_CUDA
at::Tensor group_norm_on_cuda(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, int64_t groups, double eps, bool silu) {
  const GroupNormShape shape = check_arguments(x, weight, bias, groups, eps, silu);
  const int64_t width = kGroupNormVector / x.element_size();
  TORCH_CHECK_VALUE(shape.channels % width == 0 && shape.channels <= kMostChannels, "x: expected channels in multiples of ", width,
                    " and at most ", kMostChannels, ", got ", shape.channels);
  TORCH_CHECK_VALUE(shape.samples <= 65535, "x: expected at most 65535 samples, got ", shape.samples);
  TORCH_CHECK_VALUE(reinterpret_cast<uintptr_t>(x.const_data_ptr()) % kGroupNormVector == 0, "x: expected data on a multiple of ",
                    kGroupNormVector, " bytes; call .clone() first");
  const c10::cuda::CUDAGuard guard(x.device());
  at::Tensor out = at::empty_like(x);
  at::Tensor scratch = at::empty({group_norm_scratch(shape)}, x.options().dtype(at::kFloat));
  const GroupNormType type = x.scalar_type() == at::kFloat  ? GroupNormType::kFloat
                             : x.scalar_type() == at::kHalf ? GroupNormType::kHalf
                                                            : GroupNormType::kBFloat16;
  C10_CUDA_CHECK(group_norm_cuda(x.const_data_ptr(), weight.const_data_ptr(), bias.const_data_ptr(), out.mutable_data_ptr(),
                                 scratch.mutable_data_ptr<float>(), shape, type, c10::cuda::getCurrentCUDAStream()));
  return out;
}
#endif

}  // namespace
}  // namespace md

TORCH_LIBRARY_FRAGMENT(microdreamer, m) {
  m.def("group_norm(Tensor x, Tensor weight, Tensor bias, int groups, float eps, bool silu) -> Tensor");
}

TORCH_LIBRARY_IMPL(microdreamer, CPU, m) { m.impl("group_norm", &md::group_norm_on_cpu); }

#ifdef MD_WITH_CUDA
TORCH_LIBRARY_IMPL(microdreamer, CUDA, m) { m.impl("group_norm", &md::group_norm_on_cuda); }
#endif
