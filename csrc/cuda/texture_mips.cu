// Pyramids of textures on the GPU, and their gradients: blocks make several levels of a tile at once as long as sides are even.
#include "texture.h"

#include <algorithm>

#include "texture_vectors.h"

namespace md::texture {
namespace {

constexpr int kMaxGridDepth = 65535;  // the limit of a grid's third axis
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

}  // namespace md::texture
