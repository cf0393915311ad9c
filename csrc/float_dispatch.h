// From a tensor's dtype to the types that networks compute in.
#pragma once

#include "checks.h"
#include "float_types.h"

namespace md {

inline void check_float_type(const at::Tensor& tensor, const char* name) {
  const at::ScalarType dtype = tensor.scalar_type();
  TORCH_CHECK_VALUE(dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16, name,
                    ": expected float32, float16 or bfloat16, got ", dtype);
}

// Calls `work` with a value of the C++ type of `dtype`, one that check_float_type lets pass.
template <class Work>
void dispatch_float_types(at::ScalarType dtype, Work work) {
  if (dtype == at::kHalf) {
    work(c10::Half{});
  } else if (dtype == at::kBFloat16) {
    work(c10::BFloat16{});
  } else {
    work(float{});
  }
}

inline FloatType float_type(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kFloat  ? FloatType::kFloat
         : tensor.scalar_type() == at::kHalf ? FloatType::kHalf
                                             : FloatType::kBFloat16;
}

// Rows of `channels` must fill whole vectors, and the data begin on one.
inline void check_vectors(const at::Tensor& tensor, const char* name, int64_t channels) {
  const int64_t width = kVectorBytes / tensor.element_size();
  TORCH_CHECK_VALUE(channels % width == 0, name, ": expected channels in multiples of ", width, ", got ", channels);
  TORCH_CHECK_VALUE(reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % kVectorBytes == 0, name, ": expected data on a multiple of ",
                    kVectorBytes, " bytes; call .clone() first");
}

// An offset [N, C] of the samples of x [N, P, C], whose rows may stand apart (they may be parts of longer ones), or with `shared` [1, C].
// Returns the distance from one sample's row to the next one's.
inline int64_t check_offset(const at::Tensor& offset, const at::Tensor& x, bool shared) {
  TORCH_CHECK_VALUE(offset.scalar_type() == x.scalar_type(), "offset: expected ", x.scalar_type(), ", got ", offset.scalar_type());
  TORCH_CHECK_VALUE(offset.device() == x.device(), "offset: expected a tensor on ", x.device(), ", got ", offset.device());
  check_shape(offset, "offset", {shared ? -1 : x.size(0), x.size(2)});
  TORCH_CHECK_VALUE(offset.size(0) == x.size(0) || offset.size(0) == 1, "offset: expected 1 or ", x.size(0), " rows, got ", offset.size(0));
  TORCH_CHECK_VALUE(offset.size(1) < 2 || offset.stride(1) == 1, "offset: expected contiguous rows; call .contiguous() first");
  return offset.size(0) == 1 ? 0 : offset.stride(0);
}

}  // namespace md
