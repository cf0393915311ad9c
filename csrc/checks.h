// Argument checks at the op boundary. Every message names the argument, what was expected and what came.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <bit>
#include <cstdint>

#ifdef MD_WITH_CUDA
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace md {

inline void check_tensor(const at::Tensor& tensor, const char* name, at::ScalarType dtype, const at::Device& device) {
  TORCH_CHECK_VALUE(tensor.scalar_type() == dtype, name, ": expected ", dtype, ", got ", tensor.scalar_type());
  TORCH_CHECK_VALUE(tensor.device() == device, name, ": expected a tensor on ", device, ", got ", tensor.device());
  TORCH_CHECK_VALUE(tensor.is_contiguous(), name, ": expected a contiguous tensor; call .contiguous() first");
}

// A size of -1 in `expected` accepts any length of that axis.
inline void check_shape(const at::Tensor& tensor, const char* name, at::IntArrayRef expected) {
  bool same = tensor.dim() == static_cast<int64_t>(expected.size());
  for (int64_t axis = 0; same && axis < tensor.dim(); ++axis) { same = expected[axis] == -1 || expected[axis] == tensor.size(axis); }
  TORCH_CHECK_VALUE(same, name, ": expected shape ", expected, " (-1: any), got ", tensor.sizes());
}

template <typename T, typename Bits>
int64_t count_not_finite(const T* values, int64_t count, Bits exponent) {
  int64_t found = 0;
  for (int64_t i = 0; i < count; ++i) found += (std::bit_cast<Bits>(values[i]) & exponent) == exponent;
  return found;
}

// NaN and infinite values of a contiguous CPU tensor of float32 or float64: their exponents are all ones, which compilers compare several
// at a time. at::isfinite writes three tensors on the way and takes longer than most of the kernels that ask.
inline int64_t count_not_finite(const at::Tensor& tensor) {
  if (tensor.scalar_type() == at::kDouble) return count_not_finite(tensor.const_data_ptr<double>(), tensor.numel(), 0x7ff0000000000000u);
  return count_not_finite(tensor.const_data_ptr<float>(), tensor.numel(), 0x7f800000u);
}

}  // namespace md
