// Volume rendering: how a ray is cut into pieces in the occupied cells of a box, and what a piece lets through, for both compilers.
#pragma once

#include "common.h"
#include "constants.h"

namespace md::volume {

struct March {
  const float* origins;     // [N,3]
  const float* directions;  // [N,3] of length 1
  const float* jitter;      // [N] in [0,1), or null: none
  const bool* occupied;     // [R,R,R], index x, y, z
  int64_t rays;             // N
  int resolution;           // R
  int most;                 // pieces that a ray can have
  float radius;             // of the box [-radius, radius]^3
  float step;               // length of a piece that is whole
  float near;               // distance where rays begin
  float scale;              // cells by length
  float low[3], high[3];    // corners of a box within it that all occupied cells lie in
};

// Of two that are numbers. The functions of the C library look out for those that are not, in a call on the CPU.
MD_HOST_DEVICE float smaller(float a, float b) { return a < b ? a : b; }
MD_HOST_DEVICE float larger(float a, float b) { return a > b ? a : b; }

// Calls visit(start, length) for each piece of a ray that has its middle in an occupied cell, front to back. Every rounding that
// decides about a piece is written out, so that all compilers and processors find the same ones.
template <class Visit>
MD_HOST_DEVICE void for_each_piece(const March& in, int64_t ray, Visit visit) {
  const float* origin = in.origins + 3 * ray;
  const float* direction = in.directions + 3 * ray;
  float enter = in.near, leave = INFINITY, inverse[3];
  for (int axis = 0; axis < 3; ++axis) {
    const float o = origin[axis], d = direction[axis];
    if (!(fabsf(o) < INFINITY && fabsf(d) < INFINITY)) return;
    inverse[axis] = 1.f / d;
    if (d == 0.f) {
      if (fabsf(o) > in.radius) return;
      continue;
    }
    const float one = (-in.radius - o) / d, other = (in.radius - o) / d;
    enter = larger(enter, smaller(one, other));
    leave = smaller(leave, larger(one, other));
  }
  if (!(enter < leave)) return;
  // What of the ray may lie in occupied cells, with a margin for rounding.
  float from = enter, until = leave;
  for (int axis = 0; axis < 3; ++axis) {
    if (direction[axis] == 0.f) continue;
    const float one = (in.low[axis] - origin[axis]) * inverse[axis], other = (in.high[axis] - origin[axis]) * inverse[axis];
    from = larger(from, smaller(one, other));
    until = smaller(until, larger(one, other));
  }
  const float margin = 0.01f * in.step + 1e-6f * leave;
  until = smaller(until + margin, leave);
  if (!(from - margin < until)) return;
  const float base = fmaf((in.jitter ? in.jitter[ray] : 0.f) - 1.f, in.step, in.near);
  const float first = larger(floorf((enter - base) / in.step) - 1.f, 0.f);
  const float cell_size = 1.f / in.scale, pieces_by_length = 1.f / in.step, last_cell = static_cast<float>(in.resolution - 1);
  // The first whole piece that ends behind `from`; earlier ones lie before it.
  const float skipped = floorf((from - margin - base) * pieces_by_length) - 1.f - first;
  for (int n = skipped > 0.f ? static_cast<int>(smaller(skipped, static_cast<float>(in.most))) : 0; n < in.most;) {
    const float index = first + static_cast<float>(n);
    const float start = larger(fmaf(index, in.step, base), enter), end = smaller(fmaf(index + 1.f, in.step, base), leave);
    if (start >= until) return;
    const float length = end - start;
    ++n;
    if (!(length > 0.f)) continue;
    const float middle = fmaf(length, 0.5f, start);
    int cell[3];
    for (int axis = 0; axis < 3; ++axis) {
      const float position = (fmaf(middle, direction[axis], origin[axis]) + in.radius) * in.scale;
      cell[axis] = static_cast<int>(smaller(larger(position, 0.f), last_cell));
    }
    if (in.occupied[(static_cast<int64_t>(cell[0]) * in.resolution + cell[1]) * in.resolution + cell[2]]) {
      visit(start, length);
      continue;
    }
    // On to the first piece whose middle may lie behind this cell, with a margin for rounding.
    float behind = leave;
    for (int axis = 0; axis < 3; ++axis) {
      const float face = static_cast<float>(cell[axis] + (direction[axis] > 0.f ? 1 : 0)) * cell_size - in.radius;
      if (direction[axis] != 0.f) behind = smaller(behind, (face - origin[axis]) * inverse[axis]);
    }
    const float pieces = (behind - base) * pieces_by_length;
    const float next = floorf(pieces - (0.51f + 1e-6f * pieces)) + 1.f - first;
    if (next > static_cast<float>(n)) n = next < static_cast<float>(in.most) ? static_cast<int>(next) : in.most;
  }
}

// The middle of a piece as a point.
MD_HOST_DEVICE void locate_middle(const float* origin, const float* direction, float start, float length, float* point) {
  const float middle = fmaf(length, 0.5f, start);
  for (int axis = 0; axis < 3; ++axis) point[axis] = fmaf(middle, direction[axis], origin[axis]);
}

// A density below zero or that is not a number counts as none.
MD_HOST_DEVICE float optical_depth(float density, float length) {
  const float depth = density * length;
  return depth >= 0.f ? smaller(depth, kMaxOpticalDepth) : 0.f;
}

// Whether the optical depth follows the density.
MD_HOST_DEVICE bool is_sloped(float density, float length) {
  const float depth = density * length;
  return depth >= 0.f && depth <= kMaxOpticalDepth;
}

MD_HOST_DEVICE bool is_visible(float density, float depth, float before, float min_alpha, float min_transmittance) {
  return density == density && -expm1f(-depth) >= min_alpha && expf(-before) >= min_transmittance;
}

}  // namespace md::volume
