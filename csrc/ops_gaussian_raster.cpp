// Gaussian rasteriser: schemas, checks, allocation, dispatch. The Python face is microdreamer/kernels/gaussian_raster.py.
#include <limits>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "checks.h"
#include "gaussian_raster.h"

namespace md::raster {
namespace {

using OptionalTensor = std::optional<at::Tensor>;
using ForwardResult = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using BackwardResult = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

const float* pointer(const OptionalTensor& tensor) { return tensor ? tensor->const_data_ptr<float>() : nullptr; }

void check_floats(const OptionalTensor& tensor, const char* name, at::IntArrayRef shape, const at::Device& device) {
  if (!tensor) return;
  check_tensor(*tensor, name, at::kFloat, device);
  check_shape(*tensor, name, shape);
}

// For tensors of the CPU: those of a GPU could not be looked at without waiting for it.
void check_finite(const OptionalTensor& tensor, const char* name) {
  if (!tensor) return;
  const int64_t bad = count_not_finite(*tensor);
  TORCH_CHECK_VALUE(bad == 0, name, ": expected finite values, got ", bad, " NaN or infinite of ", tensor->numel(),
                    "; remove or repair them");
}

Inputs checked_inputs(const at::Tensor& means, const at::Tensor& scales, const at::Tensor& rotations, const at::Tensor& opacities,
                      const OptionalTensor& colors, const OptionalTensor& sh, const OptionalTensor& means2d_offset,
                      const at::Tensor& world_to_camera, const at::Tensor& intrinsics, const at::Tensor& background, int64_t width,
                      int64_t height, double scale_modifier, bool normalize_rotations) {
  const at::Device device = means.device();
  TORCH_CHECK_VALUE(colors.has_value() != sh.has_value(), "colors, sh: expected one of the two");
  TORCH_CHECK_VALUE(means.dim() == 2 && world_to_camera.dim() == 3, "means, world_to_camera: expected [N,3] and [V,4,4], got ",
                    means.sizes(), " and ", world_to_camera.sizes());
  const int64_t count = means.size(0), views = world_to_camera.size(0);
  check_floats(means, "means", {count, 3}, device);
  check_floats(scales, "scales", {count, 3}, device);
  check_floats(rotations, "rotations", {count, 4}, device);
  check_floats(opacities, "opacities", {count}, device);
  check_floats(colors, "colors", {count, 3}, device);
  check_floats(sh, "sh", {count, -1, 3}, device);
  check_floats(means2d_offset, "means2d_offset", {views, count, 2}, device);
  check_floats(world_to_camera, "world_to_camera", {views, 4, 4}, device);
  check_floats(intrinsics, "intrinsics", {views, 4}, device);
  check_floats(background, "background", {views, 3}, device);
  const int64_t coefficients = sh ? sh->size(1) : 0;
  TORCH_CHECK_VALUE(!sh || coefficients == 1 || coefficients == 4 || coefficients == 9 || coefficients == 16,
                    "sh: expected 1, 4, 9 or 16 coefficients, got ", coefficients);
  constexpr int64_t kLargestSide = int64_t{kTile} * std::numeric_limits<int16_t>::max();
  TORCH_CHECK_VALUE(width >= 1 && height >= 1 && width <= kLargestSide && height <= kLargestSide, "picture size ", width, "x", height,
                    ": expected 1 to ", kLargestSide, " pixels a side");
  // Tiles and Gaussians of all views are counted in 32 bits; a picture's rows in 64.
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() / 16;
  TORCH_CHECK_VALUE(count * views <= kMost && views * tiles_along(width) * tiles_along(height) <= kMost, "got ", views, " views of ", count,
                    " Gaussians at ", width, "x", height, ": too many for one call; render fewer views at a time");
  Inputs in{};
  in.means = means.const_data_ptr<float>();
  in.scales = scales.const_data_ptr<float>();
  in.rotations = rotations.const_data_ptr<float>();
  in.opacities = opacities.const_data_ptr<float>();
  in.colors = pointer(colors);
  in.sh = pointer(sh);
  in.means2d_offset = pointer(means2d_offset);
  in.world_to_camera = world_to_camera.const_data_ptr<float>();
  in.intrinsics = intrinsics.const_data_ptr<float>();
  in.background = background.const_data_ptr<float>();
  in.gaussians = static_cast<int>(count);
  in.views = static_cast<int>(views);
  in.coefficients = static_cast<int>(coefficients);
  in.width = static_cast<int>(width);
  in.height = static_cast<int>(height);
  in.scale_modifier = static_cast<float>(scale_modifier);
  in.normalizes = normalize_rotations;
  return in;
}

// Sizes of what the op returns for its backward pass: floats of a splat, then the last two of the marks [V, ., .].
std::tuple<int64_t, int64_t, int64_t> state_sizes(int64_t gaussians, int64_t views, int64_t width, int64_t height, bool cuda) {
  if (!cuda) {
    const bool has_marks = has_tiles_met(static_cast<int>(width), static_cast<int>(height));
    return {kSplatFloats, has_marks ? gaussians : 0, has_marks ? 2 : 0};
  }
  const MarksLayout marks =
      marks_layout(static_cast<int>(gaussians), static_cast<int>(views), static_cast<int>(width), static_cast<int>(height));
  return {kSplatFloats, marks.cells, marks.words};
}

std::vector<int64_t> marks_sizes(const Inputs& in, const at::Device& device) {
  const auto [_, rows, words] = state_sizes(in.gaussians, in.views, in.width, in.height, !device.is_cpu());
  return {in.views, rows, words};
}

#ifdef MD_WITH_CUDA
at::Tensor workspace(size_t bytes, const at::Tensor& like) {
  return at::empty({static_cast<int64_t>(bytes)}, like.options().dtype(at::kByte));
}
#endif

ForwardResult forward(const at::Tensor& means, const at::Tensor& scales, const at::Tensor& rotations, const at::Tensor& opacities,
                      const OptionalTensor& colors, const OptionalTensor& sh, const OptionalTensor& means2d_offset,
                      const at::Tensor& world_to_camera, const at::Tensor& intrinsics, const at::Tensor& background, int64_t width,
                      int64_t height, double scale_modifier, bool /*deterministic*/, bool normalize_rotations) {
  const Inputs in = checked_inputs(means, scales, rotations, opacities, colors, sh, means2d_offset, world_to_camera, intrinsics, background,
                                   width, height, scale_modifier, normalize_rotations);
  const auto floats = means.options();
  const auto integers = floats.dtype(at::kInt);
  const int64_t views = in.views, count = in.gaussians;
  at::Tensor image = at::empty({views, 3, height, width}, floats), alpha = at::empty({views, 1, height, width}, floats);
  at::Tensor depth = at::empty({views, 1, height, width}, floats), radii = at::empty({views, count}, integers);
  at::Tensor splats = at::empty({views, count, kSplatFloats}, floats), order = at::empty({views, count}, integers);
  at::Tensor marks = at::empty(marks_sizes(in, means.device()), integers);
  const State state{reinterpret_cast<Splat*>(splats.mutable_data_ptr<float>()), radii.mutable_data_ptr<int>(),
                    order.mutable_data_ptr<int>(), reinterpret_cast<uint32_t*>(marks.mutable_data_ptr<int>())};
  const Images images{image.mutable_data_ptr<float>(), alpha.mutable_data_ptr<float>(), depth.mutable_data_ptr<float>()};
  if (means.is_cpu()) {
    const std::pair<const char*, OptionalTensor> named[] = {{"means", means},
                                                            {"scales", scales},
                                                            {"rotations", rotations},
                                                            {"opacities", opacities},
                                                            {"colors", colors},
                                                            {"sh", sh},
                                                            {"means2d_offset", means2d_offset},
                                                            {"world_to_camera", world_to_camera},
                                                            {"intrinsics", intrinsics},
                                                            {"background", background}};
    for (const auto& [name, tensor] : named) check_finite(tensor, name);
    forward_cpu(in, state, images);
  }
#ifdef MD_WITH_CUDA
  else {
    const c10::cuda::CUDAGuard guard(means.device());
    const size_t bytes = forward_workspace_bytes(in);
    const at::Tensor scratch = workspace(bytes, means);
    C10_CUDA_CHECK(forward_cuda(in, state, images, scratch.mutable_data_ptr(), bytes, c10::cuda::getCurrentCUDAStream()));
  }
#endif
  return {image, alpha, depth, radii, splats, order, marks};
}

BackwardResult backward(const OptionalTensor& v_image, const OptionalTensor& v_alpha, const OptionalTensor& v_depth,
                        const at::Tensor& image, const at::Tensor& alpha, const at::Tensor& depth, const at::Tensor& radii,
                        const at::Tensor& splats, const at::Tensor& order, const at::Tensor& marks, const at::Tensor& means,
                        const at::Tensor& scales, const at::Tensor& rotations, const at::Tensor& opacities, const OptionalTensor& colors,
                        const OptionalTensor& sh, const OptionalTensor& means2d_offset, const at::Tensor& world_to_camera,
                        const at::Tensor& intrinsics, const at::Tensor& background, int64_t width, int64_t height, double scale_modifier,
                        [[maybe_unused]] bool deterministic, bool normalize_rotations) {
  const Inputs in = checked_inputs(means, scales, rotations, opacities, colors, sh, means2d_offset, world_to_camera, intrinsics, background,
                                   width, height, scale_modifier, normalize_rotations);
  const at::Device device = means.device();
  const int64_t views = in.views, count = in.gaussians;
  check_floats(v_image, "v_image", {views, 3, height, width}, device);
  check_floats(v_alpha, "v_alpha", {views, 1, height, width}, device);
  check_floats(v_depth, "v_depth", {views, 1, height, width}, device);
  check_floats(image, "image", {views, 3, height, width}, device);
  check_floats(alpha, "alpha", {views, 1, height, width}, device);
  check_floats(depth, "depth", {views, 1, height, width}, device);
  check_floats(splats, "splats", {views, count, kSplatFloats}, device);
  check_tensor(radii, "radii", at::kInt, device);
  check_shape(radii, "radii", {views, count});
  check_tensor(order, "order", at::kInt, device);
  check_shape(order, "order", {views, count});
  check_tensor(marks, "marks", at::kInt, device);
  check_shape(marks, "marks", marks_sizes(in, device));

  const at::Tensor v_means = at::empty_like(means), v_scales = at::empty_like(scales), v_rotations = at::empty_like(rotations);
  const at::Tensor v_opacities = at::empty_like(opacities), v_appearance = at::empty_like(colors ? *colors : *sh);
  const at::Tensor v_offset = means2d_offset ? at::empty_like(*means2d_offset) : at::empty({0}, means.options());
  const State state{reinterpret_cast<Splat*>(const_cast<float*>(splats.const_data_ptr<float>())),
                    const_cast<int*>(radii.const_data_ptr<int>()), const_cast<int*>(order.const_data_ptr<int>()),
                    reinterpret_cast<uint32_t*>(const_cast<int*>(marks.const_data_ptr<int>()))};
  const Images images{const_cast<float*>(image.const_data_ptr<float>()), const_cast<float*>(alpha.const_data_ptr<float>()),
                      const_cast<float*>(depth.const_data_ptr<float>())};
  const ImageGradients v_images{pointer(v_image), pointer(v_alpha), pointer(v_depth)};
  const InputGradients out{v_means.mutable_data_ptr<float>(),      v_scales.mutable_data_ptr<float>(),
                           v_rotations.mutable_data_ptr<float>(),  v_opacities.mutable_data_ptr<float>(),
                           v_appearance.mutable_data_ptr<float>(), means2d_offset ? v_offset.mutable_data_ptr<float>() : nullptr};
  if (means.is_cpu()) {
    backward_cpu(in, state, images, v_images, out);
  }
#ifdef MD_WITH_CUDA
  else {
    const c10::cuda::CUDAGuard guard(device);
    const at::Tensor scratch = workspace(backward_workspace_bytes(in, deterministic), means);
    C10_CUDA_CHECK(
        backward_cuda(in, state, images, v_images, out, deterministic, scratch.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream()));
  }
#endif
  return {v_means, v_scales, v_rotations, v_opacities, v_appearance, v_offset};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(microdreamer, m) {
  m.def("rasterize_gaussians_sizes(int gaussians, int views, int width, int height, bool cuda) -> (int splat_floats, int cells, int words)",
        &state_sizes);
  // Its gradient for autograd is in gradient_gaussian_raster.cpp. After the pictures and radii comes the state that the backward pass
  // reads: splats [V,N,splat_floats], order [V,N] and marks [V,cells,words] (on the CPU a cell is a Gaussian).
  m.def(
      "rasterize_gaussians(Tensor means, Tensor scales, Tensor rotations, Tensor opacities, Tensor? colors, Tensor? sh, "
      "Tensor? means2d_offset, Tensor world_to_camera, Tensor intrinsics, Tensor background, int width, int height, "
      "float scale_modifier, bool deterministic, bool normalize_rotations=False) "
      "-> (Tensor image, Tensor alpha, Tensor depth, Tensor radii, Tensor splats, Tensor order, Tensor marks)");
  m.def(
      "rasterize_gaussians_bwd(Tensor? v_image, Tensor? v_alpha, Tensor? v_depth, Tensor image, Tensor alpha, Tensor depth, Tensor radii, "
      "Tensor splats, Tensor order, Tensor marks, Tensor means, Tensor scales, Tensor rotations, Tensor opacities, Tensor? colors, Tensor? "
      "sh, "
      "Tensor? means2d_offset, Tensor world_to_camera, Tensor intrinsics, Tensor background, int width, int height, "
      "float scale_modifier, bool deterministic, bool normalize_rotations=False) "
      "-> (Tensor v_means, Tensor v_scales, Tensor v_rotations, Tensor v_opacities, Tensor v_appearance, Tensor v_means2d_offset)");
}

TORCH_LIBRARY_IMPL(microdreamer, CPU, m) {
  m.impl("rasterize_gaussians", &forward);
  m.impl("rasterize_gaussians_bwd", &backward);
}

#ifdef MD_WITH_CUDA
TORCH_LIBRARY_IMPL(microdreamer, CUDA, m) {
  m.impl("rasterize_gaussians", &forward);
  m.impl("rasterize_gaussians_bwd", &backward);
}
#endif

}  // namespace md::raster
