// Which face each pixel of a mesh's picture shows, on CUDA. Visibility is a 64-bit atomic minimum per pixel of (depth, face), so it does
// not depend on the order of the work.
#include "mesh_pixels.h"

namespace md::mesh_raster {
namespace {

constexpr int kWarps = kBlock / kWarp;
constexpr int kSmallBox = 16;       // pixels of a face's box that one thread fills alone; a warp fills a tile of a larger face at once
constexpr int kTilesInBlock = 256;  // a face of more tiles goes to the queue, which all blocks empty together
constexpr int kQueueBlocks = 64, kQueueParts = 32;
constexpr unsigned long long kNothing = ~0ull;

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

// ---- Gradients of the positions ----

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

}  // namespace md::mesh_raster
