// Multiresolution hash grid: where a point lies in a level and which entries its cell's corners name, for both compilers.
// Mueller et al., "Instant Neural Graphics Primitives with a Multiresolution Hash Encoding" (2022), in tiny-cuda-nn's layout.
#pragma once

#include "common.h"

namespace md::hash_grid {

constexpr int kMaxLevels = 32;
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
  constexpr float kLargest = 2147483520.f;  // the last float below 2^31
  Cell cell;
  for (int axis = 0; axis < 3; ++axis) {
    const float position = fmaf(point[axis], level.scale, 0.5f);
    const float whole = floorf(position);
    cell.fraction[axis] = position - whole;
    const float limited = whole >= -kLargest ? (whole <= kLargest ? whole : kLargest) : -kLargest;
    cell.lower[axis] = static_cast<uint32_t>(static_cast<int32_t>(limited));
  }
  return cell;
}

// The entry of corner `corner`, whose bits 1, 2, 4 say upper along x, y, z. A dense level wraps at its upper faces.
MD_HOST_DEVICE uint32_t corner_entry(const Level& level, const Cell& cell, int corner) {
  const uint32_t x = cell.lower[0] + (corner & 1), y = cell.lower[1] + (corner >> 1 & 1), z = cell.lower[2] + (corner >> 2);
  if (level.hashed) return (x ^ y * 2654435761u ^ z * 805459861u) & (level.entries - 1);
  const uint32_t index = x + level.resolution * (y + level.resolution * z);
  return index < level.entries ? index : index % level.entries;
}

MD_HOST_DEVICE float axis_weight(const Cell& cell, int corner, int axis) {
  return corner >> axis & 1 ? cell.fraction[axis] : 1.f - cell.fraction[axis];
}

MD_HOST_DEVICE float corner_weight(const Cell& cell, int corner) {
  return axis_weight(cell, corner, 0) * axis_weight(cell, corner, 1) * axis_weight(cell, corner, 2);
}

// Adds value times the derivative of the corner's weight with respect to the point.
MD_HOST_DEVICE void add_weight_gradient(const Level& level, const Cell& cell, int corner, float value, float v_point[3]) {
  const float wx = axis_weight(cell, corner, 0), wy = axis_weight(cell, corner, 1), wz = axis_weight(cell, corner, 2);
  const float scaled = value * level.scale;
  v_point[0] += (corner & 1 ? scaled : -scaled) * wy * wz;
  v_point[1] += (corner & 2 ? scaled : -scaled) * wx * wz;
  v_point[2] += (corner & 4 ? scaled : -scaled) * wx * wy;
}

}  // namespace md::hash_grid
