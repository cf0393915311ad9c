// Texture look-up: the arithmetic of one pixel, forward and backward, for both compilers. Meaning: microdreamer/kernels/texture.py.
// Footprints and mip-maps: Laine et al. 2020, section 3.3; sides that are no power of two: Guthe and Heckbert 2005.
#pragma once

#include "common.h"
#include "constants.h"

namespace md::texture {

constexpr int kMaxLevels = 16;
static_assert(kMaxSide == 1 << (kMaxLevels - 1));

MD_HOST_DEVICE int level_side(int side, int level) { return side >> level > 1 ? side >> level : 1; }

// The levels of a texture, one after the other; level 0 is the texture.
struct Pyramid {
  int height, width, levels;
  int floats;                 // a texel's, padding included
  int first[kMaxLevels + 1];  // texels before each level; the last entry in use counts all
};

inline Pyramid make_pyramid(int height, int width, int levels, int floats) {
  Pyramid p{height, width, levels, floats, {}};
  for (int level = 0; level < levels; ++level) p.first[level + 1] = p.first[level] + level_side(height, level) * level_side(width, level);
  return p;
}

// Floats that a pyramid gives a texel: whole groups of 4 from 3 channels up, so that a group is read and added to at once.
constexpr int64_t texel_floats(int64_t channels) { return channels < 3 ? channels : (channels + 3) / 4 * 4; }

// A pixel's coordinates, and their derivatives along X and Y. Aligned, so that they are read at once.
struct alignas(8) Coordinates {
  float u, v;
};
struct alignas(16) Derivatives {
  float ux, uy, vx, vy;
};

struct Inputs {
  const float* texels;       // [textures, texels of the pyramid, its floats]
  const Coordinates* uv;     // [pictures, height, width]
  const Derivatives* uv_da;  // [pictures, height, width], or null unless mipmapped
  const bool* mask;          // [pictures, height, width], or null: all
  Pyramid pyramid;
  int64_t stride;  // floats from one texture to the next
  int textures;    // 1 or pictures
  int pictures;
  int height, width;  // of a picture
  int channels;
  Filter filter;
  bool wrap;
};

struct Gradients {  // each may be null
  float* texels;
  Coordinates* uv;
  Derivatives* uv_da;
};

// ---- Where along an axis ----

// The two texels between whose centres a coordinate lies, and the share of the second. The coordinate is finite.
struct Neighbors {
  int first, second;
  float share;
};

MD_HOST_DEVICE int limit(int i, int last) { return i < 0 ? 0 : i > last ? last : i; }

MD_HOST_DEVICE Neighbors neighbors(float coordinate, int side, bool wrap) {
  const float texels = static_cast<float>(side);
  const float place = wrap ? (coordinate - floorf(coordinate)) * texels - 0.5f : fminf(fmaxf(coordinate * texels - 0.5f, -1.f), texels);
  const float before = floorf(place);
  const int i = static_cast<int>(before);
  if (wrap) return {i < 0 ? side - 1 : i, i + 1 >= side ? 0 : i + 1, place - before};
  return {limit(i, side - 1), limit(i + 1, side - 1), place - before};
}

MD_HOST_DEVICE int nearest(float coordinate, int side, bool wrap) {
  const float inside = wrap ? coordinate - floorf(coordinate) : fminf(fmaxf(coordinate, 0.f), 1.f);
  return limit(static_cast<int>(inside * static_cast<float>(side)), side - 1);
}

// ---- Which level ----

struct Footprint {
  float level;   // 0 .. levels - 1
  bool between;  // strictly, so that two levels are mixed and the level has a gradient
  // Of a footprint between: A, B, C of J^T J = [A C; C B], J the Jacobian of uv in texels; the larger eigenvalue; its square-root term.
  float along_x, along_y, across, squared_axis, root;
};

MD_HOST_DEVICE Footprint footprint(const Derivatives& da, const Pyramid& p) {
  const float w = static_cast<float>(p.width), h = static_cast<float>(p.height);
  const float ux = da.ux * w, uy = da.uy * w, vx = da.vx * h, vy = da.vy * h;
  Footprint f;
  f.along_x = ux * ux + vx * vx;
  f.along_y = uy * uy + vy * vy;
  f.across = ux * uy + vx * vy;
  const float half_difference = 0.5f * (f.along_x - f.along_y);
  f.root = sqrtf(half_difference * half_difference + f.across * f.across);
  f.squared_axis = 0.5f * (f.along_x + f.along_y) + f.root;
  const float coarsest = static_cast<float>(p.levels - 1);
  const float level = 0.5f * log2f(f.squared_axis);
  f.between = level > 0.f && level < coarsest;                  // false for NaN and infinity
  f.level = f.between ? level : level <= 0.f ? 0.f : coarsest;  // what is not finite sees the coarsest
  return f;
}

// The gradient of the derivatives from that of the level. The circle, where the square root has none, keeps that of the mean.
MD_HOST_DEVICE Derivatives footprint_backward(const Derivatives& da, const Pyramid& p, const Footprint& f, float v_level) {
  const float w = static_cast<float>(p.width), h = static_cast<float>(p.height);
  const float ux = da.ux * w, uy = da.uy * w, vx = da.vx * h, vy = da.vy * h;
  const float v_axis = v_level * 0.72134752f / f.squared_axis;  // d(log2(x) / 2) = dx / (2 ln 2 x)
  const float inverse = f.root > 0.f ? 1.f / f.root : 0.f;
  const float tilt = 0.25f * (f.along_x - f.along_y) * inverse;
  const float v_x = v_axis * (0.5f + tilt), v_y = v_axis * (0.5f - tilt), v_across = v_axis * f.across * inverse;
  return {w * (2.f * ux * v_x + uy * v_across), w * (2.f * uy * v_y + ux * v_across), h * (2.f * vx * v_x + vy * v_across),
          h * (2.f * vy * v_y + vx * v_across)};
}

// ---- What a pixel reads of one level ----

// Texel numbers within the pyramid of the four around the pixel (top left, top right, bottom left, bottom right).
struct Quad {
  int texel[4];
  int level;
  float right, down;   // shares of the second column and row
  float per_u, per_v;  // texels per unit of uv
};

MD_HOST_DEVICE Quad quad_at(const Pyramid& p, int level, const Coordinates& at, bool wrap) {
  const int width = level_side(p.width, level), height = level_side(p.height, level);
  const Neighbors x = neighbors(at.u, width, wrap), y = neighbors(at.v, height, wrap);
  const int top = p.first[level] + y.first * width, bottom = p.first[level] + y.second * width;
  return {{top + x.first, top + x.second, bottom + x.first, bottom + x.second},
          level,
          x.share,
          y.share,
          static_cast<float>(width),
          static_cast<float>(height)};
}

MD_HOST_DEVICE void quad_weights(const Quad& q, float weights[4]) {
  const float left = 1.f - q.right, up = 1.f - q.down;
  weights[0] = up * left;
  weights[1] = up * q.right;
  weights[2] = q.down * left;
  weights[3] = q.down * q.right;
}

MD_HOST_DEVICE int nearest_texel(const Pyramid& p, const Coordinates& at, bool wrap) {
  return nearest(at.v, p.height, wrap) * p.width + nearest(at.u, p.width, wrap);
}

MD_HOST_DEVICE bool finite(float x) { return fabsf(x) < INFINITY; }

// What a pixel sees: nothing, or a texel, or the weighted sum of one or two quads.
struct Look {
  int quads;  // 0 where masked out or the uv is not finite
  Quad quad[2];
  float share[2];
  Footprint footprint;  // of Filter::kLinearMipmapLinear
};

MD_HOST_DEVICE bool seen(const Inputs& in, int64_t pixel, Coordinates& at) {
  if (in.mask && !in.mask[pixel]) return false;
  at = in.uv[pixel];
  return finite(at.u) && finite(at.v);
}

// Of Filter::kLinear and kLinearMipmapLinear. Sets what `quads` says to be there.
MD_HOST_DEVICE void look_at(const Inputs& in, int64_t pixel, Look& look) {
  Coordinates at{};
  look.quads = 0;
  if (!seen(in, pixel, at)) return;
  int level = 0;
  look.quads = 1;
  look.share[0] = 1.f;
  if (in.filter == Filter::kLinearMipmapLinear) {
    look.footprint = footprint(in.uv_da[pixel], in.pyramid);
    level = static_cast<int>(look.footprint.level);
    if (look.footprint.between) {
      look.share[1] = look.footprint.level - static_cast<float>(level);
      look.share[0] = 1.f - look.share[1];
      look.quads = 2;
      look.quad[1] = quad_at(in.pyramid, level + 1, at, in.wrap);
    }
  }
  look.quad[0] = quad_at(in.pyramid, level, at, in.wrap);
}

// `dots` are the scalar products of the output's gradient with a quad's texels. Adds to the gradient of uv and returns the product
// with the quad's colour.
MD_HOST_DEVICE float quad_backward(const Quad& q, float share, const float dots[4], Coordinates& v_uv) {
  const float top = dots[1] - dots[0], bottom = dots[3] - dots[2];
  v_uv.u += share * q.per_u * (top + q.down * (bottom - top));
  const float left = dots[2] - dots[0], right = dots[3] - dots[1];
  v_uv.v += share * q.per_v * (left + q.right * (right - left));
  const float above = dots[0] + q.right * top, below = dots[2] + q.right * bottom;
  return above + q.down * (below - above);
}

MD_HOST_DEVICE void look_backward(const Inputs& in, int64_t pixel, const Look& look, const float dots[2][4], Coordinates& v_uv,
                                  Derivatives& v_da) {
  v_uv = {0.f, 0.f};
  v_da = {0.f, 0.f, 0.f, 0.f};
  if (look.quads == 0) return;
  const float color = quad_backward(look.quad[0], look.share[0], dots[0], v_uv);
  if (look.quads == 1) return;
  const float coarser = quad_backward(look.quad[1], look.share[1], dots[1], v_uv);
  v_da = footprint_backward(in.uv_da[pixel], in.pyramid, look.footprint, coarser - color);
}

// ---- From level to level ----

// Along an axis of `side` texels, the texels first .. first + count - 1 make texel `i` of the next level, with these weights.
struct Box {
  int first, count;
  float weight[3];
};

MD_HOST_DEVICE Box box_of(int i, int side) {
  if (side == 1) return {0, 1, {1.f, 0.f, 0.f}};
  if (side % 2 == 0) return {2 * i, 2, {0.5f, 0.5f, 0.f}};
  const int half = side / 2;
  const float share = 1.f / static_cast<float>(side);
  return {2 * i, 3, {static_cast<float>(half - i) * share, static_cast<float>(half) * share, static_cast<float>(i + 1) * share}};
}

// The reverse: texel `i` of an axis of `side` counts in texels first .. first + count - 1 of the next level, with these weights.
struct Shares {
  int first, count;
  float weight[2];
};

MD_HOST_DEVICE Shares shares_of(int i, int side) {
  if (side == 1) return {0, 1, {1.f, 0.f}};
  if (side % 2 == 0) return {i / 2, 1, {0.5f, 0.f}};
  const int half = side / 2, j = i / 2;
  const float share = 1.f / static_cast<float>(side);
  if (i % 2 == 1) return {j, 1, {static_cast<float>(half) * share, 0.f}};
  // An even texel lies across the border of the coarse texels j - 1 and j, of which the first and the last lack one.
  if (j == 0) return {0, 1, {static_cast<float>(half) * share, 0.f}};
  if (j == half) return {j - 1, 1, {static_cast<float>(j) * share, 0.f}};
  return {j - 1, 2, {static_cast<float>(j) * share, static_cast<float>(half - j) * share}};
}

// The levels from `level` on until one with an odd side (which ends the run, inclusive): within a run a texel has one parent.
inline int run_end(const Pyramid& p, int level) {
  while (level + 1 < p.levels) {
    const int height = level_side(p.height, level), width = level_side(p.width, level);
    if ((height > 1 && height % 2 == 1) || (width > 1 && width % 2 == 1)) return level;
    ++level;
  }
  return level;
}

}  // namespace md::texture
