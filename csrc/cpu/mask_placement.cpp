// A row of the strip is a string of bits, so that a mask is tried at all places of a row at once: where a run of its cells would
// meet an occupied one is the row's bits, spread to the left by the run's length and shifted by its place in the mask.
#include "mask_placement.h"

#include <algorithm>
#include <bit>
#include <tuple>

namespace md::mask_placement {

namespace {

using Word = uint64_t;
constexpr int64_t kBits = 64;

struct Run {
  int64_t row, first, length;
};

struct Shape {
  int64_t width, height;
  std::vector<uint8_t> cells;    // [height, width]
  std::vector<Run> runs;         // of cells in rows
  std::vector<int64_t> longest;  // [height] run of a row
};

// The mask after `quarters` quarter turns, as of numpy.rot90.
Shape turned(const Masks& masks, int64_t mask, int quarters) {
  const int64_t w = masks.sizes[2 * mask], h = masks.sizes[2 * mask + 1];
  Shape shape{quarters % 2 ? h : w, quarters % 2 ? w : h, {}, {}, {}};
  shape.cells.resize(w * h);
  shape.longest.assign(shape.height, 0);
  for (int64_t y = 0; y < shape.height; ++y) {
    for (int64_t x = 0; x < shape.width; ++x) {
      const int64_t from_x = quarters == 0 ? x : quarters == 1 ? w - 1 - y : quarters == 2 ? w - 1 - x : y;
      const int64_t from_y = quarters == 0 ? y : quarters == 1 ? x : quarters == 2 ? h - 1 - y : h - 1 - x;
      const bool covered = masks.cells[from_y * masks.columns + masks.left[mask] + from_x] != 0;
      shape.cells[y * shape.width + x] = covered;
      if (!covered) continue;
      if (x > 0 && shape.cells[y * shape.width + x - 1]) {
        ++shape.runs.back().length;
      } else {
        shape.runs.push_back({y, x, 1});
      }
      shape.longest[y] = std::max(shape.longest[y], shape.runs.back().length);
    }
  }
  return shape;
}

class Strip {
 public:
  Strip(const uint8_t* occupied, int64_t rows, int64_t width) : width_(width), words_(width / kBits + 1), spread_(words_) {
    reserve(rows);
    for (int64_t y = 0; y < rows; ++y) {
      for (int64_t x = 0; x < width; ++x) {
        if (occupied[y * width + x]) fill(x, y);
      }
      measure(y);
      if (longest_free_[y] < width) height_ = y + 1;
    }
    raise_floor();
  }

  int64_t width() const { return width_; }
  int64_t height() const { return height_; }  // of what is occupied

  // The lowest, then leftmost place (x, y) where the shape meets nothing; there is one at `height`.
  std::pair<int64_t, int64_t> lowest_place(const Shape& shape) {
    reserve(height_ + shape.height);
    std::vector<Word> blocked(words_);
    for (int64_t y = floor_;; ++y) {
      const auto has_room = [&](int64_t row, int64_t run) { return longest_free_[y + row] >= run; };
      bool possible = true;
      for (int64_t row = 0; row < shape.height && possible; ++row) possible = has_room(row, shape.longest[row]);
      if (!possible) continue;
      // The last places of a row would let the shape stand out on the right.
      std::fill(blocked.begin(), blocked.end(), Word{0});
      set_from(blocked.data(), width_ - shape.width + 1);
      for (size_t run = 0; run < shape.runs.size() && possible; ++run) possible = !block(shape.runs[run], y, blocked.data());
      if (!possible) continue;
      for (int64_t word = 0;; ++word) {
        if (~blocked[word]) return {word * kBits + std::countr_one(blocked[word]), y};
      }
    }
  }

  void add(const Shape& shape, int64_t x, int64_t y) {
    for (const Run& run : shape.runs) {
      for (int64_t k = 0; k < run.length; ++k) fill(x + run.first + k, y + run.row);
    }
    for (int64_t row = y; row < y + shape.height; ++row) measure(row);
    height_ = std::max(height_, y + shape.height);
    raise_floor();
  }

  std::vector<uint8_t> cells(int64_t rows) const {
    std::vector<uint8_t> found(rows * width_, 0);
    for (int64_t y = 0; y < std::min(rows, height_); ++y) {
      for (int64_t x = 0; x < width_; ++x) found[y * width_ + x] = is_filled(x, y);
    }
    return found;
  }

 private:
  void fill(int64_t x, int64_t y) { bits_[y * words_ + x / kBits] |= Word{1} << (x % kBits); }
  bool is_filled(int64_t x, int64_t y) const { return bits_[y * words_ + x / kBits] >> (x % kBits) & 1; }

  // Sets the bits from `first` on in a row of words.
  void set_from(Word* row, int64_t first) const {
    for (int64_t word = first / kBits; word < words_; ++word) row[word] = ~Word{0};
    row[first / kBits] = ~Word{0} << (first % kBits);
  }

  void reserve(int64_t rows) {
    const auto before = static_cast<int64_t>(longest_free_.size());
    if (rows <= before) return;
    bits_.resize(rows * words_, 0);
    longest_free_.resize(rows, width_);
  }

  void measure(int64_t y) {
    int64_t longest = 0, free = 0;
    for (int64_t x = 0; x < width_; ++x) {
      free = is_filled(x, y) ? 0 : free + 1;
      longest = std::max(longest, free);
    }
    longest_free_[y] = longest;
  }

  void raise_floor() {
    while (floor_ < height_ && longest_free_[floor_] == 0) ++floor_;
  }

  // row[x] |= row[x + shift] for all x
  void spread(Word* row, int64_t shift) const {
    const int64_t skip = shift / kBits, rest = shift % kBits;
    for (int64_t word = 0; word + skip < words_; ++word) {
      const Word low = row[word + skip] >> rest;
      row[word] |= rest && word + skip + 1 < words_ ? low | row[word + skip + 1] << (kBits - rest) : low;
    }
  }

  // Adds to `blocked` the places x at which the run would meet an occupied cell with its shape in row y; whether all are blocked.
  bool block(const Run& run, int64_t y, Word* blocked) {
    Word* row = spread_.data();
    std::copy_n(bits_.data() + (y + run.row) * words_, words_, row);
    int64_t length = 1;
    for (; 2 * length <= run.length; length *= 2) spread(row, length);
    if (length < run.length) spread(row, run.length - length);
    const int64_t skip = run.first / kBits, rest = run.first % kBits;
    Word all = ~Word{0};
    for (int64_t word = 0; word < words_; ++word) {
      if (word + skip < words_) {
        const Word low = row[word + skip] >> rest;
        blocked[word] |= rest && word + skip + 1 < words_ ? low | row[word + skip + 1] << (kBits - rest) : low;
      }
      all &= blocked[word];
    }
    return all == ~Word{0};
  }

  int64_t width_, words_;              // one bit a row at least lies beyond the width
  int64_t height_ = 0, floor_ = 0;     // all rows below the floor are full
  std::vector<Word> bits_;             // [rows, words]
  std::vector<int64_t> longest_free_;  // [rows] run of free cells
  std::vector<Word> spread_;           // [words] scratch
};

}  // namespace

Placement place(const Masks& masks, const uint8_t* occupied, int64_t rows, int64_t width) {
  Strip strip(occupied, rows, width);
  Placement placement{std::vector<int64_t>(2 * masks.count), std::vector<int64_t>(masks.count), {}};
  for (int64_t mask = 0; mask < masks.count; ++mask) {
    const Shape upright = turned(masks, mask, 0);
    double cells = 0, x_sum = 0, y_sum = 0;
    for (const Run& run : upright.runs) {
      const auto length = static_cast<double>(run.length);
      cells += length;
      x_sum += length * (static_cast<double>(run.first) + (length - 1) / 2);
      y_sum += length * static_cast<double>(run.row);
    }
    const double x_middle = x_sum / cells, y_middle = y_sum / cells;
    const double last_x = static_cast<double>(upright.width - 1), last_y = static_cast<double>(upright.height - 1);
    const double middles[4] = {y_middle, last_x - x_middle, last_y - y_middle, x_middle};  // heights of the centre, by turn

    // Of all turns the one that leaves the strip lowest, then the one whose centre is lowest, then the one furthest left.
    std::tuple<int64_t, double, int64_t> best_key{};
    Shape best;
    int64_t best_y = -1;
    for (int turn = 0; turn < masks.turns[mask]; ++turn) {
      Shape shape = turn == 0 ? upright : turned(masks, mask, turn);
      if (shape.width > width) continue;
      const auto [x, y] = strip.lowest_place(shape);
      const std::tuple key{std::max(y + shape.height, strip.height()), static_cast<double>(y) + middles[turn], x};
      if (best_y >= 0 && !(key < best_key)) continue;
      best_key = key;
      best = std::move(shape);
      best_y = y;
      placement.places[2 * mask] = x;
      placement.places[2 * mask + 1] = y;
      placement.turns[mask] = turn;
    }
    strip.add(best, placement.places[2 * mask], best_y);
  }
  placement.occupied = strip.cells(std::max(rows, strip.height()));
  return placement;
}

}  // namespace md::mask_placement
