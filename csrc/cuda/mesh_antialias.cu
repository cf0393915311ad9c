// Colours blended across silhouettes, on CUDA, with gradients of the positions.
#include "mesh_pixels.h"

namespace md::mesh_raster {
namespace {

__global__ void __launch_bounds__(kBlock) mark_all(Picture in, const int32_t* opposite, uint8_t* edges) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i < position_sets(in) * in.faces) edges[i] = silhouette_edges(in, opposite, i / in.faces, i % in.faces);
}

// Only the faces that pixels show: nobody asks for the others. Pixels of one face write the same.
__global__ void __launch_bounds__(kBlock) mark_shown(Picture in, Blending blending, uint8_t* edges) {
  const RowPixel p = row_pixel(in.width, in.height);
  const int64_t face = p.inside ? face_at(blending.rast + 4 * p.number, in.faces) : -1;
  if (face < 0) return;
  const int64_t set = in.shared_pos ? 0 : p.picture;
  edges[set * in.faces + face] = silhouette_edges(in, blending.opposite, set, face);
}

void mark_silhouettes(const Picture& in, const Blending& blending, uint8_t* edges, cudaStream_t stream) {
  const int64_t faces = position_sets(in) * in.faces, pixels = in.pictures * in.height * in.width;
  if (pixels < faces) {
    if (pixels > 0) mark_shown<<<row_blocks(in.pictures, in.width, in.height), kBlock, 0, stream>>>(in, blending, edges);
  } else if (faces > 0) {
    mark_all<<<static_cast<unsigned>(blocks_for(faces)), kBlock, 0, stream>>>(in, blending.opposite, edges);
  }
}

// Bit `number` is set where that pair of the pixel (see find_pair) shows two faces. Most show one; none of the loads waits for another.
__device__ unsigned differing_pairs(const Picture& in, const Blending& blending, const TiledPixel& p) {
  const float* shown = blending.rast + 4 * p.number + 3;
  const float own = shown[0];
  const int row = 4 * in.width;
  const float right = p.x + 1 < in.width ? shown[4] : own, left = p.x > 0 ? shown[-4] : own;
  const float above = p.y + 1 < in.height ? shown[row] : own, below = p.y > 0 ? shown[-row] : own;
  return (right != own ? 1u : 0u) | (left != own ? 2u : 0u) | (above != own ? 4u : 0u) | (below != own ? 8u : 0u);
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
  for (unsigned rest = differing_pairs(in, blending, p); rest != 0; rest &= rest - 1) {
    if (!find_pair(in, blending, p.picture, p.x, p.y, __ffs(rest) - 1, pair)) continue;
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
  for (unsigned rest = differing_pairs(in, blending, p); rest != 0; rest &= rest - 1) {
    const int number = __ffs(rest) - 1;
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

cudaError_t antialias_cuda(const Picture& in, const Blending& blending, float* out, uint8_t* edges, cudaStream_t stream) {
  if (in.pictures == 0) return cudaSuccess;
  const dim3 blocks = tiled_blocks(in.pictures, in.width, in.height);
  mark_silhouettes(in, blending, edges, stream);
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
  const dim3 blocks = tiled_blocks(in.pictures, in.width, in.height);
  mark_silhouettes(in, blending, edges, stream);
  return sum_into(v.v_pos, 4 * position_sets(in) * in.vertices, workspace, stream, [&](auto sum) {
    if (in.pictures > 0) blend_gradients<<<blocks, kBlock, 0, stream>>>(in, blending, v, sum);
  });
}

}  // namespace md::mesh_raster
