// The data renderer on the CPU: views (and, where they are few, bands of rows of a view) in parallel; within a band, every
// triangle fills a buffer of inverse depths and face numbers, then each sample that shows a face is shaded.
#include "mesh_render_math.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <vector>

namespace md::mesh_render {
namespace {

// sRGB transfer curves by linear interpolation in tables; both are within 1e-5 of the exact formulas.
class TableTransfer {
 public:
  TableTransfer() {
    for (int i = 0; i <= kSize; ++i) {
      const double v = static_cast<double>(i) / kSize;
      linear_[i] = static_cast<float>(v <= 0.04045 ? v / 12.92 : std::pow((v + 0.055) / 1.055, 2.4));
      const double square = v * v;  // indexed by the square root, which straightens the curve near black
      srgb_[i] = static_cast<float>(square <= 0.0031308 ? 12.92 * square : 1.055 * std::pow(square, 1 / 2.4) - 0.055);
    }
    linear_[kSize + 1] = linear_[kSize];
    srgb_[kSize + 1] = srgb_[kSize];
  }
  float to_linear(float v) const { return look_up(linear_, v); }
  float to_srgb(float v) const { return look_up(srgb_, sqrtf(v)); }

 private:
  static constexpr int kSize = 1024;
  using Table = std::array<float, kSize + 2>;
  static float look_up(const Table& table, float v) {
    const float position = v * kSize;
    const int i = static_cast<int>(position);
    return table[i] + (position - i) * (table[i + 1] - table[i]);
  }
  Table linear_, srgb_;
};

struct Band {
  int first_row, last_row;  // pixels, last one past the end
  std::vector<float> inverse_depth;
  std::vector<int32_t> face;
};

// Nearer wins; at equal depth the lower face number does, since faces come in order.
void fill_row(const Triangle& t, int y, int x0, int x1, int32_t face, float* __restrict inverse_depth, int32_t* __restrict nearest) {
  const float row = static_cast<float>(y) + 0.5f;
  const float c0 = t.edge[0][1] * row + t.edge[0][2], c1 = t.edge[1][1] * row + t.edge[1][2], c2 = t.edge[2][1] * row + t.edge[2][2];
  const float a0 = t.edge[0][0], a1 = t.edge[1][0], a2 = t.edge[2][0];
  for (int x = x0; x <= x1; ++x) {
    const float column = static_cast<float>(x) + 0.5f;
    const float e0 = a0 * column + c0, e1 = a1 * column + c1, e2 = a2 * column + c2;
    const float value = e0 * t.weight[0] + e1 * t.weight[1] + e2 * t.weight[2];
    const float low = value < t.inverse_depth_min ? t.inverse_depth_min : value;
    const float depth = low > t.inverse_depth_max ? t.inverse_depth_max : low;
    const bool wins = (e0 >= 0.0f) & (e1 >= 0.0f) & (e2 >= 0.0f) & (depth > inverse_depth[x]);
    inverse_depth[x] = wins ? depth : inverse_depth[x];
    nearest[x] = wins ? face : nearest[x];
  }
}

void rasterize_band(const Inputs& in, const View& view, Band& band) {
  const int samples_x = in.width * in.supersample, samples_y = in.height * in.supersample;
  const int first = band.first_row * in.supersample, last = band.last_row * in.supersample;
  band.inverse_depth.assign(static_cast<size_t>(last - first) * samples_x, 0.0f);
  band.face.assign(band.inverse_depth.size(), -1);
  Vec3 corners[3];
  Triangle triangle;
  for (int32_t face = 0; face < view.face_count; ++face) {
    TORCH_CHECK_VALUE(load_corners(in, view, face, corners), "faces: face ", face, " of the mesh names a vertex outside 0..",
                      view.vertex_count - 1);
    if (!set_up_triangle(view, corners, samples_x, samples_y, in.supersample, triangle)) continue;
    const int y1 = std::min(triangle.y1, last - 1);
    for (int y = std::max(triangle.y0, first); y <= y1; ++y) {
      const size_t offset = static_cast<size_t>(y - first) * samples_x;
      fill_row(triangle, y, triangle.x0, triangle.x1, face, band.inverse_depth.data() + offset, band.face.data() + offset);
    }
  }
}

void shade_band(const Inputs& in, const View& view, const Band& band, uint8_t* rgba) {
  static const TableTransfer transfer;
  const int s = in.supersample, samples_x = in.width * s, samples_y = in.height * s;
  const int64_t plane = static_cast<int64_t>(in.width) * in.height;
  int32_t current = -1;
  Vec3 corners[3];
  Triangle triangle;
  Surface surface;
  for (int y = band.first_row; y < band.last_row; ++y) {
    for (int x = 0; x < in.width; ++x) {
      Vec3 sum = {0.0f, 0.0f, 0.0f};
      int covered = 0;
      for (int k = 0; k < s * s; ++k) {
        const int sample_x = x * s + k % s, sample_y = y * s + k / s;
        const int32_t face = band.face[static_cast<size_t>(sample_y - band.first_row * s) * samples_x + sample_x];
        if (face < 0) continue;
        if (face != current) {
          load_corners(in, view, face, corners);
          set_up_triangle(view, corners, samples_x, samples_y, s, triangle);
          load_surface(in, view, face, corners, surface);
          current = face;
        }
        sum = sum + shade(view, triangle, surface, in.light_count, s, sample_x + 0.5f, sample_y + 0.5f, transfer);
        ++covered;
      }
      write_pixel(rgba + static_cast<int64_t>(y) * in.width + x, plane, sum, covered, s);
    }
  }
}

}  // namespace

void render_cpu(const Inputs& in, uint8_t* out) {
  if (in.views == 0) return;
  const int64_t threads = at::get_num_threads();
  const int64_t bands = in.views >= threads ? 1 : std::min<int64_t>(in.height, (2 * threads + in.views - 1) / in.views);
  const int64_t picture = 4 * static_cast<int64_t>(in.width) * in.height;
  at::parallel_for(0, in.views * bands, 1, [&](int64_t begin, int64_t end) {
    Band band;
    View view;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t index = task / bands, part = task % bands;
      make_view(in, index, view);
      band.first_row = static_cast<int>(part * in.height / bands);
      band.last_row = static_cast<int>((part + 1) * in.height / bands);
      rasterize_band(in, view, band);
      shade_band(in, view, band, out + index * picture);
    }
  });
}

}  // namespace md::mesh_render
