// Multiresolution hash grid: the entry points of the CPU and CUDA versions. Plain pointers to contiguous float32; the caller allocates.
#pragma once

#include "float_types.h"
#include "hash_grid_math.h"

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>
#endif

namespace md::hash_grid {

struct Inputs {
  Grid grid;
  const float* points;  // [N,3]
  const float* params;  // [entries of all levels, features], aligned to an entry
  int64_t count;        // N
  const int* used;      // [1], on a GPU: points from there on only fill the list up: their encodings and gradients are zeros; or null
};

// encoding and v_encoding are [N, levels * features], level by level.
void encode_cpu(const Inputs& in, float* encoding);
void points_gradient_cpu(const Inputs& in, const float* v_encoding, float* v_points);
void params_gradient_cpu(const Inputs& in, const float* v_encoding, float* v_params);  // v_params comes as zeros

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
// Encodings in float32 or bfloat16.
cudaError_t encode_cuda(const Inputs& in, void* encoding, FloatType type, cudaStream_t stream);
cudaError_t points_gradient_cuda(const Inputs& in, const void* v_encoding, FloatType type, float* v_points, cudaStream_t stream);
// v_params comes as zeros. Deterministic: `workspace` of params_gradient_workspace_bytes; else it is not read.
size_t params_gradient_workspace_bytes(int64_t params);
cudaError_t params_gradient_cuda(const Inputs& in, const void* v_encoding, FloatType type, float* v_params, int64_t params,
                                 bool deterministic, void* workspace, cudaStream_t stream);
#endif

}  // namespace md::hash_grid
