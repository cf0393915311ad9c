// What both passes of the Gaussian rasteriser share on CUDA: the layout of the work, and the walk of a tile's block over its splats.
//
// A block per tile reads its cell's bits in order and blends what they name. Each warp owns 8 pixels across and a few
// down, and passes over splats that do not reach those.
#pragma once

#include "gaussian_raster.h"
#include "warps.h"

namespace md::raster {

constexpr int kBlock = 256;                         // threads of the kernels that go over Gaussians
constexpr int kListed = 1024;                       // ranks that a tile's block lists at a time
constexpr int kWords = 4;                           // of bits that a thread reads at a time; rows are a multiple of 8
constexpr float kHalfLog2E = 0.72134752044448170f;  // exp(-q / 2) = 2^(-kHalfLog2E q)
constexpr float kMinLevel = -7.9943534368588579f;   // log2(kMinAlpha)

struct Grid {
  int across, tiles;  // tiles along a row, and of the whole picture
  int shift;          // a cell is 2^shift tiles square
  int cells_across, cells;
  int row_words;  // of a cell's bits, a multiple of 8
};

inline Grid make_grid(const Inputs& in) {
  Grid grid{};
  grid.across = tiles_along(in.width);
  grid.tiles = grid.across * tiles_along(in.height);
  const MarksLayout marks = marks_layout(in.gaussians, in.views, in.width, in.height);
  grid.shift = marks.shift;
  grid.cells_across = marks.cells_across;
  grid.cells = marks.cells;
  grid.row_words = marks.words;
  return grid;
}

// Hands out aligned parts of a workspace; from a null base it only counts.
class Parts {
 public:
  explicit Parts(void* base) : base_(static_cast<char*>(base)) {}
  template <class T>
  T* take(int64_t count) {
    T* part = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += (static_cast<size_t>(count) * sizeof(T) + 255) / 256 * 256;
    return part;
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

inline unsigned blocks(int64_t count, int size) { return static_cast<unsigned>((count + size - 1) / size); }

// ---- A tile's block: which pixels and which splats ----

template <int kPixels>
struct TileShape {
  static constexpr int kThreads = kTile * kTile / kPixels;
  static constexpr int kWarps = kThreads / kWarp;
  static constexpr int kWarpWidth = 8, kWarpHeight = 4 * kPixels;
};

template <int kPixels>
struct TileShared {
  using Shape = TileShape<kPixels>;
  Splat splats[Shape::kThreads];
  int ids[Shape::kThreads];
  int list[kListed];
  int totals[2][Shape::kWarps], cut;  // of gather()
  static_assert(kListed >= Shape::kThreads + kWords * kWarp, "gather() must get on by a thread's words at least");
};

// The numbers below n from the middle outwards: n / 2, n / 2 - 1, n / 2 + 1, ...
__device__ inline int from_middle(int i, int n) { return n / 2 + (i % 2 ? -(i + 1) / 2 : i / 2); }

// Tile `rank` of a picture of across x down tiles, from the middle outwards, square ring by square ring. Objects are in the middle, and
// blocks start in the order of their numbers: so the longest lists come first, and each processor gets as many of them as any other.
// Row by row the backward pass of a fit would take nearly twice as long.
__device__ inline void tile_from_middle(int rank, int across, int down, int& x, int& y) {
  const int side = min(across, down);
  int i, j;  // along the longer axis, and along the other
  if (rank < side * side) {
    int ring = static_cast<int>(sqrtf(static_cast<float>(rank)));
    while (ring * ring > rank) --ring;
    while ((ring + 1) * (ring + 1) <= rank) ++ring;
    const int at = rank - ring * ring;
    i = min(ring, 2 * ring - at);
    j = min(ring, at);
  } else {
    i = rank / side;
    j = rank % side;
  }
  x = from_middle(across >= down ? i : j, across);
  y = from_middle(across >= down ? j : i, down);
}

// Where a thread stands: the tile, its warp's box of pixels, and its own pixels (x, y), (x, y + 4), ...
template <int kPixels>
struct Place {
  int view, tile_x, tile_y, lane, warp;
  int box_x, box_y;  // first pixel of the warp
  int x, y;          // first pixel of the thread

  __device__ Place(const Grid& grid) {
    using Shape = TileShape<kPixels>;
    const int views = gridDim.x / grid.tiles;
    view = blockIdx.x % views;
    tile_from_middle(blockIdx.x / views, grid.across, grid.tiles / grid.across, tile_x, tile_y);
    lane = threadIdx.x % kWarp;
    warp = threadIdx.x / kWarp;
    box_x = tile_x * kTile + warp % 2 * Shape::kWarpWidth;
    box_y = tile_y * kTile + warp / 2 * Shape::kWarpHeight;
    x = box_x + lane % Shape::kWarpWidth;
    y = box_y + lane / Shape::kWarpWidth;
  }
};

// Fills list[0, total) with ranks from the words at `at`, in order, until a batch is full or the words are used up. A thread looks at
// four words at a time: most are empty where there are many Gaussians, and each turn waits for memory.
// All threads of the block call it and get the same total; a barrier must pass before the list is read.
template <int kPixels>
__device__ int gather(TileShared<kPixels>& shared, const uint32_t* words, int row_words, int& at, int lane, int warp) {
  using Shape = TileShape<kPixels>;
  int total = 0;
  for (int turn = 0; at < row_words && total < Shape::kThreads; turn ^= 1) {
    const int index = at + kWords * static_cast<int>(threadIdx.x);
    uint32_t mine[kWords] = {};
    if (index < row_words) {
      const uint4 four = *reinterpret_cast<const uint4*>(words + index);
      mine[0] = four.x;
      mine[1] = four.y;
      mine[2] = four.z;
      mine[3] = four.w;
    }
    int count = 0;
#pragma unroll
    for (int i = 0; i < kWords; ++i) count += __popc(mine[i]);
    int up_to = count;
    for (int step = 1; step < kWarp; step *= 2) {
      const int other = __shfl_up_sync(kAllLanes, up_to, step);
      if (lane >= step) up_to += other;
    }
    if (lane == kWarp - 1) shared.totals[turn][warp] = up_to;
    __syncthreads();
    int place = total + up_to - count, end = total;
    for (int w = 0; w < Shape::kWarps; ++w) {
      const int all = shared.totals[turn][w];
      if (w < warp) place += all;
      end += all;
    }
    const bool fits = place + count <= kListed;
    if (end <= kListed) {
      total = end;
      at += kWords * Shape::kThreads;
    } else {  // the words from the first that does not fit wait for the next call
      const int fitting = __syncthreads_count(fits);
      if (threadIdx.x == fitting) shared.cut = place;
      __syncthreads();
      total = shared.cut;
      at += kWords * fitting;
    }
    if (fits && count > 0) {
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        for (; mine[i]; mine[i] &= mine[i] - 1) shared.list[place++] = (index + i) * kWarp + __ffs(mine[i]) - 1;
      }
    }
  }
  return total;
}

// Calls visit(indices, count) for all splats, nearest first, that may reach the pixels of this warp, by the whole warp at once: they
// are shared.splats[i], Gaussians shared.ids[i]. There are kAtOnce indices, so that what does not depend on the splats before is
// worked out for all of them together (the time of a picture is that of its longest row of splats, one waiting for the other); the
// first `count` are new, the others repeat the last. is_done(): this thread needs no more; when all of the block agree the walk ends.
// before_next(): called by the whole warp before other splats take the place of those in `shared`, and before the end.
template <int kAtOnce, int kPixels, class Visit, class Done, class BeforeNext>
__device__ void walk(const Inputs& in, const State& state, const Grid& grid, const Place<kPixels>& place, TileShared<kPixels>& shared,
                     Visit visit, Done is_done, BeforeNext before_next) {
  using Shape = TileShape<kPixels>;
  const int64_t first = static_cast<int64_t>(place.view) * in.gaussians;
  const int cell = (place.tile_y >> grid.shift) * grid.cells_across + (place.tile_x >> grid.shift);
  const uint32_t* words = state.marks + (static_cast<int64_t>(place.view) * grid.cells + cell) * grid.row_words;
  const float x0 = static_cast<float>(place.box_x), y0 = static_cast<float>(place.box_y);
  const float x1 = x0 + (Shape::kWarpWidth - 1), y1 = y0 + (Shape::kWarpHeight - 1);
  for (int at = 0; at < grid.row_words;) {
    const int total = gather(shared, words, grid.row_words, at, place.lane, place.warp);
    __syncthreads();
    for (int batch = 0; batch < total; batch += Shape::kThreads) {
      const int mine = batch + threadIdx.x;
      if (mine < total) {
        const int64_t rank = first + shared.list[mine];
        shared.ids[threadIdx.x] = state.order[rank];
        shared.splats[threadIdx.x] = state.splats[rank];
      }
      __syncthreads();
      const int count = min(Shape::kThreads, total - batch);
      for (int group = 0; group < count; group += kWarp) {
        if (__all_sync(kAllLanes, is_done())) break;
        bool meets = false;
        if (group + place.lane < count) {
          const Splat& s = shared.splats[group + place.lane];
          meets = ellipse_meets(s, x0, y0, x1, y1);
          if (grid.shift > 0 && meets) {
            const TileRect rect = square_tiles(s.x, s.y, s.extent, in.width, in.height);
            meets = rect.x0 <= place.tile_x && place.tile_x < rect.x1 && rect.y0 <= place.tile_y && place.tile_y < rect.y1;
          }
        }
        for (unsigned votes = __ballot_sync(kAllLanes, meets); votes;) {
          int indices[kAtOnce], count_at_once = 0;
#pragma unroll
          for (int k = 0; k < kAtOnce; ++k, votes &= votes - 1) {
            if (votes) ++count_at_once;
            indices[k] = votes ? group + __ffs(votes) - 1 : indices[k > 0 ? k - 1 : 0];
          }
          visit(indices, count_at_once);
        }
      }
      before_next();
      if (__syncthreads_and(is_done())) return;
    }
  }
}

// 2^x for x that is neither tiny nor huge; exp2f() would also care for results too small for a float.
__device__ inline float power_of_two(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

struct Coverage {
  float uncapped, alpha;
  bool seen;
};

// Of the pixel from which the splat's centre is (dx, dy) away.
__device__ inline Coverage cover(const Splat& s, float dx, float dy) {
  Coverage c;
  const float level = s.opacity - dx * (s.a * dx + s.b * dy) - dy * (s.b * dx + s.c * dy);
  c.uncapped = power_of_two(level);
  c.alpha = fminf(kMaxAlpha, c.uncapped);
  c.seen = level <= s.opacity && level >= kMinLevel;
  return c;
}

}  // namespace md::raster
