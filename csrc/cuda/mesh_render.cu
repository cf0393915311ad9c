// The data renderer on CUDA, three launches for all views: prepare one View per picture; rasterise with a 64-bit atomic
// minimum per sample, whose key is (inverted inverse depth, face), so that the result does not depend on the order; shade.
#include "mesh_render_cuda.h"

namespace md::mesh_render {
namespace {

constexpr int kChunk = 256;             // triangles, and threads, of a rasterising block
constexpr int kSmallTriangle = 16;      // samples of a bounding box that one thread fills alone
constexpr int kTileX = 16, kTileY = 8;  // samples; a warp fills a tile of a larger triangle in four steps of 16 x 2
constexpr int kWarps = kChunk / 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr unsigned long long kNothing = ~0ull;

struct FormulaTransfer {
  __device__ float to_linear(float v) const { return v <= 0.04045f ? v * (1.0f / 12.92f) : __powf((v + 0.055f) * (1.0f / 1.055f), 2.4f); }
  __device__ float to_srgb(float v) const { return v <= 0.0031308f ? 12.92f * v : 1.055f * __powf(v, 1.0f / 2.4f) - 0.055f; }
};

__global__ void prepare_views(Inputs in, View* views) {
  const int64_t index = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (index < in.views) make_view(in, index, views[index]);
}

__device__ void copy_to_shared(const View* source, View* target, int thread, int threads) {
  static_assert(sizeof(View) % sizeof(int32_t) == 0);
  for (int i = thread; i < static_cast<int>(sizeof(View) / sizeof(int32_t)); i += threads) {
    reinterpret_cast<int32_t*>(target)[i] = reinterpret_cast<const int32_t*>(source)[i];
  }
  __syncthreads();
}

__device__ void draw_sample(const Triangle& t, int face, int x, int y, int samples_x, unsigned long long* nearest) {
  const float column = x + 0.5f, row = y + 0.5f;
  const float e0 = edge_value(t.edge[0], column, row), e1 = edge_value(t.edge[1], column, row), e2 = edge_value(t.edge[2], column, row);
  if (!(e0 >= 0.0f && e1 >= 0.0f && e2 >= 0.0f)) return;
  const unsigned depth = ~__float_as_uint(inverse_depth_at(t, e0, e1, e2));  // positive floats sort like their bits
  const unsigned long long key = static_cast<unsigned long long>(depth) << 32 | static_cast<unsigned>(face);
  atomicMin(nearest + static_cast<int64_t>(y) * samples_x + x, key);
}

// Whether an edge leaves every sample of the tile outside; judged at the tile's corner deepest inside that edge.
__device__ bool tile_outside(const Triangle& t, int x, int y) {
  bool outside = false;
  for (int k = 0; k < 3; ++k) {
    const float column = x + (t.edge[k][0] > 0.0f ? static_cast<float>(kTileX) : 0.0f);
    const float row = y + (t.edge[k][1] > 0.0f ? static_cast<float>(kTileY) : 0.0f);
    outside = outside || edge_value(t.edge[k], column, row) < 0.0f;
  }
  return outside;
}

__device__ int tiles_x(const Triangle& t) { return t.x1 / kTileX - t.x0 / kTileX + 1; }
__device__ int tiles_y(const Triangle& t) { return t.y1 / kTileY - t.y0 / kTileY + 1; }

// Inclusive prefix sum of one value per thread into sums[kChunk]. All threads of the block take part.
__device__ void prefix_sum(int value, int* sums) {
  __shared__ int warp_sums[kWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(kAllLanes, value, step);
    if (lane >= step) value += other;
  }
  if (lane == 31) warp_sums[warp] = value;
  __syncthreads();
  for (int w = 0; w < warp; ++w) value += warp_sums[w];
  sums[threadIdx.x] = value;
  __syncthreads();
}

// The first i with sums[i] > target, searched by a whole warp; the caller knows that there is one.
__device__ int find_owner(const int* sums, int target, int lane) {
  static_assert(kChunk == 32 * kWarps && kWarps <= 32);
  const unsigned groups = __ballot_sync(kAllLanes, sums[lane * kWarps + kWarps - 1] > target);
  const int group = __ffs(groups) - 1;
  const unsigned members = __ballot_sync(kAllLanes, lane < kWarps && sums[group * kWarps + lane % kWarps] > target);
  return group * kWarps + __ffs(members) - 1;
}

__global__ void __launch_bounds__(kChunk) rasterize(Inputs in, const View* views, int64_t first_view, unsigned long long* nearest) {
  __shared__ View view;
  __shared__ Triangle triangles[kChunk];
  __shared__ int tile_sums[kChunk];
  const int samples_x = in.width * in.supersample, samples_y = in.height * in.supersample;
  const View* source = views + first_view + blockIdx.y;
  if (static_cast<int>(blockIdx.x) * kChunk >= source->face_count) return;
  copy_to_shared(source, &view, threadIdx.x, kChunk);
  nearest += static_cast<int64_t>(blockIdx.y) * samples_x * samples_y;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

  for (int chunk = blockIdx.x * kChunk; chunk < view.face_count; chunk += gridDim.x * kChunk) {
    const int face = chunk + threadIdx.x;
    int tiles = 0;
    Vec3 corners[3];
    Triangle triangle;
    if (face < view.face_count && load_corners(in, view, face, corners) &&
        set_up_triangle(view, corners, samples_x, samples_y, in.supersample, triangle)) {
      if ((triangle.x1 - triangle.x0 + 1) * static_cast<int64_t>(triangle.y1 - triangle.y0 + 1) <= kSmallTriangle) {
        for (int y = triangle.y0; y <= triangle.y1; ++y) {
          for (int x = triangle.x0; x <= triangle.x1; ++x) draw_sample(triangle, face, x, y, samples_x, nearest);
        }
      } else {
        tiles = tiles_x(triangle) * tiles_y(triangle);
        triangles[threadIdx.x] = triangle;
      }
    }
    prefix_sum(tiles, tile_sums);
    const int total = tile_sums[kChunk - 1];
    for (int tile = warp; tile < total; tile += kWarps) {
      const int owner = find_owner(tile_sums, tile, lane);
      const Triangle& t = triangles[owner];
      const int number = tile - (owner > 0 ? tile_sums[owner - 1] : 0);
      const int across = tiles_x(t);
      const int left = (t.x0 / kTileX + number % across) * kTileX, top = (t.y0 / kTileY + number / across) * kTileY;
      if (tile_outside(t, left, top)) continue;
      const int x = left + lane % kTileX;
      if (x < t.x0 || x > t.x1) continue;
      for (int y = top + lane / kTileX; y < top + kTileY; y += 32 / kTileX) {
        if (y >= t.y0 && y <= t.y1) draw_sample(t, chunk + owner, x, y, samples_x, nearest);
      }
    }
    __syncthreads();  // the next chunk overwrites the shared triangles
  }
}

constexpr int kPixelsX = 16, kPixelsY = 8;  // of a shading block

__global__ void __launch_bounds__(kPixelsX* kPixelsY, 5)
    shade_pixels(Inputs in, const View* views, int64_t first_view, const unsigned long long* nearest, uint8_t* out) {
  __shared__ View view;
  const int64_t local_view = blockIdx.y, index = first_view + local_view;
  copy_to_shared(views + index, &view, threadIdx.x, kPixelsX * kPixelsY);
  const int blocks_x = (in.width + kPixelsX - 1) / kPixelsX;
  const int x = blockIdx.x % blocks_x * kPixelsX + threadIdx.x % kPixelsX;
  const int y = blockIdx.x / blocks_x * kPixelsY + threadIdx.x / kPixelsX;
  if (x >= in.width || y >= in.height) return;
  const int s = in.supersample, samples_x = in.width * s, samples_y = in.height * s;
  nearest += local_view * samples_x * samples_y;

  int current = -1, covered = 0;
  Vec3 sum = {0.0f, 0.0f, 0.0f};
  Triangle triangle;
  Surface surface;
  for (int sample_y = y * s; sample_y < y * s + s; ++sample_y) {
    for (int sample_x = x * s; sample_x < x * s + s; ++sample_x) {
      const unsigned long long key = nearest[static_cast<int64_t>(sample_y) * samples_x + sample_x];
      if (key == kNothing) continue;
      const int face = static_cast<int>(key & 0xffffffffu);
      if (face != current) {
        Vec3 corners[3];
        load_corners(in, view, face, corners);
        set_up_triangle(view, corners, samples_x, samples_y, s, triangle);
        load_surface(in, view, face, corners, surface);
        current = face;
      }
      sum = sum + shade(view, triangle, surface, in.light_count, s, sample_x + 0.5f, sample_y + 0.5f, FormulaTransfer());
      ++covered;
    }
  }
  const int64_t plane = static_cast<int64_t>(in.width) * in.height;
  write_pixel(out + 4 * index * plane + static_cast<int64_t>(y) * in.width + x, plane, sum, covered, s);
}

}  // namespace

int64_t view_bytes() { return sizeof(View); }

cudaError_t render_cuda(const Inputs& in, int max_faces, void* view_storage, unsigned long long* nearest, int64_t views_at_once,
                        uint8_t* out, cudaStream_t stream) {
  View* views = static_cast<View*>(view_storage);
  constexpr int kThreads = 64;
  prepare_views<<<static_cast<unsigned>((in.views + kThreads - 1) / kThreads), kThreads, 0, stream>>>(in, views);

  const int64_t samples = static_cast<int64_t>(in.width) * in.height * in.supersample * in.supersample;
  const unsigned chunks = static_cast<unsigned>((max_faces + kChunk - 1) / kChunk);
  const unsigned blocks = static_cast<unsigned>(((in.width + kPixelsX - 1) / kPixelsX) * ((in.height + kPixelsY - 1) / kPixelsY));
  for (int64_t first = 0; first < in.views; first += views_at_once) {
    const unsigned count = static_cast<unsigned>(in.views - first < views_at_once ? in.views - first : views_at_once);
    const cudaError_t cleared = cudaMemsetAsync(nearest, 0xff, count * samples * sizeof(unsigned long long), stream);
    if (cleared != cudaSuccess) return cleared;
    rasterize<<<dim3(chunks, count), kChunk, 0, stream>>>(in, views, first, nearest);
    shade_pixels<<<dim3(blocks, count), kPixelsX * kPixelsY, 0, stream>>>(in, views, first, nearest, out);
  }
  return cudaGetLastError();
}

}  // namespace md::mesh_render
