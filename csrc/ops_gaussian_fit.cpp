// Ops activate_gaussians, record_gradients, reconstruction_loss: schemas, argument checks, CPU and CUDA.
#include <optional>
#include <tuple>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "checks.h"
#include "gaussian_fit.h"

namespace md::fit {
namespace {

using MaybeTensor = std::optional<at::Tensor>;
using ThreeTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

void check_floats(const at::Tensor& tensor, const char* name, at::IntArrayRef shape, const at::Tensor& like) {
  check_tensor(tensor, name, at::kFloat, like.device());
  check_shape(tensor, name, shape);
}

// ---- Activations ----

ThreeTensors activate_gaussians(const at::Tensor& log_scales, const at::Tensor& quaternions, const at::Tensor& opacity_logits) {
  check_floats(log_scales, "log_scales", {-1, 3}, log_scales);
  const int64_t count = log_scales.size(0);
  check_floats(quaternions, "quaternions", {count, 4}, log_scales);
  check_floats(opacity_logits, "opacity_logits", {count}, log_scales);
  at::Tensor scales = at::empty_like(log_scales), rotations = at::empty_like(quaternions), opacities = at::empty_like(opacity_logits);
  const Raw in{log_scales.const_data_ptr<float>(), quaternions.const_data_ptr<float>(), opacity_logits.const_data_ptr<float>()};
  const Active out{scales.mutable_data_ptr<float>(), rotations.mutable_data_ptr<float>(), opacities.mutable_data_ptr<float>()};
  if (log_scales.is_cpu()) activate_cpu(in, out, count);
#ifdef MD_WITH_CUDA
  else {
    const c10::cuda::CUDAGuard guard(log_scales.device());
    C10_CUDA_CHECK(activate_cuda(in, out, count, c10::cuda::getCurrentCUDAStream()));
  }
#endif
  return {scales, rotations, opacities};
}

ThreeTensors activate_gaussians_bwd(const at::Tensor& quaternions, const at::Tensor& scales, const at::Tensor& opacities,
                                    const at::Tensor& v_scales, const at::Tensor& v_rotations, const at::Tensor& v_opacities) {
  check_floats(quaternions, "quaternions", {-1, 4}, quaternions);
  const int64_t count = quaternions.size(0);
  check_floats(scales, "scales", {count, 3}, quaternions);
  check_floats(opacities, "opacities", {count}, quaternions);
  check_floats(v_scales, "v_scales", {count, 3}, quaternions);
  check_floats(v_rotations, "v_rotations", {count, 4}, quaternions);
  check_floats(v_opacities, "v_opacities", {count}, quaternions);
  at::Tensor v_log_scales = at::empty_like(scales), v_quaternions = at::empty_like(quaternions), v_logits = at::empty_like(opacities);
  const ActiveGradients in{quaternions.const_data_ptr<float>(), scales.const_data_ptr<float>(),      opacities.const_data_ptr<float>(),
                           v_scales.const_data_ptr<float>(),    v_rotations.const_data_ptr<float>(), v_opacities.const_data_ptr<float>()};
  const RawGradients out{v_log_scales.mutable_data_ptr<float>(), v_quaternions.mutable_data_ptr<float>(),
                         v_logits.mutable_data_ptr<float>()};
  if (quaternions.is_cpu()) activate_backward_cpu(in, out, count);
#ifdef MD_WITH_CUDA
  else {
    const c10::cuda::CUDAGuard guard(quaternions.device());
    C10_CUDA_CHECK(activate_backward_cuda(in, out, count, c10::cuda::getCurrentCUDAStream()));
  }
#endif
  return {v_log_scales, v_quaternions, v_logits};
}

// ---- Statistics ----

void record_gradients(const at::Tensor& radii, const at::Tensor& v_means2d, const at::Tensor& gradient_sum,
                      const at::Tensor& gradient_hits) {
  check_tensor(radii, "radii", at::kInt, radii.device());
  check_shape(radii, "radii", {-1, -1});
  const int64_t views = radii.size(0), count = radii.size(1);
  check_floats(v_means2d, "v_means2d", {views, count, 2}, radii);
  check_floats(gradient_sum, "gradient_sum", {count}, radii);
  check_floats(gradient_hits, "gradient_hits", {count}, radii);
  const Statistics in{radii.const_data_ptr<int>(),
                      v_means2d.const_data_ptr<float>(),
                      gradient_sum.mutable_data_ptr<float>(),
                      gradient_hits.mutable_data_ptr<float>(),
                      count,
                      views};
  if (radii.is_cpu()) record_cpu(in);
#ifdef MD_WITH_CUDA
  else {
    const c10::cuda::CUDAGuard guard(radii.device());
    C10_CUDA_CHECK(record_cuda(in, c10::cuda::getCurrentCUDAStream()));
  }
#endif
}

// ---- Loss ----

Loss checked_loss(const at::Tensor& image, const MaybeTensor& alpha, const at::Tensor& targets, const MaybeTensor& reference,
                  const MaybeTensor& mask, double weight, double reference_weight, double mask_weight) {
  check_floats(image, "image", {-1, 3, -1, -1}, image);
  const int64_t height = image.size(2), width = image.size(3), pixels = height * width;
  check_floats(targets, "targets", {-1, 3, height, width}, image);
  const int64_t views = targets.size(0), others = image.size(0) - views;
  TORCH_CHECK_VALUE(alpha.has_value() == reference.has_value() && alpha.has_value() == mask.has_value(),
                    "alpha, reference, mask: expected all or none of them");
  TORCH_CHECK_VALUE(reference ? others > 0 : others == 0, "image: expected one view for each of ", views,
                    " targets and, with a reference, more of it, got ", image.size(0));
  Loss loss{};
  if (reference) {
    check_floats(*alpha, "alpha", {views + others, 1, height, width}, image);
    check_floats(*reference, "reference", {others, 3, height, width}, image);
    check_floats(*mask, "mask", {others, 1, height, width}, image);
    loss.alpha = alpha->const_data_ptr<float>();
    loss.reference = reference->const_data_ptr<float>();
    loss.mask = mask->const_data_ptr<float>();
  }
  loss.image = image.const_data_ptr<float>();
  loss.targets = targets.const_data_ptr<float>();
  loss.target_pixels = views * pixels;
  loss.reference_pixels = others * pixels;
  loss.weight = static_cast<float>(weight);
  loss.reference_weight = static_cast<float>(reference_weight);
  loss.mask_weight = static_cast<float>(mask_weight);
  return loss;
}

at::Tensor reconstruction_loss(const at::Tensor& image, const MaybeTensor& alpha, const at::Tensor& targets, const MaybeTensor& reference,
                               const MaybeTensor& mask, double weight, double reference_weight, double mask_weight) {
  const Loss in = checked_loss(image, alpha, targets, reference, mask, weight, reference_weight, mask_weight);
  at::Tensor loss = at::empty({}, image.options());
  if (image.is_cpu()) *loss.mutable_data_ptr<float>() = loss_cpu(in);
#ifdef MD_WITH_CUDA
  else {
    const c10::cuda::CUDAGuard guard(image.device());
    const at::Tensor scratch = at::empty({kPartialSums}, image.options());
    C10_CUDA_CHECK(loss_cuda(in, scratch.mutable_data_ptr<float>(), loss.mutable_data_ptr<float>(), c10::cuda::getCurrentCUDAStream()));
  }
#endif
  return loss;
}

// Without a reference v_alpha is empty: the loss does not look at alpha.
std::tuple<at::Tensor, at::Tensor> reconstruction_loss_bwd(const at::Tensor& v_loss, const at::Tensor& image, const MaybeTensor& alpha,
                                                           const at::Tensor& targets, const MaybeTensor& reference, const MaybeTensor& mask,
                                                           double weight, double reference_weight, double mask_weight) {
  const Loss in = checked_loss(image, alpha, targets, reference, mask, weight, reference_weight, mask_weight);
  check_floats(v_loss, "v_loss", {}, image);
  at::Tensor v_image = at::empty_like(image), v_alpha = alpha ? at::empty_like(*alpha) : at::empty({0}, image.options());
  const LossGradients out{v_loss.const_data_ptr<float>(), v_image.mutable_data_ptr<float>(), v_alpha.mutable_data_ptr<float>()};
  if (image.is_cpu()) loss_backward_cpu(in, out);
#ifdef MD_WITH_CUDA
  else {
    const c10::cuda::CUDAGuard guard(image.device());
    C10_CUDA_CHECK(loss_backward_cuda(in, out, c10::cuda::getCurrentCUDAStream()));
  }
#endif
  return {v_image, v_alpha};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(microdreamer, m) {
  m.def(
      "activate_gaussians(Tensor log_scales, Tensor quaternions, Tensor opacity_logits) -> (Tensor scales, Tensor rotations, Tensor "
      "opacities)");
  m.def(
      "activate_gaussians_bwd(Tensor quaternions, Tensor scales, Tensor opacities, Tensor v_scales, Tensor v_rotations, Tensor "
      "v_opacities) "
      "-> (Tensor v_log_scales, Tensor v_quaternions, Tensor v_opacity_logits)");
  m.def("record_gradients(Tensor radii, Tensor v_means2d, Tensor(a!) gradient_sum, Tensor(b!) gradient_hits) -> ()");
  m.def(
      "reconstruction_loss(Tensor image, Tensor? alpha, Tensor targets, Tensor? reference, Tensor? mask, float weight, "
      "float reference_weight, float mask_weight) -> Tensor");
  m.def(
      "reconstruction_loss_bwd(Tensor v_loss, Tensor image, Tensor? alpha, Tensor targets, Tensor? reference, Tensor? mask, float weight, "
      "float reference_weight, float mask_weight) -> (Tensor v_image, Tensor v_alpha)");
}

TORCH_LIBRARY_IMPL(microdreamer, CPU, m) {
  m.impl("activate_gaussians", &activate_gaussians);
  m.impl("activate_gaussians_bwd", &activate_gaussians_bwd);
  m.impl("record_gradients", &record_gradients);
  m.impl("reconstruction_loss", &reconstruction_loss);
  m.impl("reconstruction_loss_bwd", &reconstruction_loss_bwd);
}

#ifdef MD_WITH_CUDA
TORCH_LIBRARY_IMPL(microdreamer, CUDA, m) {
  m.impl("activate_gaussians", &activate_gaussians);
  m.impl("activate_gaussians_bwd", &activate_gaussians_bwd);
  m.impl("record_gradients", &record_gradients);
  m.impl("reconstruction_loss", &reconstruction_loss);
  m.impl("reconstruction_loss_bwd", &reconstruction_loss_bwd);
}
#endif

}  // namespace md::fit
