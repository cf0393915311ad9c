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
  // On CUDA, see MarksLayout: which depth ranks each cell of the picture sees. On the CPU [V,N,2], where has_tiles_met: which tiles
  // each Gaussian meets.
  uint32_t* marks;
};

// Whether a picture's tiles fit into the bits of two words.
inline bool has_tiles_met(int width, int height) { return static_cast<int64_t>(tiles_along(width)) * tiles_along(height) <= 64; }

// How State::marks [V, cells, words] are laid out: a cell is 2^shift tiles square and has a bit for each depth rank.
struct MarksLayout {
  int shift, cells_across, cells, words;
};

inline MarksLayout marks_layout(int gaussians, int views, int width, int height) {
  constexpr int kBitsOfWord = 32, kRanksTogether = 256;  // rows of bits are padded to 32 bytes
  // The bits take at most 256 MiB, or as much as the splats themselves if that is more; beyond, cells grow.
  constexpr int64_t kMarkBits = int64_t{1} << 31;
  constexpr int kCellsAsSplats = 8 * sizeof(Splat);
  MarksLayout layout{};
  const int across = tiles_along(width), down = tiles_along(height);
  for (;; ++layout.shift) {
    const int size = 1 << layout.shift;
    layout.cells_across = (across + size - 1) / size;
    layout.cells = layout.cells_across * ((down + size - 1) / size);
    if (layout.cells <= kCellsAsSplats || static_cast<int64_t>(views) * layout.cells * gaussians <= kMarkBits) break;
  }
  layout.words = (gaussians + kRanksTogether - 1) / kRanksTogether * (kRanksTogether / kBitsOfWord);
  return layout;
}

struct Images {
  float* image;  // [V,3,H,W]
  float* alpha;  // [V,1,H,W]
  float* depth;  // [V,1,H,W]
};

void forward_cpu(const Inputs& in, const State& state, const Images& images);
void backward_cpu(const Inputs& in, const State& state, const Images& images, const ImageGradients& v_images, const InputGradients& out);

#if defined(MD_WITH_CUDA) || defined(__CUDACC__)
// The workspaces are scratch memory of the sizes told (`bytes`), aligned to 256 bytes. Nothing here waits for the device.
size_t forward_workspace_bytes(const Inputs& in);
cudaError_t forward_cuda(const Inputs& in, const State& state, const Images& images, void* workspace, size_t bytes, cudaStream_t stream);
size_t backward_workspace_bytes(const Inputs& in, bool deterministic);
cudaError_t backward_cuda(const Inputs& in, const State& state, const Images& images, const ImageGradients& v_images,
                          const InputGradients& out, bool deterministic, void* workspace, cudaStream_t stream);
#endif

}  // namespace md::raster
