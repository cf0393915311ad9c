// Marching cubes on the CPU: lines of points along z in parallel.
#include "marching_cubes.h"

#include <ATen/Parallel.h>

#include <array>

namespace md::marching_cubes {

namespace {

constexpr int64_t kLinesPerTask = 64;

// Calls visit(place, point) for all points, those of a line in order.
template <typename Visit>
void for_each_point(const Grid& grid, const Visit& visit) {
  at::parallel_for(0, int64_t{grid.sides[0]} * grid.sides[1], kLinesPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; ++line) {
      Place place{{static_cast<int>(line / grid.sides[1]), static_cast<int>(line % grid.sides[1]), 0}};
      for (int64_t point = line * grid.sides[2]; place.index[2] < grid.sides[2]; ++place.index[2], ++point) visit(place, point);
    }
  });
}

}  // namespace

void count_cpu(const Grid& grid, const int8_t* table, const Counts& counts) {
  std::array<int32_t, 256> faces;
  for (int cube_case = 0; cube_case < 256; ++cube_case) faces[cube_case] = faces_of_case(table, cube_case);
  for_each_point(grid, [&](const Place& place, int64_t point) {
    const unsigned cuts = cut_edges(grid, place, point);
    counts.cuts[point] = static_cast<uint8_t>(cuts);
    counts.vertices[point] = bit_count(cuts);
    counts.faces[point] = faces[case_of(grid, place, point)];
  });
}

void write_cpu(const Grid& grid, const int8_t* table, const Output& output) {
  for_each_point(grid, [&](const Place& place, int64_t point) { write_point(grid, place, point, table, output); });
}

}  // namespace md::marching_cubes
