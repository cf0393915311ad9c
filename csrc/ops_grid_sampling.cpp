// Features of points from grids of texels: schemas, checks, allocation, dispatch. The Python face is microdreamer/kernels/grid_sampling.py.
#include <limits>
#include <tuple>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>

#include "checks.h"
#include "grid_sampling.h"

namespace md::grid_sampling {
namespace {

Inputs checked_inputs(const at::Tensor& points, const at::Tensor& grids, at::IntArrayRef axes) {
  check_tensor(points, "points", at::kFloat, points.device());
  check_shape(points, "points", {-1, -1, 3});
  check_tensor(grids, "grids", at::kFloat, points.device());
  TORCH_CHECK_VALUE(grids.dim() == 5 || grids.dim() == 6, "grids: expected shape [B,G,H,W,C] or [B,G,D,H,W,C], got ", grids.sizes());
  Inputs in{};
  Layout& layout = in.layout;
  layout.dims = static_cast<int>(grids.dim()) - 3;
  TORCH_CHECK_VALUE(grids.size(0) == points.size(0), "grids: expected a batch of ", points.size(0), " like points, got ", grids.size(0));
  TORCH_CHECK_VALUE(grids.size(1) >= 1 && grids.size(1) <= kMaxGrids, "grids: expected 1 to ", kMaxGrids, " for each of the batch, got ",
                    grids.size(1));
  layout.grids = static_cast<int>(grids.size(1));
  layout.texels = 1;
  for (int d = 0; d < layout.dims; ++d) {
    const int64_t size = grids.size(layout.dims + 1 - d);
    TORCH_CHECK_VALUE(size >= 1 && size <= kMaxSize, "grids: expected 1 to ", kMaxSize, " texels along an axis, got ", size);
    layout.size[d] = static_cast<int>(size);
    layout.texels *= size;
  }
  TORCH_CHECK_VALUE(layout.texels <= std::numeric_limits<int32_t>::max(), "grids: expected less than 2^31 texels in each, got ",
                    layout.texels);
  const int64_t channels = grids.size(-1);
  TORCH_CHECK_VALUE(channels >= 1 && channels <= kMaxSize, "grids: expected 1 to ", kMaxSize, " channels, got ", channels);
  layout.channels = static_cast<int>(channels);
  TORCH_CHECK_VALUE(static_cast<int>(axes.size()) == layout.grids * layout.dims, "axes: expected ", layout.dims, " for each of ",
                    layout.grids, " grids, got ", axes.size());
  for (int i = 0; i < layout.grids * layout.dims; ++i) {
    TORCH_CHECK_VALUE(axes[i] >= 0 && axes[i] < kDims, "axes: expected 0, 1 or 2, got ", axes[i]);
    layout.axes[i / layout.dims][i % layout.dims] = static_cast<int>(axes[i]);
  }
  in.points = points.const_data_ptr<float>();
  in.grids = grids.const_data_ptr<float>();
  in.batch = points.size(0);
  in.count = points.size(1);
  TORCH_CHECK_VALUE(in.batch < (1 << 16), "points: expected a batch below 65536, got ", in.batch);  // of a CUDA grid's third axis
  TORCH_CHECK_VALUE(in.count <= std::numeric_limits<int32_t>::max(), "points: got ", in.count, ": too many for one call");
  return in;
}

at::Tensor sample(const at::Tensor& points, const at::Tensor& grids, at::IntArrayRef axes, bool /*deterministic*/) {
  const Inputs in = checked_inputs(points, grids, axes);
  at::Tensor features = at::empty({in.batch, in.count, int64_t{in.layout.grids} * in.layout.channels}, points.options());
  if (points.is_cpu()) {
    sample_cpu(in, features.mutable_data_ptr<float>());
  }
#ifdef MD_WITH_CUDA
  else {
    const c10::cuda::CUDAGuard guard(points.device());
    C10_CUDA_CHECK(sample_cuda(in, features.mutable_data_ptr<float>(), c10::cuda::getCurrentCUDAStream()));
  }
#endif
  return features;
}

std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& v_features, const at::Tensor& points, const at::Tensor& grids,
                                            at::IntArrayRef axes, [[maybe_unused]] bool deterministic, bool for_points, bool for_grids) {
  const Inputs in = checked_inputs(points, grids, axes);
  check_tensor(v_features, "v_features", at::kFloat, points.device());
  check_shape(v_features, "v_features", {in.batch, in.count, int64_t{in.layout.grids} * in.layout.channels});
  const float* v = v_features.const_data_ptr<float>();
  const at::Tensor v_points = for_points ? at::empty_like(points) : at::empty({0}, points.options());
  const at::Tensor v_grids = for_grids ? at::zeros_like(grids) : at::empty({0}, grids.options());
  if (points.is_cpu()) {
    if (for_points) points_gradient_cpu(in, v, v_points.mutable_data_ptr<float>());
    if (for_grids) grids_gradient_cpu(in, v, v_grids.mutable_data_ptr<float>());
  }
#ifdef MD_WITH_CUDA
  else {
    const c10::cuda::CUDAGuard guard(points.device());
    const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
    if (for_points) C10_CUDA_CHECK(points_gradient_cuda(in, v, v_points.mutable_data_ptr<float>(), stream));
    if (for_grids) {
      const int64_t bytes = deterministic ? static_cast<int64_t>(grids_gradient_workspace_bytes(grids.numel())) : 0;
      const at::Tensor workspace = at::empty({bytes}, points.options().dtype(at::kByte));
      C10_CUDA_CHECK(grids_gradient_cuda(in, v, v_grids.mutable_data_ptr<float>(), grids.numel(), deterministic,
                                         workspace.mutable_data_ptr(), stream));
    }
  }
#endif
  return {v_points, v_grids};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(microdreamer, m) {
  // axes: which coordinate of a point runs along width, height and, of voxels, depth, grid after grid.
  m.def("sample_grids(Tensor points, Tensor grids, int[] axes, bool deterministic) -> Tensor");
  m.def(
      "sample_grids_bwd(Tensor v_features, Tensor points, Tensor grids, int[] axes, bool deterministic, bool for_points, bool for_grids) "
      "-> (Tensor v_points, Tensor v_grids)");
}

TORCH_LIBRARY_IMPL(microdreamer, CPU, m) {
  m.impl("sample_grids", &sample);
  m.impl("sample_grids_bwd", &backward);
}

#ifdef MD_WITH_CUDA
TORCH_LIBRARY_IMPL(microdreamer, CUDA, m) {
  m.impl("sample_grids", &sample);
  m.impl("sample_grids_bwd", &backward);
}
#endif

}  // namespace md::grid_sampling
