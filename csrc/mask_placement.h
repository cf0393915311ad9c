// Placement of masks in a strip, on the CPU.
#pragma once

#include <cstdint>
#include <vector>

namespace md::mask_placement {

struct Masks {
  const uint8_t* cells;  // [rows, columns] of all masks side by side, from the lowest row up; 0 or 1
  int64_t columns;
  const int64_t* left;   // [N] the first column of a mask
  const int64_t* sizes;  // [N, 2] its width and height
  const int64_t* turns;  // [N] the quarter turns to try, from 1 to 4
  int64_t count;         // N
};

struct Placement {
  std::vector<int64_t> places;    // [N, 2] x and y of the lower left corners
  std::vector<int64_t> turns;     // [N] quarter turns, as of numpy.rot90
  std::vector<uint8_t> occupied;  // [rows, width] the strip afterwards; all masks lie in it
};

// Places the masks, in their order, in a strip of `width` columns whose cells `occupied` [rows, width] are not free, each as low
// as it can lie, then as far left. Every mask fits the width in one of its turns and has a cell.
Placement place(const Masks& masks, const uint8_t* occupied, int64_t rows, int64_t width);

}  // namespace md::mask_placement
