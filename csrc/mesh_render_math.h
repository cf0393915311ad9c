// The data renderer's maths, written once for both compilers: projection, edge functions, and the light on a surface point.
//
// Camera space is OpenCV's (x right, y down, z forward). Screen coordinates are in samples: a picture of width x height
// pixels has supersample^2 samples a pixel, with centres at +0.5.
#pragma once

#include "common.h"
#include "constants.h"

namespace md::mesh_render {

constexpr float kFarthestScreenCoordinate = 1e7f;  // beyond it, float edge functions say nothing

// What the op was given: M packed meshes, B views, L lights a view. Shapes as in microdreamer/kernels/mesh_render.py.
struct Inputs {
  const float* vertices;
  const int32_t* faces;
  const uint8_t* corner_colors;
  const int8_t* corner_normals;
  const int64_t* vertex_offset;
  const int64_t* face_offset;
  const int64_t* mesh_index;
  const float* object_to_world;
  const float* color_transform;
  const float* world_to_camera;
  const float* intrinsics;
  const float* lights;
  const float* ambient;
  const float* gloss;
  int64_t meshes;
  int64_t vertex_count;
  int64_t face_count;
  int64_t views;
  int camera_rows;  // of world_to_camera: 3 or 4
  int light_count;
  int width;
  int height;
  int supersample;
};

struct Vec3 {
  float x, y, z;
};

MD_HOST_DEVICE Vec3 operator+(Vec3 a, Vec3 b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
MD_HOST_DEVICE Vec3 operator-(Vec3 a, Vec3 b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
MD_HOST_DEVICE Vec3 operator*(float s, Vec3 a) { return {s * a.x, s * a.y, s * a.z}; }
MD_HOST_DEVICE Vec3 operator*(Vec3 a, Vec3 b) { return {a.x * b.x, a.y * b.y, a.z * b.z}; }
MD_HOST_DEVICE float dot(Vec3 a, Vec3 b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
MD_HOST_DEVICE Vec3 cross(Vec3 a, Vec3 b) { return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x}; }
MD_HOST_DEVICE float clamp01(float v) { return v < 0.0f ? 0.0f : (v > 1.0f ? 1.0f : v); }
MD_HOST_DEVICE Vec3 load3(const float* p) { return {p[0], p[1], p[2]}; }

// Row-major 3x3 (stride 3) or 3x4 (stride 4) times a vector, the fourth column left out.
MD_HOST_DEVICE Vec3 rotate(const float* m, int stride, Vec3 v) {
  return {dot(load3(m), v), dot(load3(m + stride), v), dot(load3(m + 2 * stride), v)};
}

MD_HOST_DEVICE Vec3 transform(const float* m, Vec3 v) { return rotate(m, 4, v) + Vec3{m[3], m[7], m[11]}; }

MD_HOST_DEVICE Vec3 normalized(Vec3 v) { return (1.0f / sqrtf(dot(v, v))) * v; }

// Everything that the samples of one view share. Directions are in camera space; world_to_camera keeps lengths, so dot
// products, and with them the light, are the world's.
struct View {
  float object_to_camera[12];
  float normal_matrix[9];  // cofactors of object_to_camera: its inverse transpose up to a factor, which normalising removes
  float color_transform[12];
  float fx, fy, cx, cy;  // pixels
  Vec3 up, sky, ground;
  float gloss_strength, gloss_exponent;
  Vec3 light_direction[kMaxLights];
  Vec3 light_intensity[kMaxLights];
  int64_t first_vertex, first_face;
  int32_t vertex_count, face_count;
};

MD_HOST_DEVICE bool mesh_in_range(const Inputs& in, int64_t mesh) {
  if (mesh < 0 || mesh >= in.meshes) return false;
  const int64_t v0 = in.vertex_offset[mesh], v1 = in.vertex_offset[mesh + 1];
  const int64_t f0 = in.face_offset[mesh], f1 = in.face_offset[mesh + 1];
  return 0 <= v0 && v0 <= v1 && v1 <= in.vertex_count && 0 <= f0 && f0 <= f1 && f1 <= in.face_count;
}

// A mesh out of range leaves face_count 0: such a view stays empty.
MD_HOST_DEVICE void make_view(const Inputs& in, int64_t index, View& view) {
  const float* world_to_camera = in.world_to_camera + index * in.camera_rows * 4;
  const float* object_to_world = in.object_to_world + index * 12;
  for (int r = 0; r < 3; ++r) {
    for (int c = 0; c < 4; ++c) {
      float sum = c == 3 ? world_to_camera[4 * r + 3] : 0.0f;
      for (int k = 0; k < 3; ++k) sum += world_to_camera[4 * r + k] * object_to_world[4 * k + c];
      view.object_to_camera[4 * r + c] = sum;
    }
  }
  const float* m = view.object_to_camera;
  const Vec3 row0 = load3(m), row1 = load3(m + 4), row2 = load3(m + 8);
  const Vec3 cofactors[3] = {cross(row1, row2), cross(row2, row0), cross(row0, row1)};
  for (int r = 0; r < 3; ++r) {
    view.normal_matrix[3 * r] = cofactors[r].x;
    view.normal_matrix[3 * r + 1] = cofactors[r].y;
    view.normal_matrix[3 * r + 2] = cofactors[r].z;
  }
  for (int k = 0; k < 12; ++k) view.color_transform[k] = in.color_transform[index * 12 + k];
  const float* intrinsics = in.intrinsics + index * 4;
  view.fx = intrinsics[0];
  view.fy = intrinsics[1];
  view.cx = intrinsics[2];
  view.cy = intrinsics[3];
  view.up = rotate(world_to_camera, 4, {0.0f, 1.0f, 0.0f});
  view.sky = load3(in.ambient + index * 6);
  view.ground = load3(in.ambient + index * 6 + 3);
  view.gloss_strength = in.gloss[index * 2];
  view.gloss_exponent = in.gloss[index * 2 + 1];
  for (int l = 0; l < in.light_count; ++l) {
    const float* light = in.lights + (index * in.light_count + l) * 6;
    view.light_direction[l] = rotate(world_to_camera, 4, load3(light));
    view.light_intensity[l] = load3(light + 3);
  }
  const int64_t mesh = in.mesh_index[index];
  const bool valid = mesh_in_range(in, mesh);
  view.first_vertex = valid ? in.vertex_offset[mesh] : 0;
  view.first_face = valid ? in.face_offset[mesh] : 0;
  view.vertex_count = valid ? static_cast<int32_t>(in.vertex_offset[mesh + 1] - view.first_vertex) : 0;
  view.face_count = valid ? static_cast<int32_t>(in.face_offset[mesh + 1] - view.first_face) : 0;
}

// A projected triangle: edge[i] = (a, b, c) of e_i = a x + b y + c, which is >= 0 inside; e_i / (e_0 + e_1 + e_2) is
// corner i's share, and sum(e_i * weight[i]) the inverse depth.
struct Triangle {
  float edge[3][3];
  float weight[3];
  float inverse_depth_min, inverse_depth_max;
  int x0, x1, y0, y1;  // samples that it may cover, both ends included
};

// Edge a -> b from its lexicographically smaller end, so that two triangles that share it get coefficients that differ
// in sign only: no sample between them is missed.
MD_HOST_DEVICE void edge_function(float ax, float ay, float bx, float by, float sign, float* edge) {
  const bool swap = ax > bx || (ax == bx && ay > by);
  const float x = swap ? bx : ax, y = swap ? by : ay;
  const float dx = swap ? ax - bx : bx - ax, dy = swap ? ay - by : by - ay;
  const float s = swap ? -sign : sign;
  edge[0] = s * -dy;
  edge[1] = s * dx;
  edge[2] = s * (dy * x - dx * y);
}

// Camera-space corners of a face, or false where it names a vertex that its mesh does not have.
MD_HOST_DEVICE bool load_corners(const Inputs& in, const View& view, int face, Vec3* corners) {
  const int32_t* indices = in.faces + 3 * (view.first_face + face);
  for (int k = 0; k < 3; ++k) {
    if (indices[k] < 0 || indices[k] >= view.vertex_count) return false;
    corners[k] = transform(view.object_to_camera, load3(in.vertices + 3 * (view.first_vertex + indices[k])));
  }
  return true;
}

// False for triangles that are not drawn: a corner in front of the near plane, no area, outside the picture, not finite.
MD_HOST_DEVICE bool set_up_triangle(const View& view, const Vec3* corners, int samples_x, int samples_y, int supersample, Triangle& out) {
  float x[3], y[3], inverse_depth[3];
  for (int k = 0; k < 3; ++k) {
    if (!(corners[k].z >= kNearPlane)) return false;
    inverse_depth[k] = 1.0f / corners[k].z;
    x[k] = (view.fx * corners[k].x * inverse_depth[k] + view.cx) * supersample;
    y[k] = (view.fy * corners[k].y * inverse_depth[k] + view.cy) * supersample;
    if (!(fabsf(x[k]) < kFarthestScreenCoordinate && fabsf(y[k]) < kFarthestScreenCoordinate)) return false;
  }
  const float area = (x[1] - x[0]) * (y[2] - y[0]) - (y[1] - y[0]) * (x[2] - x[0]);
  if (!(fabsf(area) > 1e-12f)) return false;
  const float x_min = fminf(x[0], fminf(x[1], x[2])), x_max = fmaxf(x[0], fmaxf(x[1], x[2]));
  const float y_min = fminf(y[0], fminf(y[1], y[2])), y_max = fmaxf(y[0], fmaxf(y[1], y[2]));
  out.x0 = static_cast<int>(ceilf(fmaxf(x_min - 0.5f, 0.0f)));
  out.x1 = static_cast<int>(floorf(fminf(x_max - 0.5f, samples_x - 1.0f)));
  out.y0 = static_cast<int>(ceilf(fmaxf(y_min - 0.5f, 0.0f)));
  out.y1 = static_cast<int>(floorf(fminf(y_max - 0.5f, samples_y - 1.0f)));
  if (out.x0 > out.x1 || out.y0 > out.y1) return false;
  const float sign = area > 0.0f ? 1.0f : -1.0f;
  edge_function(x[1], y[1], x[2], y[2], sign, out.edge[0]);
  edge_function(x[2], y[2], x[0], y[0], sign, out.edge[1]);
  edge_function(x[0], y[0], x[1], y[1], sign, out.edge[2]);
  const float scale = 1.0f / fabsf(area);
  for (int k = 0; k < 3; ++k) out.weight[k] = inverse_depth[k] * scale;
  out.inverse_depth_min = fminf(inverse_depth[0], fminf(inverse_depth[1], inverse_depth[2]));
  out.inverse_depth_max = fmaxf(inverse_depth[0], fmaxf(inverse_depth[1], inverse_depth[2]));
  return true;
}

MD_HOST_DEVICE float edge_value(const float* edge, float x, float y) { return edge[0] * x + (edge[1] * y + edge[2]); }

// Inverse depth at a sample; the clamp keeps slivers, whose area is mostly rounding, between their corners.
MD_HOST_DEVICE float inverse_depth_at(const Triangle& t, float e0, float e1, float e2) {
  const float value = e0 * t.weight[0] + e1 * t.weight[1] + e2 * t.weight[2];
  return fminf(fmaxf(value, t.inverse_depth_min), t.inverse_depth_max);
}

// What a face looks like before light: corner colours (sRGB, after the colour transform), corner normals in camera
// space, and the geometric normal turned to the viewer.
struct Surface {
  Vec3 color[3];
  Vec3 normal[3];
  Vec3 face_normal;
};

MD_HOST_DEVICE void load_surface(const Inputs& in, const View& view, int face, const Vec3* corners, Surface& out) {
  const uint8_t* colors = in.corner_colors + 9 * (view.first_face + face);
  const int8_t* normals = in.corner_normals + 9 * (view.first_face + face);
  for (int k = 0; k < 3; ++k) {
    const Vec3 color = {static_cast<float>(colors[3 * k]), static_cast<float>(colors[3 * k + 1]), static_cast<float>(colors[3 * k + 2])};
    out.color[k] = transform(view.color_transform, (1.0f / 255.0f) * color);
    const Vec3 normal = {static_cast<float>(normals[3 * k]), static_cast<float>(normals[3 * k + 1]),
                         static_cast<float>(normals[3 * k + 2])};
    out.normal[k] = rotate(view.normal_matrix, 3, (1.0f / 127.0f) * normal);
  }
  const Vec3 normal = cross(corners[1] - corners[0], corners[2] - corners[0]);
  out.face_normal = dot(normal, corners[0]) > 0.0f ? -1.0f * normal : normal;
}

// sRGB colour, each channel 0..1, of the surface at sample (x, y). `transfer` has to_linear and to_srgb for values 0..1.
template <typename Transfer>
MD_HOST_DEVICE Vec3 shade(const View& view, const Triangle& t, const Surface& surface, int light_count, int supersample, float x, float y,
                          const Transfer& transfer) {
  float b0 = fmaxf(edge_value(t.edge[0], x, y), 0.0f) * t.weight[0];
  float b1 = fmaxf(edge_value(t.edge[1], x, y), 0.0f) * t.weight[1];
  float b2 = fmaxf(edge_value(t.edge[2], x, y), 0.0f) * t.weight[2];
  const float total = b0 + b1 + b2;
  const float scale = total > 0.0f ? 1.0f / total : 0.0f;
  b0 = total > 0.0f ? b0 * scale : 1.0f;
  b1 *= scale;
  b2 *= scale;

  const Vec3 color = b0 * surface.color[0] + b1 * surface.color[1] + b2 * surface.color[2];
  const Vec3 albedo = {transfer.to_linear(clamp01(color.x)), transfer.to_linear(clamp01(color.y)), transfer.to_linear(clamp01(color.z))};

  Vec3 normal = b0 * surface.normal[0] + b1 * surface.normal[1] + b2 * surface.normal[2];
  normal = normalized(dot(normal, normal) > 1e-20f ? normal : surface.face_normal);
  normal = dot(normal, surface.face_normal) < 0.0f ? -1.0f * normal : normal;

  Vec3 received = view.ground + (0.5f + 0.5f * dot(normal, view.up)) * (view.sky - view.ground);
  Vec3 mirrored = {0.0f, 0.0f, 0.0f};
  const bool glossy = view.gloss_strength > 0.0f;
  Vec3 to_viewer = {0.0f, 0.0f, -1.0f};
  if (glossy) {
    const float per_sample = 1.0f / supersample;
    to_viewer = normalized({(view.cx - x * per_sample) / view.fx, (view.cy - y * per_sample) / view.fy, -1.0f});
  }
  for (int l = 0; l < light_count; ++l) {
    const float cosine = dot(normal, view.light_direction[l]);
    if (!(cosine > 0.0f)) continue;
    received = received + cosine * view.light_intensity[l];
    if (glossy) {
      const Vec3 half = normalized(view.light_direction[l] + to_viewer);
      const float shine = view.gloss_strength * powf(fmaxf(dot(normal, half), 1e-6f), view.gloss_exponent);
      mirrored = mirrored + shine * view.light_intensity[l];
    }
  }
  const Vec3 light = albedo * received + mirrored;
  return {transfer.to_srgb(clamp01(light.x)), transfer.to_srgb(clamp01(light.y)), transfer.to_srgb(clamp01(light.z))};
}

// Premultiplied rgba bytes of a pixel from the sum of its covered samples' colours and their count.
MD_HOST_DEVICE void write_pixel(uint8_t* rgba, int64_t plane, Vec3 sum, int covered, int supersample) {
  const float scale = 255.0f / (supersample * supersample);
  rgba[0] = static_cast<uint8_t>(sum.x * scale + 0.5f);
  rgba[plane] = static_cast<uint8_t>(sum.y * scale + 0.5f);
  rgba[2 * plane] = static_cast<uint8_t>(sum.z * scale + 0.5f);
  rgba[3 * plane] = static_cast<uint8_t>(covered * scale + 0.5f);
}

// Draw all views into out [views,4,height,width].
void render_cpu(const Inputs& in, uint8_t* out);

}  // namespace md::mesh_render
