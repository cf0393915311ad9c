// Launchers of what stands around the products of a Winograd convolution: plain pointers and sizes.
#pragma once

#include "group_norm.h"
#include "winograd_math.h"

namespace md::winograd {

// Pictures [N, H, W, C], C innermost, whose H and W are even, in tiles of 2x2 pixels: T of all samples, row by row. Planes
// [sides^2, T, C] hold what lies at one place of every tile; place (i, l) is plane i * sides + l.
struct Shape {
  int64_t samples;
  int height, width;  // of the convolution's result, in pixels
  int channels;
  int sides;  // kPlaces, or kPlacesEnlarged where the convolution reads a picture of half the size, each pixel four times

  MD_HOST_DEVICE int64_t tiles_per_sample() const { return static_cast<int64_t>(height / 2) * (width / 2); }
  MD_HOST_DEVICE int64_t tiles() const { return samples * tiles_per_sample(); }
};

// Planes of x, or of x normalised by its groups' moments, with weight and bias (and SiLU). Without moments, `norm` is not looked at.
struct Norm {
  const float* moments;  // [N, moment_slices(H * W), groups, 3] or null
  const void *weight, *bias;
  int groups;
  float eps;
  bool silu;
};

// What the products give: pictures, plus an offset [N, C] or [1, C] and a residual like them or none, and their groups' moments.
struct Output {
  const void *offset, *residual;
  int64_t offset_stride;
  void* pictures;
  float* moments;  // [N, moment_slices(H * W), groups, 3]
  int groups;      // 0: no moments
};

template <typename T>
void input_cpu(const T* x, const Norm& norm, T* planes, const Shape& shape);
template <typename T>
void output_cpu(const T* products, const Output& output, const Shape& shape);

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
// The longest row of output_cuda, of whose threads each takes four channels.
constexpr int kMostFours = 320, kMostChannels = 4 * kMostFours;

cudaError_t input_cuda(const void* x, const Norm& norm, void* planes, const Shape& shape, FloatType type, cudaStream_t stream);
cudaError_t output_cuda(const void* products, const Output& output, const Shape& shape, FloatType type, cudaStream_t stream);
#endif

}  // namespace md::winograd
