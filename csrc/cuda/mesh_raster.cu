// The mesh rasteriser on CUDA. Visibility is a 64-bit atomic minimum per pixel of (depth, face), so it does not depend on the
// order of the work. Gradients of pixels that show one face are summed within a warp first; the deterministic mode finds the
// largest contribution to each value, then adds whole multiples of 2^-40 of it: neither minds the order.
#include "mesh_raster.h"

namespace md::mesh_raster {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kBlock = 256;
constexpr int kWarps = kBlock / kWarp;
constexpr int kSmallBox = 16;          // pixels of a face's box that one thread fills alone
constexpr int kTileX = 8, kTileY = 4;  // pixels; a warp fills a tile of a larger face at once
constexpr int kTilesInBlock = 256;     // a face of more tiles goes to the queue, which all blocks empty together
constexpr int kQueueBlocks = 64, kQueueParts = 32;
constexpr int kFixedPointBits = 40;  // leaves 2^22 contributions of the largest size in 63 bits
constexpr unsigned long long kNothing = ~0ull;

int64_t blocks_for(int64_t count) { return (count + kBlock - 1) / kBlock; }

// ---- Visibility ----

// Queue of large faces behind the keys; its counter is one less than the faces pushed, so that one memset to ones empties both.
struct Queue {
  unsigned long long* counter;
  unsigned long long* entries;  // picture << 32 | face
  unsigned long long capacity;

  // False where the queue is full.
  __device__ bool push(unsigned picture, unsigned face) const {
    const unsigned long long slot = atomicAdd(counter, 1ull) + 1ull;
    if (slot < capacity) entries[slot] = static_cast<unsigned long long>(picture) << 32 | face;
    return slot < capacity;
  }
  __device__ unsigned long long length() const { return *counter + 1ull < capacity ? *counter + 1ull : capacity; }
};

int64_t queue_capacity(const Picture& in) {
  constexpr int64_t kMost = int64_t{1} << 22;  // with ranges, far fewer faces are drawn than pictures times faces
  return in.pictures * in.faces < kMost ? in.pictures * in.faces : kMost;
}

__device__ void draw_pixel(const Picture& in, const Corner* corners, unsigned face, int x, int y, unsigned long long* keys) {
  float depth;
  const float center_x = center(x, 2.0f / static_cast<float>(in.width)), center_y = center(y, 2.0f / static_cast<float>(in.height));
  if (!covers(corners, center_x, center_y, depth)) return;
  const unsigned bits = __float_as_uint(depth + 0.0f);  // -0 becomes 0
  const unsigned ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  atomicMin(keys + static_cast<int64_t>(y) * in.width + x, static_cast<unsigned long long>(ordered) << 32 | face);
}

__device__ int tiles_x(const Box& box) { return box.x1 / kTileX - box.x0 / kTileX + 1; }
__device__ int tiles_y(const Box& box) { return box.y1 / kTileY - box.y0 / kTileY + 1; }

// Whether no pixel of the tile can be inside: one edge function positive at its four outermost centres, another one negative.
// They are linear in between; the margin covers their rounding.
__device__ bool tile_outside(const Picture& in, const Corner* corners, int left, int top) {
  constexpr float kRounding = 4e-6f;
  const float scale_x = 2.0f / static_cast<float>(in.width), scale_y = 2.0f / static_cast<float>(in.height);
  float low[3] = {INFINITY, INFINITY, INFINITY}, high[3] = {-INFINITY, -INFINITY, -INFINITY};
  for (int i = 0; i < 4; ++i) {
    const Relative<float> r =
        relative(corners, center(left + (i & 1 ? kTileX - 1 : 0), scale_x), center(top + (i & 2 ? kTileY - 1 : 0), scale_y));
    float e[3];
    edge_functions(r, e);
    for (int k = 0; k < 3; ++k) {
      const int a = (k + 1) % 3, b = (k + 2) % 3;
      const float margin = kRounding * (fabsf(r.x[a] * r.y[b]) + fabsf(r.y[a] * r.x[b]));
      low[k] = fminf(low[k], e[k] - margin);
      high[k] = fmaxf(high[k], e[k] + margin);
    }
  }
  const bool some_positive = low[0] > 0.0f || low[1] > 0.0f || low[2] > 0.0f,
             some_negative = high[0] < 0.0f || high[1] < 0.0f || high[2] < 0.0f;
  return some_positive && some_negative;
}

// One tile of a face, by a whole warp.
__device__ void draw_tile(const Picture& in, const Corner* corners, const Box& box, unsigned face, int tile, int lane,
                          unsigned long long* keys) {
  const int across = tiles_x(box);
  const int left = (box.x0 / kTileX + tile % across) * kTileX, top = (box.y0 / kTileY + tile / across) * kTileY;
  const int x = left + lane % kTileX, y = top + lane / kTileX;
  if (x >= box.x0 && x <= box.x1 && y >= box.y0 && y <= box.y1) draw_pixel(in, corners, face, x, y, keys);
}

// Inclusive prefix sum of one value per thread into sums[kBlock]. All threads of the block take part.
__device__ void prefix_sum(int value, int* sums) {
  __shared__ int warp_sums[kWarps];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int step = 1; step < kWarp; step *= 2) {
    const int other = __shfl_up_sync(kAllLanes, value, step);
    if (lane >= step) value += other;
  }
  if (lane == kWarp - 1) warp_sums[warp] = value;
  __syncthreads();
  for (int w = 0; w < warp; ++w) value += warp_sums[w];
  sums[threadIdx.x] = value;
  __syncthreads();
}

// The first i with sums[i] > target, searched by a whole warp; the caller knows that there is one.
__device__ int find_owner(const int* sums, int target, int lane) {
  static_assert(kBlock == kWarp * kWarps && kWarps <= kWarp);
  const unsigned groups = __ballot_sync(kAllLanes, sums[lane * kWarps + kWarps - 1] > target);
  const int group = __ffs(groups) - 1;
  const unsigned members = __ballot_sync(kAllLanes, lane < kWarps && sums[group * kWarps + lane % kWarps] > target);
  return group * kWarps + __ffs(members) - 1;
}

// First face and past the last one of a picture; a range that leaves the faces is cut short.
__device__ void face_range(const Picture& in, int64_t picture, int64_t& first, int64_t& last) {
  first = 0;
  last = in.faces;
  if (in.ranges == nullptr) return;
  const int64_t start = in.ranges[2 * picture], count = in.ranges[2 * picture + 1];
  first = start < 0 ? 0 : start;
  last = start + count < in.faces ? start + count : in.faces;
}

__global__ void __launch_bounds__(kBlock) draw_faces(Picture in, unsigned long long* keys, Queue queue) {
  __shared__ Corner corners_of[kBlock][3];
  __shared__ Box box_of[kBlock];
  __shared__ int tile_sums[kBlock];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t picture = blockIdx.y;
  int64_t first, last;
  face_range(in, picture, first, last);
  first += static_cast<int64_t>(blockIdx.x) * kBlock;
  if (first >= last) return;
  keys += picture * in.height * in.width;

  const int64_t face = first + threadIdx.x;
  int tiles = 0;
  Corner corners[3];
  Box box;
  if (face < last && load_corners(in, picture, face, corners) && bounding_box(corners, in.width, in.height, box)) {
    if ((box.x1 - box.x0 + 1) * (box.y1 - box.y0 + 1) <= kSmallBox) {
      for (int y = box.y0; y <= box.y1; ++y) {
        for (int x = box.x0; x <= box.x1; ++x) draw_pixel(in, corners, static_cast<unsigned>(face), x, y, keys);
      }
    } else {
      tiles = tiles_x(box) * tiles_y(box);
      if (tiles > kTilesInBlock && queue.push(static_cast<unsigned>(picture), static_cast<unsigned>(face))) tiles = 0;
      for (int k = 0; k < 3; ++k) corners_of[threadIdx.x][k] = corners[k];
      box_of[threadIdx.x] = box;
    }
  }
  prefix_sum(tiles, tile_sums);
  const int total = tile_sums[kBlock - 1];
  for (int tile = warp; tile < total; tile += kWarps) {
    const int owner = find_owner(tile_sums, tile, lane);
    const int number = tile - (owner > 0 ? tile_sums[owner - 1] : 0);
    draw_tile(in, corners_of[owner], box_of[owner], static_cast<unsigned>(first + owner), number, lane, keys);
  }
}

// Large faces: those of entry blockIdx.x, + kQueueBlocks, ... with the tiles of each shared among kQueueParts blocks.
__global__ void __launch_bounds__(kBlock) draw_queue(Picture in, unsigned long long* keys, Queue queue) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const unsigned long long length = queue.length();
  for (unsigned long long i = blockIdx.x; i < length; i += kQueueBlocks) {
    const int64_t picture = static_cast<int64_t>(queue.entries[i] >> 32);
    const unsigned face = static_cast<unsigned>(queue.entries[i] & 0xffffffffu);
    Corner corners[3];
    Box box;
    if (!load_corners(in, picture, face, corners) || !bounding_box(corners, in.width, in.height, box)) continue;
    const int across = tiles_x(box), total = across * tiles_y(box);
    for (int tile = static_cast<int>(blockIdx.y) * kWarps + warp; tile < total; tile += kQueueParts * kWarps) {
      const int left = (box.x0 / kTileX + tile % across) * kTileX, top = (box.y0 / kTileY + tile / across) * kTileY;
      if (tile_outside(in, corners, left, top)) continue;
      draw_tile(in, corners, box, face, tile, lane, keys + picture * in.height * in.width);
    }
  }
}

__global__ void __launch_bounds__(kBlock) write_samples(Picture in, const unsigned long long* keys, float4* rast, float4* rast_db) {
  const int64_t pixel = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  const int64_t picture_pixels = static_cast<int64_t>(in.height) * in.width;
  if (pixel >= in.pictures * picture_pixels) return;
  const unsigned long long key = keys[pixel];
  float4 values = make_float4(0.0f, 0.0f, 0.0f, 0.0f), derivatives = values;
  if (key != kNothing) {
    const int64_t face = static_cast<int64_t>(key & 0xffffffffu), picture = pixel / picture_pixels;
    const int within = static_cast<int>(pixel - picture * picture_pixels);
    const float scale_x = 2.0f / static_cast<float>(in.width), scale_y = 2.0f / static_cast<float>(in.height);
    Corner corners[3];
    if (load_corners(in, picture, face, corners)) {
      const SampleOf<float> s =
          sample_face(corners, center(within % in.width, scale_x), center(within / in.width, scale_y), scale_x, scale_y);
      values = make_float4(s.u, s.v, s.depth, static_cast<float>(face + 1));
      derivatives = make_float4(s.db[0], s.db[1], s.db[2], s.db[3]);
    }
  }
  rast[pixel] = values;
  rast_db[pixel] = derivatives;
}

// ---- Sums of many contributions ----

struct FastSum {
  float* out;
  __device__ void add(int64_t i, float value) const { atomicAdd(out + i, value); }
};

struct LargestContribution {
  unsigned* largest;  // bits of the magnitude; those of positive floats sort like the floats
  __device__ void add(int64_t i, float value) const { atomicMax(largest + i, __float_as_uint(fabsf(value))); }
};

// 2^(kFixedPointBits - 1 - e) where the largest contribution is below 2^(e + 1).
__device__ double fixed_point_scale(unsigned largest) { return ldexp(1.0, kFixedPointBits - 1 - (static_cast<int>(largest >> 23) - 127)); }

struct FixedPointSum {
  const unsigned* largest;
  unsigned long long* sums;
  __device__ void add(int64_t i, float value) const {
    atomicAdd(sums + i, static_cast<unsigned long long>(__double2ll_rn(value * fixed_point_scale(largest[i]))));
  }
};

__global__ void __launch_bounds__(kBlock)
    fixed_to_float(int64_t count, const unsigned* largest, const unsigned long long* sums, float* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= count) return;
  const float most = __uint_as_float(largest[i]);
  out[i] = !isfinite(most) ? most
           : most == 0.0f  ? 0.0f
                           : static_cast<float>(static_cast<long long>(sums[i]) / fixed_point_scale(largest[i]));
}

// Runs launch(sum) such that sum.add(i, value) adds to out[i], of `count` values: once with plain atomics, or, with a workspace
// of deterministic_bytes(count), twice.
template <class Launch>
cudaError_t sum_into(float* out, int64_t count, void* workspace, cudaStream_t stream, const Launch& launch) {
  if (count == 0) {
    launch(FastSum{out});  // what else the launch writes
    return cudaGetLastError();
  }
  if (workspace == nullptr) {
    const cudaError_t cleared = cudaMemsetAsync(out, 0, count * sizeof(float), stream);
    if (cleared != cudaSuccess) return cleared;
    launch(FastSum{out});
    return cudaGetLastError();
  }
  auto* sums = static_cast<unsigned long long*>(workspace);
  auto* largest = reinterpret_cast<unsigned*>(sums + count);
  const cudaError_t cleared = cudaMemsetAsync(workspace, 0, deterministic_bytes(count), stream);
  if (cleared != cudaSuccess) return cleared;
  launch(LargestContribution{largest});
  launch(FixedPointSum{largest, sums});
  fixed_to_float<<<static_cast<unsigned>(blocks_for(count)), kBlock, 0, stream>>>(count, largest, sums, out);
  return cudaGetLastError();
}

// Lanes of a warp that hold the same face, and how to sum over them: the lowest of them ends with the total.
struct Peers {
  unsigned above;  // lanes of the same face to the right, as the reduction goes on
  int rank;
  bool leads;

  __device__ Peers(int64_t face, int lane) {
    const unsigned same = __match_any_sync(kAllLanes, static_cast<int>(face));
    const unsigned below = (1u << lane) - 1u;
    rank = __popc(same & below);
    leads = rank == 0;
    above = same & ~below & ~(1u << lane);
  }
};

// Sums values[count] over the peers of each lane, pairwise. The tree depends on the lanes' faces alone.
template <int Count>
__device__ void sum_over_peers(Peers peers, float (&values)[Count]) {
  while (__any_sync(kAllLanes, peers.above)) {
    const int next = __ffs(peers.above);
    for (int i = 0; i < Count; ++i) {
      const float other = __shfl_sync(kAllLanes, values[i], next > 0 ? next - 1 : 0);
      if (next > 0) values[i] += other;
    }
    const unsigned keep = __ballot_sync(kAllLanes, !(peers.rank & 1));
    peers.above &= keep;
    peers.rank >>= 1;
  }
}

// Backward passes give a warp a tile of 8 x 4 pixels, whose lanes share more faces than those of a row would.
struct TiledPixel {
  int64_t picture;
  int x, y;
  bool inside;
  int64_t number;  // counted through all pictures
};

int64_t tiled_blocks(int64_t pictures, int width, int height) {
  return pictures * ((width + 2 * kTileX - 1) / (2 * kTileX)) * ((height + 4 * kTileY - 1) / (4 * kTileY));
}

// A block covers 16 x 16 pixels: 2 x 4 tiles.
__device__ TiledPixel tiled_pixel(int width, int height) {
  static_assert(kBlock == 2 * kTileX * 4 * kTileY);
  const int across = (width + 2 * kTileX - 1) / (2 * kTileX), down = (height + 4 * kTileY - 1) / (4 * kTileY);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t block = blockIdx.x;
  TiledPixel p;
  p.picture = block / (static_cast<int64_t>(across) * down);
  const int within = static_cast<int>(block % (static_cast<int64_t>(across) * down));
  p.x = (within % across * 2 + warp % 2) * kTileX + lane % kTileX;
  p.y = (within / across * 4 + warp / 2) * kTileY + lane / kTileX;
  p.inside = p.x < width && p.y < height;
  p.number = (p.picture * height + p.y) * width + p.x;
  return p;
}

template <class Sum>
__device__ void add_position(const Sum& sum, int64_t vertex, float x, float y, float w) {
  sum.add(4 * vertex, x);
  sum.add(4 * vertex + 1, y);
  sum.add(4 * vertex + 3, w);
}

// One 16-byte atomic where the machine has it.
__device__ void add_position(const FastSum& sum, int64_t vertex, float x, float y, float w) {
#if __CUDA_ARCH__ >= 900
  atomicAdd(reinterpret_cast<float4*>(sum.out) + vertex, make_float4(x, y, 0.0f, w));
#else
  sum.add(4 * vertex, x);
  sum.add(4 * vertex + 1, y);
  sum.add(4 * vertex + 3, w);
#endif
}

template <class Sum>
__global__ void __launch_bounds__(kBlock)
    rasterize_gradients(Picture in, const float* rast, const float* v_rast, const float* v_rast_db, Sum sum) {
  const TiledPixel p = tiled_pixel(in.width, in.height);
  Corner corners[3];
  int64_t face = p.inside ? face_at(rast + 4 * p.number, in.faces) : -1;
  if (face >= 0 && !load_corners(in, p.picture, face, corners)) face = -1;
  if (!__any_sync(kAllLanes, face >= 0)) return;
  float v_corners[9] = {};
  if (face >= 0) {
    const float scale_x = 2.0f / static_cast<float>(in.width), scale_y = 2.0f / static_cast<float>(in.height);
    sample_face_backward(corners, center(p.x, scale_x), center(p.y, scale_y), scale_x, scale_y, v_rast ? v_rast + 4 * p.number : nullptr,
                         v_rast_db ? v_rast_db + 4 * p.number : nullptr, v_corners);
  }
  const Peers peers(face, threadIdx.x % kWarp);
  sum_over_peers(peers, v_corners);
  if (face < 0 || !peers.leads) return;
  for (int k = 0; k < 3; ++k) {
    add_position(sum, vertices_before(in, p.picture) + in.tri[3 * face + k], v_corners[3 * k], v_corners[3 * k + 1], v_corners[3 * k + 2]);
  }
}

// ---- Interpolation ----

// Channels is in.channels where that is known while compiling, else 0.
template <int Channels>
__global__ void __launch_bounds__(kBlock) interpolate_pixels(Attributes in, float* out, float* out_da) {
  const int64_t pixel = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  const int64_t picture_pixels = static_cast<int64_t>(in.height) * in.width;
  if (pixel >= in.pictures * picture_pixels) return;
  const int channels = Channels > 0 ? Channels : in.channels;
  const float4 rast = reinterpret_cast<const float4*>(in.rast)[pixel];
  const float* corner[3];
  const bool covered = corner_attributes(in, pixel / picture_pixels, face_at(&rast.x, in.faces), corner);
  const float4 db = covered && out_da ? reinterpret_cast<const float4*>(in.rast_db)[pixel] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  const float rest = 1.0f - rast.x - rast.y;
#pragma unroll
  for (int c = 0; c < channels; ++c) {
    const float a0 = covered ? corner[0][c] : 0.0f, a1 = covered ? corner[1][c] : 0.0f, a2 = covered ? corner[2][c] : 0.0f;
    out[pixel * channels + c] = rast.x * a0 + rast.y * a1 + rest * a2;
    if (out_da) {
      const float along_u = a0 - a2, along_v = a1 - a2;
      reinterpret_cast<float2*>(out_da)[pixel * channels + c] =
          make_float2(db.x * along_u + db.z * along_v, db.y * along_u + db.w * along_v);
    }
  }
}

template <class Sum>
__global__ void __launch_bounds__(kBlock) interpolate_gradients(Attributes in, AttributeGradients v, Sum sum) {
  const TiledPixel p = tiled_pixel(in.width, in.height);
  const float* corner[3];
  int64_t face = p.inside ? face_at(in.rast + 4 * p.number, in.faces) : -1;
  if (face >= 0 && !corner_attributes(in, p.picture, face, corner)) face = -1;
  float4 v_rast = make_float4(0.0f, 0.0f, 0.0f, 0.0f), v_db = v_rast;
  if (__any_sync(kAllLanes, face >= 0)) {
    const bool covered = face >= 0, with_db = v.v_rast_db && v.v_out_da;
    const float4 rast = covered ? reinterpret_cast<const float4*>(in.rast)[p.number] : v_rast;
    const float4 db = covered && with_db ? reinterpret_cast<const float4*>(in.rast_db)[p.number] : v_rast;
    const Peers peers(face, threadIdx.x % kWarp);
    const int64_t set = in.sets == 1 ? 0 : p.picture * in.vertices;
    for (int c = 0; c < in.channels; ++c) {
      float v_corner[3] = {0.0f, 0.0f, 0.0f};
      if (covered) {
        const float along_u = corner[0][c] - corner[2][c], along_v = corner[1][c] - corner[2][c];
        const float g = v.v_out ? v.v_out[in.channels * p.number + c] : 0.0f;
        v_rast.x += g * along_u;
        v_rast.y += g * along_v;
        v_corner[0] = g * rast.x;
        v_corner[1] = g * rast.y;
        v_corner[2] = g * (1.0f - rast.x - rast.y);
        if (with_db) {
          const float2 d = reinterpret_cast<const float2*>(v.v_out_da)[in.channels * p.number + c];
          v_db.x += d.x * along_u;
          v_db.y += d.y * along_u;
          v_db.z += d.x * along_v;
          v_db.w += d.y * along_v;
          const float du = d.x * db.x + d.y * db.y, dv = d.x * db.z + d.y * db.w;
          v_corner[0] += du;
          v_corner[1] += dv;
          v_corner[2] -= du + dv;
        }
      }
      sum_over_peers(peers, v_corner);
      for (int k = 0; covered && peers.leads && k < 3; ++k) sum.add((set + in.tri[3 * face + k]) * in.channels + c, v_corner[k]);
    }
  }
  if (!p.inside) return;
  reinterpret_cast<float4*>(v.v_rast)[p.number] = v_rast;
  if (v.v_rast_db) reinterpret_cast<float4*>(v.v_rast_db)[p.number] = v_db;
}

// ---- Antialiasing ----

__global__ void __launch_bounds__(kBlock) mark_silhouettes(Picture in, const int32_t* opposite, uint8_t* edges) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i < position_sets(in) * in.faces) edges[i] = silhouette_edges(in, opposite, i / in.faces, i % in.faces);
}

template <int Channels>
__global__ void __launch_bounds__(kBlock) blend_pixels(Picture in, Blending blending, float* out) {
  const TiledPixel p = tiled_pixel(in.width, in.height);
  if (!p.inside) return;
  const int channels = Channels > 0 ? Channels : blending.channels;
  const float* own = blending.color + channels * p.number;
  float* to = out + channels * p.number;
#pragma unroll
  for (int c = 0; c < channels; ++c) to[c] = own[c];
  Pair pair;
  for (int number = 0; number < 4; ++number) {
    if (!find_pair(in, blending, p.picture, p.x, p.y, number, pair)) continue;
    const float share = share_in(pair);
    const float* other = blending.color + channels * pair.other;
    for (int c = 0; c < channels; ++c) to[c] += share * (other[c] - own[c]);
  }
}

template <class Sum>
__global__ void __launch_bounds__(kBlock) blend_gradients(Picture in, Blending blending, BlendingGradients v, Sum sum) {
  const TiledPixel p = tiled_pixel(in.width, in.height);
  if (!p.inside) return;
  const int channels = blending.channels;
  const float* v_own = v.v_out + channels * p.number;
  float* v_color = v.v_color + channels * p.number;
  for (int c = 0; c < channels; ++c) v_color[c] = v_own[c];
  Pair pair;
  float v_ends[2][3];
  for (int number = 0; number < 4; ++number) {
    if (!find_pair(in, blending, p.picture, p.x, p.y, number, pair)) continue;
    const float in_share = share_in(pair), out_share = share_out(pair);
    const float* v_other = v.v_out + channels * pair.other;
    const float* v_blended = pair.crossing.weight > 0.0f ? v_other : v_own;
    float v_weight = 0.0f;
    for (int c = 0; c < channels; ++c) {
      v_color[c] += out_share * v_other[c] - in_share * v_own[c];
      v_weight += v_blended[c] * (blending.color[channels * p.number + c] - blending.color[channels * pair.other + c]);
    }
    if (!pair.other_is_far || !pair.crossing.moves) continue;  // each pair once, with its nearer pixel
    crossing_backward(pair.crossing, v_weight, v_ends);
    for (int end = 0; end < 2; ++end) {
      const float* g = v_ends[end];
      const bool column = number >= 2;
      add_position(sum, vertices_before(in, p.picture) + pair.crossing.ends[end], g[column ? 1 : 0], g[column ? 0 : 1], g[2]);
    }
  }
}

}  // namespace

int64_t rasterize_workspace_bytes(const Picture& in) { return 8 * (in.pictures * in.height * in.width + 1 + queue_capacity(in)); }

cudaError_t rasterize_cuda(const Picture& in, float* rast, float* rast_db, void* workspace, cudaStream_t stream) {
  const int64_t pixels = in.pictures * in.height * in.width;
  if (pixels == 0) return cudaSuccess;
  auto* keys = static_cast<unsigned long long*>(workspace);
  const Queue queue = {keys + pixels, keys + pixels + 1, static_cast<unsigned long long>(queue_capacity(in))};
  const cudaError_t cleared = cudaMemsetAsync(keys, 0xff, (pixels + 1) * sizeof(unsigned long long), stream);
  if (cleared != cudaSuccess) return cleared;
  if (in.faces > 0) {
    draw_faces<<<dim3(static_cast<unsigned>(blocks_for(in.faces)), static_cast<unsigned>(in.pictures)), kBlock, 0, stream>>>(in, keys,
                                                                                                                             queue);
    draw_queue<<<dim3(kQueueBlocks, kQueueParts), kBlock, 0, stream>>>(in, keys, queue);
  }
  write_samples<<<static_cast<unsigned>(blocks_for(pixels)), kBlock, 0, stream>>>(in, keys, reinterpret_cast<float4*>(rast),
                                                                                  reinterpret_cast<float4*>(rast_db));
  return cudaGetLastError();
}

cudaError_t rasterize_backward_cuda(const Picture& in, const float* rast, const float* v_rast, const float* v_rast_db, float* v_pos,
                                    void* workspace, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(tiled_blocks(in.pictures, in.width, in.height));
  return sum_into(v_pos, 4 * position_sets(in) * in.vertices, workspace, stream, [&](auto sum) {
    if (blocks > 0) rasterize_gradients<<<blocks, kBlock, 0, stream>>>(in, rast, v_rast, v_rast_db, sum);
  });
}

cudaError_t interpolate_cuda(const Attributes& in, float* out, float* out_da, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(blocks_for(in.pictures * in.height * in.width));
  if (blocks == 0) return cudaSuccess;
  switch (in.channels) {
    case 1:
      interpolate_pixels<1><<<blocks, kBlock, 0, stream>>>(in, out, out_da);
      break;
    case 2:
      interpolate_pixels<2><<<blocks, kBlock, 0, stream>>>(in, out, out_da);
      break;
    case 3:
      interpolate_pixels<3><<<blocks, kBlock, 0, stream>>>(in, out, out_da);
      break;
    case 4:
      interpolate_pixels<4><<<blocks, kBlock, 0, stream>>>(in, out, out_da);
      break;
    default:
      interpolate_pixels<0><<<blocks, kBlock, 0, stream>>>(in, out, out_da);
  }
  return cudaGetLastError();
}

cudaError_t interpolate_backward_cuda(const Attributes& in, const AttributeGradients& v, void* workspace, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(tiled_blocks(in.pictures, in.width, in.height));
  return sum_into(v.v_attr, in.sets * in.vertices * in.channels, workspace, stream, [&](auto sum) {
    if (blocks > 0) interpolate_gradients<<<blocks, kBlock, 0, stream>>>(in, v, sum);
  });
}

cudaError_t antialias_cuda(const Picture& in, const Blending& blending, float* out, uint8_t* edges, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(tiled_blocks(in.pictures, in.width, in.height));
  if (blocks == 0) return cudaSuccess;
  const int64_t faces = position_sets(in) * in.faces;
  if (faces > 0) mark_silhouettes<<<static_cast<unsigned>(blocks_for(faces)), kBlock, 0, stream>>>(in, blending.opposite, edges);
  switch (blending.channels) {
    case 1:
      blend_pixels<1><<<blocks, kBlock, 0, stream>>>(in, blending, out);
      break;
    case 3:
      blend_pixels<3><<<blocks, kBlock, 0, stream>>>(in, blending, out);
      break;
    case 4:
      blend_pixels<4><<<blocks, kBlock, 0, stream>>>(in, blending, out);
      break;
    default:
      blend_pixels<0><<<blocks, kBlock, 0, stream>>>(in, blending, out);
  }
  return cudaGetLastError();
}

cudaError_t antialias_backward_cuda(const Picture& in, const Blending& blending, const BlendingGradients& v, uint8_t* edges,
                                    void* workspace, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(tiled_blocks(in.pictures, in.width, in.height));
  const int64_t faces = position_sets(in) * in.faces;
  if (faces > 0) mark_silhouettes<<<static_cast<unsigned>(blocks_for(faces)), kBlock, 0, stream>>>(in, blending.opposite, edges);
  return sum_into(v.v_pos, 4 * position_sets(in) * in.vertices, workspace, stream, [&](auto sum) {
    if (blocks > 0) blend_gradients<<<blocks, kBlock, 0, stream>>>(in, blending, v, sum);
  });
}

}  // namespace md::mesh_raster
