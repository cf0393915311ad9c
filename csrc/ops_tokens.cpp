// Ops add_bias, gated_gelu, layer_norm, add_layer_norm: schemas, argument checks, CPU and CUDA.
#include <optional>
#include <tuple>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "float_dispatch.h"
#include "tokens.h"

namespace md {
namespace {

using MaybeTensor = std::optional<at::Tensor>;

void check_tokens(const at::Tensor& tensor, const char* name, const at::Tensor& like, at::IntArrayRef shape) {
  check_tensor(tensor, name, like.scalar_type(), like.device());
  check_shape(tensor, name, shape);
}

TokenShape check_x(const at::Tensor& x, int64_t parts) {
  check_float_type(x, "x");
  check_tensor(x, "x", x.scalar_type(), x.device());
  check_shape(x, "x", {-1, -1, -1});
  TORCH_CHECK_VALUE(x.size(2) % parts == 0, "x: expected a multiple of ", parts, " channels, got ", x.size(2));
  return {x.size(0) * x.size(1), static_cast<int>(x.size(2) / parts), x.size(1), 0.0f, 0};
}

TokenShape check_add_bias(const at::Tensor& x, const at::Tensor& bias, const MaybeTensor& residual) {
  const TokenShape shape = check_x(x, 1);
  check_tokens(bias, "bias", x, {shape.channels});
  if (residual) check_tokens(*residual, "residual", x, x.sizes());
  return shape;
}

TokenShape check_layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps) {
  TokenShape shape = check_x(x, 1);
  check_tokens(weight, "weight", x, {shape.channels});
  check_tokens(bias, "bias", x, {shape.channels});
  TORCH_CHECK_VALUE(eps > 0.0, "eps: expected more than 0, got ", eps);
  shape.eps = static_cast<float>(eps);
  return shape;
}

TokenShape check_add_layer_norm(const at::Tensor& x, const at::Tensor& residual, const MaybeTensor& offset, const at::Tensor& weight,
                                const at::Tensor& bias, double eps) {
  TokenShape shape = check_layer_norm(x, weight, bias, eps);
  check_tokens(residual, "residual", x, x.sizes());
  if (offset) shape.offset_stride = check_offset(*offset, x, false);
  return shape;
}

GatedGeluShape check_gated_gelu(const at::Tensor& x, const MaybeTensor& beside) {
  const TokenShape shape = check_x(x, 2);
  if (!beside) return {shape.rows, shape.channels, 0};
  check_tokens(*beside, "beside", x, {x.size(0), x.size(1), -1});
  TORCH_CHECK_VALUE(beside->size(2) >= 1, "beside: expected channels, got none");
  return {shape.rows, shape.channels, static_cast<int>(beside->size(2))};
}

at::Tensor empty_rows(const at::Tensor& x, int width) { return at::empty({x.size(0), x.size(1), width}, x.options()); }

// ---- CPU ----

template <typename T>
const T* data(const MaybeTensor& tensor) {
  return tensor ? tensor->const_data_ptr<T>() : nullptr;
}

at::Tensor add_bias_on_cpu(const at::Tensor& x, const at::Tensor& bias, const MaybeTensor& residual) {
  const TokenShape shape = check_add_bias(x, bias, residual);
  at::Tensor out = at::empty_like(x);
  dispatch_float_types(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    add_bias_cpu(x.const_data_ptr<T>(), data<T>(residual), bias.const_data_ptr<T>(), out.mutable_data_ptr<T>(), shape);
  });
  return out;
}

at::Tensor gated_gelu_on_cpu(const at::Tensor& x, const MaybeTensor& beside) {
  const GatedGeluShape shape = check_gated_gelu(x, beside);
  at::Tensor out = empty_rows(x, shape.width());
  dispatch_float_types(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    gated_gelu_cpu(x.const_data_ptr<T>(), data<T>(beside), out.mutable_data_ptr<T>(), shape);
  });
  return out;
}

at::Tensor layer_norm_on_cpu(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps) {
  const TokenShape shape = check_layer_norm(x, weight, bias, eps);
  at::Tensor normed = at::empty_like(x);
  dispatch_float_types(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    add_layer_norm_cpu<T>(x.const_data_ptr<T>(), nullptr, nullptr, weight.const_data_ptr<T>(), bias.const_data_ptr<T>(), nullptr,
                          normed.mutable_data_ptr<T>(), shape);
  });
  return normed;
}

std::tuple<at::Tensor, at::Tensor> add_layer_norm_on_cpu(const at::Tensor& x, const at::Tensor& residual, const MaybeTensor& offset,
                                                         const at::Tensor& weight, const at::Tensor& bias, double eps) {
  const TokenShape shape = check_add_layer_norm(x, residual, offset, weight, bias, eps);
  at::Tensor sum = at::empty_like(x), normed = at::empty_like(x);
  dispatch_float_types(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    add_layer_norm_cpu(x.const_data_ptr<T>(), residual.const_data_ptr<T>(), data<T>(offset), weight.const_data_ptr<T>(),
                       bias.const_data_ptr<T>(), sum.mutable_data_ptr<T>(), normed.mutable_data_ptr<T>(), shape);
  });
  return {sum, normed};
}

// ---- CUDA ----

#ifdef MD_WITH_CUDA
const void* data(const MaybeTensor& tensor) { return tensor ? tensor->const_data_ptr() : nullptr; }

at::Tensor add_bias_on_cuda(const at::Tensor& x, const at::Tensor& bias, const MaybeTensor& residual) {
  const TokenShape shape = check_add_bias(x, bias, residual);
  check_vectors(x, "x", shape.channels);
  check_vectors(bias, "bias", shape.channels);
  if (residual) check_vectors(*residual, "residual", shape.channels);
  const c10::cuda::CUDAGuard guard(x.device());
  at::Tensor out = at::empty_like(x);
  C10_CUDA_CHECK(add_bias_cuda(x.const_data_ptr(), data(residual), bias.const_data_ptr(), out.mutable_data_ptr(), shape, float_type(x),
                               c10::cuda::getCurrentCUDAStream()));
  return out;
}

at::Tensor gated_gelu_on_cuda(const at::Tensor& x, const MaybeTensor& beside) {
  const GatedGeluShape shape = check_gated_gelu(x, beside);
  check_vectors(x, "x", shape.channels);
  if (beside) check_vectors(*beside, "beside", shape.beside);
  const c10::cuda::CUDAGuard guard(x.device());
  at::Tensor out = empty_rows(x, shape.width());
  C10_CUDA_CHECK(
      gated_gelu_cuda(x.const_data_ptr(), data(beside), out.mutable_data_ptr(), shape, float_type(x), c10::cuda::getCurrentCUDAStream()));
  return out;
}

void check_rows(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const TokenShape& shape) {
  check_vectors(x, "x", shape.channels);
  check_vectors(weight, "weight", shape.channels);
  check_vectors(bias, "bias", shape.channels);
  const int64_t most = kMostRowVectors * (kVectorBytes / x.element_size());
  TORCH_CHECK_VALUE(shape.channels <= most, "x: expected at most ", most, " channels, got ", shape.channels);
}

at::Tensor layer_norm_on_cuda(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps) {
  const TokenShape shape = check_layer_norm(x, weight, bias, eps);
  check_rows(x, weight, bias, shape);
  const c10::cuda::CUDAGuard guard(x.device());
  at::Tensor normed = at::empty_like(x);
  C10_CUDA_CHECK(add_layer_norm_cuda(x.const_data_ptr(), nullptr, nullptr, weight.const_data_ptr(), bias.const_data_ptr(), nullptr,
                                     normed.mutable_data_ptr(), shape, float_type(x), c10::cuda::getCurrentCUDAStream()));
  return normed;
}

std::tuple<at::Tensor, at::Tensor> add_layer_norm_on_cuda(const at::Tensor& x, const at::Tensor& residual, const MaybeTensor& offset,
                                                          const at::Tensor& weight, const at::Tensor& bias, double eps) {
  const TokenShape shape = check_add_layer_norm(x, residual, offset, weight, bias, eps);
  check_rows(x, weight, bias, shape);
  check_vectors(residual, "residual", shape.channels);
  if (offset) {
    check_vectors(*offset, "offset", shape.channels);
    TORCH_CHECK_VALUE(shape.offset_stride * x.element_size() % kVectorBytes == 0, "offset: expected rows on multiples of ", kVectorBytes,
                      " bytes");
  }
  const c10::cuda::CUDAGuard guard(x.device());
  at::Tensor sum = at::empty_like(x), normed = at::empty_like(x);
  C10_CUDA_CHECK(add_layer_norm_cuda(x.const_data_ptr(), residual.const_data_ptr(), data(offset), weight.const_data_ptr(),
                                     bias.const_data_ptr(), sum.mutable_data_ptr(), normed.mutable_data_ptr(), shape, float_type(x),
                                     c10::cuda::getCurrentCUDAStream()));
  return {sum, normed};
}
#endif

}  // namespace
}  // namespace md

TORCH_LIBRARY_FRAGMENT(microdreamer, m) {
  m.def("add_bias(Tensor x, Tensor bias, Tensor? residual=None) -> Tensor");
  m.def("gated_gelu(Tensor x, Tensor? beside=None) -> Tensor");
  m.def("layer_norm(Tensor x, Tensor weight, Tensor bias, float eps) -> Tensor");
  m.def("add_layer_norm(Tensor x, Tensor residual, Tensor? offset, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(microdreamer, CPU, m) {
  m.impl("add_bias", &md::add_bias_on_cpu);
  m.impl("gated_gelu", &md::gated_gelu_on_cpu);
  m.impl("layer_norm", &md::layer_norm_on_cpu);
  m.impl("add_layer_norm", &md::add_layer_norm_on_cpu);
}

#ifdef MD_WITH_CUDA
TORCH_LIBRARY_IMPL(microdreamer, CUDA, m) {
  m.impl("add_bias", &md::add_bias_on_cuda);
  m.impl("gated_gelu", &md::gated_gelu_on_cuda);
  m.impl("layer_norm", &md::layer_norm_on_cuda);
  m.impl("add_layer_norm", &md::add_layer_norm_on_cuda);
}
#endif
