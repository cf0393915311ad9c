// Marching cubes on CUDA: a thread per point, once to count and once to write. Both read the field from the second cache except for
// the first touch of each point (8.8 MB at 130^3) and are bound by the 9 bytes of counts a point.
#include "marching_cubes.h"

namespace md::marching_cubes {
namespace {

constexpr int kThreads = 256;

__device__ int64_t point_of_thread() { return int64_t{blockIdx.x} * kThreads + threadIdx.x; }

__global__ void __launch_bounds__(kThreads) count_kernel(Grid grid, const int8_t* table, Counts counts) {
  const int64_t point = point_of_thread();
  if (point >= grid.points()) return;
  const Place place = place_of(grid, point);
  const unsigned cuts = cut_edges(grid, place, point);
  counts.cuts[point] = static_cast<uint8_t>(cuts);
  counts.vertices[point] = bit_count(cuts);
  counts.faces[point] = faces_of_case(table, case_of(grid, place, point));
}

__global__ void __launch_bounds__(kThreads) write_kernel(Grid grid, const int8_t* table, Output output) {
  const int64_t point = point_of_thread();
  if (point >= grid.points()) return;
  write_point(grid, place_of(grid, point), point, table, output);
}

unsigned blocks_for(const Grid& grid) { return static_cast<unsigned>((grid.points() + kThreads - 1) / kThreads); }

}  // namespace

cudaError_t count_cuda(const Grid& grid, const int8_t* table, const Counts& counts, cudaStream_t stream) {
  count_kernel<<<blocks_for(grid), kThreads, 0, stream>>>(grid, table, counts);
  return cudaGetLastError();
}

cudaError_t write_cuda(const Grid& grid, const int8_t* table, const Output& output, cudaStream_t stream) {
  write_kernel<<<blocks_for(grid), kThreads, 0, stream>>>(grid, table, output);
  return cudaGetLastError();
}

}  // namespace md::marching_cubes
