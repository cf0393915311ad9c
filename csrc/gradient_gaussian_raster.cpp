// Op rasterize_gaussians: its gradient for autograd.
#include <tuple>

#include "gradients.h"

namespace md::raster {
namespace {

using Rendered = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using Render = Rendered(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const MaybeTensor&, const MaybeTensor&,
                        const MaybeTensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, int64_t, int64_t, double, bool, bool);
using Differentiate = Gradients(const MaybeTensor&, const MaybeTensor&, const MaybeTensor&, const at::Tensor&, const at::Tensor&,
                                const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const MaybeTensor&,
                                const MaybeTensor&, const MaybeTensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, int64_t,
                                int64_t, double, bool, bool);

template <class... Arguments>
Rendered render_below(const Arguments&... arguments) {
  at::AutoDispatchBelowADInplaceOrView below;
  static const auto render = find_op<Render>("microdreamer::rasterize_gaussians");
  return render.call(arguments...);
}

class Rasterize : public torch::autograd::Function<Rasterize> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& means, const at::Tensor& scales, const at::Tensor& rotations,
                               const at::Tensor& opacities, const MaybeTensor& colors, const MaybeTensor& sh,
                               const MaybeTensor& means2d_offset, const at::Tensor& world_to_camera, const at::Tensor& intrinsics,
                               const at::Tensor& background, int64_t width, int64_t height, double scale_modifier, bool deterministic,
                               bool normalize_rotations) {
    const auto [image, alpha, depth, radii, splats, order, marks] =
        render_below(means, scales, rotations, opacities, colors, sh, means2d_offset, world_to_camera, intrinsics, background, width,
                     height, scale_modifier, deterministic, normalize_rotations);
    ctx->set_materialize_grads(false);
    ctx->mark_non_differentiable({radii, splats, order, marks});
    ctx->save_for_backward({image, alpha, depth, radii, splats, order, marks, means, scales, rotations, opacities, or_undefined(colors),
                            or_undefined(sh), or_undefined(means2d_offset), world_to_camera, intrinsics, background});
    ctx->saved_data["size"] = std::tuple<int64_t, int64_t>(width, height);
    ctx->saved_data["scale_modifier"] = scale_modifier;
    ctx->saved_data["switches"] = std::tuple<bool, bool>(deterministic, normalize_rotations);
    return {image, alpha, depth, radii, splats, order, marks};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& v) {
    constexpr size_t kInputs = 15, kColors = 4, kSh = 5, kOffset = 6, kBackground = 9;
    variable_list grads(kInputs);
    if (!v[0].defined() && !v[1].defined() && !v[2].defined()) return grads;
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor *state = &saved[0], *given = &saved[7];  // as in save_for_backward
    MaybeTensor v_images[3];
    for (int i = 0; i < 3; ++i) v_images[i] = contiguous_if_defined(v[i]);
    const auto [width, height] = ctx->saved_data["size"].to<std::tuple<int64_t, int64_t>>();
    const auto [deterministic, normalize_rotations] = ctx->saved_data["switches"].to<std::tuple<bool, bool>>();
    static const auto differentiate = find_op<Differentiate>("microdreamer::rasterize_gaussians_bwd");
    at::Tensor v_appearance, v_offset;
    std::tie(grads[0], grads[1], grads[2], grads[3], v_appearance, v_offset) = differentiate.call(
        v_images[0], v_images[1], v_images[2], state[0], state[1], state[2], state[3], state[4], state[5], state[6], given[0], given[1],
        given[2], given[3], if_defined(given[kColors]), if_defined(given[kSh]), if_defined(given[kOffset]), given[7], given[8],
        given[kBackground], width, height, ctx->saved_data["scale_modifier"].toDouble(), deterministic, normalize_rotations);
    grads[given[kSh].defined() ? kSh : kColors] = v_appearance;
    if (given[kOffset].defined()) grads[kOffset] = v_offset;
    // Which of the tensors that were given it is; one of colors and sh always is.
    const size_t background = kBackground - 1 - (given[kOffset].defined() ? 0 : 1);
    if (v_images[0] && ctx->needs_input_grad(background)) grads[kBackground] = v_images[0]->mul(state[1].neg().add(1)).sum({2, 3});
    return grads;
  }
};

Rendered rasterize_differentiably(const at::Tensor& means, const at::Tensor& scales, const at::Tensor& rotations,
                                  const at::Tensor& opacities, const MaybeTensor& colors, const MaybeTensor& sh,
                                  const MaybeTensor& means2d_offset, const at::Tensor& world_to_camera, const at::Tensor& intrinsics,
                                  const at::Tensor& background, int64_t width, int64_t height, double scale_modifier, bool deterministic,
                                  bool normalize_rotations) {
  if (!is_differentiated(means, scales, rotations, opacities, colors, sh, means2d_offset, background)) {
    return render_below(means, scales, rotations, opacities, colors, sh, means2d_offset, world_to_camera, intrinsics, background, width,
                        height, scale_modifier, deterministic, normalize_rotations);
  }
  const variable_list out = Rasterize::apply(means, scales, rotations, opacities, colors, sh, means2d_offset, world_to_camera, intrinsics,
                                             background, width, height, scale_modifier, deterministic, normalize_rotations);
  return {out[0], out[1], out[2], out[3], out[4], out[5], out[6]};
}

}  // namespace

TORCH_LIBRARY_IMPL(microdreamer, Autograd, m) { m.impl("rasterize_gaussians", &rasterize_differentiably); }

}  // namespace md::raster
