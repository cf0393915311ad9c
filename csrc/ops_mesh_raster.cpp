// Mesh rasteriser: schemas, checks, allocation, dispatch. The Python face is microdreamer/kernels/mesh_raster.py.
#include <optional>
#include <tuple>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "checks.h"
#include "mesh_raster.h"

namespace md::mesh_raster {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

constexpr int64_t kLongestSide = 1 << 14;
constexpr int64_t kMostPictures = 65535;  // the limit of a grid's second axis

const float* pointer(const OptionalTensor& tensor) { return tensor ? tensor->const_data_ptr<float>() : nullptr; }

void check_floats(const OptionalTensor& tensor, const char* name, at::IntArrayRef shape, const at::Device& device) {
  if (!tensor) return;
  check_tensor(*tensor, name, at::kFloat, device);
  check_shape(*tensor, name, shape);
}

#ifdef MD_WITH_CUDA
at::Tensor workspace(int64_t bytes, const at::Tensor& like) { return at::empty({bytes}, like.options().dtype(at::kByte)); }

// Scratch memory for a gradient's repeatable sums; without elements, and so null, in the fast mode.
at::Tensor sums_workspace(bool deterministic, const at::Tensor& gradient) {
  return workspace(deterministic ? deterministic_bytes(gradient.numel()) : 0, gradient);
}

void* pointer_or_null(const at::Tensor& storage) { return storage.numel() > 0 ? storage.mutable_data_ptr() : nullptr; }
#endif

// For tensors of the CPU: those of a GPU could not be looked at without waiting for it.
void check_faces(const at::Tensor& tri, int64_t vertices) {
  const int32_t* indices = tri.const_data_ptr<int32_t>();
  bool valid = true;
  for (int64_t i = 0; i < tri.numel(); ++i) valid &= indices[i] >= 0 && indices[i] < vertices;
  for (int64_t i = 0; !valid && i < tri.numel(); ++i) {
    TORCH_CHECK_INDEX(indices[i] >= 0 && indices[i] < vertices, "tri: face ", i / 3, " names a vertex outside 0..", vertices - 1);
  }
}

void check_tri(const at::Tensor& tri, const at::Device& device) {
  check_tensor(tri, "tri", at::kInt, device);
  check_shape(tri, "tri", {-1, 3});
  TORCH_CHECK_VALUE(tri.size(0) <= kMaxFaces, "tri: expected at most ", kMaxFaces, " faces, got ", tri.size(0),
                    "; draw the mesh in parts or simplify it");
}

void check_pictures(int64_t pictures) {
  TORCH_CHECK_VALUE(pictures <= kMostPictures, "got ", pictures, " pictures: expected at most ", kMostPictures, "; draw fewer at a time");
}

// `pictures` is asked for where pos does not tell it.
Picture checked_picture(const at::Tensor& pos, const at::Tensor& tri, const OptionalTensor& ranges, int64_t pictures, int64_t height,
                        int64_t width) {
  const at::Device device = pos.device();
  check_tri(tri, device);
  check_tensor(pos, "pos", at::kFloat, device);
  if (ranges) {
    check_tensor(*ranges, "ranges", at::kInt, device);
    check_shape(*ranges, "ranges", {-1, 2});
    pictures = ranges->size(0);
  }
  const bool shared = ranges || pos.dim() == 2;
  if (shared) {
    check_shape(pos, "pos", {-1, 4});
  } else {
    check_shape(pos, "pos", {pictures, -1, 4});
    pictures = pos.size(0);
  }
  TORCH_CHECK_VALUE(height >= 1 && width >= 1 && height <= kLongestSide && width <= kLongestSide, "picture of ", width, "x", height,
                    ": expected 1 to ", kLongestSide, " pixels a side");
  check_pictures(pictures);
  Picture in{};
  in.pos = pos.const_data_ptr<float>();
  in.tri = tri.const_data_ptr<int32_t>();
  in.ranges = ranges ? ranges->const_data_ptr<int32_t>() : nullptr;
  in.shared_pos = shared;
  in.pictures = pictures;
  in.vertices = pos.size(pos.dim() - 2);
  in.faces = tri.size(0);
  in.height = static_cast<int>(height);
  in.width = static_cast<int>(width);
  if (pos.is_cpu()) {
    check_faces(tri, in.vertices);
    for (int64_t b = 0; in.ranges && b < in.pictures; ++b) {
      const int64_t first = in.ranges[2 * b], count = in.ranges[2 * b + 1];
      TORCH_CHECK_INDEX(first >= 0 && count >= 0 && first + count <= in.faces, "ranges: those of picture ", b, " are faces ", first, "..",
                        first + count - 1, ", but there are ", in.faces);
    }
  }
  return in;
}

std::tuple<at::Tensor, at::Tensor> rasterize(const at::Tensor& pos, const at::Tensor& tri, const OptionalTensor& ranges, int64_t height,
                                             int64_t width, bool /*deterministic*/) {
  const Picture in = checked_picture(pos, tri, ranges, -1, height, width);
  const at::Tensor rast = at::empty({in.pictures, height, width, 4}, pos.options()), rast_db = at::empty_like(rast);
  if (pos.is_cpu()) rasterize_cpu(in, rast.mutable_data_ptr<float>(), rast_db.mutable_data_ptr<float>());
#ifdef MD_WITH_CUDA
  else {
    const c10::cuda::CUDAGuard guard(pos.device());
    const at::Tensor scratch = workspace(rasterize_workspace_bytes(in), pos);
    C10_CUDA_CHECK(rasterize_cuda(in, rast.mutable_data_ptr<float>(), rast_db.mutable_data_ptr<float>(), scratch.mutable_data_ptr(),
                                  c10::cuda::getCurrentCUDAStream()));
  }
#endif
  return {rast, rast_db};
}

at::Tensor rasterize_backward(const OptionalTensor& v_rast, const OptionalTensor& v_rast_db, const at::Tensor& rast, const at::Tensor& pos,
                              const at::Tensor& tri, [[maybe_unused]] bool deterministic) {
  check_floats(rast, "rast", {-1, -1, -1, 4}, pos.device());
  check_floats(v_rast, "v_rast", rast.sizes(), pos.device());
  check_floats(v_rast_db, "v_rast_db", rast.sizes(), pos.device());
  const Picture in = checked_picture(pos, tri, std::nullopt, rast.size(0), rast.size(1), rast.size(2));
  const at::Tensor v_pos = at::empty_like(pos);
  if (pos.is_cpu())
    rasterize_backward_cpu(in, rast.const_data_ptr<float>(), pointer(v_rast), pointer(v_rast_db), v_pos.mutable_data_ptr<float>());
#ifdef MD_WITH_CUDA
  else {
    const c10::cuda::CUDAGuard guard(pos.device());
    const at::Tensor scratch = sums_workspace(deterministic, v_pos);
    C10_CUDA_CHECK(rasterize_backward_cuda(in, rast.const_data_ptr<float>(), pointer(v_rast), pointer(v_rast_db),
                                           v_pos.mutable_data_ptr<float>(), pointer_or_null(scratch), c10::cuda::getCurrentCUDAStream()));
  }
#endif
  return v_pos;
}

Attributes checked_attributes(const at::Tensor& attr, const at::Tensor& rast, const at::Tensor& tri, const OptionalTensor& rast_db) {
  const at::Device device = attr.device();
  check_floats(attr, "attr", {-1, -1, -1}, device);
  check_floats(rast, "rast", {-1, -1, -1, 4}, device);
  check_floats(rast_db, "rast_db", rast.sizes(), device);
  check_tri(tri, device);
  TORCH_CHECK_VALUE(attr.size(0) == 1 || attr.size(0) == rast.size(0), "attr: expected ", rast.size(0),
                    " sets of attributes like the pictures of rast, or 1, got ", attr.size(0));
  check_pictures(rast.size(0));
  if (attr.is_cpu()) check_faces(tri, attr.size(1));
  Attributes in{};
  in.attr = attr.const_data_ptr<float>();
  in.rast = rast.const_data_ptr<float>();
  in.rast_db = pointer(rast_db);
  in.tri = tri.const_data_ptr<int32_t>();
  in.sets = attr.size(0);
  in.pictures = rast.size(0);
  in.vertices = attr.size(1);
  in.faces = tri.size(0);
  in.channels = static_cast<int>(attr.size(2));
  in.height = static_cast<int>(rast.size(1));
  in.width = static_cast<int>(rast.size(2));
  return in;
}

std::tuple<at::Tensor, at::Tensor> interpolate(const at::Tensor& attr, const at::Tensor& rast, const at::Tensor& tri,
                                               const OptionalTensor& rast_db, bool /*deterministic*/) {
  const Attributes in = checked_attributes(attr, rast, tri, rast_db);
  const at::Tensor out = at::empty({rast.size(0), rast.size(1), rast.size(2), in.channels}, attr.options());
  const at::Tensor out_da = at::empty({rast.size(0), rast.size(1), rast.size(2), rast_db ? 2 * in.channels : 0}, attr.options());
  float* to_da = rast_db ? out_da.mutable_data_ptr<float>() : nullptr;
  if (attr.is_cpu()) interpolate_cpu(in, out.mutable_data_ptr<float>(), to_da);
#ifdef MD_WITH_CUDA
  else {
    const c10::cuda::CUDAGuard guard(attr.device());
    C10_CUDA_CHECK(interpolate_cuda(in, out.mutable_data_ptr<float>(), to_da, c10::cuda::getCurrentCUDAStream()));
  }
#endif
  return {out, out_da};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> interpolate_backward(const OptionalTensor& v_out, const OptionalTensor& v_out_da,
                                                                    const at::Tensor& attr, const at::Tensor& rast, const at::Tensor& tri,
                                                                    const OptionalTensor& rast_db, [[maybe_unused]] bool deterministic) {
  const Attributes in = checked_attributes(attr, rast, tri, rast_db);
  const at::Device device = attr.device();
  check_floats(v_out, "v_out", {rast.size(0), rast.size(1), rast.size(2), in.channels}, device);
  check_floats(v_out_da, "v_out_da", {rast.size(0), rast.size(1), rast.size(2), 2 * in.channels}, device);
  const at::Tensor v_attr = at::empty_like(attr), v_rast = at::empty_like(rast);
  const at::Tensor v_rast_db = rast_db ? at::empty_like(rast) : at::empty({0}, rast.options());
  const AttributeGradients v = {pointer(v_out), pointer(v_out_da), v_attr.mutable_data_ptr<float>(), v_rast.mutable_data_ptr<float>(),
                                rast_db ? v_rast_db.mutable_data_ptr<float>() : nullptr};
  if (attr.is_cpu()) interpolate_backward_cpu(in, v);
#ifdef MD_WITH_CUDA
  else {
    const c10::cuda::CUDAGuard guard(device);
    const at::Tensor scratch = sums_workspace(deterministic, v_attr);
    C10_CUDA_CHECK(interpolate_backward_cuda(in, v, pointer_or_null(scratch), c10::cuda::getCurrentCUDAStream()));
  }
#endif
  return {v_attr, v_rast, v_rast_db};
}

at::Tensor edge_storage(const Picture& in, const at::Tensor& like) {
  return at::empty({position_sets(in) * in.faces}, like.options().dtype(at::kByte));
}

Blending checked_blending(const Picture& in, const at::Tensor& color, const at::Tensor& rast, const at::Tensor& opposite,
                          const at::Tensor& edges) {
  const at::Device device = edges.device();
  check_floats(color, "color", {in.pictures, in.height, in.width, -1}, device);
  check_floats(rast, "rast", {in.pictures, in.height, in.width, 4}, device);
  check_tensor(opposite, "opposite", at::kInt, device);
  check_shape(opposite, "opposite", {in.faces, 3});
  return {color.const_data_ptr<float>(), rast.const_data_ptr<float>(), opposite.const_data_ptr<int32_t>(), edges.const_data_ptr<uint8_t>(),
          static_cast<int>(color.size(3))};
}

at::Tensor antialias(const at::Tensor& color, const at::Tensor& rast, const at::Tensor& pos, const at::Tensor& tri,
                     const at::Tensor& opposite, bool /*deterministic*/) {
  check_floats(color, "color", {-1, -1, -1, -1}, pos.device());
  const Picture in = checked_picture(pos, tri, std::nullopt, color.size(0), color.size(1), color.size(2));
  const at::Tensor edges = edge_storage(in, pos);
  const Blending blending = checked_blending(in, color, rast, opposite, edges);
  const at::Tensor out = at::empty_like(color);
  if (pos.is_cpu()) antialias_cpu(in, blending, out.mutable_data_ptr<float>(), edges.mutable_data_ptr<uint8_t>());
#ifdef MD_WITH_CUDA
  else {
    const c10::cuda::CUDAGuard guard(pos.device());
    C10_CUDA_CHECK(
        antialias_cuda(in, blending, out.mutable_data_ptr<float>(), edges.mutable_data_ptr<uint8_t>(), c10::cuda::getCurrentCUDAStream()));
  }
#endif
  return out;
}

std::tuple<at::Tensor, at::Tensor> antialias_backward(const at::Tensor& v_out, const at::Tensor& color, const at::Tensor& rast,
                                                      const at::Tensor& pos, const at::Tensor& tri, const at::Tensor& opposite,
                                                      [[maybe_unused]] bool deterministic) {
  check_floats(color, "color", {-1, -1, -1, -1}, pos.device());
  const Picture in = checked_picture(pos, tri, std::nullopt, color.size(0), color.size(1), color.size(2));
  const at::Tensor edges = edge_storage(in, pos);
  const Blending blending = checked_blending(in, color, rast, opposite, edges);
  check_floats(v_out, "v_out", color.sizes(), pos.device());
  const at::Tensor v_color = at::empty_like(color), v_pos = at::empty_like(pos);
  const BlendingGradients v = {v_out.const_data_ptr<float>(), v_color.mutable_data_ptr<float>(), v_pos.mutable_data_ptr<float>()};
  if (pos.is_cpu()) antialias_backward_cpu(in, blending, v, edges.mutable_data_ptr<uint8_t>());
#ifdef MD_WITH_CUDA
  else {
    const c10::cuda::CUDAGuard guard(pos.device());
    const at::Tensor scratch = sums_workspace(deterministic, v_pos);
    C10_CUDA_CHECK(antialias_backward_cuda(in, blending, v, edges.mutable_data_ptr<uint8_t>(), pointer_or_null(scratch),
                                           c10::cuda::getCurrentCUDAStream()));
  }
#endif
  return {v_color, v_pos};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(microdreamer, m) {
  m.def(
      "rasterize_mesh(Tensor pos, Tensor tri, Tensor? ranges, int height, int width, bool deterministic) -> (Tensor rast, Tensor rast_db)");
  m.def("rasterize_mesh_bwd(Tensor? v_rast, Tensor? v_rast_db, Tensor rast, Tensor pos, Tensor tri, bool deterministic) -> Tensor");
  m.def("interpolate_mesh(Tensor attr, Tensor rast, Tensor tri, Tensor? rast_db, bool deterministic) -> (Tensor out, Tensor out_da)");
  m.def(
      "interpolate_mesh_bwd(Tensor? v_out, Tensor? v_out_da, Tensor attr, Tensor rast, Tensor tri, Tensor? rast_db, bool deterministic) "
      "-> (Tensor v_attr, Tensor v_rast, Tensor v_rast_db)");
  m.def("antialias_mesh(Tensor color, Tensor rast, Tensor pos, Tensor tri, Tensor opposite, bool deterministic) -> Tensor");
  m.def(
      "antialias_mesh_bwd(Tensor v_out, Tensor color, Tensor rast, Tensor pos, Tensor tri, Tensor opposite, bool deterministic) "
      "-> (Tensor v_color, Tensor v_pos)");
}

TORCH_LIBRARY_IMPL(microdreamer, CPU, m) {
  m.impl("rasterize_mesh", &rasterize);
  m.impl("rasterize_mesh_bwd", &rasterize_backward);
  m.impl("interpolate_mesh", &interpolate);
  m.impl("interpolate_mesh_bwd", &interpolate_backward);
  m.impl("antialias_mesh", &antialias);
  m.impl("antialias_mesh_bwd", &antialias_backward);
}

#ifdef MD_WITH_CUDA
TORCH_LIBRARY_IMPL(microdreamer, CUDA, m) {
  m.impl("rasterize_mesh", &rasterize);
  m.impl("rasterize_mesh_bwd", &rasterize_backward);
  m.impl("interpolate_mesh", &interpolate);
  m.impl("interpolate_mesh_bwd", &interpolate_backward);
  m.impl("antialias_mesh", &antialias);
  m.impl("antialias_mesh_bwd", &antialias_backward);
}
#endif

}  // namespace md::mesh_raster
