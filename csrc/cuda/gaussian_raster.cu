// Gaussian rasteriser on CUDA, without a list whose length the host would have to know.
//
// The Gaussians of all views are sorted once by (view, depth), and their splats lie in that order. For every cell of the
// picture (a tile, or a square of tiles where there are very many Gaussians) one bit per depth rank says whether that
// Gaussian can be seen in it. A block per tile reads its cell's bits in order, a word a thread, and blends what they name.
// Each warp owns 8 pixels across and a few down, and passes over splats that do not reach those.
#include <cub/device/device_radix_sort.cuh>

#include "gaussian_raster.h"

namespace md::raster {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kBlock = 256;         // threads of the kernels that go over Gaussians
constexpr int kListed = 1024;       // ranks that a tile's block lists at a time
constexpr int kForwardPixels = 1;   // pixels a thread
constexpr int kBackwardPixels = 2;  // two share one reduction over the warp
// Positive floats sort as their bits do. From kNear on, 29 bits reach to 3.7e18 (beyond, the order is the input's), and with
// 3 bits for the view the radix sort needs four passes of eight bits.
constexpr int kDepthBits = 29;
constexpr float kHalfLog2E = 0.72134752044448170f;  // exp(-q / 2) = 2^(-kHalfLog2E q)
constexpr float kMinLevel = -7.9943534368588579f;   // log2(kMinAlpha)
constexpr int kFixedPointBits = 40;                 // leaves 2^22 contributions of the largest size in 63 bits

struct Grid {
  int across, tiles;  // tiles along a row, and of the whole picture
  int shift;          // a cell is 2^shift tiles square
  int cells_across, cells;
  int row_words;  // of a cell's bits, a multiple of 8
};

Grid make_grid(const Inputs& in) {
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

int sorted_bits(int views) {
  int bits = kDepthBits;
  while ((int64_t{1} << (bits - kDepthBits)) < views) ++bits;
  return bits;
}

struct ForwardParts {
  uint64_t *keys, *keys_sorted;
  int* indices;
  void* sort;
  size_t sort_bytes, total;

  ForwardParts(const Inputs& in, void* base) {
    const int64_t count = static_cast<int64_t>(in.views) * in.gaussians;
    Parts parts(base);
    keys = parts.take<uint64_t>(count);
    keys_sorted = parts.take<uint64_t>(count);
    indices = parts.take<int>(count);
    sort_bytes = 0;
    cub::DeviceRadixSort::SortPairs(nullptr, sort_bytes, keys, keys_sorted, indices, indices, static_cast<int>(count), 0,
                                    sorted_bits(in.views));
    sort = parts.take<uint8_t>(static_cast<int64_t>(sort_bytes));
    total = parts.used();
  }
};

struct BackwardParts {
  SplatGradient* v_splats;   // [V,N]
  uint32_t* largest;         // [V,N,10] bits of the largest contribution's magnitude; deterministic only
  unsigned long long* sums;  // [V,N,10] in units that `largest` fixes; deterministic only
  size_t total;

  BackwardParts(const Inputs& in, bool deterministic, void* base) {
    const int64_t count = static_cast<int64_t>(in.views) * in.gaussians;
    Parts parts(base);
    v_splats = parts.take<SplatGradient>(count);
    largest = deterministic ? parts.take<uint32_t>(count * kGradients) : nullptr;
    sums = deterministic ? parts.take<unsigned long long>(count * kGradients) : nullptr;
    total = parts.used();
  }
};

// ---- Before the pixels ----

__global__ void __launch_bounds__(kBlock) depth_keys(Inputs in, uint64_t* keys, int* indices) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= static_cast<int64_t>(in.views) * in.gaussians) return;
  const int view = static_cast<int>(i / in.gaussians), n = static_cast<int>(i % in.gaussians);
  const float* row = in.world_to_camera + 16 * static_cast<int64_t>(view) + 8;
  const float* mean = in.means + 3 * static_cast<int64_t>(n);
  const float z = row[0] * mean[0] + row[1] * mean[1] + row[2] * mean[2] + row[3];
  // What is nearer, or not a number, comes first and will be culled.
  const uint32_t depth = __float_as_uint(fmaxf(z, kNear)) - __float_as_uint(kNear);
  keys[i] = static_cast<uint64_t>(view) << kDepthBits | min(depth, (1u << kDepthBits) - 1);
  indices[i] = n;
}

// A splat as tiles blend it: conic and reach in units that make the falloff a power of two, and log2 of the opacity, so
// that alpha = 2^(opacity - (a dx^2 + 2 b dx dy + c dy^2)). ellipse_meets() does not mind the unit.
__device__ Splat in_powers_of_two(Splat s) {
  s.a *= kHalfLog2E;
  s.b *= kHalfLog2E;
  s.c *= kHalfLog2E;
  s.reach *= kHalfLog2E;
  s.opacity = log2f(s.opacity);
  return s;
}

// One warp projects 32 consecutive ranks of a view, and marks them: one word of the bits of each cell, which are zero
// before. It lists every pair of a splat and a cell of the splat's own rectangle and shares the pairs out over its lanes,
// however unlike the rectangles' sizes are. The rank of a culled Gaussian is marked nowhere.
__global__ void __launch_bounds__(kBlock) project_and_mark(Inputs in, State state, Grid grid) {
  const int warps_per_view = grid.row_words;
  const int64_t warp = (static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x) / kWarp;
  const int view = static_cast<int>(warp / warps_per_view), word = static_cast<int>(warp % warps_per_view);
  if (view >= in.views) return;
  const int lane = threadIdx.x % kWarp, rank = word * kWarp + lane;
  const int64_t first = static_cast<int64_t>(view) * in.gaussians;
  Splat splat{};
  TileRect rect{};
  if (rank < in.gaussians) {
    const int n = state.order[first + rank];
    const int radius = make_splat(in, load_camera(in, view), view, n, splat);
    state.splats[first + rank] = in_powers_of_two(splat);
    state.radii[first + n] = radius;
    if (radius > 0) rect = visible_tiles(splat, in.width, in.height);
  }
  unsigned across = 0, cells = 0;  // of the splat's rectangle
  const int cell_x = rect.x0 >> grid.shift, cell_y = rect.y0 >> grid.shift;
  if (rect.x0 < rect.x1 && rect.y0 < rect.y1) {
    across = ((rect.x1 - 1) >> grid.shift) + 1 - cell_x;
    cells = across * (((rect.y1 - 1) >> grid.shift) + 1 - cell_y);
  }
  unsigned up_to = cells;  // pairs of this lane's splat and those before it
  for (int step = 1; step < kWarp; step *= 2) {
    const unsigned other = __shfl_up_sync(kAllLanes, up_to, step);
    if (lane >= step) up_to += other;
  }
  const unsigned pairs = __shfl_sync(kAllLanes, up_to, kWarp - 1);
  uint32_t* marks = state.marks + static_cast<int64_t>(view) * grid.cells * grid.row_words + word;
  const float size = static_cast<float>(kTile << grid.shift);
  for (unsigned begin = 0; begin < pairs; begin += kWarp) {
    const unsigned pair = begin + lane;
    int from = 0;  // the lane whose splat it is: the first with up_to > pair
    for (int step = kWarp / 2; step > 0; step /= 2) {
      if (__shfl_sync(kAllLanes, up_to, from + step - 1) <= pair) from += step;
    }
    const unsigned at = pair - (__shfl_sync(kAllLanes, up_to, from) - __shfl_sync(kAllLanes, cells, from));
    const unsigned width = __shfl_sync(kAllLanes, across, from);
    Splat s{};
    s.x = __shfl_sync(kAllLanes, splat.x, from);
    s.y = __shfl_sync(kAllLanes, splat.y, from);
    s.a = __shfl_sync(kAllLanes, splat.a, from);
    s.b = __shfl_sync(kAllLanes, splat.b, from);
    s.c = __shfl_sync(kAllLanes, splat.c, from);
    s.reach = __shfl_sync(kAllLanes, splat.reach, from);
    int x = __shfl_sync(kAllLanes, cell_x, from), y = __shfl_sync(kAllLanes, cell_y, from);
    if (pair >= pairs) break;
    x += static_cast<int>(at % width);
    y += static_cast<int>(at / width);
    const float left = static_cast<float>(x) * size, top = static_cast<float>(y) * size;
    if (!ellipse_meets(s, left, top, left + (size - 1), top + (size - 1))) continue;
    atomicOr(marks + static_cast<int64_t>(y * grid.cells_across + x) * grid.row_words, 1u << from);
  }
}

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
  static_assert(kListed >= Shape::kThreads + kWarp, "gather() must get on by a word at least");
};

// Where a thread stands: the tile, its warp's box of pixels, and its own pixels (x, y), (x, y + 4), ...
template <int kPixels>
struct Place {
  int view, tile_x, tile_y, lane, warp;
  int box_x, box_y;  // first pixel of the warp
  int x, y;          // first pixel of the thread

  __device__ Place(const Grid& grid) {
    using Shape = TileShape<kPixels>;
    view = blockIdx.x / grid.tiles;
    const int tile = blockIdx.x % grid.tiles;
    tile_x = tile % grid.across;
    tile_y = tile / grid.across;
    lane = threadIdx.x % kWarp;
    warp = threadIdx.x / kWarp;
    box_x = tile_x * kTile + warp % 2 * Shape::kWarpWidth;
    box_y = tile_y * kTile + warp / 2 * Shape::kWarpHeight;
    x = box_x + lane % Shape::kWarpWidth;
    y = box_y + lane / Shape::kWarpWidth;
  }
};

// Fills list[0, total) with ranks from the words at `at`, in order, until a batch is full or the words are used up.
// All threads of the block call it and get the same total; a barrier must pass before the list is read.
template <int kPixels>
__device__ int gather(TileShared<kPixels>& shared, const uint32_t* words, int row_words, int& at, int lane, int warp) {
  using Shape = TileShape<kPixels>;
  int total = 0;
  for (int turn = 0; at < row_words && total < Shape::kThreads; turn ^= 1) {
    const int index = at + threadIdx.x;
    uint32_t mine = index < row_words ? words[index] : 0u;
    const int count = __popc(mine);
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
      at += Shape::kThreads;
    } else {  // the words from the first that does not fit wait for the next call
      const int fitting = __syncthreads_count(fits);
      if (threadIdx.x == fitting) shared.cut = place;
      __syncthreads();
      total = shared.cut;
      at += fitting;
    }
    if (fits) {
      for (; mine; mine &= mine - 1) shared.list[place++] = index * kWarp + __ffs(mine) - 1;
    }
  }
  return total;
}

// Calls visit(i) for every splat, nearest first, that may reach the pixels of this warp, by the whole warp at once: it is
// shared.splats[i], Gaussian shared.ids[i]. is_done(): this thread needs no more; when all of the block agree the walk ends.
template <int kPixels, class Visit, class Done>
__device__ void walk(const Inputs& in, const State& state, const Grid& grid, const Place<kPixels>& place, TileShared<kPixels>& shared,
                     Visit visit, Done is_done) {
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
        for (unsigned votes = __ballot_sync(kAllLanes, meets); votes; votes &= votes - 1) { visit(group + __ffs(votes) - 1); }
      }
      if (__syncthreads_and(is_done())) return;
    }
  }
}

// 2^x for x that is neither tiny nor huge; exp2f() would also care for results too small for a float.
__device__ float power_of_two(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

struct Coverage {
  float uncapped, alpha;
  bool seen;
};

// Of the pixel from which the splat's centre is (dx, dy) away.
__device__ Coverage cover(const Splat& s, float dx, float dy) {
  Coverage c;
  const float level = s.opacity - dx * (s.a * dx + s.b * dy) - dy * (s.b * dx + s.c * dy);
  c.uncapped = power_of_two(level);
  c.alpha = fminf(kMaxAlpha, c.uncapped);
  c.seen = level <= s.opacity && level >= kMinLevel;
  return c;
}

// ---- Forward ----

__global__ void __launch_bounds__(TileShape<kForwardPixels>::kThreads) blend_kernel(Inputs in, State state, Grid grid, Images images) {
  static_assert(kForwardPixels == 1);
  __shared__ TileShared<1> shared;
  const Place<1> place(grid);
  const bool inside = place.x < in.width && place.y < in.height;
  const float x = static_cast<float>(place.x), y = static_cast<float>(place.y);
  float transmittance = 1.f, red = 0.f, green = 0.f, blue = 0.f, depth = 0.f;
  bool done = !inside;
  walk<1>(
      in, state, grid, place, shared,
      [&](int i) {
        const Splat& s = shared.splats[i];
        const Coverage c = cover(s, s.x - x, s.y - y);
        if (done || !c.seen) return;
        const float after = transmittance * (1.f - c.alpha);
        if (after < kMinTransmittance) {
          done = true;
          return;
        }
        const float weight = transmittance * c.alpha;
        red += weight * s.red;
        green += weight * s.green;
        blue += weight * s.blue;
        depth += weight * s.depth;
        transmittance = after;
      },
      [&] { return done; });
  if (!inside) return;
  const int64_t plane = static_cast<int64_t>(in.width) * in.height;
  const int64_t at = static_cast<int64_t>(place.y) * in.width + place.x;
  const float* background = in.background + 3 * place.view;
  float* image = images.image + 3 * place.view * plane + at;
  image[0] = red + transmittance * background[0];
  image[plane] = green + transmittance * background[1];
  image[2 * plane] = blue + transmittance * background[2];
  images.alpha[place.view * plane + at] = 1.f - transmittance;
  images.depth[place.view * plane + at] = depth;
}

// ---- Backward ----

// Sums each of ten values over the warp in 12 shuffles: at every step half of the lanes keep one part of the values and
// half the other. Value `component` ends in this lane and its neighbour; false where a lane is left without one.
__device__ bool sum_over_warp(const float v[kGradients], int lane, float& sum, int& component) {
  const bool b16 = lane & 16, b8 = lane & 8, b4 = lane & 4, b2 = lane & 2;
  float five[5];
  for (int i = 0; i < 5; ++i) five[i] = (b16 ? v[i + 5] : v[i]) + __shfl_xor_sync(kAllLanes, b16 ? v[i] : v[i + 5], 16);
  const float five_more[6] = {five[0], five[1], five[2], five[3], five[4], 0.f};
  float three[3];
  for (int i = 0; i < 3; ++i) {
    three[i] = (b8 ? five_more[i + 3] : five_more[i]) + __shfl_xor_sync(kAllLanes, b8 ? five_more[i] : five_more[i + 3], 8);
  }
  float two[2];
  two[0] = (b4 ? three[2] : three[0]) + __shfl_xor_sync(kAllLanes, b4 ? three[0] : three[2], 4);
  two[1] = (b4 ? 0.f : three[1]) + __shfl_xor_sync(kAllLanes, b4 ? three[1] : 0.f, 4);
  sum = (b2 ? two[1] : two[0]) + __shfl_xor_sync(kAllLanes, b2 ? two[0] : two[1], 2);
  sum += __shfl_xor_sync(kAllLanes, sum, 1);
  component = 5 * b16 + 3 * b8 + 2 * b4 + b2;
  return b8 ? !b4 : !(b4 && b2);
}

// How contributions of many warps come together. kFast: floating-point atomics, in any order. Deterministic: a first pass
// finds the largest contribution to each value, a second adds whole multiples of 2^-40 of it; neither minds the order.
enum class Sum { kFast, kLargest, kFixed };

struct SumTargets {
  float* fast;
  uint32_t* largest;
  unsigned long long* fixed;
};

// 2^(kFixedPointBits - e) where the largest contribution is below 2^(e + 1).
__device__ double fixed_point_scale(uint32_t largest) {
  const int exponent = static_cast<int>(largest >> 23) - 127;
  return ldexp(1.0, kFixedPointBits - 1 - exponent);
}

template <Sum kSum>
__device__ void contribute(const SumTargets& to, int64_t i, float value) {
  if constexpr (kSum == Sum::kFast) {
    atomicAdd(to.fast + i, value);
  } else if constexpr (kSum == Sum::kLargest) {
    atomicMax(to.largest + i, __float_as_uint(fabsf(value)));
  } else {
    atomicAdd(to.fixed + i, static_cast<unsigned long long>(__double2ll_rn(value * fixed_point_scale(to.largest[i]))));
  }
}

// In place: from the sums (mx, my, mxx, mxy, myy, m) of the gradient of the power times offsets, to (x, y, a, b, c, opacity).
__device__ void gradients_from_moments(const Splat& s, float v[kGradients]) {
  const float mx = v[0], my = v[1];
  v[0] = (s.a * mx + s.b * my) * (-1.f / kHalfLog2E);
  v[1] = (s.b * mx + s.c * my) * (-1.f / kHalfLog2E);
  v[2] *= -0.5f;
  v[3] = -v[3];
  v[4] *= -0.5f;
  v[5] *= power_of_two(-s.opacity);
}

// Front to back again, with the transmittances of the forward pass; see blend_tile_backward in csrc/cpu.
template <Sum kSum>
__global__ void __launch_bounds__(TileShape<kBackwardPixels>::kThreads)
    blend_backward_kernel(Inputs in, State state, Grid grid, Images images, ImageGradients v, SumTargets to) {
  constexpr int P = kBackwardPixels;
  __shared__ TileShared<P> shared;
  const Place<P> place(grid);
  const int64_t plane = static_cast<int64_t>(in.width) * in.height;
  // A finished pixel, and one outside the picture, has transmittance 0.
  float transmittance[P], behind[P], v_red[P], v_green[P], v_blue[P], v_depth[P], v_alpha[P];
#pragma unroll
  for (int p = 0; p < P; ++p) {
    const int y = place.y + 4 * p;
    transmittance[p] = behind[p] = v_red[p] = v_green[p] = v_blue[p] = v_depth[p] = v_alpha[p] = 0.f;
    if (place.x >= in.width || y >= in.height) continue;
    transmittance[p] = 1.f;
    const int64_t at = static_cast<int64_t>(y) * in.width + place.x, single = place.view * plane + at, triple = 3 * place.view * plane + at;
    if (v.image) {
      v_red[p] = v.image[triple];
      v_green[p] = v.image[triple + plane];
      v_blue[p] = v.image[triple + 2 * plane];
      behind[p] =
          v_red[p] * images.image[triple] + v_green[p] * images.image[triple + plane] + v_blue[p] * images.image[triple + 2 * plane];
    }
    if (v.depth) behind[p] += (v_depth[p] = v.depth[single]) * images.depth[single];
    if (v.alpha) behind[p] += (v_alpha[p] = v.alpha[single]) * images.alpha[single];
  }
  const float x = static_cast<float>(place.x);
  const int64_t first = static_cast<int64_t>(place.view) * in.gaussians;
  walk<P>(
      in, state, grid, place, shared,
      [&](int i) {
        const Splat& s = shared.splats[i];
        const float dx = s.x - x;
        float alpha[P], uncapped[P], before[P];
        bool blends[P], any_blends = false;
#pragma unroll
        for (int p = 0; p < P; ++p) {
          const Coverage c = cover(s, dx, s.y - static_cast<float>(place.y + 4 * p));
          const bool reached = c.seen && transmittance[p] > 0.f;
          const float after = transmittance[p] * (1.f - c.alpha);
          alpha[p] = c.alpha;
          uncapped[p] = c.uncapped;
          before[p] = transmittance[p];
          blends[p] = reached && after >= kMinTransmittance;
          any_blends = any_blends || blends[p];
          transmittance[p] = blends[p] ? after : reached ? 0.f : before[p];
        }
        if (!__any_sync(kAllLanes, any_blends)) return;
        // All lanes go on together; where a pixel does not blend the splat its part is 0.
        float red = 0.f, green = 0.f, blue = 0.f, depth = 0.f;
        float m = 0.f, my = 0.f, myy = 0.f;  // moments of the gradient of the power
#pragma unroll
        for (int p = 0; p < P; ++p) {
          const float weight = blends[p] ? before[p] * alpha[p] : 0.f;
          const float all = v_red[p] * s.red + v_green[p] * s.green + v_blue[p] * s.blue + v_depth[p] * s.depth + v_alpha[p];
          const float gain = blends[p] ? all : 0.f;
          behind[p] -= weight * gain;
          const float v_alpha_of_splat = before[p] * gain - __fdividef(behind[p], 1.f - alpha[p]);
          const float v_power = blends[p] ? v_alpha_of_splat * uncapped[p] : 0.f;  // the cap passes the gradient
          red += weight * v_red[p];
          green += weight * v_green[p];
          blue += weight * v_blue[p];
          depth += weight * v_depth[p];
          const float dy = s.y - static_cast<float>(place.y + 4 * p), along_y = v_power * dy;
          m += v_power;
          my += along_y;
          myy += along_y * dy;
        }
        const float mx = m * dx;  // the thread's pixels lie in one column
        float values[kGradients] = {mx, my, mx * dx, my * dx, myy, m, depth, red, green, blue};
        gradients_from_moments(s, values);
        float sum;
        int component;
        const bool holds = sum_over_warp(values, place.lane, sum, component);
        if (holds && place.lane % 2 == 0) contribute<kSum>(to, (first + shared.ids[i]) * kGradients + component, sum);
      },
      [&] {
        bool done = true;
#pragma unroll
        for (int p = 0; p < P; ++p) done = done && !(transmittance[p] > 0.f);
        return done;
      });
}

__global__ void __launch_bounds__(kBlock)
    fixed_to_float(int64_t count, const uint32_t* largest, const unsigned long long* sums, float* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= count) return;
  const float most = __uint_as_float(largest[i]);
  // A gradient that is not finite stays so.
  out[i] = !isfinite(most) ? most : most == 0.f ? 0.f : static_cast<float>(static_cast<long long>(sums[i]) / fixed_point_scale(largest[i]));
}

template <int K>
__global__ void __launch_bounds__(64)
    gaussian_gradient_kernel(Inputs in, const int* radii, const SplatGradient* v_splats, InputGradients out) {
  const int n = blockIdx.x * 64 + threadIdx.x;
  if (n < in.gaussians) gaussian_gradient<K>(in, radii, v_splats, n, out);
}

unsigned blocks(int64_t count, int size) { return static_cast<unsigned>((count + size - 1) / size); }

template <Sum kSum>
void launch_blend_backward(const Inputs& in, const State& state, const Grid& grid, const Images& images, const ImageGradients& v_images,
                           const SumTargets& to, cudaStream_t stream) {
  blend_backward_kernel<kSum><<<static_cast<unsigned>(in.views * grid.tiles), TileShape<kBackwardPixels>::kThreads, 0, stream>>>(
      in, state, grid, images, v_images, to);
}

}  // namespace

size_t forward_workspace_bytes(const Inputs& in) { return ForwardParts(in, nullptr).total; }

cudaError_t forward_cuda(const Inputs& in, const State& state, const Images& images, void* workspace, cudaStream_t stream) {
  if (in.views == 0) return cudaSuccess;
  const Grid grid = make_grid(in);
  ForwardParts parts(in, workspace);
  const int64_t count = static_cast<int64_t>(in.views) * in.gaussians;
  if (count > 0) {
    depth_keys<<<blocks(count, kBlock), kBlock, 0, stream>>>(in, parts.keys, parts.indices);
    const cudaError_t sorted = cub::DeviceRadixSort::SortPairs(parts.sort, parts.sort_bytes, parts.keys, parts.keys_sorted, parts.indices,
                                                               state.order, static_cast<int>(count), 0, sorted_bits(in.views), stream);
    if (sorted != cudaSuccess) return sorted;
    const int64_t words = static_cast<int64_t>(in.views) * grid.row_words;
    cudaMemsetAsync(state.marks, 0, words * grid.cells * sizeof(uint32_t), stream);
    project_and_mark<<<blocks(words * kWarp, kBlock), kBlock, 0, stream>>>(in, state, grid);
  }
  blend_kernel<<<static_cast<unsigned>(in.views * grid.tiles), TileShape<kForwardPixels>::kThreads, 0, stream>>>(in, state, grid, images);
  return cudaGetLastError();
}

size_t backward_workspace_bytes(const Inputs& in, bool deterministic) { return BackwardParts(in, deterministic, nullptr).total; }

cudaError_t backward_cuda(const Inputs& in, const State& state, const Images& images, const ImageGradients& v_images,
                          const InputGradients& out, bool deterministic, void* workspace, cudaStream_t stream) {
  if (in.gaussians == 0) return cudaSuccess;
  const Grid grid = make_grid(in);
  BackwardParts parts(in, deterministic, workspace);
  const int64_t values = static_cast<int64_t>(in.views) * in.gaussians * kGradients;
  const SumTargets to{reinterpret_cast<float*>(parts.v_splats), parts.largest, parts.sums};
  if (in.views > 0) {
    if (deterministic) {
      cudaMemsetAsync(parts.largest, 0, values * sizeof(uint32_t), stream);
      cudaMemsetAsync(parts.sums, 0, values * sizeof(unsigned long long), stream);
      launch_blend_backward<Sum::kLargest>(in, state, grid, images, v_images, to, stream);
      launch_blend_backward<Sum::kFixed>(in, state, grid, images, v_images, to, stream);
      fixed_to_float<<<blocks(values, kBlock), kBlock, 0, stream>>>(values, parts.largest, parts.sums, to.fast);
    } else {
      cudaMemsetAsync(parts.v_splats, 0, values * sizeof(float), stream);
      launch_blend_backward<Sum::kFast>(in, state, grid, images, v_images, to, stream);
    }
  }
  const unsigned count = blocks(in.gaussians, 64);
  switch (in.coefficients) {
    case 0:
      gaussian_gradient_kernel<0><<<count, 64, 0, stream>>>(in, state.radii, parts.v_splats, out);
      break;
    case 1:
      gaussian_gradient_kernel<1><<<count, 64, 0, stream>>>(in, state.radii, parts.v_splats, out);
      break;
    case 4:
      gaussian_gradient_kernel<4><<<count, 64, 0, stream>>>(in, state.radii, parts.v_splats, out);
      break;
    case 9:
      gaussian_gradient_kernel<9><<<count, 64, 0, stream>>>(in, state.radii, parts.v_splats, out);
      break;
    default:
      gaussian_gradient_kernel<16><<<count, 64, 0, stream>>>(in, state.radii, parts.v_splats, out);
  }
  return cudaGetLastError();
}

}  // namespace md::raster
