// Ops gaussian_3d_coeff, its backward, and extract_fields: schemas, argument checks, CPU and CUDA.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "gaussian_field_arguments.h"

namespace md {
namespace {

void check_weight_gradient(const at::Tensor& xyzs, const at::Tensor& v_weights) {
  check_tensor(v_weights, "v_weights", xyzs.scalar_type(), xyzs.device());
  check_shape(v_weights, "v_weights", {xyzs.size(0)});
}

at::Tensor gaussian_3d_coeff_on_cpu(const at::Tensor& xyzs, const at::Tensor& covs) {
  check_coeff_arguments(xyzs, covs);
  check_finite(xyzs, "xyzs");
  check_finite(covs, "covs");
  at::Tensor weights = at::empty({xyzs.size(0)}, xyzs.options());
  AT_DISPATCH_FLOATING_TYPES(xyzs.scalar_type(), "gaussian_3d_coeff", [&] {
    gaussian_3d_coeff_cpu(xyzs.const_data_ptr<scalar_t>(), covs.const_data_ptr<scalar_t>(), weights.mutable_data_ptr<scalar_t>(),
                          xyzs.size(0));
  });
  return weights;
}

std::tuple<at::Tensor, at::Tensor> gaussian_3d_coeff_backward_on_cpu(const at::Tensor& xyzs, const at::Tensor& covs,
                                                                     const at::Tensor& v_weights) {
  check_coeff_arguments(xyzs, covs);
  check_weight_gradient(xyzs, v_weights);
  at::Tensor v_xyzs = at::empty_like(xyzs), v_covs = at::empty_like(covs);
  AT_DISPATCH_FLOATING_TYPES(xyzs.scalar_type(), "gaussian_3d_coeff_backward", [&] {
    gaussian_3d_coeff_backward_cpu(xyzs.const_data_ptr<scalar_t>(), covs.const_data_ptr<scalar_t>(), v_weights.const_data_ptr<scalar_t>(),
                                   v_xyzs.mutable_data_ptr<scalar_t>(), v_covs.mutable_data_ptr<scalar_t>(), xyzs.size(0));
  });
  return {v_xyzs, v_covs};
}

at::Tensor extract_fields_on_cpu(const at::Tensor& means, const at::Tensor& covs, const at::Tensor& opacities, int64_t resolution,
                                 int64_t num_blocks, double relax_ratio) {
  FieldParams params = field_params(means, covs, opacities, resolution, num_blocks, relax_ratio);
  check_finite_field_arguments(means, covs, opacities);
  at::Tensor field = at::empty({resolution, resolution, resolution}, means.options());
  params.field = field.mutable_data_ptr<float>();
  extract_fields_cpu(params);
  return field;
}

#ifdef MD_WITH_CUDA
at::Tensor gaussian_3d_coeff_on_cuda(const at::Tensor& xyzs, const at::Tensor& covs) {
  check_coeff_arguments(xyzs, covs);
  const c10::cuda::CUDAGuard guard(xyzs.device());
  at::Tensor weights = at::empty({xyzs.size(0)}, xyzs.options());
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(xyzs.scalar_type(), "gaussian_3d_coeff", [&] {
    C10_CUDA_CHECK(gaussian_3d_coeff_cuda(xyzs.const_data_ptr<scalar_t>(), covs.const_data_ptr<scalar_t>(),
                                          weights.mutable_data_ptr<scalar_t>(), xyzs.size(0), stream));
  });
  return weights;
}

std::tuple<at::Tensor, at::Tensor> gaussian_3d_coeff_backward_on_cuda(const at::Tensor& xyzs, const at::Tensor& covs,
                                                                      const at::Tensor& v_weights) {
  check_coeff_arguments(xyzs, covs);
  check_weight_gradient(xyzs, v_weights);
  const c10::cuda::CUDAGuard guard(xyzs.device());
  at::Tensor v_xyzs = at::empty_like(xyzs), v_covs = at::empty_like(covs);
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(xyzs.scalar_type(), "gaussian_3d_coeff_backward", [&] {
    C10_CUDA_CHECK(gaussian_3d_coeff_backward_cuda(xyzs.const_data_ptr<scalar_t>(), covs.const_data_ptr<scalar_t>(),
                                                   v_weights.const_data_ptr<scalar_t>(), v_xyzs.mutable_data_ptr<scalar_t>(),
                                                   v_covs.mutable_data_ptr<scalar_t>(), xyzs.size(0), stream));
  });
  return {v_xyzs, v_covs};
}

at::Tensor extract_fields_on_cuda(const at::Tensor& means, const at::Tensor& covs, const at::Tensor& opacities, int64_t resolution,
                                  int64_t num_blocks, double relax_ratio) {
  FieldParams params = field_params(means, covs, opacities, resolution, num_blocks, relax_ratio);
  const c10::cuda::CUDAGuard guard(means.device());
  at::Tensor field = at::empty({resolution, resolution, resolution}, means.options());
  at::Tensor scratch = at::empty({static_cast<int64_t>(extract_fields_scratch_bytes(params))}, means.options().dtype(at::kByte));
  params.field = field.mutable_data_ptr<float>();
  C10_CUDA_CHECK(extract_fields_cuda(params, scratch.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream()));
  return field;
}
#endif

}  // namespace
}  // namespace md

TORCH_LIBRARY_FRAGMENT(microdreamer, m) {
  m.def("gaussian_3d_coeff(Tensor xyzs, Tensor covs) -> Tensor");
  m.def("gaussian_3d_coeff_bwd(Tensor xyzs, Tensor covs, Tensor v_weights) -> (Tensor, Tensor)");
  m.def("extract_fields(Tensor means, Tensor covs, Tensor opacities, int resolution, int num_blocks, float relax_ratio) -> Tensor");
}

TORCH_LIBRARY_IMPL(microdreamer, CPU, m) {
  m.impl("gaussian_3d_coeff", &md::gaussian_3d_coeff_on_cpu);
  m.impl("gaussian_3d_coeff_bwd", &md::gaussian_3d_coeff_backward_on_cpu);
  m.impl("extract_fields", &md::extract_fields_on_cpu);
}

#ifdef MD_WITH_CUDA
TORCH_LIBRARY_IMPL(microdreamer, CUDA, m) {
  m.impl("gaussian_3d_coeff", &md::gaussian_3d_coeff_on_cuda);
  m.impl("gaussian_3d_coeff_bwd", &md::gaussian_3d_coeff_backward_on_cuda);
  m.impl("extract_fields", &md::extract_fields_on_cuda);
}
#endif
