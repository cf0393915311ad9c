// Gaussian rasteriser: the arithmetic of one Gaussian in one view, forward and backward, for both compilers.
// Formulas: Kerbl et al. 2023 (3D Gaussian Splatting), Zwicker et al. 2001 (EWA splatting), Sloan 2013 (harmonics).
#pragma once

#include "common.h"
#include "constants.h"

namespace md::raster {

constexpr int kMaxCoefficients = 16;  // of the harmonics of degree 3
constexpr int kSplatFloats = 12;      // sizeof(Splat) / sizeof(float)
constexpr int kGradients = 10;        // sizeof(SplatGradient) / sizeof(float)
constexpr float kMinLength = 1e-12f;  // of a quaternion: what is shorter is divided by this, as torch.nn.functional.normalize does

// All pointers are to contiguous float32. N Gaussians, V views, K coefficients of the harmonics.
struct Inputs {
  const float* means;            // [N,3]
  const float* scales;           // [N,3]
  const float* rotations;        // [N,4] quaternions wxyz, unit ones unless `normalizes`
  const float* opacities;        // [N]
  const float* colors;           // [N,3], or null: sh
  const float* sh;               // [N,K,3], or null: colors
  const float* means2d_offset;   // [V,N,2] in normalised device units, or null
  const float* world_to_camera;  // [V,4,4]
  const float* intrinsics;       // [V,4] (fx, fy, cx, cy)
  const float* background;       // [V,3]
  int gaussians;                 // N
  int views;                     // V
  int coefficients;              // K, 0 for colors
  int width;
  int height;
  float scale_modifier;
  bool normalizes;  // rotations
};

struct ImageGradients {  // each may be null
  const float* image;    // [V,3,H,W]
  const float* alpha;    // [V,1,H,W]
  const float* depth;    // [V,1,H,W]
};

struct InputGradients {
  float* means;
  float* scales;
  float* rotations;
  float* opacities;
  float* appearance;      // like colors or sh
  float* means2d_offset;  // [V,N,2], or null
};

// A Gaussian as one view sees it. Positions are in pixels, with pixel centres at whole numbers.
struct alignas(16) Splat {
  float x, y;     // centre
  float a, b, c;  // inverse covariance (xx, xy, yy)
  float opacity;  // 0: culled
  float depth;    // view z
  float reach;    // alpha >= kMinAlpha where a dx^2 + 2 b dx dy + c dy^2 <= reach
  float red, green, blue;
  float extent;  // radius in pixels
};
static_assert(sizeof(Splat) == kSplatFloats * sizeof(float));

// Loss gradients of a Splat. (a, b, c) count b once: power = -(a dx^2 + c dy^2) / 2 - b dx dy.
struct alignas(8) SplatGradient {
  float x, y, a, b, c, opacity, depth, red, green, blue;
};
static_assert(sizeof(SplatGradient) == kGradients * sizeof(float));

struct TileRect {
  int16_t x0, y0, x1, y1;  // in tiles; x1 and y1 are past the last
};

struct Camera {
  float r[3][3], t[3];
  float fx, fy, cx, cy;
  float slope_min[2], slope_max[2];  // limits of x/z and y/z in the Jacobian
  float origin[3];                   // the eye, where harmonics are seen from
  float half_width, half_height;
};

MD_HOST_DEVICE int tiles_along(int pixels) { return (pixels + kTile - 1) / kTile; }

// A NaN in `a` gives b. The host's compilers keep the C library's fminf and fmaxf as calls; the device has instructions,
// and a quotient to two units in the last place.
#if defined(__CUDA_ARCH__)
MD_HOST_DEVICE float larger(float a, float b) { return fmaxf(a, b); }
MD_HOST_DEVICE float smaller(float a, float b) { return fminf(a, b); }
MD_HOST_DEVICE float quotient(float a, float b) { return __fdividef(a, b); }
#else
MD_HOST_DEVICE float larger(float a, float b) { return a > b ? a : b; }
MD_HOST_DEVICE float smaller(float a, float b) { return a < b ? a : b; }
MD_HOST_DEVICE float quotient(float a, float b) { return a / b; }
#endif
MD_HOST_DEVICE float clamped(float value, float low, float high) { return smaller(larger(value, low), high); }

MD_HOST_DEVICE Camera load_camera(const Inputs& in, int view) {
  Camera camera;
  const float* m = in.world_to_camera + 16 * static_cast<int64_t>(view);
  for (int row = 0; row < 3; ++row) {
    for (int column = 0; column < 3; ++column) camera.r[row][column] = m[4 * row + column];
    camera.t[row] = m[4 * row + 3];
  }
  const float* k = in.intrinsics + 4 * static_cast<int64_t>(view);
  camera.fx = k[0];
  camera.fy = k[1];
  camera.cx = k[2];
  camera.cy = k[3];
  camera.half_width = 0.5f * in.width;
  camera.half_height = 0.5f * in.height;
  const float margin_x = kViewMargin * camera.half_width / camera.fx;
  const float margin_y = kViewMargin * camera.half_height / camera.fy;
  camera.slope_min[0] = -camera.cx / camera.fx - margin_x;
  camera.slope_max[0] = (in.width - camera.cx) / camera.fx + margin_x;
  camera.slope_min[1] = -camera.cy / camera.fy - margin_y;
  camera.slope_max[1] = (in.height - camera.cy) / camera.fy + margin_y;
  for (int axis = 0; axis < 3; ++axis) {
    camera.origin[axis] = -(camera.r[0][axis] * camera.t[0] + camera.r[1][axis] * camera.t[1] + camera.r[2][axis] * camera.t[2]);
  }
  return camera;
}

// ---- Spherical harmonics ----

// Values of the basis at the unit vector (x, y, z); K = 1, 4, 9 or 16.
template <int K>
MD_HOST_DEVICE void sh_basis(float x, float y, float z, float* basis) {
  basis[0] = 0.28209479177387814f;
  if constexpr (K > 1) {
    constexpr float c1 = 0.4886025119029199f;
    basis[1] = -c1 * y;
    basis[2] = c1 * z;
    basis[3] = -c1 * x;
  }
  if constexpr (K > 4) {
    constexpr float c2 = 1.0925484305920792f;
    basis[4] = c2 * x * y;
    basis[5] = -c2 * y * z;
    basis[6] = 0.31539156525252005f * (2 * z * z - x * x - y * y);
    basis[7] = -c2 * x * z;
    basis[8] = 0.5f * c2 * (x * x - y * y);
  }
  if constexpr (K > 9) {
    constexpr float c30 = 0.3731763325901154f, c31 = 0.4570457994644658f, c32 = 1.445305721320277f, c33 = 0.5900435899266435f;
    basis[9] = -c33 * y * (3 * x * x - y * y);
    basis[10] = 2 * c32 * x * y * z;
    basis[11] = -c31 * y * (4 * z * z - x * x - y * y);
    basis[12] = c30 * z * (2 * z * z - 3 * x * x - 3 * y * y);
    basis[13] = -c31 * x * (4 * z * z - x * x - y * y);
    basis[14] = c32 * z * (x * x - y * y);
    basis[15] = -c33 * x * (x * x - 3 * y * y);
  }
}

// Gradient v of sum_k weight[k] basis[k](x, y, z) with respect to (x, y, z).
template <int K>
MD_HOST_DEVICE void sh_basis_gradient(float x, float y, float z, const float* weight, float v[3]) {
  v[0] = v[1] = v[2] = 0.f;
  if constexpr (K > 1) {
    constexpr float c1 = 0.4886025119029199f;
    v[0] -= c1 * weight[3];
    v[1] -= c1 * weight[1];
    v[2] += c1 * weight[2];
  }
  if constexpr (K > 4) {
    constexpr float c2 = 1.0925484305920792f, c20 = 0.31539156525252005f;
    v[0] += c2 * (y * weight[4] - z * weight[7] + x * weight[8]) - 2 * c20 * x * weight[6];
    v[1] += c2 * (x * weight[4] - z * weight[5] - y * weight[8]) - 2 * c20 * y * weight[6];
    v[2] += -c2 * (y * weight[5] + x * weight[7]) + 4 * c20 * z * weight[6];
  }
  if constexpr (K > 9) {
    constexpr float c30 = 0.3731763325901154f, c31 = 0.4570457994644658f, c32 = 1.445305721320277f, c33 = 0.5900435899266435f;
    const float xx = x * x, yy = y * y, zz = z * z;
    v[0] += -6 * c33 * x * y * weight[9] + 2 * c32 * y * z * weight[10] + 2 * c31 * x * y * weight[11] - 6 * c30 * x * z * weight[12] -
            c31 * (4 * zz - 3 * xx - yy) * weight[13] + 2 * c32 * x * z * weight[14] - 3 * c33 * (xx - yy) * weight[15];
    v[1] += -3 * c33 * (xx - yy) * weight[9] + 2 * c32 * x * z * weight[10] - c31 * (4 * zz - xx - 3 * yy) * weight[11] -
            6 * c30 * y * z * weight[12] + 2 * c31 * x * y * weight[13] - 2 * c32 * y * z * weight[14] + 6 * c33 * x * y * weight[15];
    v[2] += 2 * c32 * x * y * weight[10] - 8 * c31 * y * z * weight[11] + c30 * (6 * zz - 3 * xx - 3 * yy) * weight[12] -
            8 * c31 * x * z * weight[13] + c32 * (xx - yy) * weight[14];
  }
}

// Unit vector from the origin of the harmonics to the mean; returns 1 / distance.
MD_HOST_DEVICE float view_direction(const Camera& camera, const float* mean, float direction[3]) {
  float squared = 0.f;
  for (int axis = 0; axis < 3; ++axis) {
    direction[axis] = mean[axis] - camera.origin[axis];
    squared += direction[axis] * direction[axis];
  }
  const float inverse = 1.f / sqrtf(larger(squared, 1e-24f));
  for (int axis = 0; axis < 3; ++axis) direction[axis] *= inverse;
  return inverse;
}

template <int K>
MD_HOST_DEVICE void sh_color(const float* sh, const float direction[3], float color[3]) {
  float basis[K];
  sh_basis<K>(direction[0], direction[1], direction[2], basis);
  for (int channel = 0; channel < 3; ++channel) {
    float sum = 0.5f;
    for (int k = 0; k < K; ++k) sum += basis[k] * sh[3 * k + channel];
    color[channel] = larger(sum, 0.f);
  }
}

// Adds to v_sh and v_mean, given the gradient of the colour.
template <int K>
MD_HOST_DEVICE void sh_color_gradient(const float* sh, const float direction[3], float inverse_distance, const float v_color[3],
                                      float* v_sh, float v_mean[3]) {
  float basis[K], weight[K];
  sh_basis<K>(direction[0], direction[1], direction[2], basis);
  for (int k = 0; k < K; ++k) weight[k] = 0.f;
  for (int channel = 0; channel < 3; ++channel) {
    float sum = 0.5f;
    for (int k = 0; k < K; ++k) sum += basis[k] * sh[3 * k + channel];
    const float v = sum > 0.f ? v_color[channel] : 0.f;
    for (int k = 0; k < K; ++k) {
      v_sh[3 * k + channel] += v * basis[k];
      weight[k] += v * sh[3 * k + channel];
    }
  }
  if constexpr (K > 1) {
    float v[3];
    sh_basis_gradient<K>(direction[0], direction[1], direction[2], weight, v);
    const float along = v[0] * direction[0] + v[1] * direction[1] + v[2] * direction[2];
    for (int axis = 0; axis < 3; ++axis) v_mean[axis] += (v[axis] - along * direction[axis]) * inverse_distance;
  }
}

// ---- Projection ----

MD_HOST_DEVICE void rotation_matrix(const float* q, float r[3][3]) {
  const float w = q[0], x = q[1], y = q[2], z = q[3];
  r[0][0] = 1 - 2 * (y * y + z * z);
  r[0][1] = 2 * (x * y - w * z);
  r[0][2] = 2 * (x * z + w * y);
  r[1][0] = 2 * (x * y + w * z);
  r[1][1] = 1 - 2 * (x * x + z * z);
  r[1][2] = 2 * (y * z - w * x);
  r[2][0] = 2 * (x * z - w * y);
  r[2][1] = 2 * (y * z + w * x);
  r[2][2] = 1 - 2 * (x * x + y * y);
}

MD_HOST_DEVICE void rotation_matrix_gradient(const float* q, const float v[3][3], float v_q[4]) {
  const float w = q[0], x = q[1], y = q[2], z = q[3];
  v_q[0] += 2 * (x * (v[2][1] - v[1][2]) + y * (v[0][2] - v[2][0]) + z * (v[1][0] - v[0][1]));
  v_q[1] += 2 * (y * (v[0][1] + v[1][0]) + z * (v[0][2] + v[2][0]) + w * (v[2][1] - v[1][2]) - 2 * x * (v[1][1] + v[2][2]));
  v_q[2] += 2 * (x * (v[0][1] + v[1][0]) + z * (v[1][2] + v[2][1]) + w * (v[0][2] - v[2][0]) - 2 * y * (v[0][0] + v[2][2]));
  v_q[3] += 2 * (x * (v[0][2] + v[2][0]) + y * (v[1][2] + v[2][1]) + w * (v[1][0] - v[0][1]) - 2 * z * (v[0][0] + v[1][1]));
}

// The quaternion that Gaussian n turns by; returns what it was divided by.
MD_HOST_DEVICE float unit_quaternion(const Inputs& in, int n, float q[4]) {
  const float* given = in.rotations + 4 * static_cast<int64_t>(n);
  const float length =
      !in.normalizes ? 1.f
                     : larger(sqrtf(given[0] * given[0] + given[1] * given[1] + given[2] * given[2] + given[3] * given[3]), kMinLength);
  for (int k = 0; k < 4; ++k) q[k] = in.normalizes ? given[k] / length : given[k];
  return length;
}

// In place: from the gradient of the unit quaternion to that of the one that was given.
MD_HOST_DEVICE void unit_quaternion_gradient(const Inputs& in, int n, float v[4]) {
  if (!in.normalizes) return;
  float q[4];
  const float length = unit_quaternion(in, n, q);
  const float along = length > kMinLength ? v[0] * q[0] + v[1] * q[1] + v[2] * q[2] + v[3] * q[3] : 0.f;
  for (int k = 0; k < 4; ++k) v[k] = (v[k] - along * q[k]) / length;
}

// What the projection of one Gaussian computes on its way, shared by forward and backward.
struct Projection {
  float view[3];     // mean in the camera
  float limited[2];  // view x and y with their slopes limited
  bool is_limited[2];
  float jw[2][3];        // Jacobian times the rotation of the view
  float quaternion[4];   // of the Gaussian, a unit one
  float rotation[3][3];  // the same
  float size[3];         // scales times the modifier
  float axes[2][3];      // the three half axes on the screen, in pixels
  float xx, xy, yy;      // covariance, with the low-pass filter
  float determinant;
};

// False when the mean is nearer than kNear, or not a number.
MD_HOST_DEVICE bool project(const Inputs& in, const Camera& camera, int n, Projection& p) {
  const float* mean = in.means + 3 * static_cast<int64_t>(n);
  for (int row = 0; row < 3; ++row) {
    p.view[row] = camera.r[row][0] * mean[0] + camera.r[row][1] * mean[1] + camera.r[row][2] * mean[2] + camera.t[row];
  }
  const float z = p.view[2];
  if (!(z > kNear)) return false;
  const float focal[2] = {camera.fx, camera.fy};
  for (int axis = 0; axis < 2; ++axis) {
    const float slope = p.view[axis] / z;
    const float limit = clamped(slope, camera.slope_min[axis], camera.slope_max[axis]);
    p.is_limited[axis] = limit != slope;
    p.limited[axis] = p.is_limited[axis] ? limit * z : p.view[axis];
    const float along = focal[axis] / z, across = -focal[axis] * p.limited[axis] / (z * z);
    for (int column = 0; column < 3; ++column) p.jw[axis][column] = along * camera.r[axis][column] + across * camera.r[2][column];
  }
  unit_quaternion(in, n, p.quaternion);
  rotation_matrix(p.quaternion, p.rotation);
  for (int axis = 0; axis < 3; ++axis) {
    p.size[axis] = in.scales[3 * static_cast<int64_t>(n) + axis] * in.scale_modifier;
    for (int row = 0; row < 2; ++row) {
      p.axes[row][axis] =
          p.size[axis] * (p.jw[row][0] * p.rotation[0][axis] + p.jw[row][1] * p.rotation[1][axis] + p.jw[row][2] * p.rotation[2][axis]);
    }
  }
  const float (*m)[3] = p.axes;
  const float xx = m[0][0] * m[0][0] + m[0][1] * m[0][1] + m[0][2] * m[0][2];
  const float yy = m[1][0] * m[1][0] + m[1][1] * m[1][1] + m[1][2] * m[1][2];
  p.xy = m[0][0] * m[1][0] + m[0][1] * m[1][1] + m[0][2] * m[1][2];
  p.xx = xx + kLowPass;
  p.yy = yy + kLowPass;
  // det(M M^T) is the squared cross product of M's rows: nothing cancels, however thin or large the Gaussian is.
  const float u = m[0][1] * m[1][2] - m[0][2] * m[1][1];
  const float v = m[0][2] * m[1][0] - m[0][0] * m[1][2];
  const float w = m[0][0] * m[1][1] - m[0][1] * m[1][0];
  p.determinant = u * u + v * v + w * w + kLowPass * (xx + yy) + kLowPass * kLowPass;
  return true;
}

MD_HOST_DEVICE int tile_index(float pixel, int tiles) { return static_cast<int>(clamped(pixel / kTile, 0.f, static_cast<float>(tiles))); }

// The tiles that the bounding square of a splat touches. x + r may be far outside the range of integers.
MD_HOST_DEVICE TileRect square_tiles(float x, float y, float radius, int width, int height) {
  const int across = tiles_along(width), down = tiles_along(height);
  TileRect rect;
  rect.x0 = static_cast<int16_t>(tile_index(x - radius, across));
  rect.y0 = static_cast<int16_t>(tile_index(y - radius, down));
  rect.x1 = static_cast<int16_t>(tile_index(x + radius + (kTile - 1), across));
  rect.y1 = static_cast<int16_t>(tile_index(y + radius + (kTile - 1), down));
  return rect;
}

// a c - b^2 of a splat to the last digit (Kahan): for a needle the two products nearly cancel.
MD_HOST_DEVICE float inverse_determinant(const Splat& s) {
  const float squared = s.b * s.b;
  return fmaf(s.a, s.c, -squared) + fmaf(-s.b, s.b, squared);
}

// Those of them that the ellipse of visible alpha can reach, from its bounding box.
MD_HOST_DEVICE TileRect visible_tiles(const Splat& s, int width, int height) {
  TileRect rect = square_tiles(s.x, s.y, s.extent, width, height);
  const float determinant = inverse_determinant(s);
  if (!(determinant > 0.f)) return rect;
  // A hundredth of a pixel more than the exact reach, since the pixels decide in their own rounding.
  const float reach_x = sqrtf(s.reach * s.c / determinant) + 0.01f, reach_y = sqrtf(s.reach * s.a / determinant) + 0.01f;
  const int across = tiles_along(width), down = tiles_along(height);
  const int x0 = tile_index(s.x - reach_x, across), x1 = tile_index(s.x + reach_x + kTile, across);
  const int y0 = tile_index(s.y - reach_y, down), y1 = tile_index(s.y + reach_y + kTile, down);
  rect.x0 = static_cast<int16_t>(rect.x0 > x0 ? rect.x0 : x0);
  rect.y0 = static_cast<int16_t>(rect.y0 > y0 ? rect.y0 : y0);
  rect.x1 = static_cast<int16_t>(rect.x1 < x1 ? rect.x1 : x1);
  rect.y1 = static_cast<int16_t>(rect.y1 < y1 ? rect.y1 : y1);
  return rect;
}

// Whether the ellipse of visible alpha meets the pixel centres' box [x0, x1] x [y0, y1]: the least of the convex form
// over a box lies at the centre, or on an edge that faces it.
MD_HOST_DEVICE bool ellipse_meets(const Splat& s, float x0, float y0, float x1, float y1) {
  const float left = x0 - s.x, right = x1 - s.x, top = y0 - s.y, bottom = y1 - s.y;
  const float near_x = clamped(0.f, left, right), near_y = clamped(0.f, top, bottom);
  // Where along its edge the least lies may be told roughly: the form is flat there.
  const float along_y = clamped(quotient(-s.b * near_x, s.c), top, bottom), along_x = clamped(quotient(-s.b * near_y, s.a), left, right);
  const float q1 = s.a * near_x * near_x + 2 * s.b * near_x * along_y + s.c * along_y * along_y;
  const float q2 = s.a * along_x * along_x + 2 * s.b * along_x * near_y + s.c * near_y * near_y;
  return !(smaller(q1, q2) > s.reach);
}

MD_HOST_DEVICE void gaussian_color(const Inputs& in, const Camera& camera, int n, float color[3]) {
  if (in.colors) {
    for (int channel = 0; channel < 3; ++channel) color[channel] = in.colors[3 * static_cast<int64_t>(n) + channel];
    return;
  }
  float direction[3] = {0.f, 0.f, 1.f};
  if (in.coefficients > 1) view_direction(camera, in.means + 3 * static_cast<int64_t>(n), direction);
  const float* sh = in.sh + 3 * static_cast<int64_t>(n) * in.coefficients;
  switch (in.coefficients) {
    case 1:
      return sh_color<1>(sh, direction, color);
    case 4:
      return sh_color<4>(sh, direction, color);
    case 9:
      return sh_color<9>(sh, direction, color);
    default:
      return sh_color<16>(sh, direction, color);
  }
}

// Gaussian n in one view. Returns its radius, 0 (and an empty splat) where it is culled.
MD_HOST_DEVICE int make_splat(const Inputs& in, const Camera& camera, int view, int n, Splat& splat) {
  splat = Splat{};
  Projection p;
  if (!project(in, camera, n, p)) return 0;
  Splat s{};
  s.x = camera.fx * p.view[0] / p.view[2] + camera.cx - 0.5f;
  s.y = camera.fy * p.view[1] / p.view[2] + camera.cy - 0.5f;
  if (in.means2d_offset) {
    const float* offset = in.means2d_offset + 2 * (static_cast<int64_t>(view) * in.gaussians + n);
    s.x += offset[0] * camera.half_width;
    s.y += offset[1] * camera.half_height;
  }
  s.a = p.yy / p.determinant;
  s.b = -p.xy / p.determinant;
  s.c = p.xx / p.determinant;
  s.depth = p.view[2];
  s.opacity = in.opacities[n];
  const float middle = 0.5f * (p.xx + p.yy);
  s.extent = ceilf(3.f * sqrtf(middle + sqrtf(larger(middle * middle - p.determinant, kMinSpread))));
  // A sum is finite only if every term is (the terms are far from the largest float, or culled rightly).
  const float finite = s.x + s.y + s.a + s.b + s.c + s.opacity + s.extent + s.depth;
  if (!(fabsf(finite) < 3e38f)) return 0;
  const TileRect rect = square_tiles(s.x, s.y, s.extent, in.width, in.height);
  if (rect.x0 >= rect.x1 || rect.y0 >= rect.y1) return 0;
  float color[3];
  gaussian_color(in, camera, n, color);
  s.red = color[0];
  s.green = color[1];
  s.blue = color[2];
  s.reach = s.opacity >= kMinAlpha ? 2.f * logf(s.opacity / kMinAlpha) + 1e-3f : -1.f;
  splat = s;
  return static_cast<int>(smaller(s.extent, 1073741824.f));
}

// Gradients of one Gaussian, to be summed over views.
struct GaussianGradient {
  float mean[3], scale[3], rotation[4], opacity;
};

// Backward of make_splat for the geometry. v_offset gets the gradient in normalised device units.
MD_HOST_DEVICE void splat_gradient(const Inputs& in, const Camera& camera, int n, const SplatGradient& v, GaussianGradient& out,
                                   float v_offset[2]) {
  Projection p;
  if (!project(in, camera, n, p)) return;
  v_offset[0] = v.x * camera.half_width;
  v_offset[1] = v.y * camera.half_height;

  // Of the inverse C = cov^-1: v_cov = -C v_C C, with v_C = [[v.a, v.b / 2], [v.b / 2, v.c]].
  const float a = p.yy / p.determinant, b = -p.xy / p.determinant, c = p.xx / p.determinant;
  const float h = 0.5f * v.b;
  const float t00 = a * v.a + b * h, t01 = a * h + b * v.c, t10 = b * v.a + c * h, t11 = b * h + c * v.c;
  const float v_xx = -(t00 * a + t01 * b), v_xy = -(t00 * b + t01 * c), v_yy = -(t10 * b + t11 * c);

  // cov = M M^T + low pass, so v_M = 2 v_cov M; M = (J W) R S.
  float v_jw[2][3] = {}, v_rotation[3][3];
  for (int axis = 0; axis < 3; ++axis) {
    const float v_m[2] = {2 * (v_xx * p.axes[0][axis] + v_xy * p.axes[1][axis]), 2 * (v_xy * p.axes[0][axis] + v_yy * p.axes[1][axis])};
    float v_size = 0.f;
    for (int k = 0; k < 3; ++k) {
      for (int row = 0; row < 2; ++row) v_jw[row][k] += v_m[row] * p.rotation[k][axis] * p.size[axis];
      const float v_rotated = p.jw[0][k] * v_m[0] + p.jw[1][k] * v_m[1];
      v_rotation[k][axis] = v_rotated * p.size[axis];
      v_size += v_rotated * p.rotation[k][axis];
    }
    out.scale[axis] += v_size * in.scale_modifier;
  }
  rotation_matrix_gradient(p.quaternion, v_rotation, out.rotation);

  const float z = p.view[2], inverse_z = 1.f / z;
  const float focal[2] = {camera.fx, camera.fy}, v_center[2] = {v.x, v.y};
  float v_view[3] = {0.f, 0.f, v.depth};
  for (int axis = 0; axis < 2; ++axis) {
    float v_along = 0.f, v_across = 0.f;
    for (int k = 0; k < 3; ++k) {
      v_along += v_jw[axis][k] * camera.r[axis][k];
      v_across += v_jw[axis][k] * camera.r[2][k];
    }
    const float f = focal[axis] * inverse_z;
    v_view[axis] += f * v_center[axis];
    v_view[2] -= f * inverse_z * (p.view[axis] * v_center[axis] + v_along);
    v_view[2] += 2 * f * inverse_z * inverse_z * p.limited[axis] * v_across;
    if (!p.is_limited[axis]) v_view[axis] -= f * inverse_z * v_across;
  }
  for (int k = 0; k < 3; ++k) out.mean[k] += camera.r[0][k] * v_view[0] + camera.r[1][k] * v_view[1] + camera.r[2][k] * v_view[2];
  out.opacity += v.opacity;
}

// Backward of make_splat for the colour: adds to v_appearance ([3] or [K,3]) and to v_mean.
template <int K>
MD_HOST_DEVICE void color_gradient(const Inputs& in, const Camera& camera, int n, const SplatGradient& v, float* v_appearance,
                                   float v_mean[3]) {
  const float v_color[3] = {v.red, v.green, v.blue};
  if constexpr (K == 0) {
    for (int channel = 0; channel < 3; ++channel) v_appearance[channel] += v_color[channel];
  } else {
    float direction[3] = {0.f, 0.f, 1.f}, inverse = 0.f;
    if constexpr (K > 1) inverse = view_direction(camera, in.means + 3 * static_cast<int64_t>(n), direction);
    sh_color_gradient<K>(in.sh + 3 * static_cast<int64_t>(n) * K, direction, inverse, v_color, v_appearance, v_mean);
  }
}

// Where gradients of Gaussians take cameras and the gradients of splats from: here, cameras loaded anew and an array [V,N].
struct FromMemory {
  const Inputs& in;
  const SplatGradient* v_splats;
  MD_HOST_DEVICE Camera camera(int view) const { return load_camera(in, view); }
  MD_HOST_DEVICE SplatGradient gradient(int view, int n) const { return v_splats[static_cast<int64_t>(view) * in.gaussians + n]; }
};

// Gradients of one Gaussian with all that it looks like; K as in color_gradient.
template <int K>
struct GradientSums {
  static constexpr int kChannels = K == 0 ? 3 : 3 * K;
  GaussianGradient shape{};
  float appearance[kChannels] = {};
};

// Adds what one view says of Gaussian n, from radii [V,N] and what `source` gives, see FromMemory.
template <int K, class Source>
MD_HOST_DEVICE void add_view_gradient(const Inputs& in, const int* radii, const Source& source, int view, int n, GradientSums<K>& sums,
                                      const InputGradients& out) {
  const int64_t seen = static_cast<int64_t>(view) * in.gaussians + n;
  float v_offset[2] = {0.f, 0.f};
  if (radii[seen] > 0) {
    const SplatGradient v = source.gradient(view, n);
    const Camera& camera = source.camera(view);
    splat_gradient(in, camera, n, v, sums.shape, v_offset);
    color_gradient<K>(in, camera, n, v, sums.appearance, sums.shape.mean);
  }
  if (out.means2d_offset) {
    out.means2d_offset[2 * seen] = v_offset[0];
    out.means2d_offset[2 * seen + 1] = v_offset[1];
  }
}

template <int K>
MD_HOST_DEVICE void store_gradients(const Inputs& in, int n, GradientSums<K>& sums, const InputGradients& out) {
  unit_quaternion_gradient(in, n, sums.shape.rotation);
  const int64_t i = n;
  for (int axis = 0; axis < 3; ++axis) {
    out.means[3 * i + axis] = sums.shape.mean[axis];
    out.scales[3 * i + axis] = sums.shape.scale[axis];
  }
  for (int k = 0; k < 4; ++k) out.rotations[4 * i + k] = sums.shape.rotation[k];
  out.opacities[i] = sums.shape.opacity;
  constexpr int kChannels = GradientSums<K>::kChannels;
  for (int k = 0; k < kChannels; ++k) out.appearance[kChannels * i + k] = sums.appearance[k];
}

// All gradients of Gaussian n over the views, in their order.
template <int K, class Source>
MD_HOST_DEVICE void gaussian_gradient(const Inputs& in, const int* radii, const Source& source, int n, const InputGradients& out) {
  GradientSums<K> sums;
  for (int view = 0; view < in.views; ++view) add_view_gradient<K>(in, radii, source, view, n, sums, out);
  store_gradients<K>(in, n, sums, out);
}

}  // namespace md::raster
