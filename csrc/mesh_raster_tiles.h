// How the pixels of a face's box are shared out: a small box as one list, a larger one as tiles, 32 of which are a unit of work; and
// which tiles hold none of the face's pixels, told without looking at them.
#pragma once

#include "mesh_raster_math.h"

namespace md::mesh_raster {

constexpr int kTileX = 8, kTileY = 4;  // pixels of a tile
constexpr int kTilesInUnit = 32;

MD_HOST_DEVICE int pixels_of(const Box& box) { return (box.x1 - box.x0 + 1) * (box.y1 - box.y0 + 1); }

// Row of pixel `index` of a box whose `width` is told by its inverse; exact below 2^16 pixels.
MD_HOST_DEVICE int row_of(int index, float inverse_width) { return static_cast<int>((static_cast<float>(index) + 0.5f) * inverse_width); }

// Tiles lie on a grid of the picture, so that those at a box's rim reach beyond it.
MD_HOST_DEVICE int tiles_across(const Box& box) { return box.x1 / kTileX - box.x0 / kTileX + 1; }
MD_HOST_DEVICE int tiles_of(const Box& box) { return tiles_across(box) * (box.y1 / kTileY - box.y0 / kTileY + 1); }
MD_HOST_DEVICE int units_of(const Box& box) { return (tiles_of(box) + kTilesInUnit - 1) / kTilesInUnit; }

// Tells whether a face can cover a pixel of a tile of any one size. Its edge functions are linear, so in a tile of half width h each is
// within |slope| h of its value in the middle: one that is positive everywhere and another that is negative leave no pixel inside.
struct TileTest {
  float scale_x, scale_y;    // clip-space units of a pixel
  float middle_x, middle_y;  // of a tile from its edge, in pixels
  float pad_x, pad_y;        // by which a corner's w enlarges what its distance from the middle is taken to be
  float reach[3];            // by how much an edge function changes from the middle to the outermost centres

  MD_HOST_DEVICE TileTest(const Corner* corners, float pixel_x, float pixel_y, int tile_x, int tile_y)
      : scale_x(pixel_x), scale_y(pixel_y), middle_x(0.5f * static_cast<float>(tile_x)), middle_y(0.5f * static_cast<float>(tile_y)) {
    const float half_x = (middle_x - 0.5f) * scale_x, half_y = (middle_y - 0.5f) * scale_y;
    for (int k = 0; k < 3; ++k) {
      const Corner &a = corners[(k + 1) % 3], &b = corners[(k + 2) % 3];
      reach[k] = fabsf(a.y * b.w - b.y * a.w) * half_x + fabsf(b.x * a.w - a.x * b.w) * half_y;
    }
    pad_x = fmaxf(half_x, kPad);
    pad_y = fmaxf(half_y, kPad);
  }

  // The margin is that of rounding. Centres X and w X are rounded by u = 2^-24, which moves x - w X by 2 u |w|; with |x| + |w| / 16
  // for a corner's distance, an edge function is within 69 u of the sum of its products, in the middle and at a pixel, and `reach`
  // within 102 u: 1.5e-5 in all.
  MD_HOST_DEVICE bool outside(const Corner* corners, int left, int top) const {
    const Relative<float> r = relative(corners, fused(static_cast<float>(left) + middle_x, scale_x, -1.0f),
                                       fused(static_cast<float>(top) + middle_y, scale_y, -1.0f));
    float e[3];
    edge_functions(r, e);
    bool positive = false, negative = false;
    for (int k = 0; k < 3; ++k) {
      const int a = (k + 1) % 3, b = (k + 2) % 3;
      const float x_a = fused(fabsf(corners[a].w), pad_x, fabsf(r.x[a])), x_b = fused(fabsf(corners[b].w), pad_x, fabsf(r.x[b]));
      const float y_a = fused(fabsf(corners[a].w), pad_y, fabsf(r.y[a])), y_b = fused(fabsf(corners[b].w), pad_y, fabsf(r.y[b]));
      const float least = fused(kRounding, fused(x_a, y_b, y_a * x_b), reach[k]);
      positive = positive || e[k] > least;
      negative = negative || e[k] < -least;
    }
    return positive && negative;
  }

 private:
  static constexpr float kPad = 1.0f / 16, kRounding = 2e-5f;
};

}  // namespace md::mesh_raster
