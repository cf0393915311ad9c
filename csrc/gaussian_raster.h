// Gaussian rasteriser: the entry points of the CPU and CUDA versions. Plain pointers; the caller allocates all results.
#pragma once

#include "gaussian_raster_math.h"

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>
#endif

namespace md::raster {

// What the forward pass leaves for the backward pass.
struct State {
  Splat* splats;  // [V,N], zero where culled; on CUDA in the order that `order` tells
  int* radii;     // [V,N], 0 where culled
  int* order;     // [V,N] the Gaussians of each view by view z, nearest first; on the CPU the visible ones alone, then -1
  uint32_t* marks; // CUDA alone, of MarksShape: which depth ranks each cell of the picture sees
};

struct Images {
  float* image;  // [V,3,H,W]
  float* alpha;  // [V,1,H,W]
  float* depth;  // [V,1,H,W]
};

void forward_cpu(const Inputs& in, const State& state, const Images& images);
void backward_cpu(const Inputs& in, const State& state, const Images& images, const ImageGradients& v_images, const InputGradients& out);

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
// Of State::marks: [V, cells, words], one bit a rank.
struct MarksShape {
  int64_t cells, words;
};
MarksShape marks_shape(const Inputs& in);

// The workspaces are scratch memory of the sizes told, aligned to 256 bytes. Nothing here waits for the device.
size_t forward_workspace_bytes(const Inputs& in);
cudaError_t forward_cuda(const Inputs& in, const State& state, const Images& images, void* workspace, cudaStream_t stream);
size_t backward_workspace_bytes(const Inputs& in, bool deterministic);
cudaError_t backward_cuda(const Inputs& in, const State& state, const Images& images, const ImageGradients& v_images,
                          const InputGradients& out, bool deterministic, void* workspace, cudaStream_t stream);
#endif

}  // namespace md::raster
