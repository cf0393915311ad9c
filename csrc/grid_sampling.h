// Features of points from grids of texels: the entry points of the CPU and CUDA versions. Plain pointers to contiguous float32; the
// caller allocates.
#pragma once

#include "grid_sampling_math.h"

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>
#endif

namespace md::grid_sampling {

struct Inputs {
  Layout layout;
  const float* points;  // [B,P,3]
  const float* grids;   // [B,G,(D,)H,W,C]
  int64_t batch;        // B
  int64_t count;        // P
};

// features and v_features are [B,P,G*C].
void sample_cpu(const Inputs& in, float* features);
void points_gradient_cpu(const Inputs& in, const float* v_features, float* v_points);
void grids_gradient_cpu(const Inputs& in, const float* v_features, float* v_grids);  // v_grids comes as zeros

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
cudaError_t sample_cuda(const Inputs& in, float* features, cudaStream_t stream);
cudaError_t points_gradient_cuda(const Inputs& in, const float* v_features, float* v_points, cudaStream_t stream);
// v_grids comes as zeros. Deterministic: `workspace` of grids_gradient_workspace_bytes for so many floats; else it is not read.
size_t grids_gradient_workspace_bytes(int64_t values);
cudaError_t grids_gradient_cuda(const Inputs& in, const float* v_features, float* v_grids, int64_t values, bool deterministic,
                                void* workspace, cudaStream_t stream);
#endif

}  // namespace md::grid_sampling
