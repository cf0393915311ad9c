// Placement of masks, on the CPU: schema, checks, allocation. The Python face is microdreamer/kernels/mask_placement.py.
#include <algorithm>
#include <tuple>

#include <ATen/ops/empty.h>

#include "checks.h"
#include "mask_placement.h"

namespace md::mask_placement {
namespace {

// Refuses masks that lie outside of `cells`, have no cell or fit the strip in none of their turns.
void check_masks(const Masks& masks, int64_t rows, int64_t width) {
  for (int64_t mask = 0; mask < masks.count; ++mask) {
    const int64_t left = masks.left[mask], w = masks.sizes[2 * mask], h = masks.sizes[2 * mask + 1], turns = masks.turns[mask];
    TORCH_CHECK_VALUE(w >= 1 && h >= 1 && h <= rows && left >= 0 && left + w <= masks.columns, "sizes: mask ", mask, " of ", w, " x ", h,
                      " cells at column ", left, " is not within cells of ", masks.columns, " x ", rows);
    TORCH_CHECK_VALUE(turns >= 1 && turns <= 4, "turns: expected 1 to 4, got ", turns);
    TORCH_CHECK_VALUE(w <= width || (turns > 1 && h <= width), "sizes: mask ", mask, " of ", w, " x ", h, " cells does not fit a strip of ",
                      width);
    bool is_empty = true;
    for (int64_t row = 0; row < h && is_empty; ++row) {
      const uint8_t* first = masks.cells + row * masks.columns + left;
      is_empty = std::all_of(first, first + w, [](uint8_t cell) { return cell == 0; });
    }
    TORCH_CHECK_VALUE(!is_empty, "cells: mask ", mask, " has none");
  }
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> place_masks(const at::Tensor& cells, const at::Tensor& left, const at::Tensor& sizes,
                                                           const at::Tensor& turns, const at::Tensor& occupied) {
  check_tensor(cells, "cells", at::kByte, at::kCPU);
  check_shape(cells, "cells", {-1, -1});
  check_tensor(left, "left", at::kLong, at::kCPU);
  check_shape(left, "left", {-1});
  check_tensor(sizes, "sizes", at::kLong, at::kCPU);
  check_shape(sizes, "sizes", {left.size(0), 2});
  check_tensor(turns, "turns", at::kLong, at::kCPU);
  check_shape(turns, "turns", {left.size(0)});
  check_tensor(occupied, "occupied", at::kByte, at::kCPU);
  check_shape(occupied, "occupied", {-1, -1});
  const int64_t count = left.size(0), width = occupied.size(1);
  TORCH_CHECK_VALUE(width >= 1, "occupied: expected a strip of 1 cell or more, got ", width);
  const Masks masks{cells.const_data_ptr<uint8_t>(), cells.size(1), left.const_data_ptr<int64_t>(), sizes.const_data_ptr<int64_t>(),
                    turns.const_data_ptr<int64_t>(), count};
  check_masks(masks, cells.size(0), width);
  const Placement found = place(masks, occupied.const_data_ptr<uint8_t>(), occupied.size(0), width);
  const at::Tensor places = at::empty({count, 2}, left.options()), taken = at::empty({count}, left.options());
  const at::Tensor filled = at::empty({static_cast<int64_t>(found.occupied.size()) / width, width}, occupied.options());
  std::copy(found.places.begin(), found.places.end(), places.mutable_data_ptr<int64_t>());
  std::copy(found.turns.begin(), found.turns.end(), taken.mutable_data_ptr<int64_t>());
  std::copy(found.occupied.begin(), found.occupied.end(), filled.mutable_data_ptr<uint8_t>());
  return {places, taken, filled};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(microdreamer, m) {
  m.def(
      "place_masks(Tensor cells, Tensor left, Tensor sizes, Tensor turns, Tensor occupied) -> (Tensor places, Tensor turns, Tensor "
      "occupied)");
}

TORCH_LIBRARY_IMPL(microdreamer, CPU, m) { m.impl("place_masks", &place_masks); }

}  // namespace md::mask_placement
