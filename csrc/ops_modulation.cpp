// Ops modulated_norm, gated_add, squared_relu, normed_heads: schemas, argument checks, CPU.
#include <optional>
#include <tuple>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/util/BFloat16.h>

#include "checks.h"
#include "modulation.h"

namespace md::modulation {
namespace {

using MaybeTensor = std::optional<at::Tensor>;

void check_values(const at::Tensor& tensor, const char* name) {
  TORCH_CHECK_VALUE(tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kBFloat16, name,
                    ": expected float32 or bfloat16, got ", tensor.scalar_type());
  check_tensor(tensor, name, tensor.scalar_type(), at::kCPU);
}

Rows check_rows(const at::Tensor& x) {
  check_values(x, "x");
  check_shape(x, "x", {-1, -1, -1});
  return {x.size(0) * x.size(1), static_cast<int>(x.size(2)), x.size(1), 0};
}

// Scale, shift or gate [N, C] of the samples of x [N, P, C]; rows may be parts of longer ones.
const float* check_modulation(const MaybeTensor& tensor, const char* name, const at::Tensor& x, Rows& rows) {
  if (!tensor) return nullptr;
  TORCH_CHECK_VALUE(tensor->scalar_type() == at::kFloat && tensor->is_cpu(), name, ": expected float32 on the CPU, got ",
                    tensor->scalar_type(), " on ", tensor->device());
  check_shape(*tensor, name, {x.size(0), x.size(2)});
  TORCH_CHECK_VALUE(tensor->size(1) < 2 || tensor->stride(1) == 1, name, ": expected contiguous rows; call .contiguous() first");
  TORCH_CHECK_VALUE(rows.stride == 0 || rows.stride == tensor->stride(0), name, ": expected rows as far apart as those of scale");
  rows.stride = tensor->stride(0);
  return tensor->const_data_ptr<float>();
}

template <class Work>
void dispatch(const at::Tensor& tensor, Work work) {
  if (tensor.scalar_type() == at::kBFloat16) {
    work(c10::BFloat16{});
  } else {
    work(float{});
  }
}

at::Tensor modulated_norm(const at::Tensor& x, const MaybeTensor& scale, const MaybeTensor& shift, bool silu, bool bfloat16) {
  Rows rows = check_rows(x);
  TORCH_CHECK_VALUE(scale.has_value() == shift.has_value(), "scale, shift: expected both or none");
  const float* own_scale = check_modulation(scale, "scale", x, rows);
  const float* own_shift = check_modulation(shift, "shift", x, rows);
  TORCH_CHECK_VALUE(bfloat16 || x.scalar_type() == at::kFloat, "x: expected float32 where the result is, got ", x.scalar_type());
  at::Tensor out = at::empty(x.sizes(), x.options().dtype(bfloat16 ? at::kBFloat16 : at::kFloat));
  dispatch(x, [&](auto given) {
    using X = decltype(given);
    if constexpr (std::is_same_v<X, float>) {
      if (!bfloat16) return modulated_norm_cpu(x.const_data_ptr<X>(), own_scale, own_shift, silu, out.mutable_data_ptr<float>(), rows);
    }
    modulated_norm_cpu(x.const_data_ptr<X>(), own_scale, own_shift, silu, out.mutable_data_ptr<c10::BFloat16>(), rows);
  });
  return out;
}

at::Tensor gated_add(const at::Tensor& x, const at::Tensor& h, const MaybeTensor& gate) {
  Rows rows = check_rows(x);
  check_values(h, "h");
  check_shape(h, "h", x.sizes());
  TORCH_CHECK_VALUE(x.scalar_type() == at::kFloat || h.scalar_type() == at::kBFloat16, "h: expected bfloat16 like x, got ",
                    h.scalar_type());
  const float* own = check_modulation(gate, "gate", x, rows);
  at::Tensor out = at::empty_like(x);
  dispatch(x, [&](auto given) {
    using X = decltype(given);
    X* to = out.mutable_data_ptr<X>();
    if constexpr (std::is_same_v<X, float>) {
      if (h.scalar_type() == at::kFloat) return gated_add_cpu(x.const_data_ptr<X>(), h.const_data_ptr<float>(), own, to, rows);
    }
    gated_add_cpu(x.const_data_ptr<X>(), h.const_data_ptr<c10::BFloat16>(), own, to, rows);
  });
  return out;
}

at::Tensor squared_relu(const at::Tensor& x) {
  check_values(x, "x");
  at::Tensor out = at::empty_like(x);
  dispatch(x, [&](auto given) {
    using T = decltype(given);
    squared_relu_cpu(x.const_data_ptr<T>(), out.mutable_data_ptr<T>(), x.numel());
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> normed_heads(const at::Tensor& qkv, const at::Tensor& query_scale,
                                                            const at::Tensor& key_scale, double epsilon) {
  check_values(qkv, "qkv");
  check_shape(qkv, "qkv", {-1, -1, 3, -1, -1});
  const int64_t samples = qkv.size(0), tokens = qkv.size(1), heads = qkv.size(3), width = qkv.size(4);
  for (const auto& [scale, name] : {std::pair{query_scale, "query_scale"}, std::pair{key_scale, "key_scale"}}) {
    check_tensor(scale, name, at::kFloat, at::kCPU);
    check_shape(scale, name, {width});
  }
  TORCH_CHECK_VALUE(width > 0 && width % 8 == 0, "qkv: expected heads as wide as a multiple of 8, got ", width);
  TORCH_CHECK_VALUE(epsilon > 0.0, "epsilon: expected more than 0, got ", epsilon);
  const Heads shape{samples, tokens, static_cast<int>(heads), static_cast<int>(width), static_cast<float>(epsilon)};
  at::Tensor query = at::empty({samples, heads, tokens, width}, qkv.options());
  at::Tensor key = at::empty_like(query), value = at::empty_like(query);
  dispatch(qkv, [&](auto given) {
    using T = decltype(given);
    normed_heads_cpu(qkv.const_data_ptr<T>(), query_scale.const_data_ptr<float>(), key_scale.const_data_ptr<float>(),
                     query.mutable_data_ptr<T>(), key.mutable_data_ptr<T>(), value.mutable_data_ptr<T>(), shape);
  });
  return {query, key, value};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(microdreamer, m) {
  m.def("modulated_norm(Tensor x, Tensor? scale, Tensor? shift, bool silu, bool bfloat16) -> Tensor");
  m.def("gated_add(Tensor x, Tensor h, Tensor? gate) -> Tensor");
  m.def("squared_relu(Tensor x) -> Tensor");
  m.def("normed_heads(Tensor qkv, Tensor query_scale, Tensor key_scale, float epsilon) -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(microdreamer, CPU, m) {
  m.impl("modulated_norm", &modulated_norm);
  m.impl("gated_add", &gated_add);
  m.impl("squared_relu", &squared_relu);
  m.impl("normed_heads", &normed_heads);
}

}  // namespace md::modulation
