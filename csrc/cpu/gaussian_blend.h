// The work on Gaussians and tiles as the CPU's Gaussian rasteriser calls it, in whatever width of lanes the processor has.
#pragma once

#include "gaussian_raster.h"

namespace md::raster {

constexpr int kAhead = 8;  // splats fetched before their turn: lists visit them in no order of memory

inline void fetch_ahead(const Splat& splat) {
#if defined(__GNUC__)
  __builtin_prefetch(&splat);
  __builtin_prefetch(reinterpret_cast<const char*>(&splat + 1) - 1);  // it may lie across two cache lines
#endif
}

// One tile of one view, whose corner is at (left, top): the splats that it blends are named by [first, last), nearest first.
struct Tile {
  const int* first;
  const int* last;
  int view, left, top;
};

// Gradients of the splats of one view: each Gaussian's are those of its hits, which lie one after the other.
struct Hits {
  const int* first_slot;  // [N + 1] where those of a Gaussian begin
  const SplatGradient* v_slots;

  SplatGradient sum(int64_t n) const {
    SplatGradient total{};
    float* sums = reinterpret_cast<float*>(&total);
    for (int slot = first_slot[n]; slot < first_slot[n + 1]; ++slot) {
      const float* part = reinterpret_cast<const float*>(v_slots + slot);
      for (int k = 0; k < kGradients; ++k) sums[k] += part[k];
    }
    return total;
  }
};

struct Blending {
  // Of Gaussians [begin, end) with colours that do not depend on the view: their splats and radii in all views, whose cameras are loaded.
  void (*project)(const Inputs& in, const Camera* cameras, int64_t begin, int64_t end, const State& state);
  void (*forward)(const Inputs& in, const Splat* splats, const Tile& tile, const Images& images);
  // Writes to v_slots[slot[k]] what the tile's k-th splat gets.
  void (*backward)(const Inputs& in, const Splat* splats, const Tile& tile, const Images& images, const ImageGradients& v_images,
                   const int* slot, SplatGradient* v_slots);
  // Of Gaussians [begin, end) as for `project`: their gradients over all views, from each view's hits.
  void (*gaussians)(const Inputs& in, const Camera* cameras, const int* radii, const Hits* hits, int64_t begin, int64_t end,
                    const InputGradients& out);
};

// With lanes of AVX-512, where this file was built for AVX2 and the compiler can make it too; else null.
const Blending* blending_avx512();

}  // namespace md::raster
