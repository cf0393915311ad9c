// Launchers of the signed distance on a grid: plain pointers and sizes, so that no .cu file needs a PyTorch header.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common.h"

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>
#endif

namespace md::solid_grid {

constexpr int kLongestSide = 1024;
constexpr int32_t kNone = 1 << 24;  // a squared distance, above all on such a grid: there is nothing to be near to

struct Grid {
  int sides[3];  // X, Y, Z; z fastest

  MD_HOST_DEVICE int64_t points() const { return int64_t{sides[0]} * sides[1] * sides[2]; }
};

// Squared distances [X, Y, Z] along z to the nearest point of the line whose `inside` differs from a point's own value: positive
// for points inside, negative for others.
void lines_cpu(const Grid& grid, const bool* inside, int32_t* squared);
// One axis more: squared distances in the planes or the volume, from those without `axis` (0 or 1).
void spread_cpu(const Grid& grid, int axis, const int32_t* squared, int32_t* spread);

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
cudaError_t lines_cuda(const Grid& grid, const bool* inside, int32_t* squared, cudaStream_t stream);
cudaError_t spread_cuda(const Grid& grid, int axis, const int32_t* squared, int32_t* spread, cudaStream_t stream);
#endif

}  // namespace md::solid_grid
