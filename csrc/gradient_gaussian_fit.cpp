// Ops activate_gaussians and reconstruction_loss: their gradients for autograd.
#include <tuple>

#include "gradients.h"

namespace md::fit {
namespace {

using ThreeTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

// ---- Activations ----

ThreeTensors activate_below(const at::Tensor& log_scales, const at::Tensor& quaternions, const at::Tensor& opacity_logits) {
  at::AutoDispatchBelowADInplaceOrView below;
  static const auto activate =
      find_op<ThreeTensors(const at::Tensor&, const at::Tensor&, const at::Tensor&)>("microdreamer::activate_gaussians");
  return activate.call(log_scales, quaternions, opacity_logits);
}

class Activate : public torch::autograd::Function<Activate> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& log_scales, const at::Tensor& quaternions,
                               const at::Tensor& opacity_logits) {
    const auto [scales, rotations, opacities] = activate_below(log_scales, quaternions, opacity_logits);
    ctx->save_for_backward({quaternions, scales, opacities});
    return {scales, rotations, opacities};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& v) {
    static const auto differentiate = find_op<ThreeTensors(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                                           const at::Tensor&, const at::Tensor&)>("microdreamer::activate_gaussians_bwd");
    const variable_list saved = ctx->get_saved_variables();
    const auto [v_log_scales, v_quaternions, v_logits] =
        differentiate.call(saved[0], saved[1], saved[2], v[0].contiguous(), v[1].contiguous(), v[2].contiguous());
    return {v_log_scales, v_quaternions, v_logits};
  }
};

ThreeTensors activate_differentiably(const at::Tensor& log_scales, const at::Tensor& quaternions, const at::Tensor& opacity_logits) {
  if (!is_differentiated(log_scales, quaternions, opacity_logits)) return activate_below(log_scales, quaternions, opacity_logits);
  const variable_list out = Activate::apply(log_scales, quaternions, opacity_logits);
  return {out[0], out[1], out[2]};
}

// ---- Loss ----

at::Tensor loss_below(const at::Tensor& image, const MaybeTensor& alpha, const at::Tensor& targets, const MaybeTensor& reference,
                      const MaybeTensor& mask, double weight, double reference_weight, double mask_weight) {
  at::AutoDispatchBelowADInplaceOrView below;
  static const auto loss = find_op<at::Tensor(const at::Tensor&, const MaybeTensor&, const at::Tensor&, const MaybeTensor&,
                                              const MaybeTensor&, double, double, double)>("microdreamer::reconstruction_loss");
  return loss.call(image, alpha, targets, reference, mask, weight, reference_weight, mask_weight);
}

class ReconstructionLoss : public torch::autograd::Function<ReconstructionLoss> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& image, const MaybeTensor& alpha, const at::Tensor& targets,
                            const MaybeTensor& reference, const MaybeTensor& mask, double weight, double reference_weight,
                            double mask_weight) {
    const at::Tensor loss = loss_below(image, alpha, targets, reference, mask, weight, reference_weight, mask_weight);
    ctx->save_for_backward({image, or_undefined(alpha), targets, or_undefined(reference), or_undefined(mask)});
    ctx->saved_data["weights"] = std::tuple<double, double, double>(weight, reference_weight, mask_weight);
    return loss;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& v) {
    static const auto differentiate =
        find_op<std::tuple<at::Tensor, at::Tensor>(const at::Tensor&, const at::Tensor&, const MaybeTensor&, const at::Tensor&,
                                                   const MaybeTensor&, const MaybeTensor&, double, double, double)>(
            "microdreamer::reconstruction_loss_bwd");
    const variable_list saved = ctx->get_saved_variables();
    const auto [weight, reference_weight, mask_weight] = ctx->saved_data["weights"].to<std::tuple<double, double, double>>();
    const auto [v_image, v_alpha] = differentiate.call(v[0].contiguous(), saved[0], if_defined(saved[1]), saved[2], if_defined(saved[3]),
                                                       if_defined(saved[4]), weight, reference_weight, mask_weight);
    variable_list grads(8);
    grads[0] = v_image;
    if (saved[1].defined()) grads[1] = v_alpha;
    return grads;
  }
};

at::Tensor loss_differentiably(const at::Tensor& image, const MaybeTensor& alpha, const at::Tensor& targets, const MaybeTensor& reference,
                               const MaybeTensor& mask, double weight, double reference_weight, double mask_weight) {
  return is_differentiated(image, alpha)
             ? ReconstructionLoss::apply(image, alpha, targets, reference, mask, weight, reference_weight, mask_weight)
             : loss_below(image, alpha, targets, reference, mask, weight, reference_weight, mask_weight);
}

}  // namespace

TORCH_LIBRARY_IMPL(microdreamer, Autograd, m) {
  m.impl("activate_gaussians", &activate_differentiably);
  m.impl("reconstruction_loss", &loss_differentiably);
}

}  // namespace md::fit
