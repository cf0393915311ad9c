// The arguments of extract_fields and of gaussian_3d_coeff, checked; those of the first as its kernels take them.
#pragma once

#include "checks.h"
#include "gaussian_field.h"

namespace md {

constexpr int64_t kLargestResolution = 1024;

// `field` is left for the caller to allocate.
inline FieldParams field_params(const at::Tensor& means, const at::Tensor& covs, const at::Tensor& opacities, int64_t resolution,
                                int64_t num_blocks, double relax_ratio) {
  check_tensor(means, "means", at::kFloat, means.device());
  check_shape(means, "means", {-1, 3});
  check_tensor(covs, "covs", at::kFloat, means.device());
  check_shape(covs, "covs", {means.size(0), 6});
  check_tensor(opacities, "opacities", at::kFloat, means.device());
  check_shape(opacities, "opacities", {means.size(0)});
  TORCH_CHECK_VALUE(resolution >= 2 && resolution <= kLargestResolution, "resolution: expected 2 to ", kLargestResolution, ", got ",
                    resolution);
  TORCH_CHECK_VALUE(num_blocks >= 1 && resolution % num_blocks == 0, "num_blocks: expected a divisor of the resolution ", resolution,
                    ", got ", num_blocks);
  TORCH_CHECK_VALUE(relax_ratio >= 0.0, "relax_ratio: expected 0 or more, got ", relax_ratio);
  FieldParams params;
  params.means = means.const_data_ptr<float>();
  params.covs = covs.const_data_ptr<float>();
  params.opacities = opacities.const_data_ptr<float>();
  params.field = nullptr;
  params.num_gaussians = means.size(0);
  params.grid.resolution = static_cast<int>(resolution);
  params.grid.num_blocks = static_cast<int>(num_blocks);
  params.grid.margin = static_cast<float>(relax_ratio * 2.0 / static_cast<double>(num_blocks));
  return params;
}

// Of the weights of N pairs: offsets [N,3] and covariances [N,6] of one type.
inline void check_coeff_arguments(const at::Tensor& xyzs, const at::Tensor& covs) {
  TORCH_CHECK_VALUE(xyzs.scalar_type() == at::kFloat || xyzs.scalar_type() == at::kDouble, "xyzs: expected float32 or float64, got ",
                    xyzs.scalar_type());
  check_tensor(xyzs, "xyzs", xyzs.scalar_type(), xyzs.device());
  check_shape(xyzs, "xyzs", {-1, 3});
  check_tensor(covs, "covs", xyzs.scalar_type(), xyzs.device());
  check_shape(covs, "covs", {xyzs.size(0), 6});
}

inline void check_finite(const at::Tensor& tensor, const char* name) {
  TORCH_CHECK_VALUE(count_not_finite(tensor) == 0, name, ": expected finite values, got NaN or infinity");
}

inline void check_finite_field_arguments(const at::Tensor& means, const at::Tensor& covs, const at::Tensor& opacities) {
  check_finite(means, "means");
  check_finite(covs, "covs");
  check_finite(opacities, "opacities");
}

}  // namespace md
