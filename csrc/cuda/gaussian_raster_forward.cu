// Gaussian rasteriser on CUDA, without a list whose length the host would have to know: the pictures.
//
// The Gaussians of all views are sorted once by (view, depth), and their splats lie in that order. For every cell of the
// picture (a tile, or a square of tiles where there are very many Gaussians) one bit per depth rank says whether that
// Gaussian can be seen in it. Blocks of tiles read these bits: gaussian_tiles.h. Few Gaussians are sorted by one launch,
// which counts for each how many are nearer: a radix sort is eight launches, each of which takes its time however little it does.
#include <cub/device/device_radix_sort.cuh>

#include "gaussian_tiles.h"

namespace md::raster {
namespace {

constexpr int kForwardPixels = 1;  // pixels a thread
constexpr int kForwardAtOnce = 4;  // splats that a warp looks at together
// Positive floats sort as their bits do. From kNear on, 29 bits reach to 3.7e18 (beyond, the order is the input's), and with
// 3 bits for the view the radix sort needs four passes of eight bits.
constexpr int kDepthBits = 29;

constexpr int kRanked = 64;                       // Gaussians that a block ranks by counting
constexpr int kSlices = 8;                        // threads that share what one of them is compared with
constexpr int kLoads = 4;                         // depths that a thread puts there for all, at a time
constexpr int64_t kMostPairs = int64_t{1} << 28;  // to compare; with more a radix sort is faster

bool ranks_by_counting(const Inputs& in) { return static_cast<int64_t>(in.views) * in.gaussians * in.gaussians <= kMostPairs; }

int sorted_bits(int views) {
  int bits = kDepthBits;
  while ((int64_t{1} << (bits - kDepthBits)) < views) ++bits;
  return bits;
}

bool has_short_keys(const Inputs& in) { return sorted_bits(in.views) <= 32; }

// Of `Key`, an unsigned type of sorted_bits() at least.
template <class Key>
struct SortParts {
  Key *keys, *keys_sorted;
  int* indices;
  void* sort;
  size_t sort_bytes, total;

  // A null base asks how many bytes it takes, and CUB in turn, which takes the host a while; else `bytes` are there.
  SortParts(const Inputs& in, void* base, size_t bytes) {
    const int64_t count = static_cast<int64_t>(in.views) * in.gaussians;
    Parts parts(base);
    keys = parts.take<Key>(count);
    keys_sorted = parts.take<Key>(count);
    indices = parts.take<int>(count);
    sort_bytes = base ? bytes - parts.used() : 0;
    if (!base) {
      cub::DeviceRadixSort::SortPairs(nullptr, sort_bytes, keys, keys_sorted, indices, indices, static_cast<int>(count), 0,
                                      sorted_bits(in.views));
    }
    sort = parts.take<uint8_t>(static_cast<int64_t>(sort_bytes));
    total = parts.used();
  }
};

// ---- Before the pixels ----

// The view z of Gaussian n, as bits that sort alike. What is nearer than kNear, or not a number, comes first and will be culled.
__device__ uint32_t depth_bits(const Inputs& in, int view, int n) {
  const float* row = in.world_to_camera + 16 * static_cast<int64_t>(view) + 8;
  const float* mean = in.means + 3 * static_cast<int64_t>(n);
  const float z = row[0] * mean[0] + row[1] * mean[1] + row[2] * mean[2] + row[3];
  return min(__float_as_uint(fmaxf(z, kNear)) - __float_as_uint(kNear), (1u << kDepthBits) - 1);
}

template <class Key>
__global__ void __launch_bounds__(kBlock) depth_keys(Inputs in, Key* keys, int* indices) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= static_cast<int64_t>(in.views) * in.gaussians) return;
  const int view = static_cast<int>(i / in.gaussians), n = static_cast<int>(i % in.gaussians);
  keys[i] = static_cast<Key>(view) << kDepthBits | depth_bits(in, view, n);
  indices[i] = n;
}

// Writes the order of each view, and clears so many words of the marks on the way. A block ranks kRanked Gaussians of a view: a thread for
// each of them and each slice of the others. Of two at one depth the first comes first.
__global__ void __launch_bounds__(kRanked* kSlices, 4) rank_by_counting(Inputs in, State state, int64_t words) {
  constexpr int kThreads = kRanked * kSlices, kChunk = kLoads * kThreads;
  constexpr uint32_t kFarthest = 0x7fffffffu;
  __shared__ uint4 chunk[kChunk / 4];
  __shared__ int nearer[kSlices][kRanked];
  const int blocks_per_view = (in.gaussians + kRanked - 1) / kRanked;
  const int view = blockIdx.x / blocks_per_view, block = blockIdx.x % blocks_per_view;
  const int own = threadIdx.x % kRanked, slice = threadIdx.x / kRanked, n = block * kRanked + own;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < words; i += static_cast<int64_t>(gridDim.x) * kThreads) {
    state.marks[i] = 0;
  }
  const uint32_t bits = n < in.gaussians ? depth_bits(in, view, n) : 0u;
  uint32_t count = 0;
  for (int begin = 0; begin < in.gaussians; begin += kChunk) {
#pragma unroll
    for (int load = 0; load < kLoads; ++load) {
      const int at = load * kThreads + threadIdx.x, other = begin + at;
      reinterpret_cast<uint32_t*>(chunk)[at] = other < in.gaussians ? depth_bits(in, view, other) : kFarthest;
    }
    __syncthreads();
    for (int at = slice * kRanked; at < kChunk && begin + at < in.gaussians; at += kThreads) {
      const int compared = (begin + at) / kRanked;  // the block whose Gaussians this slice is
      const uint4* others = chunk + at / 4;
      if (compared != block) {
        // One at the same depth is nearer if it is of an earlier block. A difference below zero has the highest bit.
        const uint32_t limit = bits + (compared < block);
#pragma unroll
        for (int i = 0; i < kRanked / 4; ++i) {
          const uint4 four = others[i];
          count += (four.x - limit) >> 31;
          count += (four.y - limit) >> 31;
          count += (four.z - limit) >> 31;
          count += (four.w - limit) >> 31;
        }
      } else {
        const uint32_t* singles = reinterpret_cast<const uint32_t*>(others);
        for (int i = 0; i < kRanked; ++i) count += singles[i] < bits + (i < own);
      }
    }
    __syncthreads();
  }
  nearer[slice][own] = static_cast<int>(count);
  __syncthreads();
  if (slice > 0 || n >= in.gaussians) return;
  int rank = 0;
#pragma unroll
  for (int i = 0; i < kSlices; ++i) rank += nearer[i][own];
  state.order[static_cast<int64_t>(view) * in.gaussians + rank] = n;
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

constexpr int kWordsOfBlock = kBlock / kWarp;  // that a block of project_and_mark writes in each row
static_assert(kWordsOfBlock == 8, "rows are a multiple of it, so that a block has one view, and writes 32 bytes");

// A block keeps its words of all rows in shared memory and writes them out where there are few enough cells for that.
constexpr size_t kMostShared = 48 << 10;
size_t shared_marks_bytes(const Grid& grid) { return static_cast<size_t>(grid.cells) * kWordsOfBlock * sizeof(uint32_t); }
bool shares_marks(const Grid& grid) { return shared_marks_bytes(grid) <= kMostShared; }

// One warp projects 32 consecutive ranks of a view, and marks them: one word of the bits of each cell, which are zero
// before unless kShared. It lists every pair of a splat and a cell of the splat's own rectangle and shares the pairs out
// over its lanes, however unlike the rectangles' sizes are. The rank of a culled Gaussian is marked nowhere.
template <bool kShared>
__global__ void __launch_bounds__(kBlock) project_and_mark(Inputs in, State state, Grid grid) {
  extern __shared__ uint4 shared_marks[];  // [cells, kWordsOfBlock / 4]
  const int warps_per_view = grid.row_words;
  const int64_t warp = (static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x) / kWarp;
  const int view = static_cast<int>(warp / warps_per_view), word = static_cast<int>(warp % warps_per_view);
  if (view >= in.views) return;
  if constexpr (kShared) {
    for (int i = threadIdx.x; i < grid.cells * 2; i += kBlock) shared_marks[i] = make_uint4(0, 0, 0, 0);
    __syncthreads();
  }
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
  uint32_t* all_marks = state.marks + static_cast<int64_t>(view) * grid.cells * grid.row_words + word;
  uint32_t* marks = kShared ? reinterpret_cast<uint32_t*>(shared_marks) + word % kWordsOfBlock : all_marks;
  const int64_t stride = kShared ? kWordsOfBlock : grid.row_words;  // from row to row
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
    atomicOr(marks + (y * grid.cells_across + x) * stride, 1u << from);
  }
  if constexpr (kShared) {
    __syncthreads();
    uint4* rows = reinterpret_cast<uint4*>(all_marks - word % kWordsOfBlock);
    for (int i = threadIdx.x; i < grid.cells * 2; i += kBlock)
      rows[static_cast<int64_t>(i / 2) * (grid.row_words / 4) + i % 2] = shared_marks[i];
  }
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
  walk<kForwardAtOnce>(
      in, state, grid, place, shared,
      [&](const int (&indices)[kForwardAtOnce], int count) {
        Coverage covers[kForwardAtOnce];
#pragma unroll
        for (int k = 0; k < kForwardAtOnce; ++k) {
          const Splat& s = shared.splats[indices[k]];
          covers[k] = cover(s, s.x - x, s.y - y);
        }
#pragma unroll
        for (int k = 0; k < kForwardAtOnce; ++k) {
          const Splat& s = shared.splats[indices[k]];
          const bool seen = k < count && covers[k].seen && !done;
          const float after = transmittance * (1.f - covers[k].alpha), weight = transmittance * covers[k].alpha;
          const bool blends = seen && after >= kMinTransmittance;
          done = done || (seen && !blends);
          if (blends) {
            red += weight * s.red;
            green += weight * s.green;
            blue += weight * s.blue;
            depth += weight * s.depth;
            transmittance = after;
          }
        }
      },
      [&] { return done; }, [] {});
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

}  // namespace

template <class Key>
cudaError_t sort_by_depth(const Inputs& in, const State& state, void* workspace, size_t bytes, cudaStream_t stream) {
  const int64_t count = static_cast<int64_t>(in.views) * in.gaussians;
  SortParts<Key> parts(in, workspace, bytes);
  depth_keys<Key><<<blocks(count, kBlock), kBlock, 0, stream>>>(in, parts.keys, parts.indices);
  return cub::DeviceRadixSort::SortPairs(parts.sort, parts.sort_bytes, parts.keys, parts.keys_sorted, parts.indices, state.order,
                                         static_cast<int>(count), 0, sorted_bits(in.views), stream);
}

size_t forward_workspace_bytes(const Inputs& in) {
  return ranks_by_counting(in) ? 0
         : has_short_keys(in)  ? SortParts<uint32_t>(in, nullptr, 0).total
                               : SortParts<uint64_t>(in, nullptr, 0).total;
}

cudaError_t forward_cuda(const Inputs& in, const State& state, const Images& images, void* workspace, size_t bytes, cudaStream_t stream) {
  if (in.views == 0) return cudaSuccess;
  const Grid grid = make_grid(in);
  const int64_t count = static_cast<int64_t>(in.views) * in.gaussians;
  if (count > 0) {
    const int64_t columns = static_cast<int64_t>(in.views) * grid.row_words, words = columns * grid.cells;
    const bool shared = shares_marks(grid);
    if (ranks_by_counting(in)) {
      const unsigned ranking = in.views * blocks(in.gaussians, kRanked);
      rank_by_counting<<<ranking, kRanked * kSlices, 0, stream>>>(in, state, shared ? 0 : words);
    } else {
      const cudaError_t sorted = has_short_keys(in) ? sort_by_depth<uint32_t>(in, state, workspace, bytes, stream)
                                                    : sort_by_depth<uint64_t>(in, state, workspace, bytes, stream);
      if (sorted != cudaSuccess) return sorted;
      if (!shared) cudaMemsetAsync(state.marks, 0, words * sizeof(uint32_t), stream);
    }
    const unsigned projecting = blocks(columns * kWarp, kBlock);
    if (shared) {
      project_and_mark<true><<<projecting, kBlock, shared_marks_bytes(grid), stream>>>(in, state, grid);
    } else {
      project_and_mark<false><<<projecting, kBlock, 0, stream>>>(in, state, grid);
    }
  }
  blend_kernel<<<static_cast<unsigned>(in.views * grid.tiles), TileShape<kForwardPixels>::kThreads, 0, stream>>>(in, state, grid, images);
  return cudaGetLastError();
}

}  // namespace md::raster
