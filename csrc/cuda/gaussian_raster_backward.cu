// Gaussian rasteriser on CUDA: the gradients, of splats by blocks of tiles, then of Gaussians.
#include "fixed_point_sums.h"
#include "gaussian_tiles.h"

namespace md::raster {
namespace {

constexpr int kBackwardPixels = 2;  // pixels a thread: two share one reduction over the warp

struct BackwardParts {
  SplatGradient* v_splats;   // [V,N]
  uint32_t* largest;         // [V,N,10] bits of the largest contribution's magnitude; deterministic only
  unsigned long long* sums;  // [V,N,10] in units that `largest` fixes; deterministic only
  size_t total;

  BackwardParts(const Inputs& in, bool deterministic, void* base) {
    const int64_t count = static_cast<int64_t>(in.views) * in.gaussians;
    Parts parts(base);
    v_splats = parts.take<SplatGradient>(count);
    largest = deterministic ? parts.take<uint32_t>(count * kGradients) : nullptr;
    sums = deterministic ? parts.take<unsigned long long>(count * kGradients) : nullptr;
    total = parts.used();
  }
};

// Sums each of ten values over the warp in 12 shuffles: at every step half of the lanes keep one part of the values and
// half the other. Value `component` ends in this lane and its neighbour; false where a lane is left without one.
__device__ bool sum_over_warp(const float v[kGradients], int lane, float& sum, int& component) {
  const bool b16 = lane & 16, b8 = lane & 8, b4 = lane & 4, b2 = lane & 2;
  float five[5];
  for (int i = 0; i < 5; ++i) five[i] = (b16 ? v[i + 5] : v[i]) + __shfl_xor_sync(kAllLanes, b16 ? v[i] : v[i + 5], 16);
  const float five_more[6] = {five[0], five[1], five[2], five[3], five[4], 0.f};
  float three[3];
  for (int i = 0; i < 3; ++i) {
    three[i] = (b8 ? five_more[i + 3] : five_more[i]) + __shfl_xor_sync(kAllLanes, b8 ? five_more[i] : five_more[i + 3], 8);
  }
  float two[2];
  two[0] = (b4 ? three[2] : three[0]) + __shfl_xor_sync(kAllLanes, b4 ? three[0] : three[2], 4);
  two[1] = (b4 ? 0.f : three[1]) + __shfl_xor_sync(kAllLanes, b4 ? three[1] : 0.f, 4);
  sum = (b2 ? two[1] : two[0]) + __shfl_xor_sync(kAllLanes, b2 ? two[0] : two[1], 2);
  sum += __shfl_xor_sync(kAllLanes, sum, 1);
  component = 5 * b16 + 3 * b8 + 2 * b4 + b2;
  return b8 ? !b4 : !(b4 && b2);
}

// How contributions of many warps come together. kFast: floating-point atomics, in any order. Deterministic: a first pass
// finds the largest contribution to each value, a second adds whole multiples of 2^-40 of it; neither minds the order.
enum class Sum { kFast, kLargest, kFixed };

struct SumTargets {
  float* fast;
  uint32_t* largest;
  unsigned long long* fixed;
};

template <Sum kSum>
__device__ void contribute(const SumTargets& to, int64_t i, float value) {
  if constexpr (kSum == Sum::kFast) {
    atomicAdd(to.fast + i, value);
  } else if constexpr (kSum == Sum::kLargest) {
    atomicMax(to.largest + i, __float_as_uint(fabsf(value)));
  } else {
    atomicAdd(to.fixed + i, static_cast<unsigned long long>(__double2ll_rn(value * fixed_point_scale(to.largest[i]))));
  }
}

// In place: from the sums (mx, my, mxx, mxy, myy, m) of the gradient of the power times offsets, to (x, y, a, b, c, opacity).
__device__ void gradients_from_moments(const Splat& s, float v[kGradients]) {
  const float mx = v[0], my = v[1];
  v[0] = (s.a * mx + s.b * my) * (-1.f / kHalfLog2E);
  v[1] = (s.b * mx + s.c * my) * (-1.f / kHalfLog2E);
  v[2] *= -0.5f;
  v[3] = -v[3];
  v[4] *= -0.5f;
  v[5] *= power_of_two(-s.opacity);
}

// Front to back again, with the transmittances of the forward pass; see blend_tile_backward in csrc/cpu.
template <Sum kSum>
__global__ void __launch_bounds__(TileShape<kBackwardPixels>::kThreads)
    blend_backward_kernel(Inputs in, State state, Grid grid, Images images, ImageGradients v, SumTargets to) {
  constexpr int P = kBackwardPixels;
  __shared__ TileShared<P> shared;
  const Place<P> place(grid);
  const int64_t plane = static_cast<int64_t>(in.width) * in.height;
  // A finished pixel, and one outside the picture, has transmittance 0.
  float transmittance[P], behind[P], v_red[P], v_green[P], v_blue[P], v_depth[P], v_alpha[P];
#pragma unroll
  for (int p = 0; p < P; ++p) {
    const int y = place.y + 4 * p;
    transmittance[p] = behind[p] = v_red[p] = v_green[p] = v_blue[p] = v_depth[p] = v_alpha[p] = 0.f;
    if (place.x >= in.width || y >= in.height) continue;
    transmittance[p] = 1.f;
    const int64_t at = static_cast<int64_t>(y) * in.width + place.x, single = place.view * plane + at, triple = 3 * place.view * plane + at;
    if (v.image) {
      v_red[p] = v.image[triple];
      v_green[p] = v.image[triple + plane];
      v_blue[p] = v.image[triple + 2 * plane];
      behind[p] =
          v_red[p] * images.image[triple] + v_green[p] * images.image[triple + plane] + v_blue[p] * images.image[triple + 2 * plane];
    }
    if (v.depth) behind[p] += (v_depth[p] = v.depth[single]) * images.depth[single];
    if (v.alpha) behind[p] += (v_alpha[p] = v.alpha[single]) * images.alpha[single];
  }
  const float x = static_cast<float>(place.x);
  const int64_t first = static_cast<int64_t>(place.view) * in.gaussians;
  walk<P>(
      in, state, grid, place, shared,
      [&](int i) {
        const Splat& s = shared.splats[i];
        const float dx = s.x - x;
        float alpha[P], uncapped[P], before[P];
        bool blends[P], any_blends = false;
#pragma unroll
        for (int p = 0; p < P; ++p) {
          const Coverage c = cover(s, dx, s.y - static_cast<float>(place.y + 4 * p));
          const bool reached = c.seen && transmittance[p] > 0.f;
          const float after = transmittance[p] * (1.f - c.alpha);
          alpha[p] = c.alpha;
          uncapped[p] = c.uncapped;
          before[p] = transmittance[p];
          blends[p] = reached && after >= kMinTransmittance;
          any_blends = any_blends || blends[p];
          transmittance[p] = blends[p] ? after : reached ? 0.f : before[p];
        }
        if (!__any_sync(kAllLanes, any_blends)) return;
        // All lanes go on together; where a pixel does not blend the splat its part is 0.
        float red = 0.f, green = 0.f, blue = 0.f, depth = 0.f;
        float m = 0.f, my = 0.f, myy = 0.f;  // moments of the gradient of the power
#pragma unroll
        for (int p = 0; p < P; ++p) {
          const float weight = blends[p] ? before[p] * alpha[p] : 0.f;
          const float all = v_red[p] * s.red + v_green[p] * s.green + v_blue[p] * s.blue + v_depth[p] * s.depth + v_alpha[p];
          const float gain = blends[p] ? all : 0.f;
          behind[p] -= weight * gain;
          const float v_alpha_of_splat = before[p] * gain - __fdividef(behind[p], 1.f - alpha[p]);
          const float v_power = blends[p] ? v_alpha_of_splat * uncapped[p] : 0.f;  // the cap passes the gradient
          red += weight * v_red[p];
          green += weight * v_green[p];
          blue += weight * v_blue[p];
          depth += weight * v_depth[p];
          const float dy = s.y - static_cast<float>(place.y + 4 * p), along_y = v_power * dy;
          m += v_power;
          my += along_y;
          myy += along_y * dy;
        }
        const float mx = m * dx;  // the thread's pixels lie in one column
        float values[kGradients] = {mx, my, mx * dx, my * dx, myy, m, depth, red, green, blue};
        gradients_from_moments(s, values);
        float sum;
        int component;
        const bool holds = sum_over_warp(values, place.lane, sum, component);
        if (holds && place.lane % 2 == 0) contribute<kSum>(to, (first + shared.ids[i]) * kGradients + component, sum);
      },
      [&] {
        bool done = true;
#pragma unroll
        for (int p = 0; p < P; ++p) done = done && !(transmittance[p] > 0.f);
        return done;
      });
}

template <int K>
__global__ void __launch_bounds__(64)
    gaussian_gradient_kernel(Inputs in, const int* radii, const SplatGradient* v_splats, InputGradients out) {
  const int n = blockIdx.x * 64 + threadIdx.x;
  if (n < in.gaussians) gaussian_gradient<K>(in, radii, FromMemory{in, v_splats}, n, out);
}

template <Sum kSum>
void launch_blend_backward(const Inputs& in, const State& state, const Grid& grid, const Images& images, const ImageGradients& v_images,
                           const SumTargets& to, cudaStream_t stream) {
  blend_backward_kernel<kSum><<<static_cast<unsigned>(in.views * grid.tiles), TileShape<kBackwardPixels>::kThreads, 0, stream>>>(
      in, state, grid, images, v_images, to);
}

}  // namespace

size_t backward_workspace_bytes(const Inputs& in, bool deterministic) { return BackwardParts(in, deterministic, nullptr).total; }

cudaError_t backward_cuda(const Inputs& in, const State& state, const Images& images, const ImageGradients& v_images,
                          const InputGradients& out, bool deterministic, void* workspace, cudaStream_t stream) {
  if (in.gaussians == 0) return cudaSuccess;
  const Grid grid = make_grid(in);
  BackwardParts parts(in, deterministic, workspace);
  const int64_t values = static_cast<int64_t>(in.views) * in.gaussians * kGradients;
  const SumTargets to{reinterpret_cast<float*>(parts.v_splats), parts.largest, parts.sums};
  if (in.views > 0) {
    if (deterministic) {
      cudaMemsetAsync(parts.largest, 0, values * sizeof(uint32_t), stream);
      cudaMemsetAsync(parts.sums, 0, values * sizeof(unsigned long long), stream);
      launch_blend_backward<Sum::kLargest>(in, state, grid, images, v_images, to, stream);
      launch_blend_backward<Sum::kFixed>(in, state, grid, images, v_images, to, stream);
      fixed_to_float(values, parts.largest, parts.sums, to.fast, stream);
    } else {
      cudaMemsetAsync(parts.v_splats, 0, values * sizeof(float), stream);
      launch_blend_backward<Sum::kFast>(in, state, grid, images, v_images, to, stream);
    }
  }
  const unsigned count = blocks(in.gaussians, 64);
  switch (in.coefficients) {
    case 0:
      gaussian_gradient_kernel<0><<<count, 64, 0, stream>>>(in, state.radii, parts.v_splats, out);
      break;
    case 1:
      gaussian_gradient_kernel<1><<<count, 64, 0, stream>>>(in, state.radii, parts.v_splats, out);
      break;
    case 4:
      gaussian_gradient_kernel<4><<<count, 64, 0, stream>>>(in, state.radii, parts.v_splats, out);
      break;
    case 9:
      gaussian_gradient_kernel<9><<<count, 64, 0, stream>>>(in, state.radii, parts.v_splats, out);
      break;
    default:
      gaussian_gradient_kernel<16><<<count, 64, 0, stream>>>(in, state.radii, parts.v_splats, out);
  }
  return cudaGetLastError();
}

}  // namespace md::raster
