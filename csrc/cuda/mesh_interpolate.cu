// Attributes of the vertices at the pixels of a mesh's picture, on CUDA.
#include "mesh_pixels.h"

namespace md::mesh_raster {
namespace {

// Channels is in.channels where that is known while compiling, else 0.
template <int Channels>
__global__ void __launch_bounds__(kBlock) interpolate_pixels(Attributes in, float* out, float* out_da) {
  const RowPixel p = row_pixel(in.width, in.height);
  if (!p.inside) return;
  const int64_t pixel = p.number;
  const int channels = Channels > 0 ? Channels : in.channels;
  const float4 rast = reinterpret_cast<const float4*>(in.rast)[pixel];
  const float* corner[3];
  const bool covered = corner_attributes(in, p.picture, face_at(&rast.x, in.faces), corner);
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
  const WarpPeers warps(face);
  if (warps.joined || __any_sync(kAllLanes, face >= 0)) {
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
      const bool adds = covered && peers.leads;
      if (warps.joined) warps.sum(adds, c % 2, v_corner);
      for (int k = 0; adds && warps.leads && k < 3; ++k) sum.add((set + in.tri[3 * face + k]) * in.channels + c, v_corner[k]);
    }
  }
  if (!p.inside) return;
  reinterpret_cast<float4*>(v.v_rast)[p.number] = v_rast;
  if (v.v_rast_db) reinterpret_cast<float4*>(v.v_rast_db)[p.number] = v_db;
}

}  // namespace

cudaError_t interpolate_cuda(const Attributes& in, float* out, float* out_da, cudaStream_t stream) {
  if (in.pictures * in.height * in.width == 0) return cudaSuccess;
  const dim3 blocks = row_blocks(in.pictures, in.width, in.height);
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
  const dim3 blocks = tiled_blocks(in.pictures, in.width, in.height);
  return sum_into(v.v_attr, in.sets * in.vertices * in.channels, workspace, stream, [&](auto sum) {
    if (in.pictures * in.height * in.width > 0) interpolate_gradients<<<blocks, kBlock, 0, stream>>>(in, v, sum);
  });
}

}  // namespace md::mesh_raster
