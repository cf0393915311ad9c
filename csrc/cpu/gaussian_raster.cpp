// Gaussian rasteriser on the CPU: the work between projection and gradients, tiles of 16x16 pixels in parallel.
#include <ATen/Parallel.h>
#include <ATen/Version.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "gaussian_blend_lanes.h"

namespace md::raster {
namespace {

constexpr int kDigitBits = 11, kDigits = 1 << kDigitBits;  // of depths that are sorted
constexpr size_t kHitsAtOnce = size_t{1} << 22;            // of the backward pass: 160 MiB

const Blending& blending() {
  static const Blending& chosen = [&]() -> const Blending& {
    const Blending* wide = blending_avx512();
    return wide && at::get_cpu_capability() == "AVX512" ? *wide : kBlending;  // ATEN_CPU_CAPABILITY may hold PyTorch to less
  }();
  return chosen;
}

// f(i) for i in [0, count), a few at a time to whichever thread is free: the middle of a picture costs more than its rim.
template <class F>
void share_out(int64_t count, F f) {
  constexpr int64_t kAtOnce = 4;
  std::atomic<int64_t> next{0};
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
    for (int64_t begin; (begin = next.fetch_add(kAtOnce)) < count;) {
      for (int64_t i = begin; i < std::min(begin + kAtOnce, count); ++i) f(i);
    }
  });
}

// f(begin, end) for so many Gaussians, in groups whose splats in all views stay in the cache.
template <class F>
void for_groups(int64_t count, F f) {
  constexpr int64_t kTogether = 64;
  at::parallel_for(0, count, kTogether, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += kTogether) f(first, std::min(first + kTogether, end));
  });
}

// Which splats each tile of one view blends, nearest first.
struct TileLists {
  std::vector<int> first;       // [tiles + 1] into `splat`
  std::vector<int> splat;       // [hits]
  std::vector<int> first_slot;  // [N + 1] where the slots of a Gaussian begin, one for each tile that blends it
  std::vector<int> slot;        // [hits] slot of each entry of `splat`
};

// Which tiles a splat meets, a bit for each, where a picture has few enough of them: what the forward pass found out for the backward pass.
class TilesMet {
 public:
  TilesMet(const Inputs& in, const State& state, int64_t view)
      : marks_(has_tiles_met(in.width, in.height) ? state.marks + 2 * view * in.gaussians : nullptr) {}
  explicit operator bool() const { return marks_ != nullptr; }
  uint64_t load(int n) const {
    uint64_t tiles;
    std::memcpy(&tiles, marks_ + 2 * static_cast<int64_t>(n), sizeof tiles);
    return tiles;
  }
  void store(int n, uint64_t tiles) const { std::memcpy(marks_ + 2 * static_cast<int64_t>(n), &tiles, sizeof tiles); }

 private:
  uint32_t* marks_;
};

// f(x, y) for each tile that a splat meets, row by row.
template <class F>
void for_tiles_met(const Inputs& in, const Splat& s, F f) {
  if (s.opacity < kMinAlpha) return;
  const auto is_one = [](const TileRect& rect) { return rect.x1 - rect.x0 == 1 && rect.y1 - rect.y0 == 1; };
  TileRect rect = square_tiles(s.x, s.y, s.extent, in.width, in.height);
  if (!is_one(rect)) rect = visible_tiles(s, in.width, in.height);
  const bool one_tile = is_one(rect);
  for (int y = rect.y0; y < rect.y1; ++y) {
    for (int x = rect.x0; x < rect.x1; ++x) {
      const float left = static_cast<float>(x * kTile), top = static_cast<float>(y * kTile);
      if (one_tile || ellipse_meets(s, left, top, left + (kTile - 1), top + (kTile - 1))) f(x, y);
    }
  }
}

// Of one view; the backward pass wants slots.
TileLists list_tiles(const Inputs& in, const Splat* splats, const int* order, TilesMet met, bool with_slots) {
  const int across = tiles_along(in.width), down = tiles_along(in.height);
  TileLists lists;
  lists.first.assign(static_cast<size_t>(across) * down + 1, 0);
  std::vector<int> touched;  // tile indices, splat by splat
  std::vector<std::pair<int, int>> count;
  touched.reserve(2 * static_cast<size_t>(in.gaussians));
  count.reserve(in.gaussians);
  const auto touch = [&](int tile) {
    touched.push_back(tile);
    ++lists.first[tile + 1];
  };
  for (int rank = 0; rank < in.gaussians && order[rank] >= 0; ++rank) {
    const int n = order[rank];
    const size_t before = touched.size();
    if (met) {
      for (uint64_t tiles = met.load(n); tiles; tiles &= tiles - 1) touch(std::countr_zero(tiles));
    } else {
      if (rank + kAhead < in.gaussians && order[rank + kAhead] >= 0) fetch_ahead(splats[order[rank + kAhead]]);
      for_tiles_met(in, splats[n], [&](int x, int y) { touch(y * across + x); });
    }
    count.emplace_back(n, static_cast<int>(touched.size() - before));
  }
  std::partial_sum(lists.first.begin(), lists.first.end(), lists.first.begin());
  std::vector<int> next(lists.first.begin(), lists.first.end() - 1);
  lists.splat.resize(touched.size());
  if (with_slots) {
    lists.slot.resize(touched.size());
    lists.first_slot.assign(in.gaussians + 1, 0);
    for (const auto& [n, hits] : count) lists.first_slot[n + 1] = hits;
    std::partial_sum(lists.first_slot.begin(), lists.first_slot.end(), lists.first_slot.begin());
  }
  size_t read = 0;
  for (const auto& [n, hits] : count) {
    for (int i = 0; i < hits; ++i) {
      const int place = next[touched[read++]]++;
      lists.splat[place] = n;
      if (with_slots) lists.slot[place] = lists.first_slot[n] + i;
    }
  }
  return lists;
}

void sort_by_depth(const Splat* splats, const int* radii, int count, int* order) {
  std::vector<uint64_t> keys;
  keys.reserve(count);
  uint32_t nearest = ~0u, farthest = 0;
  for (int n = 0; n < count; ++n) {
    if (radii[n] <= 0) continue;
    const uint32_t depth = std::bit_cast<uint32_t>(splats[n].depth);  // depths are positive, so their bits sort as they do
    keys.push_back(static_cast<uint64_t>(depth) << 32 | static_cast<uint32_t>(n));
    nearest = std::min(nearest, depth);
    farthest = std::max(farthest, depth);
  }
  // Digit by digit from the last one, each pass leaving equal ones in their order, so that equal depths keep that of the input.
  std::vector<uint64_t> sorted(keys.size());
  for (int shift = 0; shift < 32 && nearest < farthest && (farthest - nearest) >> shift; shift += kDigitBits) {
    const auto digit = [&](uint64_t key) { return (static_cast<uint32_t>(key >> 32) - nearest) >> shift & (kDigits - 1); };
    std::array<int, kDigits> places{};
    for (const uint64_t key : keys) ++places[digit(key)];
    std::exclusive_scan(places.begin(), places.end(), places.begin(), 0);
    for (const uint64_t key : keys) sorted[places[digit(key)]++] = key;
    keys.swap(sorted);
  }
  for (size_t rank = 0; rank < keys.size(); ++rank) order[rank] = static_cast<int>(keys[rank] & 0xffffffffu);
  std::fill(order + keys.size(), order + count, -1);
}

std::vector<Camera> load_cameras(const Inputs& in) {
  std::vector<Camera> cameras(in.views);
  for (int view = 0; view < in.views; ++view) cameras[view] = load_camera(in, view);
  return cameras;
}

struct Source {
  const Camera* cameras;
  const Hits* hits;  // [V]
  const Camera& camera(int view) const { return cameras[view]; }
  SplatGradient gradient(int view, int n) const { return hits[view].sum(n); }
};

bool has_fixed_colors(const Inputs& in) { return in.coefficients <= 1; }

template <int K>
void gradients_one_by_one(const Inputs& in, const int* radii, const Source& source, int64_t begin, int64_t end, const InputGradients& out) {
  for (int64_t n = begin; n < end; ++n) gaussian_gradient<K>(in, radii, source, static_cast<int>(n), out);
}

void gaussian_gradients(const Inputs& in, const int* radii, const Source& source, int64_t begin, int64_t end, const InputGradients& out) {
  if (has_fixed_colors(in)) return blending().gaussians(in, source.cameras, radii, source.hits, begin, end, out);
  switch (in.coefficients) {
    case 4:
      return gradients_one_by_one<4>(in, radii, source, begin, end, out);
    case 9:
      return gradients_one_by_one<9>(in, radii, source, begin, end, out);
    default:
      return gradients_one_by_one<16>(in, radii, source, begin, end, out);
  }
}

// Splats, radii and tiles met of Gaussians [begin, end) in all views.
void project(const Inputs& in, const std::vector<Camera>& cameras, int64_t begin, int64_t end, const State& state) {
  const int64_t count = in.gaussians;
  if (has_fixed_colors(in)) {
    blending().project(in, cameras.data(), begin, end, state);
  } else {
    for (int view = 0; view < in.views; ++view) {
      for (int64_t n = begin; n < end; ++n)
        state.radii[view * count + n] = make_splat(in, cameras[view], view, static_cast<int>(n), state.splats[view * count + n]);
    }
  }
  const int across = tiles_along(in.width);
  for (int64_t view = 0; view < in.views; ++view) {
    const TilesMet met(in, state, view);
    if (!met) continue;
    for (int64_t n = begin; n < end; ++n) {
      if (state.radii[view * count + n] <= 0) continue;
      uint64_t tiles = 0;
      for_tiles_met(in, state.splats[view * count + n], [&](int x, int y) { tiles |= uint64_t{1} << (y * across + x); });
      met.store(static_cast<int>(n), tiles);
    }
  }
}

}  // namespace

void forward_cpu(const Inputs& in, const State& state, const Images& images) {
  const int64_t count = in.gaussians;
  const std::vector<Camera> cameras = load_cameras(in);
  for_groups(count, [&](int64_t begin, int64_t end) { project(in, cameras, begin, end, state); });
  std::vector<TileLists> lists(in.views);
  at::parallel_for(0, in.views, 1, [&](int64_t begin, int64_t end) {
    for (int64_t view = begin; view < end; ++view) {
      sort_by_depth(state.splats + view * count, state.radii + view * count, in.gaussians, state.order + view * count);
      lists[view] = list_tiles(in, state.splats + view * count, state.order + view * count, TilesMet(in, state, view), false);
    }
  });
  const int across = tiles_along(in.width), tiles = across * tiles_along(in.height);
  share_out(static_cast<int64_t>(in.views) * tiles, [&](int64_t i) {
    const int view = static_cast<int>(i / tiles), tile = static_cast<int>(i % tiles);
    const int* hits = lists[view].splat.data();
    const int left = tile % across * kTile, top = tile / across * kTile;
    const Tile own{hits + lists[view].first[tile], hits + lists[view].first[tile + 1], view, left, top};
    blending().forward(in, state.splats + view * count, own, images);
  });
}

// Every tile writes the gradients of its own hits into their slots, and every Gaussian adds up its slots, so the result does
// not depend on the number of threads. As many views at a time as keep the memory of the hits within bounds.
void backward_cpu(const Inputs& in, const State& state, const Images& images, const ImageGradients& v_images, const InputGradients& out) {
  const int64_t count = in.gaussians;
  const int across = tiles_along(in.width), tiles = across * tiles_along(in.height);
  std::vector<TileLists> lists(in.views);
  at::parallel_for(0, in.views, 1, [&](int64_t begin, int64_t end) {
    for (int64_t view = begin; view < end; ++view)
      lists[view] = list_tiles(in, state.splats + view * count, state.order + view * count, TilesMet(in, state, view), true);
  });
  std::vector<Hits> hits(in.views);
  std::unique_ptr<SplatGradient[]> v_slots;
  std::vector<SplatGradient> v_splats;  // [V,N], where the hits are too many to be there together
  std::vector<int> one_each;
  for (int64_t first_view = 0, last_view; first_view < in.views; first_view = last_view) {
    size_t slots = 0;
    std::vector<size_t> start;
    for (last_view = first_view; last_view < in.views; ++last_view) {
      if (last_view > first_view && slots + lists[last_view].splat.size() > kHitsAtOnce) break;
      start.push_back(slots);
      slots += lists[last_view].splat.size();
    }
    v_slots.reset(new SplatGradient[slots]);  // not zeroed: every slot is written
    for (int64_t view = first_view; view < last_view; ++view)
      hits[view] = {lists[view].first_slot.data(), &v_slots[start[view - first_view]]};
    share_out((last_view - first_view) * tiles, [&](int64_t i) {
      const int view = static_cast<int>(first_view + i / tiles), tile = static_cast<int>(i % tiles);
      const TileLists& list = lists[view];
      const int first = list.first[tile], last = list.first[tile + 1];
      const Tile own{list.splat.data() + first, list.splat.data() + last, view, tile % across * kTile, tile / across * kTile};
      SplatGradient* v_view = v_slots.get() + start[view - first_view];
      blending().backward(in, state.splats + view * count, own, images, v_images, list.slot.data() + first, v_view);
    });
    if (first_view == 0 && last_view == in.views) break;
    v_splats.resize(in.views * count);
    at::parallel_for(first_view * count, last_view * count, 256, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) v_splats[i] = hits[i / count].sum(i % count);
    });
  }
  if (!v_splats.empty()) {
    one_each.resize(count + 1);
    std::iota(one_each.begin(), one_each.end(), 0);
    for (int64_t view = 0; view < in.views; ++view) hits[view] = {one_each.data(), v_splats.data() + view * count};
  }
  const std::vector<Camera> cameras = load_cameras(in);
  const Source source{cameras.data(), hits.data()};
  for_groups(count, [&](int64_t begin, int64_t end) { gaussian_gradients(in, state.radii, source, begin, end, out); });
}

}  // namespace md::raster
