// Ops group_norm, group_norm_bwd, group_moments, group_normalise: schemas, argument checks, CPU and CUDA.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "checks.h"
#include "float_dispatch.h"
#include "group_norm.h"

namespace md {
namespace {

#ifdef MD_WITH_CUDA
constexpr int64_t kMostChannels = 4096;  // a CTA holds the channels of a pixel: 1024 threads of four floats, 32 KiB of sums
#endif

GroupNormShape check_arguments(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, int64_t groups, double eps, bool silu,
                               const std::optional<at::Tensor>& offset) {
  const at::ScalarType dtype = x.scalar_type();
  check_float_type(x, "x");
  check_tensor(x, "x", dtype, x.device());
  check_shape(x, "x", {-1, -1, -1});
  const int64_t channels = x.size(2);
  TORCH_CHECK_VALUE(groups >= 1 && channels >= 1 && channels % groups == 0, "groups: expected a divisor of the ", channels,
                    " channels, got ", groups);
  check_tensor(weight, "weight", dtype, x.device());
  check_shape(weight, "weight", {channels});
  check_tensor(bias, "bias", dtype, x.device());
  check_shape(bias, "bias", {channels});
  TORCH_CHECK_VALUE(eps > 0.0, "eps: expected more than 0, got ", eps);
  int64_t stride = 0;
  if (offset) { stride = check_offset(*offset, x, true); }
  return {x.size(0), x.size(1), static_cast<int>(channels), static_cast<int>(groups), static_cast<float>(eps), silu, stride};
}

GroupNormShape check_moments_arguments(const at::Tensor& x, int64_t groups) {
  check_float_type(x, "x");
  check_tensor(x, "x", x.scalar_type(), x.device());
  check_shape(x, "x", {-1, -1, -1});
  TORCH_CHECK_VALUE(groups >= 1 && x.size(2) >= 1 && x.size(2) % groups == 0, "groups: expected a divisor of the ", x.size(2),
                    " channels, got ", groups);
  return {x.size(0), x.size(1), static_cast<int>(x.size(2)), static_cast<int>(groups), 1.0f, false, 0};
}

at::Tensor empty_moments(const at::Tensor& x, const GroupNormShape& shape) {
  return at::empty({shape.samples, moment_slices(shape.pixels), shape.groups, kMoments}, x.options().dtype(at::kFloat));
}

GroupNormShape check_normalise_arguments(const at::Tensor& x, const at::Tensor& moments, const at::Tensor& weight, const at::Tensor& bias,
                                         double eps, bool silu) {
  check_shape(moments, "moments", {-1, -1, -1, kMoments});
  const GroupNormShape shape = check_arguments(x, weight, bias, moments.size(2), eps, silu, std::nullopt);
  check_tensor(moments, "moments", at::kFloat, x.device());
  check_shape(moments, "moments", {shape.samples, moment_slices(shape.pixels), shape.groups, kMoments});
  return shape;
}

at::Tensor group_moments_on_cpu(const at::Tensor& x, int64_t groups) {
  const GroupNormShape shape = check_moments_arguments(x, groups);
  at::Tensor moments = empty_moments(x, shape);
  dispatch_float_types(x.scalar_type(),
                       [&](auto zero) { group_moments_cpu(x.const_data_ptr<decltype(zero)>(), moments.mutable_data_ptr<float>(), shape); });
  return moments;
}

at::Tensor group_normalise_on_cpu(const at::Tensor& x, const at::Tensor& moments, const at::Tensor& weight, const at::Tensor& bias,
                                  double eps, bool silu) {
  const GroupNormShape shape = check_normalise_arguments(x, moments, weight, bias, eps, silu);
  at::Tensor out = at::empty_like(x);
  dispatch_float_types(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    group_normalise_cpu(x.const_data_ptr<T>(), moments.const_data_ptr<float>(), weight.const_data_ptr<T>(), bias.const_data_ptr<T>(),
                        out.mutable_data_ptr<T>(), shape);
  });
  return out;
}

at::Tensor group_norm_on_cpu(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, int64_t groups, double eps, bool silu,
                             const std::optional<at::Tensor>& offset) {
  const GroupNormShape shape = check_arguments(x, weight, bias, groups, eps, silu, offset);
  at::Tensor out = at::empty_like(x);
  dispatch_float_types(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    group_norm_cpu(x.const_data_ptr<T>(), offset ? offset->const_data_ptr<T>() : nullptr, weight.const_data_ptr<T>(),
                   bias.const_data_ptr<T>(), out.mutable_data_ptr<T>(), shape);
  });
  return out;
}

void check_v_out(const at::Tensor& v_out, const at::Tensor& x) {
  check_tensor(v_out, "v_out", x.scalar_type(), x.device());
  check_shape(v_out, "v_out", {x.size(0), x.size(1), x.size(2)});
}

at::Tensor group_norm_bwd_on_cpu(const at::Tensor& v_out, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                                 int64_t groups, double eps, bool silu, const std::optional<at::Tensor>& offset) {
  const GroupNormShape shape = check_arguments(x, weight, bias, groups, eps, silu, offset);
  check_v_out(v_out, x);
  at::Tensor v_x = at::empty_like(x);
  dispatch_float_types(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    group_norm_bwd_cpu(v_out.const_data_ptr<T>(), x.const_data_ptr<T>(), offset ? offset->const_data_ptr<T>() : nullptr,
                       weight.const_data_ptr<T>(), bias.const_data_ptr<T>(), v_x.mutable_data_ptr<T>(), shape);
  });
  return v_x;
}

#ifdef MD_WITH_CUDA
void check_cuda_sizes(const at::Tensor& x, const GroupNormShape& shape) {
  check_vectors(x, "x", shape.channels);
  TORCH_CHECK_VALUE(shape.channels <= kMostChannels, "x: expected at most ", kMostChannels, " channels, got ", shape.channels);
  TORCH_CHECK_VALUE(shape.samples <= 65535, "x: expected at most 65535 samples, got ", shape.samples);
}

at::Tensor group_moments_on_cuda(const at::Tensor& x, int64_t groups) {
  const GroupNormShape shape = check_moments_arguments(x, groups);
  check_cuda_sizes(x, shape);
  const c10::cuda::CUDAGuard guard(x.device());
  at::Tensor moments = empty_moments(x, shape);
  C10_CUDA_CHECK(group_moments_cuda(x.const_data_ptr(), nullptr, moments.mutable_data_ptr<float>(), shape, float_type(x),
                                    c10::cuda::getCurrentCUDAStream()));
  return moments;
}

at::Tensor group_normalise_on_cuda(const at::Tensor& x, const at::Tensor& moments, const at::Tensor& weight, const at::Tensor& bias,
                                   double eps, bool silu) {
  const GroupNormShape shape = check_normalise_arguments(x, moments, weight, bias, eps, silu);
  check_cuda_sizes(x, shape);
  const c10::cuda::CUDAGuard guard(x.device());
  at::Tensor out = at::empty_like(x);
  C10_CUDA_CHECK(group_normalise_cuda(x.const_data_ptr(), nullptr, moments.const_data_ptr<float>(), weight.const_data_ptr(),
                                      bias.const_data_ptr(), out.mutable_data_ptr(), shape, float_type(x),
                                      c10::cuda::getCurrentCUDAStream()));
  return out;
}

at::Tensor group_norm_on_cuda(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, int64_t groups, double eps, bool silu,
                              const std::optional<at::Tensor>& offset) {
  const GroupNormShape shape = check_arguments(x, weight, bias, groups, eps, silu, offset);
  check_cuda_sizes(x, shape);
  const c10::cuda::CUDAGuard guard(x.device());
  at::Tensor out = at::empty_like(x);
  at::Tensor scratch = at::empty({group_norm_scratch(shape)}, x.options().dtype(at::kFloat));
  C10_CUDA_CHECK(group_norm_cuda(x.const_data_ptr(), offset ? offset->const_data_ptr() : nullptr, weight.const_data_ptr(),
                                 bias.const_data_ptr(), out.mutable_data_ptr(), scratch.mutable_data_ptr<float>(), shape, float_type(x),
                                 c10::cuda::getCurrentCUDAStream()));
  return out;
}

at::Tensor group_norm_bwd_on_cuda(const at::Tensor& v_out, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                                  int64_t groups, double eps, bool silu, const std::optional<at::Tensor>& offset) {
  const GroupNormShape shape = check_arguments(x, weight, bias, groups, eps, silu, offset);
  check_v_out(v_out, x);
  check_cuda_sizes(x, shape);
  check_vectors(v_out, "v_out", shape.channels);
  const c10::cuda::CUDAGuard guard(x.device());
  at::Tensor v_x = at::empty_like(x);
  at::Tensor scratch = at::empty({group_norm_bwd_scratch(shape)}, x.options().dtype(at::kFloat));
  C10_CUDA_CHECK(group_norm_bwd_cuda(v_out.const_data_ptr(), x.const_data_ptr(), offset ? offset->const_data_ptr() : nullptr,
                                     weight.const_data_ptr(), bias.const_data_ptr(), v_x.mutable_data_ptr(),
                                     scratch.mutable_data_ptr<float>(), shape, float_type(x), c10::cuda::getCurrentCUDAStream()));
  return v_x;
}
#endif

}  // namespace
}  // namespace md

TORCH_LIBRARY_FRAGMENT(microdreamer, m) {
  m.def("group_norm(Tensor x, Tensor weight, Tensor bias, int groups, float eps, bool silu, Tensor? offset=None) -> Tensor");
  m.def(
      "group_norm_bwd(Tensor v_out, Tensor x, Tensor weight, Tensor bias, int groups, float eps, bool silu, Tensor? offset=None) -> "
      "Tensor");
  m.def("group_moments(Tensor x, int groups) -> Tensor");
  m.def("moment_slices(int pixels) -> int", &md::moment_slices);
  m.def("group_normalise(Tensor x, Tensor moments, Tensor weight, Tensor bias, float eps, bool silu) -> Tensor");
}

TORCH_LIBRARY_IMPL(microdreamer, CPU, m) {
  m.impl("group_norm", &md::group_norm_on_cpu);
  m.impl("group_norm_bwd", &md::group_norm_bwd_on_cpu);
  m.impl("group_moments", &md::group_moments_on_cpu);
  m.impl("group_normalise", &md::group_normalise_on_cpu);
}

#ifdef MD_WITH_CUDA
TORCH_LIBRARY_IMPL(microdreamer, CUDA, m) {
  m.impl("group_norm", &md::group_norm_on_cuda);
  m.impl("group_norm_bwd", &md::group_norm_bwd_on_cuda);
  m.impl("group_moments", &md::group_moments_on_cuda);
  m.impl("group_normalise", &md::group_normalise_on_cuda);
}
#endif
