// Colours blended across silhouettes, on CUDA, with gradients of the positions.
#include "mesh_pixels.h"

namespace md::mesh_raster {
namespace {

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
