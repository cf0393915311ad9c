// Texture look-up on the GPU. A thread has one pixel, a warp a tile of 8 x 4, whose texels lie close together whatever the direction of
// the texture. A texel of a pyramid is a multiple of 16 bytes, read at once and, from compute capability 9.0 on, added to at once.
#include "texture.h"

#include <algorithm>
#include <type_traits>

namespace md::texture {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kBlock = 128;
constexpr int kTileWidth = 8, kTileHeight = 4;     // a warp's pixels
constexpr int kBlockWidth = 16, kBlockHeight = 8;  // a block's pixels: 2 x 2 warps
constexpr int kCopyBlock = 256;
constexpr int kMaxBlocks = 1 << 20;   // of the kernels that stride over their items
constexpr int kMaxGridDepth = 65535;  // the limit of a grid's third axis

static_assert(kBlockWidth * kBlockHeight == kBlock && kBlock == 4 * kWarp);

int blocks_for(int64_t items, int block) { return static_cast<int>(std::min<int64_t>((items + block - 1) / block, kMaxBlocks)); }

// ---- A texel's floats, some at a time ----

template <int kVec>
struct alignas(4 * kVec) Vec {
  float v[kVec];
};

// Of what no kernel writes while it runs.
template <int kVec>
__device__ __forceinline__ Vec<kVec> load(const float* from) {
  Vec<kVec> r;
  if constexpr (kVec == 4) {
    const float4 all = __ldg(reinterpret_cast<const float4*>(from));
    r.v[0] = all.x, r.v[1] = all.y, r.v[2] = all.z, r.v[3] = all.w;
  } else if constexpr (kVec == 2) {
    const float2 all = __ldg(reinterpret_cast<const float2*>(from));
    r.v[0] = all.x, r.v[1] = all.y;
  } else {
    r.v[0] = __ldg(from);
  }
  return r;
}

template <int kVec>
__device__ __forceinline__ void store(float* to, const Vec<kVec>& value) {
  *reinterpret_cast<Vec<kVec>*>(to) = value;
}

template <int kVec>
__device__ __forceinline__ void add_to(float* to, const Vec<kVec>& value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if constexpr (kVec == 4) {
    asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(value.v[0]), "f"(value.v[1]), "f"(value.v[2]),
                 "f"(value.v[3])
                 : "memory");
  } else if constexpr (kVec == 2) {
    asm volatile("red.relaxed.gpu.global.add.v2.f32 [%0], {%1, %2};" ::"l"(to), "f"(value.v[0]), "f"(value.v[1]) : "memory");
  } else {
    atomicAdd(to, value.v[0]);
  }
#else
#pragma unroll
  for (int c = 0; c < kVec; ++c) {
    if (value.v[c] != 0.f) atomicAdd(to + c, value.v[c]);  // the padding of a texel always is 0
  }
#endif
}

// Up to kVec channels; the rest is 0.
template <int kVec>
__device__ __forceinline__ Vec<kVec> load_some(const float* from, int channels) {
  Vec<kVec> r;
#pragma unroll
  for (int c = 0; c < kVec; ++c) r.v[c] = c < channels ? __ldg(from + c) : 0.f;
  return r;
}

template <int kVec>
__device__ __forceinline__ void store_some(float* to, const Vec<kVec>& value, int channels) {
#pragma unroll
  for (int c = 0; c < kVec; ++c) {
    if (c < channels) to[c] = value.v[c];
  }
}

// ---- Pixels ----

struct Tiles {
  int across, per_picture;
};

Tiles tiles_of(const Inputs& in) {
  const int across = (in.width + kBlockWidth - 1) / kBlockWidth, down = (in.height + kBlockHeight - 1) / kBlockHeight;
  return {across, across * down};
}

// The pixel of this thread and its picture; false beyond the picture's border.
__device__ __forceinline__ bool my_pixel(const Inputs& in, const Tiles& tiles, int64_t& pixel, int& picture) {
  picture = blockIdx.x / tiles.per_picture;
  const int tile = blockIdx.x % tiles.per_picture;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int x = tile % tiles.across * kBlockWidth + warp % 2 * kTileWidth + lane % kTileWidth;
  const int y = tile / tiles.across * kBlockHeight + warp / 2 * kTileHeight + lane / kTileWidth;
  pixel = (static_cast<int64_t>(picture) * in.height + y) * in.width + x;
  return x < in.width && y < in.height;
}

template <int kVec>
__global__ void __launch_bounds__(kBlock) sample_kernel(Inputs in, Tiles tiles, float* out) {
  int64_t pixel;
  int picture;
  if (!my_pixel(in, tiles, pixel, picture)) return;
  float* color = out + pixel * in.channels;
  const float* texels = in.texels + (in.textures == 1 ? 0 : picture * in.stride);
  const int floats = in.pyramid.floats;
  if (in.filter == Filter::kNearest) {
    Coordinates at{};
    const bool shown = seen(in, pixel, at);
    const float* texel = texels + (shown ? static_cast<int64_t>(nearest_texel(in.pyramid, at, in.wrap)) * floats : 0);
    for (int c = 0; c < in.channels; ++c) color[c] = shown ? texel[c] : 0.f;
    return;
  }
  Look look;
  look_at(in, pixel, look);
  for (int c = 0; c < in.channels; c += kVec) {
    Vec<kVec> sum{};
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      if (k >= look.quads) break;
      float weights[4];
      quad_weights(look.quad[k], weights);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const Vec<kVec> texel = load<kVec>(texels + static_cast<int64_t>(look.quad[k].texel[i]) * floats + c);
        const float weight = look.share[k] * weights[i];
#pragma unroll
        for (int n = 0; n < kVec; ++n) sum.v[n] += weight * texel.v[n];
      }
    }
    store_some(color + c, sum, in.channels - c);
  }
}

// ---- Gradients of the texels ----

// Adds floats in any order.
struct FloatSums {
  float* sums;

  template <int kVec>
  __device__ __forceinline__ void add(int64_t at, const Vec<kVec>& value) const {
    add_to(sums + at, value);
  }
};

// Adds whole multiples of 2^-bits of the largest magnitude that can come, which no order changes.
struct FixedSums {
  unsigned long long* sums;
  const uint32_t* largest;  // the bits of a float
  int bits;

  template <int kVec>
  __device__ __forceinline__ void add(int64_t at, const Vec<kVec>& value) const {
    const float scale = __uint_as_float(*largest);
    if (!(scale < INFINITY)) return;  // convert_kernel() makes all of it NaN
#pragma unroll
    for (int c = 0; c < kVec; ++c) {
      if (value.v[c] == 0.f) continue;
      const long long units = __double2ll_rn(ldexp(static_cast<double>(value.v[c]) / scale, bits));
      atomicAdd(sums + at + c, static_cast<unsigned long long>(units));
    }
  }
};

template <int kVec>
__device__ __forceinline__ Vec<kVec> sum_over_warp(Vec<kVec> value) {
#pragma unroll
  for (int c = 0; c < kVec; ++c) {
    for (int step = kWarp / 2; step > 0; step /= 2) value.v[c] += __shfl_xor_sync(kAllLanes, value.v[c], step);
  }
  return value;
}

// Adds `weights` times `v` to the four texels of each lane's quad; all lanes call it. Where those that have one have the same quad, as
// in a strongly magnified texture, the warp adds once: atomics on one address take their turns.
template <int kVec, class Sums>
__device__ __forceinline__ void scatter(const Sums& sums, bool has, const Quad& q, float share, const Vec<kVec>& v, int64_t base,
                                        int floats) {
  const unsigned having = __ballot_sync(kAllLanes, has);
  if (having == 0) return;
  const int leader = __ffs(having) - 1;
  const int first = __shfl_sync(kAllLanes, q.texel[0], leader), last = __shfl_sync(kAllLanes, q.texel[3], leader);
  const bool one_quad = __all_sync(kAllLanes, !has || (q.texel[0] == first && q.texel[3] == last));
  float weights[4];
  quad_weights(q, weights);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    Vec<kVec> part;
#pragma unroll
    for (int c = 0; c < kVec; ++c) part.v[c] = has ? share * weights[i] * v.v[c] : 0.f;
    if (one_quad) part = sum_over_warp(part);
    if (one_quad ? static_cast<int>(threadIdx.x % kWarp) == leader : has) {
      sums.add(base + static_cast<int64_t>(q.texel[i]) * floats, part);
    }
  }
}

// What a pixel with a zero gradient gives is known without reading more than that.
__device__ __forceinline__ bool any_gradient(const float* v_color, int channels) {
  for (int c = 0; c < channels; ++c) {
    if (__ldg(v_color + c) != 0.f) return true;
  }
  return false;
}

template <int kVec, bool kTexels, bool kUv, class Sums>
__global__ void __launch_bounds__(kBlock) backward_kernel(Inputs in, Tiles tiles, const float* v_out, Gradients out, Sums sums) {
  int64_t pixel;
  int picture;
  const bool inside = my_pixel(in, tiles, pixel, picture);
  const int64_t base = in.textures == 1 ? 0 : picture * in.stride;
  const int floats = in.pyramid.floats;
  const float* v_color = v_out + (inside ? pixel * in.channels : 0);
  const bool active = inside && any_gradient(v_color, in.channels);
  Look look{};
  if (active) look_at(in, pixel, look);
  float dots[2][4] = {};
  for (int c = 0; c < in.channels; c += kVec) {
    const Vec<kVec> v = load_some<kVec>(v_color + c, active ? in.channels - c : 0);
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const bool has = k < look.quads;
      if (kUv && has) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const Vec<kVec> texel = load<kVec>(in.texels + base + static_cast<int64_t>(look.quad[k].texel[i]) * floats + c);
#pragma unroll
          for (int n = 0; n < kVec; ++n) dots[k][i] += v.v[n] * texel.v[n];
        }
      }
      if (kTexels) scatter(sums, has, look.quad[k], look.share[k], v, base + c, floats);
    }
  }
  if (!kUv || !inside) return;
  Coordinates v_uv;
  Derivatives v_da;
  look_backward(in, pixel, look, dots, v_uv, v_da);
  if (out.uv) out.uv[pixel] = v_uv;
  if (out.uv_da) out.uv_da[pixel] = v_da;
}

template <class Sums>
__global__ void __launch_bounds__(kBlock) nearest_backward_kernel(Inputs in, Tiles tiles, const float* v_out, Sums sums) {
  int64_t pixel;
  int picture;
  Coordinates at{};
  if (!my_pixel(in, tiles, pixel, picture)) return;
  const float* v_color = v_out + pixel * in.channels;
  if (!any_gradient(v_color, in.channels) || !seen(in, pixel, at)) return;
  const int64_t texel = nearest_texel(in.pyramid, at, in.wrap);
  const int64_t first = (in.textures == 1 ? 0 : picture * in.stride) + texel * in.pyramid.floats;
  for (int c = 0; c < in.channels; ++c) sums.add(first + c, Vec<1>{v_color[c]});
}

__global__ void __launch_bounds__(kCopyBlock) largest_kernel(const float* values, int64_t count, uint32_t* largest) {
  uint32_t most = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kCopyBlock + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * kCopyBlock) {
    most = max(most, __float_as_uint(fabsf(values[i])));  // as bits, NaN is above infinity, and that above all numbers
  }
  most = __reduce_max_sync(kAllLanes, most);
  if (threadIdx.x % kWarp == 0 && most != 0) atomicMax(largest, most);
}

__global__ void __launch_bounds__(kCopyBlock) convert_kernel(FixedSums sums, int64_t count, float* out) {
  const float scale = __uint_as_float(*sums.largest);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kCopyBlock + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * kCopyBlock) {
    const double whole = ldexp(static_cast<double>(static_cast<long long>(sums.sums[i])), -sums.bits);
    out[i] = scale < INFINITY ? static_cast<float>(whole * scale) : NAN;
  }
}

// Of which no sum of `pixels` weighted gradients, each at most 1 in the unit, leaves 63 bits: a pixel's weights of one texel sum up to 1
// at most, a bit is left for their rounding.
int fixed_bits(const Inputs& in) {
  int bits = 61;
  for (int64_t pixels = static_cast<int64_t>(in.pictures) * in.height * in.width; pixels > 0; pixels /= 2) --bits;
  return bits;
}

struct BackwardParts {
  uint32_t* largest;
  unsigned long long* sums;
  size_t total;

  BackwardParts(const Inputs& in, void* base) {
    constexpr size_t kAlignment = 256;
    largest = static_cast<uint32_t*>(base);
    sums = reinterpret_cast<unsigned long long*>(static_cast<char*>(base) + kAlignment);
    total = kAlignment + sizeof(unsigned long long) * static_cast<size_t>(in.textures * in.stride);
  }
};

// ---- Pyramids ----

constexpr int kTileBits = 5;
constexpr int kMipTile = 1 << kTileBits;  // texels a side of what a block reads
constexpr int kMipLevels = kTileBits;     // of which it makes this many levels

// Levels from + 1 .. to of one run (see run_end) out of level `from`, a tile and kVec channels at a time. From level 0 it reads `tex`
// and copies it.
template <int kVec>
__global__ void __launch_bounds__(kCopyBlock)
    build_run_kernel(const float* tex, Pyramid p, int channels, int from, int to, int tiles_across, int tiles, float* texels) {
  __shared__ Vec<kVec> even[kMipTile * kMipTile], odd[kMipTile * kMipTile / 2];  // levels in turn
  const int texture = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  const int c = blockIdx.y * kVec;
  float* pyramid = texels + static_cast<int64_t>(texture) * p.first[p.levels] * p.floats + c;
  const float* picture = tex + static_cast<int64_t>(texture) * p.height * p.width * channels + c;
  int width = level_side(p.width, from), height = level_side(p.height, from);
  int x0 = tile % tiles_across * kMipTile, y0 = tile / tiles_across * kMipTile;
  int bits_x = kTileBits, bits_y = kTileBits;  // of a place in the tile
  for (int i = threadIdx.x; i < kMipTile * kMipTile; i += kCopyBlock) {
    const int x = x0 + (i & (kMipTile - 1)), y = y0 + (i >> kTileBits);
    if (x >= width || y >= height) continue;
    const int at = y * width + x;
    if (from == 0) {
      even[i] = load_some<kVec>(picture + static_cast<int64_t>(at) * channels, channels - c);
      store(pyramid + static_cast<int64_t>(at) * p.floats, even[i]);
    } else {
      even[i] = *reinterpret_cast<const Vec<kVec>*>(pyramid + static_cast<int64_t>(p.first[from] + at) * p.floats);
    }
  }
  Vec<kVec>*source = even, *target = odd;
  for (int level = from + 1; level <= to; ++level) {
    __syncthreads();
    const int halve_x = width > 1, halve_y = height > 1;
    const float weight = 1.f / static_cast<float>((1 + halve_x) * (1 + halve_y));
    const int row = 1 << bits_x;
    width = level_side(p.width, level);
    height = level_side(p.height, level);
    x0 >>= halve_x, y0 >>= halve_y;
    bits_x -= halve_x, bits_y -= halve_y;
    for (int i = threadIdx.x; i < 1 << (bits_x + bits_y); i += kCopyBlock) {
      const int x = i & ((1 << bits_x) - 1), y = i >> bits_x;
      if (x0 + x >= width || y0 + y >= height) continue;
      Vec<kVec> sum{};
      for (int dy = 0; dy <= halve_y; ++dy) {
        for (int dx = 0; dx <= halve_x; ++dx) {
          const Vec<kVec>& part = source[((y << halve_y) + dy) * row + (x << halve_x) + dx];
#pragma unroll
          for (int n = 0; n < kVec; ++n) sum.v[n] += weight * part.v[n];
        }
      }
      target[i] = sum;
      store(pyramid + static_cast<int64_t>(p.first[level] + (y0 + y) * width + x0 + x) * p.floats, sum);
    }
    Vec<kVec>* const written = target;
    target = source;
    source = written;
  }
}

// Level `level` from the one before, whose sides may be odd. One thread a float.
__global__ void __launch_bounds__(kCopyBlock) build_odd_kernel(Pyramid p, int level, int textures, float* texels) {
  const int width = level_side(p.width, level), height = level_side(p.height, level);
  const int finer_width = level_side(p.width, level - 1), finer_height = level_side(p.height, level - 1);
  const int64_t size = static_cast<int64_t>(width) * height * p.floats, all = size * textures;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kCopyBlock + threadIdx.x; i < all;
       i += static_cast<int64_t>(gridDim.x) * kCopyBlock) {
    const int c = static_cast<int>(i % p.floats), texel = static_cast<int>(i % size / p.floats);
    float* pyramid = texels + i / size * p.first[p.levels] * p.floats;
    const Box across = box_of(texel % width, finer_width), down = box_of(texel / width, finer_height);
    float sum = 0.f;
    for (int dy = 0; dy < down.count; ++dy) {
      for (int dx = 0; dx < across.count; ++dx) {
        const int64_t finer = p.first[level - 1] + static_cast<int64_t>(down.first + dy) * finer_width + across.first + dx;
        sum += down.weight[dy] * across.weight[dx] * pyramid[finer * p.floats + c];
      }
    }
    pyramid[(p.first[level] + static_cast<int64_t>(texel)) * p.floats + c] = sum;
  }
}

// The whole gradient of level `begin`, which begins a run that ends with level `end`: its own, that of the run's coarser levels, of
// which a texel has one parent each, and that of the levels beyond, which `complete` holds at level end + 1. One thread has kVec channels
// of a texel. The result is the texture's gradient for level 0, else a part of `complete`.
template <int kVec>
__global__ void __launch_bounds__(kCopyBlock)
    fold_run_kernel(const float* v_texels, Pyramid p, int channels, int begin, int end, int textures, float* complete, float* v_tex) {
  const int width = level_side(p.width, begin), size = width * level_side(p.height, begin);
  const int texel = blockIdx.x * kCopyBlock + threadIdx.x, c = blockIdx.y * kVec;
  if (texel >= size) return;
  for (int texture = blockIdx.z; texture < textures; texture += gridDim.z) {
    const int64_t start = static_cast<int64_t>(texture) * p.first[p.levels];
    int x = texel % width, y = texel / width;
    float weight = 1.f;
    Vec<kVec> sum{};
    for (int level = begin; level <= end; ++level) {
      const int level_width = level_side(p.width, level), level_height = level_side(p.height, level);
      const Vec<kVec> part = load<kVec>(v_texels + (start + p.first[level] + y * level_width + x) * p.floats + c);
#pragma unroll
      for (int n = 0; n < kVec; ++n) sum.v[n] += weight * part.v[n];
      if (level == end) break;
      weight *= (level_width > 1 ? 0.5f : 1.f) * (level_height > 1 ? 0.5f : 1.f);
      x /= 2, y /= 2;
    }
    if (end + 1 < p.levels) {
      const Shares across = shares_of(x, level_side(p.width, end)), down = shares_of(y, level_side(p.height, end));
      const int coarser_width = level_side(p.width, end + 1);
      for (int dy = 0; dy < down.count; ++dy) {
        for (int dx = 0; dx < across.count; ++dx) {
          const int64_t coarser = start + p.first[end + 1] + (down.first + dy) * coarser_width + across.first + dx;
          const float share = weight * down.weight[dy] * across.weight[dx];
          const Vec<kVec> part = *reinterpret_cast<const Vec<kVec>*>(complete + coarser * p.floats + c);
#pragma unroll
          for (int n = 0; n < kVec; ++n) sum.v[n] += share * part.v[n];
        }
      }
    }
    if (begin == 0) {
      store_some(v_tex + (static_cast<int64_t>(texture) * size + texel) * channels + c, sum, channels - c);
    } else {
      store(complete + (start + p.first[begin] + texel) * p.floats + c, sum);
    }
  }
}

// Calls `run` with the number of floats of a texel that are handled together, as a constant: what divides them and fits the alignment.
template <class Run>
cudaError_t with_vector(int floats, const void* a, const void* b, Run run) {
  const auto places = reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b);
  if (floats % 4 == 0 && places % 16 == 0) return run(std::integral_constant<int, 4>());
  if (floats % 2 == 0 && places % 8 == 0) return run(std::integral_constant<int, 2>());
  return run(std::integral_constant<int, 1>());
}

template <class Sums>
cudaError_t launch_backward(const Inputs& in, const float* v_out, const Gradients& out, const Sums& sums, cudaStream_t stream) {
  const Tiles tiles = tiles_of(in);
  const unsigned blocks = static_cast<unsigned>(tiles.per_picture) * in.pictures;
  if (in.filter == Filter::kNearest) {
    nearest_backward_kernel<<<blocks, kBlock, 0, stream>>>(in, tiles, v_out, sums);
    return cudaGetLastError();
  }
  return with_vector(in.pyramid.floats, in.texels, out.texels, [&](auto vec) {
    if (!out.uv && !out.uv_da) {
      backward_kernel<vec(), true, false><<<blocks, kBlock, 0, stream>>>(in, tiles, v_out, out, sums);
    } else if (out.texels) {
      backward_kernel<vec(), true, true><<<blocks, kBlock, 0, stream>>>(in, tiles, v_out, out, sums);
    } else {
      backward_kernel<vec(), false, true><<<blocks, kBlock, 0, stream>>>(in, tiles, v_out, out, sums);
    }
    return cudaGetLastError();
  });
}

#define MD_RETURN_IF_FAILED(call)             \
  do {                                        \
    const cudaError_t status = (call);        \
    if (status != cudaSuccess) return status; \
  } while (false)

}  // namespace

cudaError_t build_mips_cuda(const float* tex, int textures, int channels, const Pyramid& p, float* texels, cudaStream_t stream) {
  if (textures == 0) return cudaSuccess;
  return with_vector(p.floats, texels, nullptr, [&](auto vec) {
    for (int from = 0;;) {
      const int end = run_end(p, from), to = std::min(end, from + kMipLevels);
      if (from == 0 || to > from) {
        const int across = (level_side(p.width, from) + kMipTile - 1) / kMipTile,
                  down = (level_side(p.height, from) + kMipTile - 1) / kMipTile;
        const dim3 grid(static_cast<unsigned>(across * down) * textures, p.floats / vec());
        build_run_kernel<vec()><<<grid, kCopyBlock, 0, stream>>>(tex, p, channels, from, to, across, across * down, texels);
        MD_RETURN_IF_FAILED(cudaGetLastError());
      }
      from = to;
      if (from + 1 == p.levels) return cudaSuccess;
      if (from == end) {  // with an odd side
        const int64_t items = static_cast<int64_t>(level_side(p.width, from + 1)) * level_side(p.height, from + 1) * p.floats * textures;
        build_odd_kernel<<<blocks_for(items, kCopyBlock), kCopyBlock, 0, stream>>>(p, from + 1, textures, texels);
        MD_RETURN_IF_FAILED(cudaGetLastError());
        if (++from + 1 == p.levels) return cudaSuccess;
      }
    }
  });
}

size_t build_mips_backward_workspace_bytes(int textures, const Pyramid& p) {
  const bool one_run = run_end(p, 0) + 1 == p.levels;
  return one_run ? 0 : sizeof(float) * static_cast<size_t>(textures) * p.first[p.levels] * p.floats;
}

cudaError_t build_mips_backward_cuda(const float* v_texels, int textures, int channels, const Pyramid& p, float* v_tex, void* workspace,
                                     cudaStream_t stream) {
  if (textures == 0) return cudaSuccess;
  int begins[kMaxLevels], runs = 0;
  for (int level = 0; level < p.levels; level = run_end(p, level) + 1) begins[runs++] = level;
  float* complete = static_cast<float*>(workspace);
  return with_vector(p.floats, v_texels, nullptr, [&](auto vec) {
    for (int run = runs - 1; run >= 0; --run) {
      const int begin = begins[run], size = level_side(p.width, begin) * level_side(p.height, begin);
      const dim3 grid((size + kCopyBlock - 1) / kCopyBlock, p.floats / vec(), std::min(textures, kMaxGridDepth));
      fold_run_kernel<vec()><<<grid, kCopyBlock, 0, stream>>>(v_texels, p, channels, begin, run_end(p, begin), textures, complete, v_tex);
      MD_RETURN_IF_FAILED(cudaGetLastError());
    }
    return cudaSuccess;
  });
}

cudaError_t sample_cuda(const Inputs& in, float* out, cudaStream_t stream) {
  const Tiles tiles = tiles_of(in);
  const unsigned blocks = static_cast<unsigned>(tiles.per_picture) * in.pictures;
  if (blocks == 0) return cudaSuccess;
  return with_vector(in.pyramid.floats, in.texels, nullptr, [&](auto vec) {
    sample_kernel<vec()><<<blocks, kBlock, 0, stream>>>(in, tiles, out);
    return cudaGetLastError();
  });
}

size_t sample_backward_workspace_bytes(const Inputs& in, const Gradients& out, bool deterministic) {
  return deterministic && out.texels ? BackwardParts(in, nullptr).total : 0;
}

cudaError_t sample_backward_cuda(const Inputs& in, const float* v_out, const Gradients& out, bool deterministic, void* workspace,
                                 cudaStream_t stream) {
  const int64_t pixels = static_cast<int64_t>(in.pictures) * in.height * in.width, floats = in.textures * in.stride;
  if (!out.texels || !deterministic) {
    if (out.texels) MD_RETURN_IF_FAILED(cudaMemsetAsync(out.texels, 0, floats * sizeof(float), stream));
    if (pixels == 0 || (!out.texels && !out.uv && !out.uv_da)) return cudaSuccess;
    return launch_backward(in, v_out, out, FloatSums{out.texels}, stream);
  }
  const BackwardParts parts(in, workspace);
  const FixedSums sums{parts.sums, parts.largest, fixed_bits(in)};
  MD_RETURN_IF_FAILED(cudaMemsetAsync(workspace, 0, parts.total, stream));
  if (pixels > 0) {
    largest_kernel<<<std::min(blocks_for(pixels * in.channels, kCopyBlock), 2048), kCopyBlock, 0, stream>>>(v_out, pixels * in.channels,
                                                                                                            parts.largest);
    MD_RETURN_IF_FAILED(cudaGetLastError());
    MD_RETURN_IF_FAILED(launch_backward(in, v_out, out, sums, stream));
  }
  if (floats > 0) convert_kernel<<<blocks_for(floats, kCopyBlock), kCopyBlock, 0, stream>>>(sums, floats, out.texels);
  return cudaGetLastError();
}

}  // namespace md::texture
