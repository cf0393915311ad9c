// Gaussian rasteriser on the CPU. Tiles of 16x16 pixels in parallel; in a tile, blocks of eight pixels at a time, and only
// those that a splat's ellipse reaches.
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <numeric>
#include <utility>
#include <vector>

#include "gaussian_raster.h"
#include "lanes.h"

namespace md::raster {
namespace {

constexpr int kPixels = kTile * kTile;
constexpr size_t kHitsAtOnce = size_t{1} << 22;  // of the backward pass: 160 MiB
constexpr int kAhead = 8;                        // splats fetched before their turn: lists visit them in no order of memory

inline void fetch_ahead(const Splat& splat) {
#if defined(__GNUC__)
  __builtin_prefetch(&splat);
  __builtin_prefetch(reinterpret_cast<const char*>(&splat + 1) - 1);  // it may lie across two cache lines
#endif
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

// Which splats each tile of one view blends, nearest first.
struct TileLists {
  std::vector<int> first;       // [tiles + 1] into `splat`
  std::vector<int> splat;       // [hits]
  std::vector<int> first_slot;  // [N + 1] where the slots of a Gaussian begin, one for each tile that blends it
  std::vector<int> slot;        // [hits] slot of each entry of `splat`
};

TileLists list_tiles(const Inputs& in, const Splat* splats, const int* order, bool with_slots) {
  const int across = tiles_along(in.width), down = tiles_along(in.height);
  TileLists lists;
  lists.first.assign(static_cast<size_t>(across) * down + 1, 0);
  std::vector<int> touched;  // tile indices, splat by splat
  std::vector<std::pair<int, int>> count;
  for (int rank = 0; rank < in.gaussians && order[rank] >= 0; ++rank) {
    if (rank + kAhead < in.gaussians && order[rank + kAhead] >= 0) fetch_ahead(splats[order[rank + kAhead]]);
    const Splat& s = splats[order[rank]];
    const TileRect rect = visible_tiles(s, in.width, in.height);
    const size_t before = touched.size();
    const bool one_tile = rect.x1 - rect.x0 == 1 && rect.y1 - rect.y0 == 1;
    for (int y = rect.y0; y < rect.y1; ++y) {
      for (int x = rect.x0; x < rect.x1; ++x) {
        const float left = static_cast<float>(x * kTile), top = static_cast<float>(y * kTile);
        if (!one_tile && !ellipse_meets(s, left, top, left + (kTile - 1), top + (kTile - 1))) continue;
        touched.push_back(y * across + x);
        ++lists.first[y * across + x + 1];
      }
    }
    count.emplace_back(order[rank], static_cast<int>(touched.size() - before));
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
  for (int n = 0; n < count; ++n) {
    // Depths are positive, so their bits sort as they do; equal depths keep the order of the input.
    if (radii[n] > 0) keys.push_back(static_cast<uint64_t>(std::bit_cast<uint32_t>(splats[n].depth)) << 32 | static_cast<uint32_t>(n));
  }
  std::sort(keys.begin(), keys.end());
  for (size_t rank = 0; rank < keys.size(); ++rank) order[rank] = static_cast<int>(keys[rank] & 0xffffffffu);
  std::fill(order + keys.size(), order + count, -1);
}

// The pixels of a tile lie in strips of four columns, row after row, so that any kLanes of them in a row of memory are a
// block of four columns: splats are round, and a block that is nearly square holds fewer pixels that they miss. A block is
// named by its strip and its first row: strip * kTile + row, its bit in a mask and a quarter of its place in memory.
constexpr int kStrip = 4, kStrips = kTile / kStrip;
constexpr int kBlockRows = kLanes / kStrip;
using Blocks = uint64_t;
static_assert(kStrips * kTile == 64 && kLanes % kStrip == 0 && kTile % kLanes == 0);

inline int strip_of(int block) { return block / kTile; }
inline int first_pixel(int block) { return block * kStrip; }
inline int pixel_at(int row, int column) { return (column / kStrip * kTile + row) * kStrip + column % kStrip; }
inline int block_at(int row, int strip) { return strip * kTile + row / kBlockRows * kBlockRows; }

template <class F>
inline Lanes each_lane(F f) {
  alignas(4 * kLanes) float values[kLanes];
  for (int i = 0; i < kLanes; ++i) values[i] = static_cast<float>(f(i));
  return load_lanes(values);
}

// Where the pixels of a tile's blocks are in the picture.
struct PixelCentres {
  Lanes x[kStrips], y[kTile / kBlockRows];

  PixelCentres(int left, int top) {
    for (int strip = 0; strip < kStrips; ++strip) x[strip] = each_lane([&](int i) { return left + strip * kStrip + i % kStrip; });
    for (int rows = 0; rows < kTile / kBlockRows; ++rows) y[rows] = each_lane([&](int i) { return top + rows * kBlockRows + i / kStrip; });
  }
  Lanes x_of(int block) const { return x[strip_of(block)]; }
  Lanes y_of(int block) const { return y[block % kTile / kBlockRows]; }
};

// The blocks that a splat may reach. In row y the ellipse a dx^2 + 2 b dx dy + c dy^2 = reach is the interval
// |x - middle| <= half with half^2 = (a reach - det dy^2) / a^2, which is negative where there is none.
inline Blocks reached_blocks(const Splat& s, int left, int top) {
  const float determinant = inverse_determinant(s), inverse_a = 1.f / s.a;
  // A little more than the exact reach, since the pixels decide in their own rounding.
  const float widest = s.reach * inverse_a * 1.0001f + 1e-3f, narrowing = determinant * inverse_a * inverse_a, slope = s.b * inverse_a;
  Blocks rows_reached = 0;
  for (int rows = 0; rows < kTile; rows += kLanes) {
    const Lanes dy = each_lane([&](int i) { return top + rows + i; }) - s.y;
    const Lanes half = sqrt_lanes(widest - dy * dy * narrowing) + 1e-3f;
    const Lanes middle = (s.x - static_cast<float>(left)) - dy * slope;
    const Lanes first = middle - half, last = middle + half;
    for (int strip = 0; strip < kStrips; ++strip) {
      const float begin = static_cast<float>(strip * kStrip), end = begin + (kStrip - 1);
      rows_reached |= static_cast<Blocks>(bits((first <= end) & (last >= begin))) << (strip * kTile + rows);
    }
  }
  Blocks first_rows = 0;  // of all blocks
  for (int row = 0; row < 64; row += kBlockRows) first_rows |= Blocks{1} << row;
  for (int shift = 1; shift < kBlockRows; shift *= 2) rows_reached |= rows_reached >> shift;
  return rows_reached & first_rows;
}

struct Coverage {
  Lanes dx, dy;    // offset of the splat's centre from the pixels
  Lanes uncapped;  // opacity * exp(power)
  Lanes alpha;     // 0 where the splat is not seen
  LaneMask seen;
};

inline Coverage cover(const Splat& s, Lanes x, Lanes y) {
  Coverage c;
  c.dx = s.x - x;
  c.dy = s.y - y;
  const Lanes power = (c.dx * c.dx * s.a + c.dy * s.c * c.dy) * -0.5f - c.dx * (c.dy * s.b);
  // Below -80 the result is far under the cut of any opacity, and the exponential's scaling would leave its range.
  c.uncapped = s.opacity * exp_lanes(larger_lanes(power, lanes(-80.f)));
  c.seen = (power <= 0.f) & (c.uncapped >= kMinAlpha);
  c.alpha = smaller_lanes(c.uncapped, lanes(kMaxAlpha));
  return c;
}

// Transmittance of the pixels of a tile. Finished ones are marked by a minus sign, those outside the picture by 0.
struct alignas(4 * kLanes) Transmittance {
  float value[kPixels];
  Blocks going = 0;  // blocks with pixels that are not finished

  Transmittance(int left, int top, int width, int height) {
    for (int row = 0; row < kTile; ++row) {
      for (int column = 0; column < kTile; ++column) {
        const bool inside = left + column < width && top + row < height;
        value[pixel_at(row, column)] = inside ? 1.f : 0.f;
        if (inside) going |= Blocks{1} << block_at(row, column / kStrip);
      }
    }
  }

  // Weights of a splat that covers `c` at a block's pixels; moves their transmittance on.
  Lanes blend(const Coverage& c, int block, Lanes& before, LaneMask& taken) {
    const int i = first_pixel(block);
    before = load_lanes(value + i);
    const LaneMask reached = c.seen & (before > 0.f);
    const Lanes after = before * (1.f - c.alpha);
    taken = reached & (after >= kMinTransmittance);
    const Lanes left_over = select(taken, after, select(reached, -before, before));
    store_lanes(value + i, left_over);
    if (!any(left_over > 0.f)) going &= ~(Blocks{1} << block);
    return select(taken, c.alpha * before, lanes(0.f));
  }
};

void blend_tile(const Inputs& in, const Splat* splats, const int* first, const int* last, int view, int left, int top,
                const Images& images) {
  Transmittance transmittance(left, top, in.width, in.height);
  alignas(4 * kLanes) float sums[4][kPixels] = {};  // red, green, blue, depth
  const PixelCentres centres(left, top);
  for (const int* hit = first; hit != last && transmittance.going; ++hit) {
    if (hit + kAhead < last) fetch_ahead(splats[hit[kAhead]]);
    const Splat& s = splats[*hit];
    for (Blocks blocks = reached_blocks(s, left, top) & transmittance.going; blocks; blocks &= blocks - 1) {
      const int block = std::countr_zero(blocks), i = first_pixel(block);
      Lanes before;
      LaneMask taken;
      const Lanes weight = transmittance.blend(cover(s, centres.x_of(block), centres.y_of(block)), block, before, taken);
      store_lanes(sums[0] + i, load_lanes(sums[0] + i) + weight * s.red);
      store_lanes(sums[1] + i, load_lanes(sums[1] + i) + weight * s.green);
      store_lanes(sums[2] + i, load_lanes(sums[2] + i) + weight * s.blue);
      store_lanes(sums[3] + i, load_lanes(sums[3] + i) + weight * s.depth);
    }
  }
  const int64_t plane = static_cast<int64_t>(in.width) * in.height;
  const float* background = in.background + 3 * view;
  for (int row = 0; row < std::min(kTile, in.height - top); ++row) {
    const int64_t at = static_cast<int64_t>(top + row) * in.width + left;
    for (int column = 0; column < std::min(kTile, in.width - left); ++column) {
      const int i = pixel_at(row, column);
      const float left_over = fabsf(transmittance.value[i]);
      for (int channel = 0; channel < 3; ++channel) {
        images.image[(3 * view + channel) * plane + at + column] = sums[channel][i] + left_over * background[channel];
      }
      images.depth[view * plane + at + column] = sums[3][i];
      images.alpha[view * plane + at + column] = 1.f - left_over;
    }
  }
}

// Loss gradients of a tile's pixels, 0 outside the picture, and what they make of the blended result.
struct alignas(4 * kLanes) TileGradients {
  float red[kPixels] = {}, green[kPixels] = {}, blue[kPixels] = {}, depth[kPixels] = {}, alpha[kPixels] = {};
  // Sum over the splats still to come (and the background) of weight * (gradient . channels).
  float behind[kPixels] = {};

  TileGradients(const Inputs& in, const Images& images, const ImageGradients& v, int view, int left, int top) {
    const int64_t plane = static_cast<int64_t>(in.width) * in.height;
    for (int row = 0; row < std::min(kTile, in.height - top); ++row) {
      for (int column = 0; column < std::min(kTile, in.width - left); ++column) {
        const int i = pixel_at(row, column);
        const int64_t at = static_cast<int64_t>(top + row) * in.width + left + column, single = view * plane + at,
                      triple = 3 * view * plane + at;
        float sum = 0.f;
        if (v.image) {
          red[i] = v.image[triple];
          green[i] = v.image[triple + plane];
          blue[i] = v.image[triple + 2 * plane];
          sum += red[i] * images.image[triple] + green[i] * images.image[triple + plane] + blue[i] * images.image[triple + 2 * plane];
        }
        if (v.depth) sum += (depth[i] = v.depth[single]) * images.depth[single];
        if (v.alpha) sum += (alpha[i] = v.alpha[single]) * images.alpha[single];
        behind[i] = sum;
      }
    }
  }
};

// Front to back again, with the same transmittances as the forward pass. A weight's gradient is what the splat adds,
// less what it takes from all behind it: v_alpha_i = T_i q_i - behind_i / (1 - alpha_i).
void blend_tile_backward(const Inputs& in, const Splat* splats, const int* first, const int* last, int view, int left, int top,
                         const Images& images, const ImageGradients& v_images, const int* slot, SplatGradient* v_slots) {
  Transmittance transmittance(left, top, in.width, in.height);
  TileGradients v(in, images, v_images, view, left, top);
  const PixelCentres centres(left, top);
  for (const int* hit = first; hit != last && transmittance.going; ++hit, ++slot) {
    if (hit + kAhead < last) fetch_ahead(splats[hit[kAhead]]);
    const Splat& s = splats[*hit];
    const Lanes zero = lanes(0.f);
    Lanes red = zero, green = zero, blue = zero, depth = zero;
    Lanes m = zero, mx = zero, my = zero, mxx = zero, mxy = zero, myy = zero;  // moments of the gradient of the power
    for (Blocks blocks = reached_blocks(s, left, top) & transmittance.going; blocks; blocks &= blocks - 1) {
      const int block = std::countr_zero(blocks), i = first_pixel(block);
      const Coverage c = cover(s, centres.x_of(block), centres.y_of(block));
      Lanes before;
      LaneMask taken;
      const Lanes weight = transmittance.blend(c, block, before, taken);
      if (!any(taken)) continue;
      const Lanes v_red = load_lanes(v.red + i), v_green = load_lanes(v.green + i), v_blue = load_lanes(v.blue + i),
                  v_depth = load_lanes(v.depth + i);
      const Lanes gain = v_red * s.red + v_green * s.green + v_blue * s.blue + v_depth * s.depth + load_lanes(v.alpha + i);
      const Lanes behind = load_lanes(v.behind + i) - weight * gain;
      store_lanes(v.behind + i, behind);
      const Lanes v_alpha = before * gain - behind / (1.f - c.alpha);
      const Lanes v_power = select(taken, v_alpha * c.uncapped, zero);  // the cap passes the gradient
      red += weight * v_red;
      green += weight * v_green;
      blue += weight * v_blue;
      depth += weight * v_depth;
      const Lanes v_power_x = v_power * c.dx;
      m += v_power;
      mx += v_power_x;
      const Lanes v_power_y = v_power * c.dy;
      my += v_power_y;
      mxx += v_power_x * c.dx;
      mxy += v_power_x * c.dy;
      myy += v_power_y * c.dy;
    }
    SplatGradient* out = v_slots + *slot;
    const float sx = sum_lanes(mx), sy = sum_lanes(my);
    out->x = -(s.a * sx + s.b * sy);
    out->y = -(s.b * sx + s.c * sy);
    out->a = -0.5f * sum_lanes(mxx);
    out->b = -sum_lanes(mxy);
    out->c = -0.5f * sum_lanes(myy);
    out->opacity = sum_lanes(m) / s.opacity;
    out->depth = sum_lanes(depth);
    out->red = sum_lanes(red);
    out->green = sum_lanes(green);
    out->blue = sum_lanes(blue);
  }
}

template <int K>
void all_gaussian_gradients(const Inputs& in, const int* radii, const SplatGradient* v_splats, const InputGradients& out) {
  at::parallel_for(0, in.gaussians, 256, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) gaussian_gradient<K>(in, radii, v_splats, static_cast<int>(n), out);
  });
}

}  // namespace

void forward_cpu(const Inputs& in, const State& state, const Images& images) {
  const int64_t count = in.gaussians;
  std::vector<Camera> cameras(in.views);
  for (int view = 0; view < in.views; ++view) cameras[view] = load_camera(in, view);
  at::parallel_for(0, in.views * count, 256, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int view = static_cast<int>(i / count);
      state.radii[i] = make_splat(in, cameras[view], view, static_cast<int>(i % count), state.splats[i]);
    }
  });
  std::vector<TileLists> lists(in.views);
  at::parallel_for(0, in.views, 1, [&](int64_t begin, int64_t end) {
    for (int64_t view = begin; view < end; ++view) {
      sort_by_depth(state.splats + view * count, state.radii + view * count, in.gaussians, state.order + view * count);
      lists[view] = list_tiles(in, state.splats + view * count, state.order + view * count, false);
    }
  });
  const int across = tiles_along(in.width), tiles = across * tiles_along(in.height);
  share_out(static_cast<int64_t>(in.views) * tiles, [&](int64_t i) {
    const int view = static_cast<int>(i / tiles), tile = static_cast<int>(i % tiles);
    const int* hits = lists[view].splat.data();
    const int left = tile % across * kTile, top = tile / across * kTile;
    blend_tile(in, state.splats + view * count, hits + lists[view].first[tile], hits + lists[view].first[tile + 1], view, left, top,
               images);
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
      lists[view] = list_tiles(in, state.splats + view * count, state.order + view * count, true);
  });
  std::vector<SplatGradient> v_splats(in.views * count);
  std::vector<SplatGradient> v_slots;
  std::vector<size_t> start(in.views);  // of a view's slots in v_slots
  for (int64_t first_view = 0, last_view; first_view < in.views; first_view = last_view) {
    size_t hits = 0;
    for (last_view = first_view; last_view < in.views; ++last_view) {
      if (last_view > first_view && hits + lists[last_view].splat.size() > kHitsAtOnce) break;
      start[last_view] = hits;
      hits += lists[last_view].splat.size();
    }
    v_slots.assign(hits, SplatGradient{});
    share_out((last_view - first_view) * tiles, [&](int64_t i) {
      const int view = static_cast<int>(first_view + i / tiles), tile = static_cast<int>(i % tiles);
      const TileLists& list = lists[view];
      const int first = list.first[tile], last = list.first[tile + 1], left = tile % across * kTile, top = tile / across * kTile;
      blend_tile_backward(in, state.splats + view * count, list.splat.data() + first, list.splat.data() + last, view, left, top, images,
                          v_images, list.slot.data() + first, v_slots.data() + start[view]);
    });
    at::parallel_for(first_view * count, last_view * count, 256, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const TileLists& list = lists[i / count];
        const SplatGradient* parts = v_slots.data() + start[i / count];
        float* sum = reinterpret_cast<float*>(&v_splats[i]);
        for (int slot = list.first_slot[i % count]; slot < list.first_slot[i % count + 1]; ++slot) {
          const float* part = reinterpret_cast<const float*>(parts + slot);
          for (int k = 0; k < kGradients; ++k) sum[k] += part[k];
        }
      }
    });
  }
  switch (in.coefficients) {
    case 0:
      return all_gaussian_gradients<0>(in, state.radii, v_splats.data(), out);
    case 1:
      return all_gaussian_gradients<1>(in, state.radii, v_splats.data(), out);
    case 4:
      return all_gaussian_gradients<4>(in, state.radii, v_splats.data(), out);
    case 9:
      return all_gaussian_gradients<9>(in, state.radii, v_splats.data(), out);
    default:
      return all_gaussian_gradients<16>(in, state.radii, v_splats.data(), out);
  }
}

}  // namespace md::raster
