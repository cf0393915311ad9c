// Volume rendering: schemas, checks, allocation, dispatch. The Python face is microdreamer/kernels/volume.py.
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include <ATen/ops/cumsum.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/DeviceGuard.h>

#include "checks.h"
#include "volume.h"

namespace md::volume {
namespace {

using OptionalTensor = std::optional<at::Tensor>;
using Lists = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using ChosenLists = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

void check_floats(const at::Tensor& tensor, const char* name, at::IntArrayRef shape, const at::Device& device) {
  check_tensor(tensor, name, at::kFloat, device);
  check_shape(tensor, name, shape);
}

// Writes, with write(prefix, lists), the list of samples whose numbers are `counts`: of the length asked for, or as long as it gets.
// The last of the tensors is for where samples were chosen from.
template <class Write>
ChosenLists make_lists(const at::Tensor& counts, std::optional<int64_t> capacity, bool chosen, const Write& write) {
  const auto integers = counts.options();
  const at::Tensor prefix = at::cumsum(counts, 0, at::kInt), total = prefix[-1].clone();
  const int64_t length = capacity ? *capacity : total.item<int>();
  const at::Tensor ray = at::zeros({length}, integers.dtype(at::kLong)), offsets = at::empty_like(counts);
  const at::Tensor start = at::zeros({length}, integers.dtype(at::kFloat)), lengths = at::zeros_like(start);
  const at::Tensor source = at::zeros({chosen ? length : 0}, integers);
  write(prefix.const_data_ptr<int>(),
        SampleLists{ray.mutable_data_ptr<int64_t>(), start.mutable_data_ptr<float>(), lengths.mutable_data_ptr<float>(),
                    chosen ? source.mutable_data_ptr<int>() : nullptr, offsets.mutable_data_ptr<int>(), length});
  return {ray, start, lengths, offsets, total, source};
}

Lists without_source(const ChosenLists& lists) {
  const auto& [ray, start, length, offsets, total, source] = lists;
  return {ray, start, length, offsets, total};
}

void check_capacity(std::optional<int64_t> capacity) {
  TORCH_CHECK_VALUE(!capacity || (*capacity >= 0 && *capacity <= std::numeric_limits<int32_t>::max()), "capacity: expected 0 to ",
                    std::numeric_limits<int32_t>::max(), ", got ", *capacity);
}

Lists march(const at::Tensor& origins, const at::Tensor& directions, const at::Tensor& occupied, const OptionalTensor& jitter,
            double radius, double step, double near, int64_t most, std::optional<int64_t> capacity) {
  const at::Device device = origins.device();
  check_floats(origins, "origins", {-1, 3}, device);
  const int64_t rays = origins.size(0);
  check_floats(directions, "directions", {rays, 3}, device);
  if (jitter) check_floats(*jitter, "jitter", {rays}, device);
  check_tensor(occupied, "occupied", at::kBool, device);
  check_shape(occupied, "occupied", {-1, -1, -1});
  const int64_t resolution = occupied.size(0);
  TORCH_CHECK_VALUE(resolution >= 1 && resolution <= 4096 && occupied.size(1) == resolution && occupied.size(2) == resolution,
                    "occupied: expected a cube of 1 to 4096 cells a side, got ", occupied.sizes());
  TORCH_CHECK_VALUE(radius > 0 && step > 0, "radius, step: expected positive numbers, got ", radius, " and ", step);
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  TORCH_CHECK_VALUE(most >= 1 && most <= kMost && rays <= kMost / most, "got ", rays, " rays of up to ", most,
                    " pieces: too many for one call; take fewer rays or longer steps");
  check_capacity(capacity);
  March in{};
  in.origins = origins.const_data_ptr<float>();
  in.directions = directions.const_data_ptr<float>();
  in.jitter = jitter ? jitter->const_data_ptr<float>() : nullptr;
  in.occupied = occupied.const_data_ptr<bool>();
  in.rays = rays;
  in.resolution = static_cast<int>(resolution);
  in.most = static_cast<int>(most);
  in.radius = static_cast<float>(radius);
  in.step = static_cast<float>(step);
  in.near = static_cast<float>(near);
  in.scale = static_cast<float>(static_cast<double>(resolution) / (2 * radius));
  for (int axis = 0; axis < 3; ++axis) {
    in.low[axis] = -in.radius;
    in.high[axis] = in.radius;
  }
  const c10::DeviceGuard guard(device);
  const at::Tensor counts = at::empty({rays + 1}, origins.options().dtype(at::kInt));
  if (device.is_cpu()) {
    const std::vector<Pieces> found = count_pieces_cpu(in, counts.mutable_data_ptr<int>());
    const auto write = [&](const int* prefix, const SampleLists& out) { write_pieces_cpu(found, rays, prefix, out); };
    return without_source(make_lists(counts, capacity, false, write));
  }
#ifdef MD_WITH_CUDA
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
  C10_CUDA_CHECK(count_pieces_cuda(in, counts.mutable_data_ptr<int>(), stream));
  const auto write = [&](const int* prefix, const SampleLists& out) { C10_CUDA_CHECK(write_pieces_cuda(in, prefix, out, stream)); };
  return without_source(make_lists(counts, capacity, false, write));
#else
  return {};
#endif
}

Packed checked_samples(const OptionalTensor& ray, const at::Tensor& start, const at::Tensor& length, const at::Tensor& offsets,
                       const at::Device& device) {
  check_floats(start, "start", {-1}, device);
  const int64_t capacity = start.size(0);
  check_floats(length, "length", {capacity}, device);
  if (ray) {
    check_tensor(*ray, "ray", at::kLong, device);
    check_shape(*ray, "ray", {capacity});
  }
  check_tensor(offsets, "offsets", at::kInt, device);
  TORCH_CHECK_VALUE(offsets.dim() == 1 && offsets.size(0) >= 1, "offsets: expected shape [N+1], got ", offsets.sizes());
  return {ray ? ray->const_data_ptr<int64_t>() : nullptr,
          start.const_data_ptr<float>(),
          length.const_data_ptr<float>(),
          offsets.const_data_ptr<int>(),
          offsets.size(0) - 1,
          capacity};
}

ChosenLists keep_visible(const at::Tensor& ray, const at::Tensor& start, const at::Tensor& length, const at::Tensor& offsets,
                         const at::Tensor& density, const at::Tensor& min_alpha, double min_transmittance,
                         std::optional<int64_t> capacity) {
  const at::Device device = start.device();
  Visibility in{};
  in.samples = checked_samples(ray, start, length, offsets, device);
  check_floats(density, "density", {in.samples.capacity}, device);
  check_floats(min_alpha, "min_alpha", {}, device);
  check_capacity(capacity);
  in.density = density.const_data_ptr<float>();
  in.min_alpha = min_alpha.const_data_ptr<float>();
  in.min_transmittance = static_cast<float>(min_transmittance);
  const c10::DeviceGuard guard(device);
  const at::Tensor counts = at::empty_like(offsets), keep = at::empty({in.samples.capacity}, start.options().dtype(at::kByte));
  if (device.is_cpu()) {
    count_visible_cpu(in, keep.mutable_data_ptr<uint8_t>(), counts.mutable_data_ptr<int>());
    return make_lists(counts, capacity, true, [&](const int* prefix, const SampleLists& out) {
      write_visible_cpu(in, keep.const_data_ptr<uint8_t>(), prefix, out);
    });
  }
#ifdef MD_WITH_CUDA
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
  C10_CUDA_CHECK(count_visible_cuda(in, keep.mutable_data_ptr<uint8_t>(), counts.mutable_data_ptr<int>(), stream));
  return make_lists(counts, capacity, true, [&](const int* prefix, const SampleLists& out) {
    C10_CUDA_CHECK(write_visible_cuda(in, keep.const_data_ptr<uint8_t>(), prefix, out, stream));
  });
#else
  return {};
#endif
}

at::Tensor sample_points(const at::Tensor& ray, const at::Tensor& start, const at::Tensor& length, const at::Tensor& origins,
                         const at::Tensor& directions) {
  const at::Device device = start.device();
  check_floats(start, "start", {-1}, device);
  const int64_t capacity = start.size(0);
  check_floats(length, "length", {capacity}, device);
  check_tensor(ray, "ray", at::kLong, device);
  check_shape(ray, "ray", {capacity});
  check_floats(origins, "origins", {-1, 3}, device);
  check_floats(directions, "directions", {origins.size(0), 3}, device);
  TORCH_CHECK_VALUE(origins.size(0) > 0 || capacity == 0, "origins: expected rays for the ", capacity, " samples, got none");
  const c10::DeviceGuard guard(device);
  const at::Tensor points = at::empty({capacity, 3}, start.options());
  Places in{};
  in.samples.ray = ray.const_data_ptr<int64_t>();
  in.samples.start = start.const_data_ptr<float>();
  in.samples.length = length.const_data_ptr<float>();
  in.samples.capacity = capacity;
  in.origins = origins.const_data_ptr<float>();
  in.directions = directions.const_data_ptr<float>();
  in.points = points.mutable_data_ptr<float>();
  if (device.is_cpu()) {
    sample_points_cpu(in);
  }
#ifdef MD_WITH_CUDA
  else {
    C10_CUDA_CHECK(sample_points_cuda(in, c10::cuda::getCurrentCUDAStream()));
  }
#endif
  return points;
}

at::Tensor take_rows(const at::Tensor& table, const at::Tensor& source) {
  const at::Device device = table.device();
  check_tensor(table, "table", table.scalar_type(), device);
  check_shape(table, "table", {-1, -1});
  check_tensor(source, "source", at::kInt, device);
  check_shape(source, "source", {-1});
  [[maybe_unused]] const int64_t row_bytes = table.size(1) * table.element_size();
#ifdef MD_WITH_CUDA
  constexpr int64_t kPiece = 16;
  if (device.is_cuda() && row_bytes % kPiece == 0 && reinterpret_cast<uintptr_t>(table.const_data_ptr()) % kPiece == 0) {
    const c10::DeviceGuard guard(device);
    const at::Tensor out = at::empty({source.size(0), table.size(1)}, table.options());
    C10_CUDA_CHECK(take_rows_cuda(table.const_data_ptr(), source.const_data_ptr<int>(), out.mutable_data_ptr(), source.size(0),
                                  row_bytes / kPiece, c10::cuda::getCurrentCUDAStream()));
    return out;
  }
#endif
  return at::index_select(table, 0, source);
}

Composition checked_composition(const at::Tensor& density, const at::Tensor& features, const at::Tensor& start, const at::Tensor& length,
                                const at::Tensor& offsets) {
  const at::Device device = density.device();
  Composition in{};
  in.samples = checked_samples(std::nullopt, start, length, offsets, device);
  check_floats(density, "density", {in.samples.capacity}, device);
  check_floats(features, "features", {in.samples.capacity, -1}, device);
  in.density = density.const_data_ptr<float>();
  in.features = features.const_data_ptr<float>();
  in.channels = features.size(1);
  return in;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> composite(const at::Tensor& density, const at::Tensor& features,
                                                                     const at::Tensor& start, const at::Tensor& length,
                                                                     const at::Tensor& offsets) {
  const Composition in = checked_composition(density, features, start, length, offsets);
  const c10::DeviceGuard guard(density.device());
  const at::Tensor sums = at::empty({in.samples.rays, in.channels}, density.options()), weights = at::zeros_like(density);
  const at::Tensor alpha = at::empty({in.samples.rays}, density.options()), depth = at::empty_like(alpha);
  const Sums out{sums.mutable_data_ptr<float>(), alpha.mutable_data_ptr<float>(), depth.mutable_data_ptr<float>(),
                 weights.mutable_data_ptr<float>()};
  if (density.is_cpu()) {
    composite_cpu(in, out);
  }
#ifdef MD_WITH_CUDA
  else {
    C10_CUDA_CHECK(composite_cuda(in, out, c10::cuda::getCurrentCUDAStream()));
  }
#endif
  return {sums, alpha, depth, weights};
}

std::tuple<at::Tensor, at::Tensor> composite_backward(const OptionalTensor& v_features, const OptionalTensor& v_alpha,
                                                      const OptionalTensor& v_depth, const OptionalTensor& v_weights,
                                                      const at::Tensor& density, const at::Tensor& features, const at::Tensor& start,
                                                      const at::Tensor& length, const at::Tensor& offsets, const at::Tensor& weights,
                                                      bool for_density, bool for_features) {
  const Composition in = checked_composition(density, features, start, length, offsets);
  const at::Device device = density.device();
  const int64_t rays = in.samples.rays;
  if (v_features) check_floats(*v_features, "v_features", {rays, in.channels}, device);
  if (v_alpha) check_floats(*v_alpha, "v_alpha", {rays}, device);
  if (v_depth) check_floats(*v_depth, "v_depth", {rays}, device);
  if (v_weights) check_floats(*v_weights, "v_weights", {in.samples.capacity}, device);
  check_floats(weights, "weights", {in.samples.capacity}, device);
  const auto pointer = [](const OptionalTensor& tensor) { return tensor ? tensor->const_data_ptr<float>() : nullptr; };
  const SumGradients v{pointer(v_features), pointer(v_alpha), pointer(v_depth), pointer(v_weights)};
  const c10::DeviceGuard guard(device);
  const at::Tensor of_density = for_density ? at::zeros_like(density) : at::empty({0}, density.options());
  const at::Tensor of_features = for_features ? at::zeros_like(features) : at::empty({0}, features.options());
  const SampleGradients out{for_density ? of_density.mutable_data_ptr<float>() : nullptr,
                            for_features ? of_features.mutable_data_ptr<float>() : nullptr};
  if (device.is_cpu()) {
    composite_backward_cpu(in, weights.const_data_ptr<float>(), v, out);
  }
#ifdef MD_WITH_CUDA
  else {
    C10_CUDA_CHECK(composite_backward_cuda(in, weights.const_data_ptr<float>(), v, out, c10::cuda::getCurrentCUDAStream()));
  }
#endif
  return {of_density, of_features};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(microdreamer, m) {
  // Samples are ray, start, length and offsets; without a capacity their number is known only when they are.
  m.def(
      "march_rays(Tensor origins, Tensor directions, Tensor occupied, Tensor? jitter, float radius, float step, float near, int most, "
      "int? capacity) -> (Tensor ray, Tensor start, Tensor length, Tensor offsets, Tensor total)");
  m.def(
      "keep_visible(Tensor ray, Tensor start, Tensor length, Tensor offsets, Tensor density, Tensor min_alpha, float min_transmittance, "
      "int? capacity) -> (Tensor ray, Tensor start, Tensor length, Tensor offsets, Tensor total, Tensor source)");
  m.def("sample_points(Tensor ray, Tensor start, Tensor length, Tensor origins, Tensor directions) -> Tensor");
  m.def("take_rows(Tensor table, Tensor source) -> Tensor");
  m.def(
      "composite_samples(Tensor density, Tensor features, Tensor start, Tensor length, Tensor offsets) -> (Tensor sums, Tensor alpha, "
      "Tensor depth, Tensor weights)");
  m.def(
      "composite_samples_bwd(Tensor? v_sums, Tensor? v_alpha, Tensor? v_depth, Tensor? v_weights, Tensor density, Tensor features, Tensor "
      "start, Tensor length, Tensor offsets, Tensor weights, bool for_density, bool for_features) -> (Tensor v_density, Tensor "
      "v_features)");
}

TORCH_LIBRARY_IMPL(microdreamer, CPU, m) {
  m.impl("march_rays", &march);
  m.impl("keep_visible", &keep_visible);
  m.impl("sample_points", &sample_points);
  m.impl("take_rows", &take_rows);
  m.impl("composite_samples", &composite);
  m.impl("composite_samples_bwd", &composite_backward);
}

#ifdef MD_WITH_CUDA
TORCH_LIBRARY_IMPL(microdreamer, CUDA, m) {
  m.impl("march_rays", &march);
  m.impl("keep_visible", &keep_visible);
  m.impl("sample_points", &sample_points);
  m.impl("take_rows", &take_rows);
  m.impl("composite_samples", &composite);
  m.impl("composite_samples_bwd", &composite_backward);
}
#endif

}  // namespace md::volume
