// How the CPU's Gaussian rasteriser blends a tile, forward and backward, a block of kLanes pixels at a time and only those blocks that a
// splat's ellipse reaches. Compiled once for each width of the lanes: see `Blending`.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "gaussian_blend.h"
#include "gaussian_projection_lanes.h"
#include "gaussian_raster.h"
#include "lanes.h"

namespace md::raster {
inline namespace MD_LANES_NAMESPACE {

constexpr int kPixels = kTile * kTile;

// The pixels of a tile lie in strips of four columns, row after row, so that any kLanes of them in a row of memory are a
// block of four columns: splats are round, and a block that is nearly square holds fewer pixels that they miss. A block is
// named by its strip and its first row: strip * kTile + row, its bit in a mask and a quarter of its place in memory.
constexpr int kStrip = 4, kStrips = kTile / kStrip;
constexpr int kBlockRows = kLanes / kStrip;
using Blocks = uint64_t;
static_assert(kStrips * kTile == 64 && kLanes % kStrip == 0 && kTile % kLanes == 0);

inline int strip_of(int block) { return block / kTile; }
inline int first_pixel(int block) { return block * kStrip; }
inline int pixel_at(int row, int column) { return (column / kStrip * kTile + row) * kStrip + column % kStrip; }
inline int block_at(int row, int strip) { return strip * kTile + row / kBlockRows * kBlockRows; }

// Where the pixels of a tile's blocks are in the picture.
struct PixelCentres {
  Lanes x[kStrips], y[kTile / kBlockRows];

  PixelCentres(int left, int top) {
    for (int strip = 0; strip < kStrips; ++strip) x[strip] = each_lane([&](int i) { return left + strip * kStrip + i % kStrip; });
    for (int rows = 0; rows < kTile / kBlockRows; ++rows) y[rows] = each_lane([&](int i) { return top + rows * kBlockRows + i / kStrip; });
  }
  Lanes x_of(int block) const { return x[strip_of(block)]; }
  Lanes y_of(int block) const { return y[block % kTile / kBlockRows]; }
};

// The blocks that a splat may reach. In row y the ellipse a dx^2 + 2 b dx dy + c dy^2 = reach is the interval
// |x - middle| <= half with half^2 = (a reach - det dy^2) / a^2, which is negative where there is none.
inline Blocks reached_blocks(const Splat& s, int left, int top) {
  const float determinant = inverse_determinant(s), inverse_a = 1.f / s.a;
  // A little more than the exact reach, since the pixels decide in their own rounding.
  const float widest = s.reach * inverse_a * 1.0001f + 1e-3f, narrowing = determinant * inverse_a * inverse_a, slope = s.b * inverse_a;
  Blocks rows_reached = 0;
  for (int rows = 0; rows < kTile; rows += kLanes) {
    const Lanes dy = each_lane([&](int i) { return top + rows + i; }) - s.y;
    const Lanes half = sqrt_lanes(widest - dy * dy * narrowing) + 1e-3f;
    const Lanes middle = (s.x - static_cast<float>(left)) - dy * slope;
    const Lanes first = middle - half, last = middle + half;
    for (int strip = 0; strip < kStrips; ++strip) {
      const float begin = static_cast<float>(strip * kStrip), end = begin + (kStrip - 1);
      rows_reached |= static_cast<Blocks>(bits((first <= end) & (last >= begin))) << (strip * kTile + rows);
    }
  }
  Blocks first_rows = 0;  // of all blocks
  for (int row = 0; row < 64; row += kBlockRows) first_rows |= Blocks{1} << row;
  for (int shift = 1; shift < kBlockRows; shift *= 2) rows_reached |= rows_reached >> shift;
  return rows_reached & first_rows;
}

struct Coverage {
  Lanes dx, dy;    // offset of the splat's centre from the pixels
  Lanes uncapped;  // opacity * exp(power)
  Lanes alpha;     // 0 where the splat is not seen
  LaneMask seen;
};

inline Coverage cover(const Splat& s, Lanes x, Lanes y) {
  Coverage c;
  c.dx = s.x - x;
  c.dy = s.y - y;
  const Lanes power = (c.dx * c.dx * s.a + c.dy * s.c * c.dy) * -0.5f - c.dx * (c.dy * s.b);
  // Below -80 the result is far under the cut of any opacity, and the exponential's scaling would leave its range.
  c.uncapped = s.opacity * exp_lanes(larger_lanes(power, lanes(-80.f)));
  c.seen = (power <= 0.f) & (c.uncapped >= kMinAlpha);
  c.alpha = smaller_lanes(c.uncapped, lanes(kMaxAlpha));
  return c;
}

// Transmittance of the pixels of a tile. Finished ones are marked by a minus sign, those outside the picture by 0.
struct alignas(4 * kLanes) Transmittance {
  float value[kPixels];
  Blocks going = 0;  // blocks with pixels that are not finished

  Transmittance(int left, int top, int width, int height) {
    for (int row = 0; row < kTile; ++row) {
      for (int column = 0; column < kTile; ++column) {
        const bool inside = left + column < width && top + row < height;
        value[pixel_at(row, column)] = inside ? 1.f : 0.f;
        if (inside) going |= Blocks{1} << block_at(row, column / kStrip);
      }
    }
  }

  // Weights of a splat that covers `c` at a block's pixels; moves their transmittance on.
  Lanes blend(const Coverage& c, int block, Lanes& before, LaneMask& taken) {
    const int i = first_pixel(block);
    before = load_lanes(value + i);
    const LaneMask reached = c.seen & (before > 0.f);
    const Lanes after = before * (1.f - c.alpha);
    taken = reached & (after >= kMinTransmittance);
    const Lanes left_over = select(taken, after, select(reached, -before, before));
    store_lanes(value + i, left_over);
    if (!any(left_over > 0.f)) going &= ~(Blocks{1} << block);
    return select(taken, c.alpha * before, lanes(0.f));
  }
};

inline void blend_tile(const Inputs& in, const Splat* splats, const Tile& tile, const Images& images) {
  const int left = tile.left, top = tile.top, view = tile.view;
  Transmittance transmittance(left, top, in.width, in.height);
  alignas(4 * kLanes) float sums[4][kPixels] = {};  // red, green, blue, depth
  const PixelCentres centres(left, top);
  for (const int* hit = tile.first; hit != tile.last && transmittance.going; ++hit) {
    if (hit + kAhead < tile.last) fetch_ahead(splats[hit[kAhead]]);
    const Splat& s = splats[*hit];
    for (Blocks blocks = reached_blocks(s, left, top) & transmittance.going; blocks; blocks &= blocks - 1) {
      const int block = std::countr_zero(blocks), i = first_pixel(block);
      Lanes before;
      LaneMask taken;
      const Lanes weight = transmittance.blend(cover(s, centres.x_of(block), centres.y_of(block)), block, before, taken);
      store_lanes(sums[0] + i, load_lanes(sums[0] + i) + weight * s.red);
      store_lanes(sums[1] + i, load_lanes(sums[1] + i) + weight * s.green);
      store_lanes(sums[2] + i, load_lanes(sums[2] + i) + weight * s.blue);
      store_lanes(sums[3] + i, load_lanes(sums[3] + i) + weight * s.depth);
    }
  }
  const int64_t plane = static_cast<int64_t>(in.width) * in.height;
  const float* background = in.background + 3 * view;
  for (int row = 0; row < std::min(kTile, in.height - top); ++row) {
    const int64_t at = static_cast<int64_t>(top + row) * in.width + left;
    for (int column = 0; column < std::min(kTile, in.width - left); ++column) {
      const int i = pixel_at(row, column);
      const float left_over = fabsf(transmittance.value[i]);
      for (int channel = 0; channel < 3; ++channel) {
        images.image[(3 * view + channel) * plane + at + column] = sums[channel][i] + left_over * background[channel];
      }
      images.depth[view * plane + at + column] = sums[3][i];
      images.alpha[view * plane + at + column] = 1.f - left_over;
    }
  }
}

// Loss gradients of a tile's pixels, 0 outside the picture, and what they make of the blended result.
struct alignas(4 * kLanes) TileGradients {
  float red[kPixels] = {}, green[kPixels] = {}, blue[kPixels] = {}, depth[kPixels] = {}, alpha[kPixels] = {};
  // Sum over the splats still to come (and the background) of weight * (gradient . channels).
  float behind[kPixels] = {};

  TileGradients(const Inputs& in, const Images& images, const ImageGradients& v, int view, int left, int top) {
    const int64_t plane = static_cast<int64_t>(in.width) * in.height;
    for (int row = 0; row < std::min(kTile, in.height - top); ++row) {
      for (int column = 0; column < std::min(kTile, in.width - left); ++column) {
        const int i = pixel_at(row, column);
        const int64_t at = static_cast<int64_t>(top + row) * in.width + left + column, single = view * plane + at,
                      triple = 3 * view * plane + at;
        float sum = 0.f;
        if (v.image) {
          red[i] = v.image[triple];
          green[i] = v.image[triple + plane];
          blue[i] = v.image[triple + 2 * plane];
          sum += red[i] * images.image[triple] + green[i] * images.image[triple + plane] + blue[i] * images.image[triple + 2 * plane];
        }
        if (v.depth) sum += (depth[i] = v.depth[single]) * images.depth[single];
        if (v.alpha) sum += (alpha[i] = v.alpha[single]) * images.alpha[single];
        behind[i] = sum;
      }
    }
  }
};

// Front to back again, with the same transmittances as the forward pass. A weight's gradient is what the splat adds,
// less what it takes from all behind it: v_alpha_i = T_i q_i - behind_i / (1 - alpha_i).
inline void blend_tile_backward(const Inputs& in, const Splat* splats, const Tile& tile, const Images& images,
                                const ImageGradients& v_images, const int* slot, SplatGradient* v_slots) {
  const int left = tile.left, top = tile.top, view = tile.view;
  Transmittance transmittance(left, top, in.width, in.height);
  TileGradients v(in, images, v_images, view, left, top);
  const PixelCentres centres(left, top);
  for (const int* hit = tile.first; hit != tile.last; ++hit, ++slot) {
    if (hit + kAhead < tile.last) fetch_ahead(splats[hit[kAhead]]);
    const Splat& s = splats[*hit];
    Blocks blocks = transmittance.going ? reached_blocks(s, left, top) & transmittance.going : 0;
    if (!blocks) {
      v_slots[*slot] = SplatGradient{};
      continue;
    }
    const Lanes zero = lanes(0.f);
    Lanes red = zero, green = zero, blue = zero, depth = zero;
    Lanes m = zero, mx = zero, my = zero, mxx = zero, mxy = zero, myy = zero;  // moments of the gradient of the power
    for (; blocks; blocks &= blocks - 1) {
      const int block = std::countr_zero(blocks), i = first_pixel(block);
      const Coverage c = cover(s, centres.x_of(block), centres.y_of(block));
      Lanes before;
      LaneMask taken;
      const Lanes weight = transmittance.blend(c, block, before, taken);
      if (!any(taken)) continue;
      const Lanes v_red = load_lanes(v.red + i), v_green = load_lanes(v.green + i), v_blue = load_lanes(v.blue + i);
      Lanes gain = v_red * s.red + v_green * s.green + v_blue * s.blue + load_lanes(v.alpha + i);
      if (v_images.depth) {  // a fit to pictures has none
        const Lanes v_depth = load_lanes(v.depth + i);
        gain += v_depth * s.depth;
        depth += weight * v_depth;
      }
      const Lanes behind = load_lanes(v.behind + i) - weight * gain;
      store_lanes(v.behind + i, behind);
      const Lanes v_alpha = before * gain - behind / (1.f - c.alpha);
      const Lanes v_power = select(taken, v_alpha * c.uncapped, zero);  // the cap passes the gradient
      red += weight * v_red;
      green += weight * v_green;
      blue += weight * v_blue;
      const Lanes v_power_x = v_power * c.dx;
      m += v_power;
      mx += v_power_x;
      const Lanes v_power_y = v_power * c.dy;
      my += v_power_y;
      mxx += v_power_x * c.dx;
      mxy += v_power_x * c.dy;
      myy += v_power_y * c.dy;
    }
    SplatGradient* out = v_slots + *slot;
    float sums[12];
    sum_four(mx, my, mxx, mxy, sums);
    sum_four(myy, m, depth, red, sums + 4);
    sum_four(green, blue, zero, zero, sums + 8);
    out->x = -(s.a * sums[0] + s.b * sums[1]);
    out->y = -(s.b * sums[0] + s.c * sums[1]);
    out->a = -0.5f * sums[2];
    out->b = -sums[3];
    out->c = -0.5f * sums[4];
    out->opacity = sums[5] / s.opacity;
    out->depth = sums[6];
    out->red = sums[7];
    out->green = sums[8];
    out->blue = sums[9];
  }
}

inline constexpr Blending kBlending{project_gaussians, blend_tile, blend_tile_backward, gaussian_gradients};

}  // namespace MD_LANES_NAMESPACE
}  // namespace md::raster
