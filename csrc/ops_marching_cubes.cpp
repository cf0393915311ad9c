// Marching cubes: schema, checks, allocation, dispatch. The Python face is microdreamer/kernels/marching_cubes.py.
#include <limits>
#include <tuple>

#include <ATen/ops/cumsum.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <c10/core/DeviceGuard.h>

#include "checks.h"
#include "marching_cubes.h"

namespace md::marching_cubes {
namespace {

Grid checked_grid(const at::Tensor& field, const at::Tensor& table) {
  check_tensor(field, "field", at::kFloat, field.device());
  check_shape(field, "field", {-1, -1, -1});
  check_tensor(table, "table", at::kChar, field.device());
  check_shape(table, "table", {256, 3 * kMaxFaces});
  Grid grid{};
  grid.field = field.const_data_ptr<float>();
  for (int axis = 0; axis < 3; ++axis) {
    TORCH_CHECK_VALUE(field.size(axis) >= 2 && field.size(axis) <= std::numeric_limits<int32_t>::max(),
                      "field: expected sides of 2 or more, got ", field.sizes());
    grid.sides[axis] = static_cast<int>(field.size(axis));
  }
  TORCH_CHECK_VALUE(field.numel() <= std::numeric_limits<int32_t>::max() / (3 * kMaxFaces), "field: ", field.sizes(),
                    " has too many points for one call; cut it up");
  return grid;
}

std::tuple<at::Tensor, at::Tensor> surface(const at::Tensor& field, const at::Tensor& table) {
  const Grid grid = checked_grid(field, table);
  const int8_t* rows = table.const_data_ptr<int8_t>();
  const c10::DeviceGuard guard(field.device());
  const auto numbers = field.options().dtype(at::kInt);
  const at::Tensor cuts = at::empty({field.numel()}, field.options().dtype(at::kByte));
  const at::Tensor vertex_counts = at::empty({field.numel()}, numbers), face_counts = at::empty({field.numel()}, numbers);
  const Counts counts{cuts.mutable_data_ptr<uint8_t>(), vertex_counts.mutable_data_ptr<int32_t>(), face_counts.mutable_data_ptr<int32_t>()};
  if (field.is_cpu()) {
    count_cpu(grid, rows, counts);
  }
#ifdef MD_WITH_CUDA
  else {
    C10_CUDA_CHECK(count_cuda(grid, rows, counts, c10::cuda::getCurrentCUDAStream()));
  }
#endif
  const at::Tensor vertices_until = at::cumsum(vertex_counts, 0, at::kInt), faces_until = at::cumsum(face_counts, 0, at::kInt);
  const at::Tensor sizes = at::stack({vertices_until[-1], faces_until[-1]}).cpu();
  const at::Tensor vertices = at::empty({sizes[0].item<int32_t>(), 3}, field.options());
  const at::Tensor faces = at::empty({sizes[1].item<int32_t>(), 3}, numbers);
  const Output output{cuts.const_data_ptr<uint8_t>(), vertices_until.const_data_ptr<int32_t>(), faces_until.const_data_ptr<int32_t>(),
                      vertices.mutable_data_ptr<float>(), faces.mutable_data_ptr<int32_t>()};
  if (field.is_cpu()) {
    write_cpu(grid, rows, output);
  }
#ifdef MD_WITH_CUDA
  else {
    C10_CUDA_CHECK(write_cuda(grid, rows, output, c10::cuda::getCurrentCUDAStream()));
  }
#endif
  return {vertices, faces};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(microdreamer, m) { m.def("marching_cubes(Tensor field, Tensor table) -> (Tensor vertices, Tensor faces)"); }

TORCH_LIBRARY_IMPL(microdreamer, CPU, m) { m.impl("marching_cubes", &surface); }

#ifdef MD_WITH_CUDA
TORCH_LIBRARY_IMPL(microdreamer, CUDA, m) { m.impl("marching_cubes", &surface); }
#endif

}  // namespace md::marching_cubes
