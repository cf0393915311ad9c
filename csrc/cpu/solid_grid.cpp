// Signed distances on the CPU: an axis at a time, whole lines along z at once so that they vectorise.
#include "solid_grid.h"

#include <ATen/Parallel.h>

namespace md::solid_grid {

void lines_cpu(const Grid& grid, const bool* inside, int32_t* squared) {
  const int length = grid.sides[2];
  at::parallel_for(0, int64_t{grid.sides[0]} * grid.sides[1], 256, [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; ++line) {
      const bool* in = inside + line * length;
      int32_t* out = squared + line * length;
      // Steps to the last change before, then to the nearest of the changes before and behind.
      for (int z = 0, steps = kLongestSide * 4; z < length; ++z) {
        steps = z > 0 && in[z] != in[z - 1] ? 1 : steps + 1;
        out[z] = steps;
      }
      for (int z = length - 1, steps = kLongestSide * 4; z >= 0; --z) {
        steps = z + 1 < length && in[z] != in[z + 1] ? 1 : steps + 1;
        const int nearest = std::min(out[z], steps);
        const int32_t value = nearest > kLongestSide ? kNone : nearest * nearest;
        out[z] = in[z] ? value : -value;
      }
    }
  });
}

void spread_cpu(const Grid& grid, int axis, const int32_t* squared, int32_t* spread) {
  const int count = grid.sides[axis], length = grid.sides[2];
  const int64_t step = axis == 0 ? int64_t{grid.sides[1]} * length : length;   // between lines that are neighbours on the axis
  const int64_t other = axis == 0 ? length : int64_t{grid.sides[1]} * length;  // and on the other one
  at::parallel_for(0, int64_t{grid.sides[0]} * grid.sides[1], 32, [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; ++line) {
      const int place = static_cast<int>(line % count);
      const int64_t first = line / count * other + place * step;
      const int32_t* own = squared + first;
      int32_t* best = spread + first;
      int32_t most = 0;
      for (int z = 0; z < length; ++z) {
        best[z] = std::abs(own[z]);
        most = std::max(most, best[z]);
      }
      for (int away = 1; away < count && away * away < most; ++away) {
        const int32_t far = away * away;
        for (const int neighbour : {place - away, place + away}) {
          if (neighbour < 0 || neighbour >= count) continue;
          const int32_t* theirs = own + (neighbour - place) * step;
          for (int z = 0; z < length; ++z) {
            const int32_t to_other = std::max(own[z] > 0 ? theirs[z] : -theirs[z], 0);
            best[z] = std::min(best[z], to_other + far);
          }
        }
        most = 0;
        for (int z = 0; z < length; ++z) most = std::max(most, best[z]);
      }
      for (int z = 0; z < length; ++z) best[z] = own[z] > 0 ? best[z] : -best[z];
    }
  });
}

}  // namespace md::solid_grid
