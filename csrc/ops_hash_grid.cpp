// Multiresolution hash grid: schemas, checks, allocation, dispatch. The Python face is microdreamer/kernels/hash_grid.py.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <tuple>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>

#include "checks.h"
#include "float_dispatch.h"
#include "hash_grid.h"

namespace md::hash_grid {
namespace {

bool is_aligned(const at::Tensor& tensor, int64_t features) {
  return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % (tensor.element_size() * features) == 0;
}

Inputs checked_inputs(const at::Tensor& points, const at::Tensor& params, at::ArrayRef<double> scales, at::IntArrayRef resolutions,
                      at::IntArrayRef offsets, int64_t features) {
  const at::Device device = points.device();
  check_tensor(points, "points", at::kFloat, device);
  check_shape(points, "points", {-1, 3});
  check_tensor(params, "params", at::kFloat, device);
  const int64_t levels = static_cast<int64_t>(scales.size());
  TORCH_CHECK_VALUE(levels >= 1 && levels <= kMaxLevels, "scales: expected 1 to ", kMaxLevels, " levels, got ", levels);
  TORCH_CHECK_VALUE(static_cast<int64_t>(resolutions.size()) == levels && static_cast<int64_t>(offsets.size()) == levels + 1,
                    "resolutions, offsets: expected ", levels, " and ", levels + 1, " of them, got ", resolutions.size(), " and ",
                    offsets.size());
  TORCH_CHECK_VALUE(features == 1 || features == 2 || features == 4 || features == 8, "features: expected 1, 2, 4 or 8, got ", features);
  Inputs in{};
  in.grid.count = static_cast<int>(levels);
  in.grid.features = static_cast<int>(features);
  TORCH_CHECK_VALUE(offsets[0] == 0, "offsets: expected the first to be 0, got ", offsets[0]);
  for (int64_t l = 0; l < levels; ++l) {
    const int64_t resolution = resolutions[l], entries = offsets[l + 1] - offsets[l];
    constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
    TORCH_CHECK_VALUE(resolution >= 1 && resolution <= kMost && entries >= 1 && entries <= kMost, "level ", l, ": got a resolution of ",
                      resolution, " and ", entries, " entries; expected both from 1 to ", kMost);
    const bool hashed = resolution > 1625 || resolution * resolution * resolution > entries;  // 1625^3 is above 2^31
    TORCH_CHECK_VALUE(!hashed || (entries & (entries - 1)) == 0, "level ", l, ": expected a power of two of hashed entries, got ", entries);
    in.grid.levels[l] = {static_cast<float>(scales[l]), static_cast<uint32_t>(resolution), static_cast<uint32_t>(entries), hashed,
                         offsets[l]};
  }
  check_shape(params, "params", {offsets[levels] * features});
  in.points = points.const_data_ptr<float>();
  in.params = params.const_data_ptr<float>();
  in.count = points.size(0);
  TORCH_CHECK_VALUE(in.count <= std::numeric_limits<int32_t>::max() / kMaxLevels * int64_t{128}, "points: got ", in.count,
                    ": too many for one call; encode fewer at a time");
  TORCH_CHECK_VALUE(is_aligned(params, features), "params: expected memory aligned to an entry of ", features,
                    " floats; call .clone() on the slice");
  return in;
}

// From point number `used` on, points only fill the list up. The CPU leaves them out of the count.
void use(Inputs& in, const std::optional<at::Tensor>& used, const at::Device& device) {
  if (!used) return;
  check_tensor(*used, "used", at::kInt, device);
  check_shape(*used, "used", {});
  if (device.is_cpu()) {
    in.count = std::min<int64_t>(in.count, std::max(used->item<int>(), 0));
  } else {
    in.used = used->const_data_ptr<int>();
  }
}

at::Tensor encode(const at::Tensor& points, const at::Tensor& params, at::ArrayRef<double> scales, at::IntArrayRef resolutions,
                  at::IntArrayRef offsets, int64_t features, bool /*deterministic*/, bool half, const std::optional<at::Tensor>& used) {
  Inputs in = checked_inputs(points, params, scales, resolutions, offsets, features);
  use(in, used, points.device());
  const int64_t width = in.grid.count * features;
  if (points.is_cpu()) {
    const at::Tensor encoding = at::empty({points.size(0), width}, points.options());
    encode_cpu(in, encoding.mutable_data_ptr<float>());
    encoding.slice(0, in.count).zero_();
    return half ? encoding.to(at::kBFloat16) : encoding;
  }
  const at::Tensor encoding = at::empty({in.count, width}, points.options().dtype(half ? at::kBFloat16 : at::kFloat));
#ifdef MD_WITH_CUDA
  const c10::cuda::CUDAGuard guard(points.device());
  C10_CUDA_CHECK(encode_cuda(in, encoding.mutable_data_ptr(), float_type(encoding), c10::cuda::getCurrentCUDAStream()));
#endif
  return encoding;
}

std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& v_encoding, const at::Tensor& points, const at::Tensor& params,
                                            at::ArrayRef<double> scales, at::IntArrayRef resolutions, at::IntArrayRef offsets,
                                            int64_t features, [[maybe_unused]] bool deterministic, const std::optional<at::Tensor>& used,
                                            bool for_points, bool for_params) {
  Inputs in = checked_inputs(points, params, scales, resolutions, offsets, features);
  use(in, used, points.device());
  TORCH_CHECK_VALUE(v_encoding.scalar_type() == at::kFloat || v_encoding.scalar_type() == at::kBFloat16,
                    "v_encoding: expected float32 or bfloat16, got ", v_encoding.scalar_type());
  check_tensor(v_encoding, "v_encoding", v_encoding.scalar_type(), points.device());
  check_shape(v_encoding, "v_encoding", {points.size(0), in.grid.count * features});
  const at::Tensor v_points = for_points ? at::empty_like(points) : at::empty({0}, points.options());
  const at::Tensor v_params = for_params ? at::zeros_like(params) : at::empty({0}, params.options());
  if (points.is_cpu()) {
    const at::Tensor floats = v_encoding.to(at::kFloat);
    const float* v = floats.const_data_ptr<float>();
    if (for_points) {
      points_gradient_cpu(in, v, v_points.mutable_data_ptr<float>());
      v_points.slice(0, in.count).zero_();
    }
    if (for_params) params_gradient_cpu(in, v, v_params.mutable_data_ptr<float>());
  }
#ifdef MD_WITH_CUDA
  else {
    const at::Tensor aligned = is_aligned(v_encoding, features) ? v_encoding : v_encoding.clone();
    const void* v = aligned.const_data_ptr();
    const FloatType type = float_type(aligned);
    const c10::cuda::CUDAGuard guard(points.device());
    const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
    if (for_points) C10_CUDA_CHECK(points_gradient_cuda(in, v, type, v_points.mutable_data_ptr<float>(), stream));
    if (for_params) {
      const int64_t bytes = deterministic ? static_cast<int64_t>(params_gradient_workspace_bytes(params.numel())) : 0;
      const at::Tensor workspace = at::empty({bytes}, points.options().dtype(at::kByte));
      C10_CUDA_CHECK(params_gradient_cuda(in, v, type, v_params.mutable_data_ptr<float>(), params.numel(), deterministic,
                                          workspace.mutable_data_ptr(), stream));
    }
  }
#endif
  return {v_points, v_params};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(microdreamer, m) {
  // scales, resolutions: one a level; offsets: the first entry of each level, and the number of all entries.
  m.def(
      "hash_grid_encode(Tensor points, Tensor params, float[] scales, int[] resolutions, int[] offsets, int features, bool deterministic, "
      "bool half, Tensor? used) -> Tensor");
  m.def(
      "hash_grid_encode_bwd(Tensor v_encoding, Tensor points, Tensor params, float[] scales, int[] resolutions, int[] offsets, int "
      "features, "
      "bool deterministic, Tensor? used, bool for_points, bool for_params) -> (Tensor v_points, Tensor v_params)");
}

TORCH_LIBRARY_IMPL(microdreamer, CPU, m) {
  m.impl("hash_grid_encode", &encode);
  m.impl("hash_grid_encode_bwd", &backward);
}

#ifdef MD_WITH_CUDA
TORCH_LIBRARY_IMPL(microdreamer, CUDA, m) {
  m.impl("hash_grid_encode", &encode);
  m.impl("hash_grid_encode_bwd", &backward);
}
#endif

}  // namespace md::hash_grid
