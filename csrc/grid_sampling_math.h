// Grids of features, planes or voxels, read between their texels: where a point lies and what the corners of its cell weigh, for both
// compilers. Texel i of n along an axis has its centre at (2 i + 1) / n - 1; beyond the outermost centres values fade to zero, which
// all texels outside have.
#pragma once

#include "common.h"
#include "constants.h"

namespace md::grid_sampling {

constexpr int kDims = 3;      // of a point, and at most of a grid
constexpr int kOutside = -1;  // of no texel

struct Layout {
  int grids;                   // of each of the batch
  int dims;                    // 2: planes, 3: voxels
  int channels;                // of a texel
  int size[kDims];             // texels along width, height, depth
  int64_t texels;              // of one grid
  int axes[kMaxGrids][kDims];  // which coordinate of a point runs along each
};

template <int D>
struct Cell {
  int lower[D];       // the corner with the least coordinates, from -2 on and up to the size
  float fraction[D];  // of the way to the opposite corner, in [0, 1)
};

template <int D>
MD_HOST_DEVICE bool same_place(const Cell<D>& a, const Cell<D>& b) {
  bool same = true;
  for (int d = 0; d < D; ++d) same &= a.lower[d] == b.lower[d];
  return same;
}

// A point that is not finite has a fraction that is not a number.
template <int D>
MD_HOST_DEVICE Cell<D> locate(const Layout& layout, int grid, const float* point) {
  Cell<D> cell;
  for (int d = 0; d < D; ++d) {
    const float size = static_cast<float>(layout.size[d]);
    const float position = ((point[layout.axes[grid][d]] + 1.f) * size - 1.f) * 0.5f;
    const float whole = floorf(position);
    cell.fraction[d] = position - whole;
    cell.lower[d] = static_cast<int>(whole >= -2.f ? (whole <= size ? whole : size) : -2.f);
  }
  return cell;
}

// The texel at corner `corner`, whose bits 1, 2, 4 say upper along width, height, depth; kOutside where there is none.
template <int D>
MD_HOST_DEVICE int corner_texel(const Layout& layout, const Cell<D>& cell, int corner) {
  int texel = 0;
  bool inside = true;
  for (int d = D - 1; d >= 0; --d) {
    const int place = cell.lower[d] + (corner >> d & 1);
    inside &= place >= 0 && place < layout.size[d];
    texel = texel * layout.size[d] + place;
  }
  return inside ? texel : kOutside;
}

template <int D>
MD_HOST_DEVICE float axis_weight(const Cell<D>& cell, int corner, int d) {
  return corner >> d & 1 ? cell.fraction[d] : 1.f - cell.fraction[d];
}

template <int D>
MD_HOST_DEVICE float corner_weight(const Cell<D>& cell, int corner) {
  float weight = axis_weight(cell, corner, 0);
  for (int d = 1; d < D; ++d) weight *= axis_weight(cell, corner, d);
  return weight;
}

// Adds the derivative, with respect to the point, of the blend of the corners' values.
template <int D>
MD_HOST_DEVICE void add_blend_gradient(const Layout& layout, int grid, const Cell<D>& cell, const float (&values)[1 << D],
                                       float (&v_point)[kDims]) {
  for (int d = 0; d < D; ++d) {
    float slope = 0.f;
    for (int corner = 0; corner < 1 << D; ++corner) {
      float weight = corner >> d & 1 ? 1.f : -1.f;
      for (int other = 0; other < D; ++other) {
        if (other != d) weight *= axis_weight(cell, corner, other);
      }
      slope += weight * values[corner];
    }
    slope *= 0.5f * static_cast<float>(layout.size[d]);
    // Which coordinate it is, without an address that the compiler cannot know.
    for (int axis = 0; axis < kDims; ++axis) v_point[axis] += layout.axes[grid][d] == axis ? slope : 0.f;
  }
}

}  // namespace md::grid_sampling
