// Backward passes have no derivative of their own, unless their module in microdreamer/kernels gives them one: to ask for it is an error.
// Without a word about it PyTorch would only warn, and take the gradient for a constant.
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

TORCH_LIBRARY_IMPL(microdreamer, Autograd, m) {
  for (const char* op :
       {"activate_gaussians_bwd", "antialias_mesh_bwd", "gaussian_3d_coeff_bwd", "group_norm_bwd", "interpolate_mesh_bwd",
        "rasterize_gaussians_bwd", "rasterize_mesh_bwd", "reconstruction_loss_bwd", "texture_mips_bwd", "texture_sample_bwd"}) {
    m.impl(op, torch::autograd::autogradNotImplementedFallback());
  }
}
