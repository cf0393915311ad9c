// Signed distances on a grid: schema, checks, allocation, dispatch. The Python face is microdreamer/kernels/solid_grid.py.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/DeviceGuard.h>

#include "checks.h"
#include "solid_grid.h"

namespace md::solid_grid {
namespace {

at::Tensor signed_squared_distance(const at::Tensor& inside) {
  check_tensor(inside, "inside", at::kBool, inside.device());
  check_shape(inside, "inside", {-1, -1, -1});
  Grid grid{};
  for (int axis = 0; axis < 3; ++axis) {
    TORCH_CHECK_VALUE(inside.size(axis) >= 1 && inside.size(axis) <= kLongestSide, "inside: expected sides of 1 to ", kLongestSide,
                      ", got ", inside.sizes());
    grid.sides[axis] = static_cast<int>(inside.size(axis));
  }
  const c10::DeviceGuard guard(inside.device());
  const at::Tensor one = at::empty(inside.sizes(), inside.options().dtype(at::kInt)), other = at::empty_like(one);
  const bool* values = inside.const_data_ptr<bool>();
  int32_t *first = one.mutable_data_ptr<int32_t>(), *second = other.mutable_data_ptr<int32_t>();
  if (inside.is_cpu()) {
    lines_cpu(grid, values, first);
    spread_cpu(grid, 1, first, second);
    spread_cpu(grid, 0, second, first);
  }
#ifdef MD_WITH_CUDA
  else {
    const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
    C10_CUDA_CHECK(lines_cuda(grid, values, first, stream));
    C10_CUDA_CHECK(spread_cuda(grid, 1, first, second, stream));
    C10_CUDA_CHECK(spread_cuda(grid, 0, second, first, stream));
  }
#endif
  return one;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(microdreamer, m) { m.def("signed_squared_distance(Tensor inside) -> Tensor"); }

TORCH_LIBRARY_IMPL(microdreamer, CPU, m) { m.impl("signed_squared_distance", &signed_squared_distance); }

#ifdef MD_WITH_CUDA
TORCH_LIBRARY_IMPL(microdreamer, CUDA, m) { m.impl("signed_squared_distance", &signed_squared_distance); }
#endif

}  // namespace md::solid_grid
