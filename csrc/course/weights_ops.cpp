// Op course_gaussian_3d_coeff: the weight of a Gaussian by a named step of the course, right or wrong. Nothing of the library calls it.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include "course/variant_names.h"
#include "course/weight_steps.h"
#include "gaussian_field_arguments.h"

namespace md::course {
namespace {

constexpr std::pair<const char*, WeightVariant> kWeightVariants[] = {
    {"naive", WeightVariant::kNaive},
    {"fused", WeightVariant::kFused},
    {"shared", WeightVariant::kShared},
    {"vectorised", WeightVariant::kVectorised},
    {"wrong_launch", WeightVariant::kWrongLaunch},
};

// The weights, still to be computed.
at::Tensor empty_weights(const at::Tensor& xyzs, const at::Tensor& covs) {
  check_coeff_arguments(xyzs, covs);
  return at::empty({xyzs.size(0)}, xyzs.options());
}

template <typename T>
WeightParams<T> weight_params(const at::Tensor& xyzs, const at::Tensor& covs, at::Tensor& weights) {
  return {xyzs.const_data_ptr<T>(), covs.const_data_ptr<T>(), weights.mutable_data_ptr<T>(), xyzs.size(0)};
}

at::Tensor weights_on_cpu(const at::Tensor& xyzs, const at::Tensor& covs, std::string_view name) {
  const WeightVariant variant = variant_of(kWeightVariants, name);
  at::Tensor weights = empty_weights(xyzs, covs);
  AT_DISPATCH_FLOATING_TYPES(xyzs.scalar_type(), "course_gaussian_3d_coeff",
                             [&] { weights_cpu(weight_params<scalar_t>(xyzs, covs, weights), variant); });
  return weights;
}

#ifdef MD_WITH_CUDA
at::Tensor weights_on_cuda(const at::Tensor& xyzs, const at::Tensor& covs, std::string_view name) {
  const WeightVariant variant = variant_of(kWeightVariants, name);
  const c10::cuda::CUDAGuard guard(xyzs.device());
  at::Tensor weights = empty_weights(xyzs, covs);
  AT_DISPATCH_FLOATING_TYPES(xyzs.scalar_type(), "course_gaussian_3d_coeff", [&] {
    C10_CUDA_CHECK(weights_cuda(weight_params<scalar_t>(xyzs, covs, weights), variant, c10::cuda::getCurrentCUDAStream()));
  });
  return weights;
}
#endif

}  // namespace
}  // namespace md::course

TORCH_LIBRARY_FRAGMENT(microdreamer, m) { m.def("course_gaussian_3d_coeff(Tensor xyzs, Tensor covs, str variant) -> Tensor"); }

TORCH_LIBRARY_IMPL(microdreamer, CPU, m) { m.impl("course_gaussian_3d_coeff", &md::course::weights_on_cpu); }

#ifdef MD_WITH_CUDA
TORCH_LIBRARY_IMPL(microdreamer, CUDA, m) { m.impl("course_gaussian_3d_coeff", &md::course::weights_on_cuda); }
#endif
