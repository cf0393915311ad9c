// Marching cubes, one point and one cube at a time. microdreamer/kernels/marching_cubes.py derives the table and numbers points, corners
// and edges.
#pragma once

#include "common.h"
#include "constants.h"

namespace md::marching_cubes {

struct Grid {
  const float* field;  // [X, Y, Z], z fastest
  int sides[3];

  MD_HOST_DEVICE int64_t points() const { return int64_t{sides[0]} * sides[1] * sides[2]; }
  MD_HOST_DEVICE int64_t stride(int axis) const { return axis == 0 ? int64_t{sides[1]} * sides[2] : axis == 1 ? sides[2] : 1; }
};

struct Place {
  int index[3];
};

MD_HOST_DEVICE Place place_of(const Grid& grid, int64_t point) {
  const int64_t line = point / grid.sides[2];
  return {{static_cast<int>(line / grid.sides[1]), static_cast<int>(line % grid.sides[1]), static_cast<int>(point % grid.sides[2])}};
}

// Which of the three edges that start at a point are cut: bit a for axis a.
MD_HOST_DEVICE unsigned cut_edges(const Grid& grid, const Place& place, int64_t point) {
  const bool inside = grid.field[point] > 0.0f;
  unsigned cuts = 0;
  for (int axis = 0; axis < 3; ++axis) {
    if (place.index[axis] + 1 < grid.sides[axis] && (grid.field[point + grid.stride(axis)] > 0.0f) != inside) cuts |= 1u << axis;
  }
  return cuts;
}

MD_HOST_DEVICE int bit_count(unsigned bits) { return static_cast<int>((bits & 1u) + (bits >> 1 & 1u) + (bits >> 2 & 1u)); }

// The row of the table for the cube that starts at a point; 0, which has no faces, where none does.
MD_HOST_DEVICE int case_of(const Grid& grid, const Place& place, int64_t point) {
  for (int axis = 0; axis < 3; ++axis) {
    if (place.index[axis] + 1 >= grid.sides[axis]) return 0;
  }
  int found = 0;
  for (int corner = 0; corner < 8; ++corner) {
    const int64_t at = point + (corner >> 2) * grid.stride(0) + (corner >> 1 & 1) * grid.stride(1) + (corner & 1);
    found |= (grid.field[at] > 0.0f) << corner;
  }
  return found;
}

MD_HOST_DEVICE int faces_of_case(const int8_t* table, int cube_case) {
  int corners = 0;
  while (corners < 3 * kMaxFaces && table[cube_case * 3 * kMaxFaces + corners] >= 0) ++corners;
  return corners / 3;
}

// Writes the vertices of the edges that start at a point, in the order of the axes.
MD_HOST_DEVICE void write_vertices(const Grid& grid, const Place& place, int64_t point, unsigned cuts, float* vertex) {
  for (int axis = 0; axis < 3; ++axis) {
    if (!(cuts >> axis & 1u)) continue;
    const float first = grid.field[point], last = grid.field[point + grid.stride(axis)];
    const float share = fminf(fmaxf(first / (first - last), kNearest), 1.0f - kNearest);
    for (int k = 0; k < 3; ++k) vertex[k] = static_cast<float>(place.index[k]) + (k == axis ? share : 0.0f);
    vertex += 3;
  }
}

// Writes the faces of the cube that starts at a point. vertices_until [P]: the number of vertices of all points up to each, itself
// included; cuts [P] as `cut_edges` gives them.
MD_HOST_DEVICE void write_faces(const Grid& grid, int64_t point, const int8_t* row, int count, const uint8_t* cuts,
                                const int32_t* vertices_until, int32_t* corners) {
  for (int corner = 0; corner < 3 * count; ++corner) {
    const int axis = row[corner] >> 2;
    const int low = axis == 0 ? 1 : 0, high = axis == 2 ? 1 : 2;  // the other two axes
    const int64_t start = point + (row[corner] >> 1 & 1) * grid.stride(low) + (row[corner] & 1) * grid.stride(high);
    const unsigned from_here = cuts[start] >> axis;  // the edges of the point from this one on
    corners[corner] = vertices_until[start] - bit_count(from_here);
  }
}

}  // namespace md::marching_cubes
