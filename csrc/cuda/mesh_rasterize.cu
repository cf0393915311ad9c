// Which face each pixel of a mesh's picture shows, on CUDA. Visibility is a 64-bit atomic minimum per pixel of (depth, face), so it does
// not depend on the order of the work.
#include "mesh_pixels.h"

namespace md::mesh_raster {
namespace {

constexpr int kWarps = kBlock / kWarp;
constexpr int kSmallBox = 128;  // pixels: the warp that finds faces of smaller boxes draws them at once
constexpr int kQueueBlocks = 2048;
constexpr unsigned long long kNothing = ~0ull;

// ---- Visibility ----

// The other faces, of all pictures, with their units of work counted through, so that these can be dealt evenly. It lies behind the keys.
// One atomic gives a face both its place and its units: the counter is places << kUnitBits | units, less one, so that one memset to
// ones empties the keys and the queue.
struct Queue {
  static constexpr int kUnitBits = 42;  // of up to 2^18 units a face
  static constexpr int64_t kMost = int64_t{1} << 18;

  unsigned long long* counter;
  unsigned long long* ends;   // units up to an entry's last one
  unsigned long long* faces;  // picture << 32 | face
  ushort4* boxes;
  unsigned long long capacity;

  static int64_t capacity_for(const Picture& in) {
    const int64_t faces = in.pictures * in.faces;
    return faces < kMost ? faces : kMost;
  }
  static int64_t bytes(int64_t capacity) { return 8 + 24 * capacity; }

  Queue(void* storage, int64_t most)
      : counter(static_cast<unsigned long long*>(storage)),
        ends(counter + 1),
        faces(ends + most),
        boxes(reinterpret_cast<ushort4*>(faces + most)),
        capacity(most) {}

  // One face of each lane that has units. False for those that found the queue full.
  __device__ bool push(unsigned picture, unsigned face, const Box& box, int units, int lane) const {
    const unsigned pushing = __ballot_sync(kAllLanes, units > 0);
    const unsigned last = sum_up_to(units, lane);
    unsigned long long before = 0;
    if (lane == kWarp - 1) {
      before = *reinterpret_cast<volatile unsigned long long*>(counter) + 1;  // what is full stays so, and the counter in its bounds
      if (before >> kUnitBits < capacity) {
        before = atomicAdd(counter, static_cast<unsigned long long>(__popc(pushing)) << kUnitBits | last) + 1;
      }
    }
    before = __shfl_sync(kAllLanes, before, kWarp - 1);
    const unsigned long long place = (before >> kUnitBits) + __popc(pushing & ((1u << lane) - 1u));
    if (units == 0 || place >= capacity) return units == 0;
    ends[place] = (before & ((1ull << kUnitBits) - 1)) + last;
    faces[place] = static_cast<unsigned long long>(picture) << 32 | face;
    boxes[place] = make_ushort4(box.x0, box.x1, box.y0, box.y1);
    return true;
  }

  __device__ unsigned length() const {
    const unsigned long long entries = (*counter + 1) >> kUnitBits;
    return static_cast<unsigned>(entries < capacity ? entries : capacity);
  }

  // The entry of a unit, by a whole warp; the caller knows that there is one.
  __device__ unsigned find(unsigned long long unit, unsigned length, int lane) const {
    unsigned first = 0;
    while (length > 1) {
      const unsigned step = (length + kWarp - 1) / kWarp, last = (lane + 1) * step - 1;
      const unsigned after = __ballot_sync(kAllLanes, last >= length - 1 || ends[first + last] > unit);
      const unsigned part = __ffs(after) - 1;
      first += part * step;
      length = length - part * step < step ? length - part * step : step;
    }
    return first;
  }
};

// The picture that is drawn.
struct Canvas {
  unsigned long long* keys;
  int width, height;
  float scale_x, scale_y;

  __device__ Canvas(const Picture& in, int64_t picture, unsigned long long* all_keys)
      : keys(all_keys + picture * in.height * in.width),
        width(in.width),
        height(in.height),
        scale_x(2.0f / static_cast<float>(in.width)),
        scale_y(2.0f / static_cast<float>(in.height)) {}

  __device__ void draw_pixel(const Corner* corners, unsigned face, int x, int y) const {
    float depth;
    if (!covers(corners, center(x, scale_x), center(y, scale_y), depth)) return;
    const unsigned bits = __float_as_uint(depth + 0.0f);  // -0 becomes 0
    const unsigned ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    atomicMin(keys + y * width + x, static_cast<unsigned long long>(ordered) << 32 | face);
  }
};

// The small faces of a warp, those without pixels left out.
struct FaceList {
  float corner[12][kWarp];  // by its number, so that lanes with different faces read different banks
  int start[kWarp];         // of the face's pixels among those of the whole list
  int x0[kWarp], y0[kWarp], width[kWarp], lane[kWarp];
  float inverse_width[kWarp];

  __device__ void put(int place, int first_pixel, int of_lane, const Corner* corners, const Box& box) {
    for (int k = 0; k < 3; ++k) {
      corner[4 * k][place] = corners[k].x;
      corner[4 * k + 1][place] = corners[k].y;
      corner[4 * k + 2][place] = corners[k].z;
      corner[4 * k + 3][place] = corners[k].w;
    }
    start[place] = first_pixel;
    x0[place] = box.x0;
    y0[place] = box.y0;
    width[place] = box.x1 - box.x0 + 1;
    inverse_width[place] = 1.0f / static_cast<float>(width[place]);
    lane[place] = of_lane;
  }
  __device__ void get(int place, Corner* corners) const {
    for (int k = 0; k < 3; ++k) {
      corners[k] = {corner[4 * k][place], corner[4 * k + 1][place], corner[4 * k + 2][place], corner[4 * k + 3][place]};
    }
  }
};

// Draws one face of each lane that has pixels; all pixels are one list, which the warp takes 32 at a time. Lane 0 has face `first`.
__device__ void draw_list(const Canvas& canvas, const Corner* corners, const Box& box, unsigned first, int pixels, int lane,
                          FaceList& list) {
  const unsigned drawn = __ballot_sync(kAllLanes, pixels > 0);
  const int end = sum_up_to(pixels, lane), start = end - pixels;
  const int total = __shfl_sync(kAllLanes, end, kWarp - 1);
  if (pixels > 0) list.put(__popc(drawn & ((1u << lane) - 1u)), start, lane, corners, box);
  __syncwarp();
  int begun = 0;  // faces whose first pixel came before
  for (int base = 0; base < total; base += kWarp) {
    const bool begins_here = pixels > 0 && start >= base && start < base + kWarp;
    const unsigned begins = __reduce_or_sync(kAllLanes, begins_here ? 1u << (start - base) : 0u);  // bits by pixel
    const int owner = begun + __popc(begins & ((2u << lane) - 1u)) - 1;
    begun += __popc(begins);
    if (base + lane >= total) continue;
    Corner its_corners[3];
    list.get(owner, its_corners);
    const int pixel = base + lane - list.start[owner], row = row_of(pixel, list.inverse_width[owner]);
    canvas.draw_pixel(its_corners, first + list.lane[owner], list.x0[owner] + pixel - row * list.width[owner], list.y0[owner] + row);
  }
}

// One unit of a face, by a whole warp: each lane looks at one of its tiles, then all draw those that may have pixels.
__device__ void draw_unit(const Canvas& canvas, const Corner* corners, const TileTest& test, const Box& box, unsigned face, int unit,
                          int lane) {
  const int tile = unit * kTilesInUnit + lane, across = tiles_across(box);
  const int left = (box.x0 / kTileX + tile % across) * kTileX, top = (box.y0 / kTileY + tile / across) * kTileY;
  unsigned rest = __ballot_sync(kAllLanes, tile < tiles_of(box) && !test.outside(corners, left, top));
  for (; rest != 0; rest &= rest - 1) {
    const int from = __ffs(rest) - 1;
    const int x = __shfl_sync(kAllLanes, left, from) + lane % kTileX, y = __shfl_sync(kAllLanes, top, from) + lane / kTileX;
    if (x >= box.x0 && x <= box.x1 && y >= box.y0 && y <= box.y1) canvas.draw_pixel(corners, face, x, y);
  }
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

// Draws small faces and puts larger ones into the queue.
__global__ void __launch_bounds__(kBlock) draw_faces(Picture in, unsigned long long* keys, Queue queue) {
  __shared__ FaceList lists[kWarps];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t picture = blockIdx.y;
  int64_t first, last;
  face_range(in, picture, first, last);
  first += static_cast<int64_t>(blockIdx.x) * kBlock + warp * kWarp;
  if (first >= last) return;
  const Canvas canvas(in, picture, keys);

  Corner corners[3];
  Box box;
  int pixels = 0;
  if (first + lane < last && load_corners(in, picture, first + lane, corners) && bounding_box(corners, in.width, in.height, box)) {
    pixels = pixels_of(box);
  }
  const bool small = pixels <= kSmallBox;
  draw_list(canvas, corners, box, static_cast<unsigned>(first), small ? pixels : 0, lane, lists[warp]);
  if (__all_sync(kAllLanes, small)) return;
  const unsigned face = static_cast<unsigned>(first) + lane;
  const bool kept = queue.push(static_cast<unsigned>(picture), face, box, small ? 0 : units_of(box), lane);
  for (unsigned rest = __ballot_sync(kAllLanes, !kept); rest != 0; rest &= rest - 1) {
    const unsigned left_over = static_cast<unsigned>(first) + __ffs(rest) - 1;
    if (!load_corners(in, picture, left_over, corners) || !bounding_box(corners, in.width, in.height, box)) continue;
    const TileTest test(corners, canvas.scale_x, canvas.scale_y, kTileX, kTileY);
    for (int unit = 0; unit < units_of(box); ++unit) draw_unit(canvas, corners, test, box, left_over, unit, lane);
  }
}

// Gives every warp the same number of units, those of neighbours in the queue.
__global__ void __launch_bounds__(kBlock) draw_queue(Picture in, unsigned long long* keys, Queue queue) {
  const int lane = threadIdx.x % kWarp;
  const unsigned length = queue.length();
  if (length == 0) return;
  constexpr unsigned long long kShares = static_cast<unsigned long long>(kQueueBlocks) * kWarps;
  const unsigned long long total = queue.ends[length - 1], share = (total + kShares - 1) / kShares;
  unsigned long long unit = (static_cast<unsigned long long>(blockIdx.x) * kWarps + threadIdx.x / kWarp) * share;
  const unsigned long long last = unit + share < total ? unit + share : total;
  if (unit >= last) return;
  for (unsigned i = queue.find(unit, length, lane); unit < last; ++i) {
    const unsigned long long begin = i > 0 ? queue.ends[i - 1] : 0, end = queue.ends[i];
    const int64_t picture = static_cast<int64_t>(queue.faces[i] >> 32);
    const unsigned face = static_cast<unsigned>(queue.faces[i]);
    const ushort4 sides = queue.boxes[i];
    const Box box = {sides.x, sides.y, sides.z, sides.w};
    Corner corners[3];
    load_corners(in, picture, face, corners);
    const Canvas canvas(in, picture, keys);
    const TileTest test(corners, canvas.scale_x, canvas.scale_y, kTileX, kTileY);
    for (; unit < last && unit < end; ++unit) { draw_unit(canvas, corners, test, box, face, static_cast<int>(unit - begin), lane); }
  }
}

__global__ void __launch_bounds__(kBlock) write_samples(Picture in, const unsigned long long* keys, float4* rast, float4* rast_db) {
  const RowPixel p = row_pixel(in.width, in.height);
  if (!p.inside) return;
  const unsigned long long key = keys[p.number];
  float4 values = make_float4(0.0f, 0.0f, 0.0f, 0.0f), derivatives = values;
  if (key != kNothing) {
    const int64_t face = static_cast<int64_t>(key & 0xffffffffu);
    const float scale_x = 2.0f / static_cast<float>(in.width), scale_y = 2.0f / static_cast<float>(in.height);
    Corner corners[3];
    if (load_corners(in, p.picture, face, corners)) {
      const SampleOf<float> s =
          sample_face(corners, center(p.within % in.width, scale_x), center(p.within / in.width, scale_y), scale_x, scale_y);
      values = make_float4(s.u, s.v, s.depth, static_cast<float>(face + 1));
      derivatives = make_float4(s.db[0], s.db[1], s.db[2], s.db[3]);
    }
  }
  rast[p.number] = values;
  rast_db[p.number] = derivatives;
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

int64_t rasterize_workspace_bytes(const Picture& in) {
  return 8 * in.pictures * in.height * in.width + Queue::bytes(Queue::capacity_for(in));
}

cudaError_t rasterize_cuda(const Picture& in, float* rast, float* rast_db, void* workspace, cudaStream_t stream) {
  const int64_t pixels = in.pictures * in.height * in.width;
  if (pixels == 0) return cudaSuccess;
  auto* keys = static_cast<unsigned long long*>(workspace);
  const Queue queue(keys + pixels, Queue::capacity_for(in));
  const cudaError_t cleared = cudaMemsetAsync(keys, 0xff, (pixels + 1) * sizeof(unsigned long long), stream);
  if (cleared != cudaSuccess) return cleared;
  if (in.faces > 0) {
    const dim3 blocks(static_cast<unsigned>(blocks_for(in.faces)), static_cast<unsigned>(in.pictures));
    draw_faces<<<blocks, kBlock, 0, stream>>>(in, keys, queue);
    draw_queue<<<kQueueBlocks, kBlock, 0, stream>>>(in, keys, queue);
  }
  write_samples<<<row_blocks(in.pictures, in.width, in.height), kBlock, 0, stream>>>(in, keys, reinterpret_cast<float4*>(rast),
                                                                                     reinterpret_cast<float4*>(rast_db));
  return cudaGetLastError();
}

cudaError_t rasterize_backward_cuda(const Picture& in, const float* rast, const float* v_rast, const float* v_rast_db, float* v_pos,
                                    void* workspace, cudaStream_t stream) {
  const dim3 blocks = tiled_blocks(in.pictures, in.width, in.height);
  return sum_into(v_pos, 4 * position_sets(in) * in.vertices, workspace, stream, [&](auto sum) {
    if (in.pictures > 0) rasterize_gradients<<<blocks, kBlock, 0, stream>>>(in, rast, v_rast, v_rast_db, sum);
  });
}

}  // namespace md::mesh_raster
