// Gaussian rasteriser on CUDA: the gradients, of splats by blocks of tiles, then of Gaussians.
#include "fixed_point_sums.h"
#include "gaussian_tiles.h"

namespace md::raster {
namespace {

constexpr int kBackwardAtOnce = 2;           // splats that a warp looks at together
constexpr int kBackwardPixels = 2;           // pixels a thread
constexpr int kTogether = 8;                 // splats whose gradients a warp sums at a time
constexpr int kSharing = kWarp / kTogether;  // lanes that share the sums of a splat
constexpr int kResident = 5;                 // blocks on a processor at a time; with more of them the last to come find no free one

constexpr int kGaussianBlock = 64;
constexpr int kViewLanes = 8;         // threads that share the views of a Gaussian
constexpr int kFewGaussians = 65536;  // up to here

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

// What the pixels of a warp make of its last few splats, until their gradients are summed. A pixel has to take splats one after the
// other, and a lane is two pixels there; the sums over pixels do not mind the order, and there four lanes are a splat. So the lanes
// change places by way of this sheet, and no sum has to go through the whole warp.
struct Sheet {
  float4 of_lane[kTogether][kWarp + 1];  // (weight, v_power) of both pixels; one more, so that rows begin in different banks
  float4 v[kWarp][kBackwardPixels];      // gradients of the pixels' red, green, blue and depth
};

// Where lane `sharing` of a splat has its sixteen pixels within the warp's box of 8x8: at (x + 2 i, y + r) for i and r below 4.
struct Share {
  int x, y;
  __device__ explicit Share(int sharing) : x(sharing / kBackwardPixels), y(4 * (sharing % kBackwardPixels)) {}
};

// Sums up the first `count` rows of a sheet; this lane's splat is `s`, Gaussian `id` of the view that begins at `first`.
template <Sum kSum>
__device__ void add_up(const Sheet& sheet, int count, const Splat& s, int64_t id, const Place<kBackwardPixels>& place,
                       const SumTargets& to) {
  const int row = place.lane % kTogether, sharing = place.lane / kTogether;
  const Share share(sharing);
  const float2* pairs = reinterpret_cast<const float2*>(sheet.of_lane[row]) + sharing;
  const float4* v = &sheet.v[0][0] + sharing;
  float dx[4], m = 0.f, mx = 0.f, my = 0.f, mxx = 0.f, mxy = 0.f, myy = 0.f, red = 0.f, green = 0.f, blue = 0.f, depth = 0.f;
#pragma unroll
  for (int i = 0; i < 4; ++i) dx[i] = s.x - static_cast<float>(place.box_x + share.x + 2 * i);
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    float row_m = 0.f, row_mx = 0.f;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = pairs[kSharing * (4 * r + i)];
      const float4 v_pixel = v[kSharing * (4 * r + i)];
      red += pair.x * v_pixel.x;
      green += pair.x * v_pixel.y;
      blue += pair.x * v_pixel.z;
      depth += pair.x * v_pixel.w;
      const float along_x = pair.y * dx[i];
      row_m += pair.y;
      row_mx += along_x;
      mxx += along_x * dx[i];
    }
    const float dy = s.y - static_cast<float>(place.box_y + share.y + r), along_y = row_m * dy;
    m += row_m;
    mx += row_mx;
    my += along_y;
    mxy += row_mx * dy;
    myy += along_y * dy;
  }
  float values[kGradients] = {mx, my, mxx, mxy, myy, m, depth, red, green, blue};
  gradients_from_moments(s, values);
  // Of the lanes that share a splat one half keeps five values, and of these one keeps the first three.
  const bool later = sharing & 2, last = sharing & 1;
  float five[6], three[3];
#pragma unroll
  for (int i = 0; i < 5; ++i) {
    five[i] = (later ? values[i + 5] : values[i]) + __shfl_xor_sync(kAllLanes, later ? values[i] : values[i + 5], 2 * kTogether);
  }
  five[5] = 0.f;
#pragma unroll
  for (int i = 0; i < 3; ++i)
    three[i] = (last ? five[i + 3] : five[i]) + __shfl_xor_sync(kAllLanes, last ? five[i] : five[i + 3], kTogether);
  if (row >= count) return;
  const int64_t at = id * kGradients + 5 * later + 3 * last;
  contribute<kSum>(to, at, three[0]);
  contribute<kSum>(to, at + 1, three[1]);
  if (!last) contribute<kSum>(to, at + 2, three[2]);
}

// Front to back again, with the transmittances of the forward pass; see blend_tile_backward in csrc/cpu.
template <Sum kSum>
__global__ void __launch_bounds__(TileShape<kBackwardPixels>::kThreads, kResident)
    blend_backward_kernel(Inputs in, State state, Grid grid, Images images, ImageGradients v, SumTargets to) {
  constexpr int P = kBackwardPixels;
  static_assert(P == 2 && kTogether == 8, "add_up() knows where the pixels of a lane are");
  __shared__ TileShared<P> shared;
  __shared__ Sheet sheets[TileShape<P>::kWarps];
  const Place<P> place(grid);
  Sheet& sheet = sheets[place.warp];
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
#pragma unroll
  for (int p = 0; p < P; ++p) sheet.v[place.lane][p] = make_float4(v_red[p], v_green[p], v_blue[p], v_depth[p]);
  const float x = static_cast<float>(place.x);
  const int64_t first = static_cast<int64_t>(place.view) * in.gaussians;
  int listed = 0, mine = 0;  // rows of the sheet, and which splat this lane will sum
  const auto add_up_listed = [&] {
    if (listed == 0) return;
    __syncwarp();
    add_up<kSum>(sheet, listed, shared.splats[mine], first + shared.ids[mine], place, to);
    __syncwarp();
    listed = 0;
  };
  walk<kBackwardAtOnce>(
      in, state, grid, place, shared,
      [&](const int (&indices)[kBackwardAtOnce], int count) {
        Coverage covers[kBackwardAtOnce][P];
#pragma unroll
        for (int k = 0; k < kBackwardAtOnce; ++k) {
          const Splat& s = shared.splats[indices[k]];
#pragma unroll
          for (int p = 0; p < P; ++p) covers[k][p] = cover(s, s.x - x, s.y - static_cast<float>(place.y + 4 * p));
        }
#pragma unroll
        for (int k = 0; k < kBackwardAtOnce; ++k) {
          float alpha[P], before[P];
          bool blends[P], any_blends = false;
#pragma unroll
          for (int p = 0; p < P; ++p) {
            const bool reached = k < count && covers[k][p].seen && transmittance[p] > 0.f;
            alpha[p] = covers[k][p].alpha;
            const float after = transmittance[p] * (1.f - alpha[p]);
            before[p] = transmittance[p];
            blends[p] = reached && after >= kMinTransmittance;
            any_blends = any_blends || blends[p];
            transmittance[p] = blends[p] ? after : reached ? 0.f : before[p];
          }
          if (!__any_sync(kAllLanes, any_blends)) continue;
          // All lanes go on together; where a pixel does not blend the splat its part is 0.
          const Splat& s = shared.splats[indices[k]];
          float weight[P], v_power[P];
#pragma unroll
          for (int p = 0; p < P; ++p) {
            weight[p] = blends[p] ? before[p] * alpha[p] : 0.f;
            const float all = v_red[p] * s.red + v_green[p] * s.green + v_blue[p] * s.blue + v_depth[p] * s.depth + v_alpha[p];
            const float gain = blends[p] ? all : 0.f;
            behind[p] -= weight[p] * gain;
            const float v_alpha_of_splat = before[p] * gain - __fdividef(behind[p], 1.f - alpha[p]);
            v_power[p] = blends[p] ? v_alpha_of_splat * covers[k][p].uncapped : 0.f;  // the cap passes the gradient
          }
          sheet.of_lane[listed][place.lane] = make_float4(weight[0], v_power[0], weight[1], v_power[1]);
          if (place.lane % kTogether == listed) mine = indices[k];
          ++listed;
        }
        if (listed > kTogether - kBackwardAtOnce) add_up_listed();  // the next ones may not find room
      },
      [&] {
        bool done = true;
#pragma unroll
        for (int p = 0; p < P; ++p) done = done && !(transmittance[p] > 0.f);
        return done;
      },
      add_up_listed);
}

template <int K>
__global__ void __launch_bounds__(kGaussianBlock)
    gaussian_gradient_kernel(Inputs in, const int* radii, const SplatGradient* v_splats, InputGradients out) {
  const int n = blockIdx.x * kGaussianBlock + threadIdx.x;
  if (n < in.gaussians) gaussian_gradient<K>(in, radii, FromMemory{in, v_splats}, n, out);
}

// The same for few Gaussians, which would leave most of the device idle: kViewLanes threads for each of them share the views.
template <int K>
__global__ void __launch_bounds__(kGaussianBlock)
    shared_gradient_kernel(Inputs in, const int* radii, const SplatGradient* v_splats, InputGradients out) {
  const int lane = threadIdx.x % kViewLanes, n = (blockIdx.x * kGaussianBlock + threadIdx.x) / kViewLanes;
  GradientSums<K> sums;
  if (n < in.gaussians) {
    for (int view = lane; view < in.views; view += kViewLanes)
      add_view_gradient<K>(in, radii, FromMemory{in, v_splats}, view, n, sums, out);
  }
  float* values = reinterpret_cast<float*>(&sums);
  constexpr int kValues = sizeof(sums) / sizeof(float);
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    for (int step = 1; step < kViewLanes; step *= 2) values[i] += __shfl_xor_sync(kAllLanes, values[i], step);
  }
  if (n < in.gaussians && lane == 0) store_gradients<K>(in, n, sums, out);
}

template <int K>
void launch_gaussian_gradient(const Inputs& in, const int* radii, const SplatGradient* v_splats, const InputGradients& out,
                              cudaStream_t stream) {
  if (in.views > 1 && in.gaussians <= kFewGaussians) {
    const int64_t threads = static_cast<int64_t>(in.gaussians) * kViewLanes;
    shared_gradient_kernel<K><<<blocks(threads, kGaussianBlock), kGaussianBlock, 0, stream>>>(in, radii, v_splats, out);
  } else {
    gaussian_gradient_kernel<K><<<blocks(in.gaussians, kGaussianBlock), kGaussianBlock, 0, stream>>>(in, radii, v_splats, out);
  }
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
  switch (in.coefficients) {
    case 0:
      launch_gaussian_gradient<0>(in, state.radii, parts.v_splats, out, stream);
      break;
    case 1:
      launch_gaussian_gradient<1>(in, state.radii, parts.v_splats, out, stream);
      break;
    case 4:
      launch_gaussian_gradient<4>(in, state.radii, parts.v_splats, out, stream);
      break;
    case 9:
      launch_gaussian_gradient<9>(in, state.radii, parts.v_splats, out, stream);
      break;
    default:
      launch_gaussian_gradient<16>(in, state.radii, parts.v_splats, out, stream);
      break;
  }
  return cudaGetLastError();
}

}  // namespace md::raster
