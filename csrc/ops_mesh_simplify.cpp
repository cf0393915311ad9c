// Simplification of closed meshes, on the CPU: schemas, checks, allocation. The Python face is microdreamer/kernels/mesh_simplify.py.
#include <algorithm>
#include <limits>
#include <tuple>

#include <ATen/ops/empty.h>

#include "checks.h"
#include "mesh_simplify.h"

namespace md::mesh_simplify {
namespace {

void check_faces(const at::Tensor& faces, int64_t vertex_count) {
  check_tensor(faces, "faces", at::kLong, at::kCPU);
  check_shape(faces, "faces", {-1, 3});
  TORCH_CHECK_VALUE(faces.size(0) <= std::numeric_limits<int32_t>::max() / 3 && vertex_count <= std::numeric_limits<int32_t>::max(),
                    "faces: got ", faces.size(0), ", too many for one call");
  TORCH_CHECK_VALUE(faces.numel() == 0 || (faces.min().item<int64_t>() >= 0 && faces.max().item<int64_t>() < vertex_count),
                    "faces: some name vertices that are not among the ", vertex_count);
}

bool closed_manifold(const at::Tensor& faces, int64_t vertex_count) {
  check_faces(faces, vertex_count);
  return is_closed_manifold(faces.const_data_ptr<int64_t>(), faces.size(0), vertex_count);
}

std::tuple<at::Tensor, at::Tensor> simplified(const at::Tensor& vertices, const at::Tensor& faces, int64_t target_faces) {
  check_tensor(vertices, "vertices", at::kDouble, at::kCPU);
  check_shape(vertices, "vertices", {-1, 3});
  TORCH_CHECK_VALUE(count_not_finite(vertices) == 0, "vertices: expected finite values, got NaN or infinity");
  check_faces(faces, vertices.size(0));
  TORCH_CHECK_VALUE(target_faces >= 4, "target_faces: expected 4 or more, got ", target_faces);
  if (faces.size(0) == 0) return {vertices.clone(), faces.clone()};
  const std::optional<Mesh> found =
      simplify(vertices.const_data_ptr<double>(), vertices.size(0), faces.const_data_ptr<int64_t>(), faces.size(0), target_faces);
  TORCH_CHECK_VALUE(found.has_value(), "faces: expected a closed manifold, every edge with two faces of the same winding");
  const Mesh& mesh = *found;
  const at::Tensor new_vertices = at::empty({static_cast<int64_t>(mesh.vertices.size()) / 3, 3}, vertices.options());
  const at::Tensor new_faces = at::empty({static_cast<int64_t>(mesh.faces.size()) / 3, 3}, faces.options());
  std::copy(mesh.vertices.begin(), mesh.vertices.end(), new_vertices.mutable_data_ptr<double>());
  std::copy(mesh.faces.begin(), mesh.faces.end(), new_faces.mutable_data_ptr<int64_t>());
  return {new_vertices, new_faces};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(microdreamer, m) {
  m.def("is_closed_manifold(Tensor faces, int vertex_count) -> bool");
  m.def("simplify_closed_mesh(Tensor vertices, Tensor faces, int target_faces) -> (Tensor vertices, Tensor faces)");
}

TORCH_LIBRARY_IMPL(microdreamer, CPU, m) {
  m.impl("is_closed_manifold", &closed_manifold);
  m.impl("simplify_closed_mesh", &simplified);
}

}  // namespace md::mesh_simplify
