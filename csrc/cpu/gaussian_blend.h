// The blending of tiles as the CPU's Gaussian rasteriser calls it, in whatever width of lanes the processor has.
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

struct Blending {
  void (*forward)(const Inputs& in, const Splat* splats, const Tile& tile, const Images& images);
  // Writes to v_slots[slot[k]] what the tile's k-th splat gets.
  void (*backward)(const Inputs& in, const Splat* splats, const Tile& tile, const Images& images, const ImageGradients& v_images,
                   const int* slot, SplatGradient* v_slots);
};

// With lanes of AVX-512, where this file was built for AVX2 and the compiler can make it too; else null.
const Blending* blending_avx512();

}  // namespace md::raster
