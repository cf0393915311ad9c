// Texture look-up on the GPU. A thread has one pixel, a warp a tile of 8 x 4, whose texels lie close together whatever the direction of
// the texture. A texel of a pyramid is a multiple of 16 bytes, read at once and, from compute capability 9.0 on, added to at once.
#include "texture.h"

#include <algorithm>

#include "texture_vectors.h"
#include "warps.h"

namespace md::texture {
namespace {

constexpr int kBlock = 128;
constexpr int kTileWidth = 8, kTileHeight = 4;     // a warp's pixels
constexpr int kBlockWidth = 16, kBlockHeight = 8;  // a block's pixels: 2 x 2 warps

static_assert(kBlockWidth * kBlockHeight == kBlock && kBlock == 4 * kWarp);

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

}  // namespace

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
