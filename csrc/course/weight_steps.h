// Steps of gaussian_3d_coeff and a mistake (docs/course/3_op.md): what a thread computes, and how it comes by its numbers.
//
// As in field_steps.h, weights_cuda.cu gives a thread to every pair of an offset and a covariance, and weights_cpu.cpp goes through the
// same blocks and threads in a loop.
#pragma once

#include "gaussian_field_math.h"

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>
#endif

namespace md::course {

enum class WeightVariant {
  kNaive,        // the formula, in double, of numbers where they lie: the library's kernel
  kFused,        // the same in the caller's type: one division and one power of two
  kShared,       // a block fetches its numbers together into shared memory, neighbouring threads neighbouring ones
  kVectorised,   // a thread takes several pairs: 16 bytes a read on a GPU, a vector of eight on the CPU
  kWrongLaunch,  // naive, but only as many blocks as are full
};

constexpr int kWeightThreads = 256;  // of a block
constexpr int kPairs = 4;            // of a thread of kVectorised on a GPU: their numbers are whole pieces of 16 bytes

template <typename T>
struct WeightParams {
  const T* xyzs;  // [N, 3] offsets
  const T* covs;  // [N, 6]
  T* weights;     // [N]
  int64_t count;  // N
};

// The x of weight = 2^x. T is float, double, or a vector of floats; Scalar is what it is made of.
template <typename T, typename Scalar = T>
MD_HOST_DEVICE T exponent_of_two(const T* xyz, const T* cov) {
  const T xx = cov[0], xy = cov[1], xz = cov[2], yy = cov[3], yz = cov[4], zz = cov[5];
  const T x = xyz[0], y = xyz[1], z = xyz[2];
  const T a_xx = yy * zz - yz * yz, a_xy = xz * yz - xy * zz, a_xz = xy * yz - xz * yy;
  const T a_yy = xx * zz - xz * xz, a_yz = xy * xz - xx * yz, a_zz = xx * yy - xy * xy;
  const T determinant = xx * a_xx + xy * a_xy + xz * a_xz;
  // d^T adj(C) d, row by row; the factor -log2(e) / 2 goes into the only division.
  const T form = x * (a_xx * x + Scalar(2) * (a_xy * y + a_xz * z)) + y * (a_yy * y + Scalar(2) * (a_yz * z)) + a_zz * z * z;
  return form * (Scalar(-kHalfLog2E) / (determinant + Scalar(kDeterminantFloor)));
}

MD_HOST_DEVICE float weight_of(float exponent) { return exponent > 0.0f ? 0.0f : exp2f(exponent); }
MD_HOST_DEVICE double weight_of(double exponent) { return exponent > 0.0 ? 0.0 : exp2(exponent); }

template <typename T>
MD_HOST_DEVICE T fused_weight(const T* xyz, const T* cov) {
  return weight_of(exponent_of_two(xyz, cov));
}

template <typename T>
void weights_cpu(const WeightParams<T>& params, WeightVariant variant);

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
template <typename T>
cudaError_t weights_cuda(const WeightParams<T>& params, WeightVariant variant, cudaStream_t stream);
#endif

}  // namespace md::course
