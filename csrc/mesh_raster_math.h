// The mesh rasteriser's maths, written once for both compilers and for one pixel or several at a time: edge functions in
// homogeneous coordinates, barycentrics with their screen derivatives, and the gradients of those. Equations:
// microdreamer/kernels/mesh_raster.py.
#pragma once

#include <type_traits>

#include "common.h"
#include "constants.h"

namespace md {

// a * b + c, rounded once where the machine can. Spelled out, because exact antisymmetry below must not hang on what a compiler fuses.
MD_HOST_DEVICE float fused(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#elif defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

}  // namespace md

namespace md::mesh_raster {

// What the ops are given. B pictures of W x H pixels; V vertices; F faces.
struct Picture {
  const float* pos;       // [B,V,4], or [V,4] with ranges
  const int32_t* tri;     // [F,3]
  const int32_t* ranges;  // [B,2] first face and count, or null: all faces
  bool shared_pos;        // pos is [V,4]
  int64_t pictures, vertices, faces;
  int height, width;
};

// What `interpolate` is given: C channels of A sets (1 or B) of V attributes.
struct Attributes {
  const float* attr;     // [A,V,C]
  const float* rast;     // [B,H,W,4]
  const float* rast_db;  // [B,H,W,4] or null
  const int32_t* tri;    // [F,3]
  int64_t sets, pictures;
  int64_t vertices, faces;
  int channels, height, width;
};

struct AttributeGradients {
  const float* v_out;     // [B,H,W,C] or null
  const float* v_out_da;  // [B,H,W,2C] or null
  float* v_attr;          // [A,V,C]
  float* v_rast;          // [B,H,W,4]
  float* v_rast_db;       // [B,H,W,4] or null
};

// What `antialias` is given beside the picture's geometry.
struct Blending {
  const float* color;       // [B,H,W,C]
  const float* rast;        // [B,H,W,4]
  const int32_t* opposite;  // [F,3] third vertex of the face across the edge that faces a corner, or -1
  const uint8_t* edges;     // [S,F] silhouette_edges of every face, S = position_sets
  int channels;
};

struct BlendingGradients {
  const float* v_out;  // [B,H,W,C]
  float* v_color;      // [B,H,W,C]
  float* v_pos;        // like pos
};

template <class F>
struct CornerOf {
  F x, y, z, w;
};
using Corner = CornerOf<float>;

// The same number for every pixel of F.
template <class F>
MD_HOST_DEVICE F spread(float value) {
  if constexpr (std::is_same_v<F, float>) {
    return value;
  } else {
    return F{} + value;
  }
}
template <class F>
MD_HOST_DEVICE F spread(const std::enable_if_t<!std::is_same_v<F, float>, F>& values) {
  return values;
}

// a b - c d, such that exchanging the two products gives exactly the negative: the edge that two triangles share has the same
// function in both, up to its sign, and no pixel between them is lost or drawn twice.
template <class F>
MD_HOST_DEVICE F difference_of_products(F a, F b, F c, F d) {
  return 0.5f * (fused(a, b, -(c * d)) - fused(c, d, -(a * b)));
}

// Clip-space coordinate of pixel centre `index` along an axis with scale = 2 / pixels.
MD_HOST_DEVICE float center(int index, float scale) { return fused(static_cast<float>(index) + 0.5f, scale, -1.0f); }

// Corners seen from a pixel's centre: x - w X and y - w Y.
template <class F>
struct Relative {
  F x[3], y[3];
};

// The corners may be those of one face, or, where F is several pixels, of the face that each shows.
template <class F, class G>
MD_HOST_DEVICE Relative<F> relative(const CornerOf<G>* corners, F center_x, F center_y) {
  Relative<F> r;
  for (int k = 0; k < 3; ++k) {
    r.x[k] = fused(-center_x, spread<F>(corners[k].w), spread<F>(corners[k].x));
    r.y[k] = fused(-center_y, spread<F>(corners[k].w), spread<F>(corners[k].y));
  }
  return r;
}

template <class F>
MD_HOST_DEVICE void edge_functions(const Relative<F>& r, F* e) {
  e[0] = difference_of_products(r.x[1], r.y[2], r.y[1], r.x[2]);
  e[1] = difference_of_products(r.x[2], r.y[0], r.y[2], r.x[0]);
  e[2] = difference_of_products(r.x[0], r.y[1], r.y[0], r.x[1]);
}

// Slopes of edge function `edge` along the clip-space axes.
template <class F>
MD_HOST_DEVICE F slope_x(const CornerOf<F>* corners, const Relative<F>& r, int edge) {
  const int a = (edge + 1) % 3, b = (edge + 2) % 3;
  return difference_of_products(r.y[a], corners[b].w, r.y[b], corners[a].w);
}
template <class F>
MD_HOST_DEVICE F slope_y(const CornerOf<F>* corners, const Relative<F>& r, int edge) {
  const int a = (edge + 1) % 3, b = (edge + 2) % 3;
  return difference_of_products(r.x[b], corners[a].w, r.x[a], corners[b].w);
}

// On which side of an edge the centre lies: 1, -1, or 0 for an edge without length. A centre on the edge takes the side that
// it would be on a little higher up, or else a little to the left.
MD_HOST_DEVICE int side_of_edge(float e, const Corner* corners, const Relative<float>& r, int edge) {
  float value = e;
  if (value == 0.0f) value = slope_y(corners, r, edge);
  if (value == 0.0f) value = -slope_x(corners, r, edge);
  return (value > 0.0f) - (value < 0.0f);
}

// Whether the centre is inside, and z/w there. The sign of w is that of sum e_i w_i / sum e_i.
MD_HOST_DEVICE bool covers(const Corner* corners, float center_x, float center_y, float& depth) {
  const Relative<float> r = relative(corners, center_x, center_y);
  float e[3];
  edge_functions(r, e);
  const bool some_positive = e[0] > 0.0f || e[1] > 0.0f || e[2] > 0.0f, some_negative = e[0] < 0.0f || e[1] < 0.0f || e[2] < 0.0f;
  if (some_positive && some_negative) return false;
  if (e[0] == 0.0f || e[1] == 0.0f || e[2] == 0.0f) {
    const int side = side_of_edge(e[0], corners, r, 0);
    if (side == 0 || side != side_of_edge(e[1], corners, r, 1) || side != side_of_edge(e[2], corners, r, 2)) return false;
  }
  const float sum = e[0] + e[1] + e[2];
  const float w = e[0] * corners[0].w + e[1] * corners[1].w + e[2] * corners[2].w;
  const float z = e[0] * corners[0].z + e[1] * corners[1].z + e[2] * corners[2].z;
  depth = z / w;
  return ((sum > 0.0f && w > 0.0f) || (sum < 0.0f && w < 0.0f)) && depth >= -1.0f && depth <= 1.0f;
}

// Pixels that a face may cover, both ends included.
struct Box {
  int x0, x1, y0, y1;
};

// Pixels whose centres lie between two clip-space coordinates after the division by w; false for none, and for NaNs.
MD_HOST_DEVICE bool pixels_between(float low, float high, int pixels, int& first, int& last) {
  const float half = 0.5f * static_cast<float>(pixels);
  low = fmaxf((low + 1.0f) * half - 0.5f - kBoxMargin, 0.0f);
  high = fminf((high + 1.0f) * half - 0.5f + kBoxMargin, static_cast<float>(pixels - 1));
  if (!(low <= high)) return false;
  first = static_cast<int>(ceilf(low));
  last = static_cast<int>(floorf(high));
  return first <= last;
}

// Bounds along one axis, in pixels from the first centre. An edge that crosses the eye's plane leaves the screen in the
// direction in which its projection moves.
MD_HOST_DEVICE bool bounds_along(const float* c, const float* w, int pixels, int& first, int& last) {
  const float kFar = 3e38f;
  float low = kFar, high = -kFar;
  for (int k = 0; k < 3; ++k) {
    if (w[k] > 0.0f) {
      const float screen = c[k] / w[k];
      low = fminf(low, screen);
      high = fmaxf(high, screen);
      for (int j = 1; j < 3; ++j) {
        const int other = (k + j) % 3;
        if (w[other] > 0.0f) continue;
        const float direction = difference_of_products(c[other], w[k], c[k], w[other]);
        if (direction >= 0.0f) high = kFar;
        if (direction <= 0.0f) low = -kFar;
      }
    }
  }
  return pixels_between(low, high, pixels, first, last);
}

// The same where all corners are in front of the eye.
MD_HOST_DEVICE bool between_corners(const float* c, const float* inverse_w, int pixels, int& first, int& last) {
  const float s0 = c[0] * inverse_w[0], s1 = c[1] * inverse_w[1], s2 = c[2] * inverse_w[2];
  return pixels_between(fminf(s0, fminf(s1, s2)), fmaxf(s0, fmaxf(s1, s2)), pixels, first, last);
}

// False for faces that no pixel can show: behind the eye, off the screen, before the near or behind the far plane, or not finite.
MD_HOST_DEVICE bool bounding_box(const Corner* corners, int width, int height, Box& box) {
  const float x[3] = {corners[0].x, corners[1].x, corners[2].x}, y[3] = {corners[0].y, corners[1].y, corners[2].y};
  const float w[3] = {corners[0].w, corners[1].w, corners[2].w};
  float finite = 0.0f;  // times 0, so that only infinities and NaNs leave a trace
  bool nearer = true, farther = true;
  for (int k = 0; k < 3; ++k) {
    finite += 0.0f * x[k] + 0.0f * y[k] + 0.0f * w[k] + 0.0f * corners[k].z;
    nearer = nearer && corners[k].z < -w[k];
    farther = farther && corners[k].z > w[k];
  }
  if (!(finite == 0.0f) || nearer || farther) return false;
  constexpr float kLeast = 1e-30f;  // of a w whose inverse is finite
  if (w[0] > kLeast && w[1] > kLeast && w[2] > kLeast) {
    const float inverse[3] = {1.0f / w[0], 1.0f / w[1], 1.0f / w[2]};
    return between_corners(x, inverse, width, box.x0, box.x1) && between_corners(y, inverse, height, box.y0, box.y1);
  }
  return bounds_along(x, w, width, box.x0, box.x1) && bounds_along(y, w, height, box.y0, box.y1);
}

MD_HOST_DEVICE int64_t position_sets(const Picture& in) { return in.shared_pos ? 1 : in.pictures; }
MD_HOST_DEVICE int64_t vertices_before(const Picture& in, int64_t picture) { return in.shared_pos ? 0 : picture * in.vertices; }

// False where the face names a vertex that is not there.
MD_HOST_DEVICE bool load_corners(const Picture& in, int64_t picture, int64_t face, Corner* corners) {
  const float* pos = in.pos + 4 * vertices_before(in, picture);
#if defined(__CUDA_ARCH__)
  const bool aligned = reinterpret_cast<uintptr_t>(in.pos) % sizeof(float4) == 0;
#endif
  for (int k = 0; k < 3; ++k) {
    const int32_t vertex = in.tri[3 * face + k];
    if (vertex < 0 || vertex >= in.vertices) return false;
    const float* p = pos + 4 * static_cast<int64_t>(vertex);
#if defined(__CUDA_ARCH__)
    if (aligned) {  // one load instead of four
      const float4 four = *reinterpret_cast<const float4*>(p);
      corners[k] = {four.x, four.y, four.z, four.w};
      continue;
    }
#endif
    corners[k] = {p[0], p[1], p[2], p[3]};
  }
  return true;
}

// The face that rast shows at a pixel, or -1 for none; what a caller may have made of rast does not lead outside `faces`.
MD_HOST_DEVICE int64_t face_at(const float* rast, int64_t faces) {
  const float number = rast[3];
  return number >= 1.0f && number <= static_cast<float>(faces) ? static_cast<int64_t>(number) - 1 : -1;
}

// The attributes of a face's corners; false for no face, or one that names a vertex that is not there.
MD_HOST_DEVICE bool corner_attributes(const Attributes& in, int64_t picture, int64_t face, const float** corners) {
  if (face < 0) return false;
  const float* attr = in.attr + (in.sets == 1 ? 0 : picture * in.vertices * in.channels);
  for (int k = 0; k < 3; ++k) {
    const int32_t vertex = in.tri[3 * face + k];
    if (vertex < 0 || vertex >= in.vertices) return false;
    corners[k] = attr + static_cast<int64_t>(vertex) * in.channels;
  }
  return true;
}

// What a pixel shows of a face that covers it, or several pixels of theirs.
template <class F>
struct SampleOf {
  F u, v, depth;
  F db[4];  // du/dX, du/dY, dv/dX, dv/dY per pixel
};

template <class F>
MD_HOST_DEVICE SampleOf<F> sample_face(const CornerOf<F>* corners, F center_x, F center_y, float scale_x, float scale_y) {
  const Relative<F> r = relative(corners, center_x, center_y);
  F e[3];
  edge_functions(r, e);
  const F inverse = 1.0f / (e[0] + e[1] + e[2]);
  SampleOf<F> s;
  s.u = e[0] * inverse;
  s.v = e[1] * inverse;
  s.depth =
      (e[0] * corners[0].z + e[1] * corners[1].z + e[2] * corners[2].z) / (e[0] * corners[0].w + e[1] * corners[1].w + e[2] * corners[2].w);
  const F x[3] = {slope_x(corners, r, 0), slope_x(corners, r, 1), slope_x(corners, r, 2)};
  const F y[3] = {slope_y(corners, r, 0), slope_y(corners, r, 1), slope_y(corners, r, 2)};
  const F sum_x = x[0] + x[1] + x[2], sum_y = y[0] + y[1] + y[2];
  s.db[0] = (x[0] - s.u * sum_x) * (inverse * scale_x);
  s.db[1] = (y[0] - s.u * sum_y) * (inverse * scale_y);
  s.db[2] = (x[1] - s.v * sum_x) * (inverse * scale_x);
  s.db[3] = (y[1] - s.v * sum_y) * (inverse * scale_y);
  return s;
}

// Gradient with respect to (x, y, w) of the corners: v_corners[3 k + 0..2] of corner k, added to. v_uv [2] and v_db [4] may be null.
MD_HOST_DEVICE void sample_face_backward(const Corner* corners, float center_x, float center_y, float scale_x, float scale_y,
                                         const float* v_uv, const float* v_db, float* v_corners) {
  const Relative<float> r = relative(corners, center_x, center_y);
  float e[3];
  edge_functions(r, e);
  const float inverse = 1.0f / (e[0] + e[1] + e[2]);
  const float u = e[0] * inverse, v = e[1] * inverse;
  float v_u = v_uv ? v_uv[0] : 0.0f, v_v = v_uv ? v_uv[1] : 0.0f;
  float v_sum = 0.0f;  // of the three e, through the derivatives alone
  float v_slope_x[3] = {0.0f, 0.0f, 0.0f}, v_slope_y[3] = {0.0f, 0.0f, 0.0f};
  if (v_db) {
    const float x[3] = {slope_x(corners, r, 0), slope_x(corners, r, 1), slope_x(corners, r, 2)};
    const float y[3] = {slope_y(corners, r, 0), slope_y(corners, r, 1), slope_y(corners, r, 2)};
    const float sum_x = x[0] + x[1] + x[2], sum_y = y[0] + y[1] + y[2];
    const float g[4] = {v_db[0] * scale_x * inverse, v_db[1] * scale_y * inverse, v_db[2] * scale_x * inverse, v_db[3] * scale_y * inverse};
    v_u -= g[0] * sum_x + g[1] * sum_y;
    v_v -= g[2] * sum_x + g[3] * sum_y;
    v_sum = -inverse * (g[0] * (x[0] - u * sum_x) + g[1] * (y[0] - u * sum_y) + g[2] * (x[1] - v * sum_x) + g[3] * (y[1] - v * sum_y));
    v_slope_x[2] = -(g[0] * u + g[2] * v);
    v_slope_y[2] = -(g[1] * u + g[3] * v);
    v_slope_x[0] = v_slope_x[2] + g[0];
    v_slope_y[0] = v_slope_y[2] + g[1];
    v_slope_x[1] = v_slope_x[2] + g[2];
    v_slope_y[1] = v_slope_y[2] + g[3];
  }
  const float shared = v_sum - inverse * (u * v_u + v * v_v);
  const float v_e[3] = {shared + inverse * v_u, shared + inverse * v_v, shared};
  for (int k = 0; k < 3; ++k) {
    const int a = (k + 1) % 3, b = (k + 2) % 3;  // corner k is the first end of edge b and the second of edge a
    const float v_x = v_e[b] * r.y[a] - v_e[a] * r.y[b] + v_slope_y[a] * corners[b].w - v_slope_y[b] * corners[a].w;
    const float v_y = v_e[a] * r.x[b] - v_e[b] * r.x[a] + v_slope_x[b] * corners[a].w - v_slope_x[a] * corners[b].w;
    v_corners[3 * k] += v_x;
    v_corners[3 * k + 1] += v_y;
    v_corners[3 * k + 2] +=
        v_slope_x[a] * r.y[b] - v_slope_x[b] * r.y[a] + v_slope_y[b] * r.x[a] - v_slope_y[a] * r.x[b] - center_x * v_x - center_y * v_y;
  }
}

// ---- Antialiasing ----

// Where a silhouette edge crosses the way from the nearer pixel of a pair to the other one.
struct Crossing {
  float weight;  // distance in pixels from the nearer centre, less a half; 0 if nothing crosses
  bool moves;    // whether the distance follows the corners (it is cut at both centres)
  int ends[2];   // vertices of the edge
  float a, c;    // the edge's line is a x + b y + c w = 0, x along the pair
  float along[2], aside[2], w[2];
  float center_along, center_aside;
  float scale;  // distance = -c / a * scale
};

// Bit k is set where the edge that faces corner k is a silhouette: no face across it, or one whose third vertex is projected to
// the same side. Looked at from the edge's first end, so that little is lost to rounding.
MD_HOST_DEVICE uint8_t silhouette_edges(const Picture& in, const int32_t* opposite, int64_t set, int64_t face) {
  Corner corners[3];
  if (!load_corners(in, set, face, corners)) return 0;
  const float* pos = in.pos + 4 * vertices_before(in, set);
  uint8_t edges = 0;
  for (int k = 0; k < 3; ++k) {
    const Corner &a = corners[(k + 1) % 3], &b = corners[(k + 2) % 3];
    const int32_t vertex = opposite[3 * face + k];
    if (vertex >= in.vertices) continue;
    bool silhouette = vertex < 0;
    if (!silhouette) {
      const float* p = pos + 4 * static_cast<int64_t>(vertex);
      const float x = a.w != 0.0f ? a.x / a.w : 0.0f, y = a.w != 0.0f ? a.y / a.w : 0.0f;
      const Corner ends[3] = {b, corners[k], {p[0], p[1], p[2], p[3]}};
      const Relative<float> r = relative(ends, x, y);
      const float inner = difference_of_products(r.x[0], r.y[1], r.y[0], r.x[1]),
                  outer = difference_of_products(r.x[0], r.y[2], r.y[0], r.x[2]);
      silhouette = (inner > 0.0f && outer > 0.0f) || (inner < 0.0f && outer < 0.0f);
    }
    edges |= static_cast<uint8_t>(silhouette << k);
  }
  return edges;
}

// The pair is the pixel (x, y) with its neighbour to the right, or with `column` the one above; `near_is_first` tells which of
// the two shows the nearer face. The way leaves that face by the edge that it crosses last, so this edge alone can part the two
// pixels: whether it is a silhouette and steep enough is asked afterwards.
MD_HOST_DEVICE Crossing find_crossing(const Picture& in, uint8_t edges, int64_t picture, int64_t face, int x, int y, bool column,
                                      bool near_is_first) {
  Crossing found{};
  Corner corners[3];
  if (edges == 0 || !load_corners(in, picture, face, corners)) return found;
  const float center_x = center(x + (!near_is_first && !column), 2.0f / static_cast<float>(in.width));
  const float center_y = center(y + (!near_is_first && column), 2.0f / static_cast<float>(in.height));
  const Relative<float> r = relative(corners, center_x, center_y);
  const float* along = column ? r.y : r.x;
  const float* aside = column ? r.x : r.y;
  const float pixels_along = static_cast<float>(column ? in.height : in.width),
              pixels_aside = static_cast<float>(column ? in.width : in.height);
  const float scale = (near_is_first ? 0.5f : -0.5f) * pixels_along;
  float farthest = -INFINITY;
  bool parts = false;
  for (int k = 0; k < 3; ++k) {
    const int i = (k + 1) % 3, j = (k + 2) % 3;
    if ((aside[i] >= 0.0f) == (aside[j] >= 0.0f)) continue;
    const float a = difference_of_products(aside[i], corners[j].w, aside[j], corners[i].w);
    if (!(a * (aside[i] - aside[j]) > 0.0f)) continue;  // crossed behind the eye
    const float c = difference_of_products(along[i], aside[j], aside[i], along[j]);
    const float t = -c / a * scale;
    if (!(t > farthest)) continue;
    farthest = t;
    const float b = difference_of_products(along[j], corners[i].w, along[i], corners[j].w);
    const float rise = fabsf(a) * pixels_aside, run = fabsf(b) * pixels_along;
    parts = (edges >> k & 1) && (column ? run < rise : run <= rise);
    found.a = a;
    found.c = c;
    for (int end = 0; end < 2; ++end) {
      const int corner = end == 0 ? i : j;
      found.ends[end] = in.tri[3 * face + corner];
      found.along[end] = along[corner];
      found.aside[end] = aside[corner];
      found.w[end] = corners[corner].w;
    }
  }
  if (parts && farthest > -kEdgeSlack && farthest < 1.0f + kEdgeSlack) {
    found.weight = fminf(fmaxf(farthest, 0.0f), 1.0f) - 0.5f;
    found.moves = farthest >= 0.0f && farthest <= 1.0f;
  }
  found.center_along = column ? center_y : center_x;
  found.center_aside = column ? center_x : center_y;
  found.scale = scale;
  return found;
}

// Gradient of the weight with respect to (along, aside, w) of the edge's two ends: v_ends [2][3].
MD_HOST_DEVICE void crossing_backward(const Crossing& x, float v_weight, float v_ends[2][3]) {
  const float v_c = -v_weight * x.scale / x.a, v_a = -v_c * x.c / x.a;
  for (int end = 0; end < 2; ++end) {
    const int other = 1 - end;
    const float sign = end == 0 ? 1.0f : -1.0f;  // a and c change sign when the ends are exchanged
    const float v_along = sign * v_c * x.aside[other];
    const float v_aside = sign * (v_a * x.w[other] - v_c * x.along[other]);
    v_ends[end][0] = v_along;
    v_ends[end][1] = v_aside;
    v_ends[end][2] = -sign * v_a * x.aside[other] - x.center_along * v_along - x.center_aside * v_aside;
  }
}

// One of the four pairs that a pixel belongs to.
struct Pair {
  Crossing crossing;
  int64_t other;      // the other pixel, counted through all pictures
  bool other_is_far;  // the pixel itself shows the nearer face
};

// Pair `number` (0..3: right, left, above, below) of a pixel; false where nothing is blended.
MD_HOST_DEVICE bool find_pair(const Picture& in, const Blending& blending, int64_t picture, int x, int y, int number, Pair& pair) {
  const bool column = number >= 2, second = number % 2 == 1;
  const int first_x = x - (second && !column), first_y = y - (second && column);
  if (first_x < 0 || first_y < 0 || first_x + !column >= in.width || first_y + column >= in.height) return false;
  const int64_t own = (picture * in.height + y) * in.width + x;
  pair.other = own + (second ? -1 : 1) * (column ? in.width : 1);
  const float* here = blending.rast + 4 * own;
  const float* there = blending.rast + 4 * pair.other;
  if (here[3] == there[3]) return false;
  const float depth_here = here[3] > 0.0f ? here[2] : INFINITY, depth_there = there[3] > 0.0f ? there[2] : INFINITY;
  // Of equal depths the second pixel of the pair counts as the nearer one.
  pair.other_is_far = second ? !(depth_there < depth_here) : depth_here < depth_there;
  const int64_t face = face_at(pair.other_is_far ? here : there, in.faces);
  const uint8_t edges = face < 0 ? 0 : blending.edges[(in.shared_pos ? 0 : picture * in.faces) + face];
  if (edges == 0) return false;
  pair.crossing = find_crossing(in, edges, picture, face, first_x, first_y, column, pair.other_is_far != second);
  return pair.crossing.weight != 0.0f;
}

// The share of the other pixel's colour that comes into this one, and the share of this one's that goes to the other.
MD_HOST_DEVICE float share_in(const Pair& pair) { return fmaxf(pair.other_is_far ? -pair.crossing.weight : pair.crossing.weight, 0.0f); }
MD_HOST_DEVICE float share_out(const Pair& pair) { return fmaxf(pair.other_is_far ? pair.crossing.weight : -pair.crossing.weight, 0.0f); }

}  // namespace md::mesh_raster
