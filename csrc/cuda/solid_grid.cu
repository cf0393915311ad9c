// Signed distances on CUDA: a thread per point, which looks both ways along an axis until nothing nearer can come.
#include "solid_grid.h"

namespace md::solid_grid {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) lines_kernel(Grid grid, const bool* inside, int32_t* squared) {
  const int64_t point = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (point >= grid.points()) return;
  const int z = static_cast<int>(point % grid.sides[2]);
  const bool own = inside[point];
  int32_t value = kNone;
  for (int away = 1; away < grid.sides[2]; ++away) {
    if ((z >= away && inside[point - away] != own) || (z + away < grid.sides[2] && inside[point + away] != own)) {
      value = away * away;
      break;
    }
  }
  squared[point] = own ? value : -value;
}

__global__ void __launch_bounds__(kThreads) spread_kernel(Grid grid, int axis, const int32_t* squared, int32_t* spread) {
  const int64_t point = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (point >= grid.points()) return;
  const int64_t line = point / grid.sides[2];
  const int place = static_cast<int>(axis == 0 ? line / grid.sides[1] : line % grid.sides[1]);
  const int64_t step = axis == 0 ? int64_t{grid.sides[1]} * grid.sides[2] : grid.sides[2];
  const int32_t own = squared[point];
  int32_t best = abs(own);
  for (int away = 1; away < grid.sides[axis] && away * away < best; ++away) {
    for (int way = -1; way <= 1; way += 2) {
      const int neighbour = place + way * away;
      if (neighbour < 0 || neighbour >= grid.sides[axis]) continue;
      const int32_t theirs = squared[point + way * away * step];
      best = min(best, max(own > 0 ? theirs : -theirs, 0) + away * away);
    }
  }
  spread[point] = own > 0 ? best : -best;
}

unsigned blocks_for(const Grid& grid) { return static_cast<unsigned>((grid.points() + kThreads - 1) / kThreads); }

}  // namespace

cudaError_t lines_cuda(const Grid& grid, const bool* inside, int32_t* squared, cudaStream_t stream) {
  lines_kernel<<<blocks_for(grid), kThreads, 0, stream>>>(grid, inside, squared);
  return cudaGetLastError();
}

cudaError_t spread_cuda(const Grid& grid, int axis, const int32_t* squared, int32_t* spread, cudaStream_t stream) {
  spread_kernel<<<blocks_for(grid), kThreads, 0, stream>>>(grid, axis, squared, spread);
  return cudaGetLastError();
}

}  // namespace md::solid_grid
