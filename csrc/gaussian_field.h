// Launchers of the Gaussian field kernels: plain pointers and sizes, so that no .cu file needs a PyTorch header.
#pragma once

#include <cstdint>

#include "gaussian_field_math.h"

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>
#endif

namespace md {

struct FieldParams {
  const float* means;      // [N, 3]
  const float* covs;       // [N, 6]
  const float* opacities;  // [N]
  float* field;            // [R, R, R], x slowest
  int64_t num_gaussians;   // N
  FieldGrid grid;
};

template <typename T>
void gaussian_3d_coeff_cpu(const T* xyzs, const T* covs, T* weights, int64_t count);
template <typename T>
void gaussian_3d_coeff_backward_cpu(const T* xyzs, const T* covs, const T* v_weights, T* v_xyzs, T* v_covs, int64_t count);
void extract_fields_cpu(const FieldParams& params);

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
template <typename T>
cudaError_t gaussian_3d_coeff_cuda(const T* xyzs, const T* covs, T* weights, int64_t count, cudaStream_t stream);
template <typename T>
cudaError_t gaussian_3d_coeff_backward_cuda(const T* xyzs, const T* covs, const T* v_weights, T* v_xyzs, T* v_covs, int64_t count,
                                            cudaStream_t stream);

// Bytes of scratch memory that extract_fields_cuda needs.
size_t extract_fields_scratch_bytes(const FieldParams& params);
cudaError_t extract_fields_cuda(const FieldParams& params, void* scratch, cudaStream_t stream);
#endif

}  // namespace md
