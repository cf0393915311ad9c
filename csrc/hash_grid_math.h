// Multiresolution hash grid: where a point lies in a level and which entries its cell's corners name, for both compilers.
// Mueller et al., "Instant Neural Graphics Primitives with a Multiresolution Hash Encoding" (2022), in tiny-cuda-nn's layout.
#pragma once

#include "common.h"
#include "constants.h"

namespace md::hash_grid {

constexpr int kCorners = 8;

struct Level {
  float scale;          // cells along the unit interval
  uint32_t resolution;  // vertices an axis
  uint32_t entries;     // a power of two where hashed
  bool hashed;          // false: one entry a vertex, x fastest
  int64_t offset;       // first entry of the level
};

struct Grid {
  Level levels[kMaxLevels];
  int count;     // levels
  int features;  // of an entry
};

struct Cell {
  uint32_t lower[3];  // the corner with the least coordinates; negative ones wrap around
  float fraction[3];  // of the way to the opposite corner, in [0, 1)
};

// Points far outside end at the largest cell; the fraction of a point that is not finite is not a number, and so is its encoding.
MD_HOST_DEVICE Cell locate(const Level& level, const float* point) {
  Cell cell;
  for (int axis = 0; axis < 3; ++axis) {
    const float position = fmaf(point[axis], level.scale, 0.5f);
    const float whole = floorf(position);
    cell.fraction[axis] = position - whole;
    const float limited = whole >= -kLargestCell ? (whole <= kLargestCell ? whole : kLargestCell) : -kLargestCell;
    cell.lower[axis] = static_cast<uint32_t>(static_cast<int32_t>(limited));
  }
  return cell;
}

// The entry of corner `corner`, whose bits 1, 2, 4 say upper along x, y, z. A dense level wraps at its upper faces.
MD_HOST_DEVICE uint32_t corner_entry(const Level& level, const Cell& cell, int corner) {
  const uint32_t x = cell.lower[0] + (corner & 1), y = cell.lower[1] + (corner >> 1 & 1), z = cell.lower[2] + (corner >> 2);
  if (level.hashed) return (x ^ y * kPrimeY ^ z * kPrimeZ) & (level.entries - 1);
  const uint32_t index = x + level.resolution * (y + level.resolution * z);
  return index < level.entries ? index : index % level.entries;
}

MD_HOST_DEVICE float axis_weight(const Cell& cell, int corner, int axis) {
  return corner >> axis & 1 ? cell.fraction[axis] : 1.f - cell.fraction[axis];
}

MD_HOST_DEVICE float corner_weight(const Cell& cell, int corner) {
  return axis_weight(cell, corner, 0) * axis_weight(cell, corner, 1) * axis_weight(cell, corner, 2);
}

// Adds the derivative, with respect to the point, of the blend of the corners' values.
MD_HOST_DEVICE void add_blend_gradient(const Level& level, const Cell& cell, const float (&values)[kCorners], float (&v_point)[3]) {
  const float x = cell.fraction[0], y = cell.fraction[1], z = cell.fraction[2];
  const auto blend = [](float lower, float upper, float fraction) { return lower + fraction * (upper - lower); };
  const float along_x[4] = {blend(values[0], values[1], x), blend(values[2], values[3], x), blend(values[4], values[5], x),
                            blend(values[6], values[7], x)};  // by bits y, z
  v_point[0] += level.scale *
                blend(blend(values[1] - values[0], values[3] - values[2], y), blend(values[5] - values[4], values[7] - values[6], y), z);
  v_point[1] += level.scale * blend(along_x[1] - along_x[0], along_x[3] - along_x[2], z);
  v_point[2] += level.scale * (blend(along_x[2], along_x[3], y) - blend(along_x[0], along_x[1], y));
}

}  // namespace md::hash_grid
