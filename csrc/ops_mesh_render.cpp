// The op `render_meshes`: schema, checks, allocation, dispatch. Shapes and meaning: microdreamer/kernels/mesh_render.py.
#include <algorithm>

#include <ATen/ops/empty.h>

#include "checks.h"
#include "mesh_render_math.h"

#ifdef MD_WITH_CUDA
#include "mesh_render_cuda.h"
#endif

namespace md::mesh_render {
namespace {

constexpr int64_t kMaxSamplesAcross = 1 << 16;

Inputs checked(const at::Tensor& vertices, const at::Tensor& faces, const at::Tensor& corner_colors, const at::Tensor& corner_normals,
               const at::Tensor& vertex_offset, const at::Tensor& face_offset, const at::Tensor& mesh_index,
               const at::Tensor& object_to_world, const at::Tensor& color_transform, const at::Tensor& world_to_camera,
               const at::Tensor& intrinsics, const at::Tensor& lights, const at::Tensor& ambient, const at::Tensor& gloss, int64_t width,
               int64_t height, int64_t supersample) {
  const at::Device device = vertices.device();
  check_tensor(vertices, "vertices", at::kFloat, device);
  check_tensor(faces, "faces", at::kInt, device);
  check_tensor(corner_colors, "corner_colors", at::kByte, device);
  check_tensor(corner_normals, "corner_normals", at::kChar, device);
  check_tensor(vertex_offset, "vertex_offset", at::kLong, device);
  check_tensor(face_offset, "face_offset", at::kLong, device);
  check_tensor(mesh_index, "mesh_index", at::kLong, device);
  check_tensor(object_to_world, "object_to_world", at::kFloat, device);
  check_tensor(color_transform, "color_transform", at::kFloat, device);
  check_tensor(world_to_camera, "world_to_camera", at::kFloat, device);
  check_tensor(intrinsics, "intrinsics", at::kFloat, device);
  check_tensor(lights, "lights", at::kFloat, device);
  check_tensor(ambient, "ambient", at::kFloat, device);
  check_tensor(gloss, "gloss", at::kFloat, device);

  check_shape(mesh_index, "mesh_index", {-1});
  const int64_t views = mesh_index.size(0);
  check_shape(vertices, "vertices", {-1, 3});
  check_shape(faces, "faces", {-1, 3});
  check_shape(corner_colors, "corner_colors", {faces.size(0), 3, 3});
  check_shape(corner_normals, "corner_normals", {faces.size(0), 3, 3});
  check_shape(vertex_offset, "vertex_offset", {-1});
  TORCH_CHECK_VALUE(vertex_offset.size(0) >= 1, "vertex_offset: expected meshes + 1 entries, got none");
  check_shape(face_offset, "face_offset", {vertex_offset.size(0)});
  check_shape(object_to_world, "object_to_world", {views, 3, 4});
  check_shape(color_transform, "color_transform", {views, 3, 4});
  check_shape(world_to_camera, "world_to_camera", {views, -1, 4});
  TORCH_CHECK_VALUE(world_to_camera.size(1) == 3 || world_to_camera.size(1) == 4,
                    "world_to_camera: expected [views,3,4] or [views,4,4], got ", world_to_camera.sizes());
  check_shape(intrinsics, "intrinsics", {views, 4});
  check_shape(lights, "lights", {views, -1, 6});
  TORCH_CHECK_VALUE(lights.size(1) <= kMaxLights, "lights: expected at most ", kMaxLights, " a view, got ", lights.size(1));
  check_shape(ambient, "ambient", {views, 2, 3});
  check_shape(gloss, "gloss", {views, 2});
  TORCH_CHECK_VALUE(supersample >= 1 && supersample <= 16, "supersample: expected 1..16, got ", supersample);
  TORCH_CHECK_VALUE(width >= 1 && height >= 1 && width * supersample <= kMaxSamplesAcross && height * supersample <= kMaxSamplesAcross,
                    "picture of ", width, "x", height, ": expected 1 to ", kMaxSamplesAcross / supersample, " pixels a side");

  Inputs in{};
  in.vertices = vertices.const_data_ptr<float>();
  in.faces = faces.const_data_ptr<int32_t>();
  in.corner_colors = corner_colors.const_data_ptr<uint8_t>();
  in.corner_normals = corner_normals.const_data_ptr<int8_t>();
  in.vertex_offset = vertex_offset.const_data_ptr<int64_t>();
  in.face_offset = face_offset.const_data_ptr<int64_t>();
  in.mesh_index = mesh_index.const_data_ptr<int64_t>();
  in.object_to_world = object_to_world.const_data_ptr<float>();
  in.color_transform = color_transform.const_data_ptr<float>();
  in.world_to_camera = world_to_camera.const_data_ptr<float>();
  in.intrinsics = intrinsics.const_data_ptr<float>();
  in.lights = lights.const_data_ptr<float>();
  in.ambient = ambient.const_data_ptr<float>();
  in.gloss = gloss.const_data_ptr<float>();
  in.meshes = vertex_offset.size(0) - 1;
  in.vertex_count = vertices.size(0);
  in.face_count = faces.size(0);
  in.views = views;
  in.camera_rows = static_cast<int>(world_to_camera.size(1));
  in.light_count = static_cast<int>(lights.size(1));
  in.width = static_cast<int>(width);
  in.height = static_cast<int>(height);
  in.supersample = static_cast<int>(supersample);
  return in;
}

at::Tensor empty_pictures(const Inputs& in, const at::Tensor& like) {
  return at::empty({in.views, 4, in.height, in.width}, like.options().dtype(at::kByte));
}

at::Tensor render_meshes_cpu(const at::Tensor& vertices, const at::Tensor& faces, const at::Tensor& corner_colors,
                             const at::Tensor& corner_normals, const at::Tensor& vertex_offset, const at::Tensor& face_offset,
                             const at::Tensor& mesh_index, const at::Tensor& object_to_world, const at::Tensor& color_transform,
                             const at::Tensor& world_to_camera, const at::Tensor& intrinsics, const at::Tensor& lights,
                             const at::Tensor& ambient, const at::Tensor& gloss, int64_t width, int64_t height, int64_t supersample,
                             int64_t /*max_faces*/) {
  const Inputs in = checked(vertices, faces, corner_colors, corner_normals, vertex_offset, face_offset, mesh_index, object_to_world,
                            color_transform, world_to_camera, intrinsics, lights, ambient, gloss, width, height, supersample);
  for (int64_t i = 0; i < in.views; ++i) {
    const int64_t mesh = in.mesh_index[i];
    TORCH_CHECK_INDEX(mesh >= 0 && mesh < in.meshes, "mesh_index: expected 0..", in.meshes - 1, ", got ", mesh, " for view ", i);
    TORCH_CHECK_VALUE(mesh_in_range(in, mesh), "vertex_offset, face_offset: those of mesh ", mesh,
                      " are not ascending places in vertices and faces");
  }
  const at::Tensor out = empty_pictures(in, vertices);
  render_cpu(in, out.mutable_data_ptr<uint8_t>());
  return out;
}

#ifdef MD_WITH_CUDA
constexpr int64_t kNearestBudget = int64_t{1} << 30;  // bytes of depth keys held at once; more views take turns

at::Tensor render_meshes_cuda(const at::Tensor& vertices, const at::Tensor& faces, const at::Tensor& corner_colors,
                              const at::Tensor& corner_normals, const at::Tensor& vertex_offset, const at::Tensor& face_offset,
                              const at::Tensor& mesh_index, const at::Tensor& object_to_world, const at::Tensor& color_transform,
                              const at::Tensor& world_to_camera, const at::Tensor& intrinsics, const at::Tensor& lights,
                              const at::Tensor& ambient, const at::Tensor& gloss, int64_t width, int64_t height, int64_t supersample,
                              int64_t max_faces) {
  const Inputs in = checked(vertices, faces, corner_colors, corner_normals, vertex_offset, face_offset, mesh_index, object_to_world,
                            color_transform, world_to_camera, intrinsics, lights, ambient, gloss, width, height, supersample);
  const c10::cuda::CUDAGuard guard(vertices.device());
  const at::Tensor out = empty_pictures(in, vertices);
  if (in.views == 0) return out;
  const int64_t samples = width * height * supersample * supersample;
  const int64_t views_at_once = std::clamp<int64_t>(kNearestBudget / (8 * samples), 1, std::min(in.views, kMaxViewsAtOnce));
  const at::Tensor views = at::empty({in.views * view_bytes()}, vertices.options().dtype(at::kByte));
  const at::Tensor nearest = at::empty({views_at_once * samples}, vertices.options().dtype(at::kLong));
  C10_CUDA_CHECK(render_cuda(in, static_cast<int>(std::clamp<int64_t>(max_faces, 1, int64_t{1} << 24)), views.mutable_data_ptr(),
                             reinterpret_cast<unsigned long long*>(nearest.mutable_data_ptr<int64_t>()), views_at_once,
                             out.mutable_data_ptr<uint8_t>(), c10::cuda::getCurrentCUDAStream()));
  return out;
}
#endif

}  // namespace
}  // namespace md::mesh_render

TORCH_LIBRARY_FRAGMENT(microdreamer, m) {
  m.def(
      "render_meshes(Tensor vertices, Tensor faces, Tensor corner_colors, Tensor corner_normals, Tensor vertex_offset, Tensor face_offset, "
      "Tensor mesh_index, Tensor object_to_world, Tensor color_transform, Tensor world_to_camera, Tensor intrinsics, Tensor lights, "
      "Tensor ambient, Tensor gloss, int width, int height, int supersample, int max_faces) -> Tensor");
}

TORCH_LIBRARY_IMPL(microdreamer, CPU, m) { m.impl("render_meshes", &md::mesh_render::render_meshes_cpu); }

#ifdef MD_WITH_CUDA
TORCH_LIBRARY_IMPL(microdreamer, CUDA, m) { m.impl("render_meshes", &md::mesh_render::render_meshes_cuda); }
#endif
