// Op course_extract_fields: the density grid by a named step of the course, right or wrong. Nothing of the library calls it.
#include <ATen/ops/empty.h>

#include <stdexcept>

#include "course/field_steps.h"
#include "course/variant_names.h"
#include "gaussian_field_arguments.h"

namespace md::course {
namespace {

constexpr std::pair<const char*, Variant> kVariants[] = {
    {"brute_force", Variant::kBruteForce}, {"prepared", Variant::kPrepared},          {"shared", Variant::kShared},
    {"culled", Variant::kCulled},          {"wrong_grid", Variant::kWrongGrid},       {"wrong_input", Variant::kWrongInput},
    {"wrong_bound", Variant::kWrongBound}, {"wrong_barrier", Variant::kWrongBarrier},
};

at::Tensor prepared_scratch(const FieldParams& params, const at::Tensor& means) {
  return at::empty({scratch_bytes(params)}, means.options().dtype(at::kByte));
}

at::Tensor extract_fields_on_cpu(const at::Tensor& means, const at::Tensor& covs, const at::Tensor& opacities, int64_t resolution,
                                 int64_t num_blocks, double relax_ratio, std::string_view name) {
  const Variant variant = variant_of(kVariants, name);
  FieldParams params = field_params(means, covs, opacities, resolution, num_blocks, relax_ratio);
  check_finite_field_arguments(means, covs, opacities);
  at::Tensor field = at::empty({resolution, resolution, resolution}, means.options());
  at::Tensor scratch = prepared_scratch(params, means);
  params.field = field.mutable_data_ptr<float>();
  try {
    extract_fields_cpu(params, variant, static_cast<Prepared*>(scratch.mutable_data_ptr()));
  } catch (const std::out_of_range& error) { TORCH_CHECK_INDEX(false, name, ": ", error.what()); }
  return field;
}

#ifdef MD_WITH_CUDA
at::Tensor extract_fields_on_cuda(const at::Tensor& means, const at::Tensor& covs, const at::Tensor& opacities, int64_t resolution,
                                  int64_t num_blocks, double relax_ratio, std::string_view name) {
  const Variant variant = variant_of(kVariants, name);
  FieldParams params = field_params(means, covs, opacities, resolution, num_blocks, relax_ratio);
  // PyTorch gives out memory in pieces of 512 bytes. A write beyond the field that stays in its last piece harms nobody.
  const auto in_pieces = [&](int64_t floats) { return (voxels_of(params.grid) + floats - 1) / floats * floats; };
  TORCH_CHECK_VALUE(variant != Variant::kWrongBound || in_pieces(kThreads) == in_pieces(128),
                    "wrong_bound would write into memory of others at this resolution; take 9");
  const c10::cuda::CUDAGuard guard(means.device());
  at::Tensor field = at::empty({resolution, resolution, resolution}, means.options());
  at::Tensor scratch = prepared_scratch(params, means);
  params.field = field.mutable_data_ptr<float>();
  C10_CUDA_CHECK(
      extract_fields_cuda(params, variant, static_cast<Prepared*>(scratch.mutable_data_ptr()), c10::cuda::getCurrentCUDAStream()));
  return field;
}
#endif

}  // namespace
}  // namespace md::course

TORCH_LIBRARY_FRAGMENT(microdreamer, m) {
  m.def(
      "course_extract_fields(Tensor means, Tensor covs, Tensor opacities, int resolution, int num_blocks, float relax_ratio, "
      "str variant) -> Tensor");
}

TORCH_LIBRARY_IMPL(microdreamer, CPU, m) { m.impl("course_extract_fields", &md::course::extract_fields_on_cpu); }

#ifdef MD_WITH_CUDA
TORCH_LIBRARY_IMPL(microdreamer, CUDA, m) { m.impl("course_extract_fields", &md::course::extract_fields_on_cuda); }
#endif
