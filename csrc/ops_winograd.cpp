// Ops winograd_input, winograd_output: schemas, argument checks, CPU and CUDA.
#include <tuple>

#include <ATen/ops/empty.h>

#include "checks.h"
#include "float_dispatch.h"
#include "winograd.h"

namespace md::winograd {
namespace {

using MaybeTensor = std::optional<at::Tensor>;

struct InputArguments {
  Shape shape;
  Norm norm;
};

InputArguments check_input(const at::Tensor& x, int64_t height, bool enlarged, const MaybeTensor& moments, const MaybeTensor& weight,
                           const MaybeTensor& bias, double eps, bool silu) {
  check_float_type(x, "x");
  check_tensor(x, "x", x.scalar_type(), x.device());
  check_shape(x, "x", {-1, -1, -1});
  TORCH_CHECK_VALUE(height >= 1 && x.size(1) % height == 0, "height: expected a divisor of the ", x.size(1), " pixels, got ", height);
  const int64_t width = x.size(1) / height, channels = x.size(2), scale = enlarged ? 2 : 1;
  TORCH_CHECK_VALUE(enlarged || (height % 2 == 0 && width % 2 == 0), "x: expected an even number of rows and columns, got ", height, "x",
                    width);
  TORCH_CHECK_VALUE(channels >= 1, "x: expected channels, got none");
  InputArguments to{{x.size(0), static_cast<int>(scale * height), static_cast<int>(scale * width), static_cast<int>(channels),
                     enlarged ? kPlacesEnlarged : kPlaces},
                    {nullptr, nullptr, nullptr, 0, static_cast<float>(eps), silu}};
  if (!moments) return to;
  TORCH_CHECK_VALUE(!enlarged, "moments: a picture that is enlarged is not normalised");
  TORCH_CHECK_VALUE(weight && bias, "weight, bias: expected with moments");
  check_tensor(*moments, "moments", at::kFloat, x.device());
  check_shape(*moments, "moments", {x.size(0), moment_slices(x.size(1)), -1, kMoments});
  const int64_t groups = moments->size(2);
  TORCH_CHECK_VALUE(groups >= 1 && channels % groups == 0, "moments: expected a number of groups that divides the ", channels,
                    " channels, got ", groups);
  TORCH_CHECK_VALUE(eps > 0.0, "eps: expected more than 0, got ", eps);
  for (const auto& [tensor, name] : {std::pair{&*weight, "weight"}, std::pair{&*bias, "bias"}}) {
    check_tensor(*tensor, name, x.scalar_type(), x.device());
    check_shape(*tensor, name, {channels});
  }
  to.norm.moments = moments->const_data_ptr<float>();
  to.norm.weight = weight->const_data_ptr();
  to.norm.bias = bias->const_data_ptr();
  to.norm.groups = static_cast<int>(groups);
  return to;
}

at::Tensor empty_planes(const at::Tensor& x, const Shape& shape) {
  return at::empty({shape.sides * shape.sides, shape.tiles(), shape.channels}, x.options());
}

struct OutputArguments {
  Shape shape;
  Output output;
  at::Tensor pictures, moments;
};

OutputArguments check_output(const at::Tensor& products, int64_t samples, int64_t height, const at::Tensor& offset,
                             const MaybeTensor& residual, int64_t groups) {
  check_float_type(products, "products");
  check_tensor(products, "products", products.scalar_type(), products.device());
  check_shape(products, "products", {-1, -1, -1});
  const int64_t planes = products.size(0), tiles = products.size(1), channels = products.size(2);
  TORCH_CHECK_VALUE(planes == kPlaces * kPlaces || planes == kPlacesEnlarged * kPlacesEnlarged, "products: expected 16 planes, or 9, got ",
                    planes);
  TORCH_CHECK_VALUE(samples >= 1 && tiles % samples == 0, "samples: expected a divisor of the ", tiles, " tiles, got ", samples);
  TORCH_CHECK_VALUE(height >= 2 && height % 2 == 0 && tiles / samples % (height / 2) == 0,
                    "height: expected an even number whose half divides the ", tiles / samples, " tiles of a sample, got ", height);
  TORCH_CHECK_VALUE(channels >= 1, "products: expected channels, got none");
  TORCH_CHECK_VALUE(groups == 0 || (groups > 0 && channels % groups == 0), "groups: expected 0 or a divisor of the ", channels,
                    " channels, got ", groups);
  const int64_t width = 2 * (tiles / samples / (height / 2));
  OutputArguments to;
  to.shape = {samples, static_cast<int>(height), static_cast<int>(width), static_cast<int>(channels),
              planes == 16 ? kPlaces : kPlacesEnlarged};
  to.pictures = at::empty({samples, height * width, channels}, products.options());
  to.moments = at::empty({samples, moment_slices(height * width), groups, kMoments}, products.options().dtype(at::kFloat));
  to.output.offset_stride = check_offset(offset, to.pictures, true);
  if (residual) {
    check_tensor(*residual, "residual", products.scalar_type(), products.device());
    check_shape(*residual, "residual", to.pictures.sizes());
  }
  to.output.offset = offset.const_data_ptr();
  to.output.residual = residual ? residual->const_data_ptr() : nullptr;
  to.output.pictures = to.pictures.mutable_data_ptr();
  to.output.moments = to.moments.mutable_data_ptr<float>();
  to.output.groups = static_cast<int>(groups);
  return to;
}

at::Tensor winograd_input_on_cpu(const at::Tensor& x, int64_t height, bool enlarged, const MaybeTensor& moments, const MaybeTensor& weight,
                                 const MaybeTensor& bias, double eps, bool silu) {
  const InputArguments of = check_input(x, height, enlarged, moments, weight, bias, eps, silu);
  at::Tensor planes = empty_planes(x, of.shape);
  dispatch_float_types(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    input_cpu(x.const_data_ptr<T>(), of.norm, planes.mutable_data_ptr<T>(), of.shape);
  });
  return planes;
}

std::tuple<at::Tensor, at::Tensor> winograd_output_on_cpu(const at::Tensor& products, int64_t samples, int64_t height,
                                                          const at::Tensor& offset, const MaybeTensor& residual, int64_t groups) {
  const OutputArguments to = check_output(products, samples, height, offset, residual, groups);
  dispatch_float_types(products.scalar_type(),
                       [&](auto zero) { output_cpu(products.const_data_ptr<decltype(zero)>(), to.output, to.shape); });
  return {to.pictures, to.moments};
}

#ifdef MD_WITH_CUDA
at::Tensor winograd_input_on_cuda(const at::Tensor& x, int64_t height, bool enlarged, const MaybeTensor& moments, const MaybeTensor& weight,
                                  const MaybeTensor& bias, double eps, bool silu) {
  const InputArguments of = check_input(x, height, enlarged, moments, weight, bias, eps, silu);
  check_vectors(x, "x", of.shape.channels);
  TORCH_CHECK_VALUE(of.shape.samples <= 65535, "x: expected at most 65535 samples, got ", of.shape.samples);
  if (moments) {
    check_vectors(*weight, "weight", of.shape.channels);
    check_vectors(*bias, "bias", of.shape.channels);
  }
  const c10::cuda::CUDAGuard guard(x.device());
  at::Tensor planes = empty_planes(x, of.shape);
  C10_CUDA_CHECK(
      input_cuda(x.const_data_ptr(), of.norm, planes.mutable_data_ptr(), of.shape, float_type(x), c10::cuda::getCurrentCUDAStream()));
  return planes;
}

std::tuple<at::Tensor, at::Tensor> winograd_output_on_cuda(const at::Tensor& products, int64_t samples, int64_t height,
                                                           const at::Tensor& offset, const MaybeTensor& residual, int64_t groups) {
  const c10::cuda::CUDAGuard guard(products.device());
  const OutputArguments to = check_output(products, samples, height, offset, residual, groups);
  check_vectors(products, "products", to.shape.channels);
  check_vectors(offset, "offset", to.shape.channels);
  check_vectors(offset, "offset", to.output.offset_stride);
  if (residual) check_vectors(*residual, "residual", to.shape.channels);
  TORCH_CHECK_VALUE(to.shape.channels <= kMostChannels, "products: expected at most ", kMostChannels, " channels, got ", to.shape.channels);
  TORCH_CHECK_VALUE(samples <= 65535, "samples: expected at most 65535, got ", samples);
  C10_CUDA_CHECK(output_cuda(products.const_data_ptr(), to.output, to.shape, float_type(products), c10::cuda::getCurrentCUDAStream()));
  return {to.pictures, to.moments};
}
#endif

}  // namespace
}  // namespace md::winograd

TORCH_LIBRARY_FRAGMENT(microdreamer, m) {
  m.def(
      "winograd_input(Tensor x, int height, bool enlarged, Tensor? moments=None, Tensor? weight=None, Tensor? bias=None, float eps=1e-5, "
      "bool silu=False) -> Tensor");
  m.def(
      "winograd_output(Tensor products, int samples, int height, Tensor offset, Tensor? residual=None, int groups=0) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(microdreamer, CPU, m) {
  m.impl("winograd_input", &md::winograd::winograd_input_on_cpu);
  m.impl("winograd_output", &md::winograd::winograd_output_on_cpu);
}

#ifdef MD_WITH_CUDA
TORCH_LIBRARY_IMPL(microdreamer, CUDA, m) {
  m.impl("winograd_input", &md::winograd::winograd_input_on_cuda);
  m.impl("winograd_output", &md::winograd::winograd_output_on_cuda);
}
#endif
