// The mesh rasteriser on the CPU: pictures (and, where they are few, bands of rows) in parallel. Gradients are summed over
// a number of parts that does not depend on the number of threads, so results repeat exactly.
#include "lanes.h"  // before the maths, whose templates need the arithmetic of lanes

#include "mesh_raster.h"
#include "mesh_raster_tiles.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <vector>

namespace md::mesh_raster {
namespace {

// ---- Rasterising ----

struct Band {
  int first_row, last_row;  // last one past the end
  int stride;               // of the buffers' rows, which end in room for a whole step of lanes
  std::vector<float> depth;
  std::vector<int32_t> face;

  size_t offset(int row) const { return static_cast<size_t>(row - first_row) * stride; }
};

// 0.5, 1.5, ...: the centres of the pixels of a step, from its first one.
Lanes half_steps() {
  float steps[kLanes];
  for (int i = 0; i < kLanes; ++i) steps[i] = static_cast<float>(i) + 0.5f;
  return load_lanes(steps);
}

// Nearer wins; at equal depth the lower face number does, since faces come in order.
void fill(const Corner* corners, const Box& box, int32_t face, float scale_x, float scale_y, Band& band) {
  const Lanes steps = half_steps();
  for (int y = box.y0; y <= box.y1; ++y) {
    const float center_y = center(y, scale_y);
    float* depths = band.depth.data() + band.offset(y);
    int32_t* faces = band.face.data() + band.offset(y);
    for (int x = box.x0; x <= box.x1; x += kLanes) {
      const Lanes center_x = fused(steps + static_cast<float>(x), lanes(scale_x), lanes(-1.0f));
      const Relative<Lanes> r = relative<Lanes>(corners, center_x, lanes(center_y));
      Lanes e[3];
      edge_functions(r, e);
      const uint32_t positive = bits((e[0] > 0.0f) & (e[1] > 0.0f) & (e[2] > 0.0f)),
                     negative = bits((e[0] < 0.0f) & (e[1] < 0.0f) & (e[2] < 0.0f));
      const uint32_t on_edge =
          bits(((e[0] <= 0.0f) & (e[0] >= 0.0f)) | ((e[1] <= 0.0f) & (e[1] >= 0.0f)) | ((e[2] <= 0.0f) & (e[2] >= 0.0f)));
      uint32_t candidates = positive | negative | on_edge;
      if (candidates == 0) continue;
      const Lanes w = e[0] * corners[0].w + e[1] * corners[1].w + e[2] * corners[2].w;
      const Lanes z = (e[0] * corners[0].z + e[1] * corners[1].z + e[2] * corners[2].z) / w;
      const Lanes before = load_lanes(depths + x);
      candidates &= bits((z >= -1.0f) & (z <= 1.0f) & (z < before) & (w * (e[0] + e[1] + e[2]) > 0.0f));
      for (; candidates != 0; candidates &= candidates - 1) {
        const int lane = std::countr_zero(candidates);
        float ignored;
        if ((on_edge >> lane & 1) && !covers(corners, center_x[lane], center_y, ignored)) continue;
        depths[x + lane] = z[lane];
        faces[x + lane] = face;
      }
    }
  }
}

// Of a large box, the blocks that the face may reach. Their steps of lanes are those of the whole box.
void fill_blocks(const Corner* corners, const Box& box, int32_t face, float scale_x, float scale_y, Band& band) {
  constexpr int kBlockX = 4 * kLanes, kBlockY = 8;
  if (box.x1 - box.x0 < 2 * kBlockX || box.y1 - box.y0 < 2 * kBlockY) {
    fill(corners, box, face, scale_x, scale_y, band);
    return;
  }
  const TileTest test(corners, scale_x, scale_y, kBlockX, kBlockY);
  for (int y = box.y0; y <= box.y1; y += kBlockY) {
    for (int x = box.x0; x <= box.x1; x += kBlockX) {
      if (test.outside(corners, x, y)) continue;
      const Box block = {x, std::min(x + kBlockX - 1, box.x1), y, std::min(y + kBlockY - 1, box.y1)};
      fill(corners, block, face, scale_x, scale_y, band);
    }
  }
}

// x/w and y/w of every vertex in front of the eye; NaN for the others and for those that are not finite.
std::vector<float> project(const Picture& in) {
  std::vector<float> screen(static_cast<size_t>(2 * position_sets(in) * in.vertices));
  at::parallel_for(0, position_sets(in) * in.vertices, 1 << 13, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* p = in.pos + 4 * i;
      const float inverse = p[3] > 0.0f ? 1.0f / p[3] : std::numeric_limits<float>::quiet_NaN();
      const float nothing = 0.0f * (p[0] + p[1] + p[2] + p[3]);  // or NaN
      screen[2 * i] = p[0] * inverse + nothing;
      screen[2 * i + 1] = p[1] * inverse + nothing;
    }
  });
  return screen;
}

// `bounding_box` of a face; the divisions are those of its vertices where all three are in front of the eye.
bool box_of(const Picture& in, const float* screen, int64_t face, const Corner* corners, Box& box) {
  const int32_t* indices = in.tri + 3 * face;
  const float *a = screen + 2 * static_cast<int64_t>(indices[0]), *b = screen + 2 * static_cast<int64_t>(indices[1]);
  const float* c = screen + 2 * static_cast<int64_t>(indices[2]);
  if (std::isnan(a[0] + b[0] + c[0] + a[1] + b[1] + c[1])) return bounding_box(corners, in.width, in.height, box);
  return pixels_between(std::min(a[0], std::min(b[0], c[0])), std::max(a[0], std::max(b[0], c[0])), in.width, box.x0, box.x1) &&
         pixels_between(std::min(a[1], std::min(b[1], c[1])), std::max(a[1], std::max(b[1], c[1])), in.height, box.y0, box.y1);
}

void find_faces(const Picture& in, const float* screen, int64_t picture, Band& band) {
  const float scale_x = 2.0f / static_cast<float>(in.width), scale_y = 2.0f / static_cast<float>(in.height);
  band.depth.assign(band.offset(band.last_row), std::numeric_limits<float>::infinity());
  band.face.assign(band.depth.size(), -1);
  const int64_t first = in.ranges ? in.ranges[2 * picture] : 0, count = in.ranges ? in.ranges[2 * picture + 1] : in.faces;
  Corner corners[3] = {};
  Box box;
  for (int64_t face = first; face < first + count; ++face) {
    if (!load_corners(in, picture, face, corners) || !box_of(in, screen + 2 * vertices_before(in, picture), face, corners, box)) continue;
    box.y0 = std::max(box.y0, band.first_row);
    box.y1 = std::min(box.y1, band.last_row - 1);
    fill_blocks(corners, box, static_cast<int32_t>(face), scale_x, scale_y, band);
  }
}

// Several pixels at once, each with the corners of the face that it shows; empty ones get a harmless triangle and are then cleared.
void write_samples(const Picture& in, int64_t picture, const Band& band, float* rast, float* rast_db) {
  constexpr int kFloats = 12;  // of a face's corners
  constexpr float kHarmless[kFloats] = {0, 0, 0, 1, 1, 0, 0, 1, 0, 1, 0, 1};
  const float scale_x = 2.0f / static_cast<float>(in.width), scale_y = 2.0f / static_cast<float>(in.height);
  const float* pos = in.pos + 4 * vertices_before(in, picture);
  const Lanes steps = half_steps();
  float gathered[kFloats][kLanes], results[7][kLanes];
  for (int y = band.first_row; y < band.last_row; ++y) {
    const Lanes center_y = lanes(center(y, scale_y));
    const int32_t* faces = band.face.data() + band.offset(y);
    float* row = rast + 4 * (picture * in.height + y) * in.width;
    float* row_db = rast_db + 4 * (picture * in.height + y) * in.width;
    for (int x = 0; x < in.width; x += kLanes) {
      const int count = std::min(kLanes, in.width - x);
      bool any_face = false;
      for (int lane = 0; lane < count; ++lane) any_face |= faces[x + lane] >= 0;
      if (!any_face) {
        std::fill_n(row + 4 * x, 4 * count, 0.0f);
        std::fill_n(row_db + 4 * x, 4 * count, 0.0f);
        continue;
      }
      for (int lane = 0; lane < kLanes; ++lane) {
        const int32_t face = lane < count ? faces[x + lane] : -1;
        for (int k = 0; k < 3; ++k) {
          const float* corner = face < 0 ? kHarmless + 4 * k : pos + 4 * static_cast<int64_t>(in.tri[3 * static_cast<int64_t>(face) + k]);
          for (int i = 0; i < 4; ++i) gathered[4 * k + i][lane] = corner[i];
        }
      }
      CornerOf<Lanes> corners[3];
      for (int k = 0; k < 3; ++k) {
        const auto* g = gathered + 4 * k;
        corners[k] = {load_lanes(g[0]), load_lanes(g[1]), load_lanes(g[2]), load_lanes(g[3])};
      }
      const SampleOf<Lanes> s =
          sample_face<Lanes>(corners, fused(steps + static_cast<float>(x), lanes(scale_x), lanes(-1.0f)), center_y, scale_x, scale_y);
      store_lanes(results[0], s.u);
      store_lanes(results[1], s.v);
      store_lanes(results[2], s.depth);
      for (int i = 0; i < 4; ++i) store_lanes(results[3 + i], s.db[i]);
      for (int lane = 0; lane < count; ++lane) {
        const bool covered = faces[x + lane] >= 0;
        float* to = row + 4 * (x + lane);
        float* to_db = row_db + 4 * (x + lane);
        for (int i = 0; i < 3; ++i) to[i] = covered ? results[i][lane] : 0.0f;
        to[3] = static_cast<float>(faces[x + lane] + 1);
        for (int i = 0; i < 4; ++i) to_db[i] = covered ? results[3 + i][lane] : 0.0f;
      }
    }
  }
}

void mark_silhouettes(const Picture& in, const int32_t* opposite, uint8_t* edges) {
  at::parallel_for(0, position_sets(in) * in.faces, 1 << 12, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) edges[i] = silhouette_edges(in, opposite, i / in.faces, i % in.faces);
  });
}

// ---- Sums over pixels ----

constexpr int64_t kParts = 8;  // at least as many partial sums, where the pictures of one slice allow

// Sums into `total` [slices, size] what `add(first_row, last_row, sum)` adds for the rows of all pictures, counted through.
// The rows of a slice stand together. Each slice is cut into parts with a sum each, which are then added in order.
template <class Add>
void sum_over_rows(int64_t slices, int64_t rows, int64_t size, float* total, const Add& add) {
  if (slices == 0) return;
  const int64_t rows_of_slice = rows / slices;
  const int64_t parts = std::clamp<int64_t>(std::min(kParts / slices, rows_of_slice), 1, kParts);
  std::vector<float> partial(static_cast<size_t>(slices * (parts - 1) * size));
  const auto sum_of = [&](int64_t slice, int64_t part) {
    return part == 0 ? total + slice * size : partial.data() + (slice * (parts - 1) + part - 1) * size;
  };
  at::parallel_for(0, slices * parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t slice = task / parts, part = task % parts;
      float* sum = sum_of(slice, part);
      if (part == 0) std::fill_n(sum, size, 0.0f);
      add(slice * rows_of_slice + part * rows_of_slice / parts, slice * rows_of_slice + (part + 1) * rows_of_slice / parts, sum);
    }
  });
  if (parts == 1) return;
  at::parallel_for(0, slices * size, 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t part = 1; part < parts; ++part) total[i] += sum_of(i / size, part)[i % size];
    }
  });
}

}  // namespace

void rasterize_cpu(const Picture& in, float* rast, float* rast_db) {
  if (in.pictures == 0) return;
  const std::vector<float> screen = project(in);
  const int64_t threads = at::get_num_threads();
  const int64_t bands = in.pictures >= threads ? 1 : std::min<int64_t>(in.height, (2 * threads + in.pictures - 1) / in.pictures);
  at::parallel_for(0, in.pictures * bands, 1, [&](int64_t begin, int64_t end) {
    Band band;
    band.stride = in.width + kLanes;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t picture = task / bands, part = task % bands;
      band.first_row = static_cast<int>(part * in.height / bands);
      band.last_row = static_cast<int>((part + 1) * in.height / bands);
      find_faces(in, screen.data(), picture, band);
      write_samples(in, picture, band, rast, rast_db);
    }
  });
}

void rasterize_backward_cpu(const Picture& in, const float* rast, const float* v_rast, const float* v_rast_db, float* v_pos) {
  const float scale_x = 2.0f / static_cast<float>(in.width), scale_y = 2.0f / static_cast<float>(in.height);
  const auto add = [&](int64_t first_row, int64_t last_row, float* sum) {
    Corner corners[3] = {};
    float v_corners[9];
    int64_t current = -1;
    const auto flush = [&] {
      for (int k = 0; current >= 0 && k < 3; ++k) {
        float* v = sum + 4 * static_cast<int64_t>(in.tri[3 * current + k]);
        v[0] += v_corners[3 * k];
        v[1] += v_corners[3 * k + 1];
        v[3] += v_corners[3 * k + 2];
      }
      std::fill_n(v_corners, 9, 0.0f);
    };
    for (int64_t row = first_row; row < last_row; ++row) {
      const int64_t picture = row / in.height;
      const float center_y = center(static_cast<int>(row % in.height), scale_y);
      for (int x = 0; x < in.width; ++x) {
        const int64_t place = 4 * (row * in.width + x);
        const int64_t face = face_at(rast + place, in.faces);
        if (face < 0) continue;
        if (face != current) {
          flush();
          current = face;
        }
        if (!load_corners(in, picture, face, corners)) {
          current = -1;
          continue;
        }
        sample_face_backward(corners, center(x, scale_x), center_y, scale_x, scale_y, v_rast ? v_rast + place : nullptr,
                             v_rast_db ? v_rast_db + place : nullptr, v_corners);
      }
    }
    flush();
  };
  sum_over_rows(position_sets(in), in.pictures * in.height, 4 * in.vertices, v_pos, add);
}

void interpolate_cpu(const Attributes& in, float* out, float* out_da) {
  const int64_t channels = in.channels, picture_pixels = static_cast<int64_t>(in.height) * in.width;
  at::parallel_for(0, in.pictures * picture_pixels, 1 << 13, [&](int64_t begin, int64_t end) {
    for (int64_t pixel = begin; pixel < end; ++pixel) {
      const float* rast = in.rast + 4 * pixel;
      const float* corner[3];
      const float* db = out_da ? in.rast_db + 4 * pixel : nullptr;
      float* to = out + channels * pixel;
      float* to_da = out_da ? out_da + 2 * channels * pixel : nullptr;
      if (!corner_attributes(in, pixel / picture_pixels, face_at(rast, in.faces), corner)) {
        std::fill_n(to, channels, 0.0f);
        if (to_da) std::fill_n(to_da, 2 * channels, 0.0f);
        continue;
      }
      const float u = rast[0], v = rast[1], rest = 1.0f - u - v;
      for (int64_t c = 0; c < channels; ++c) {
        to[c] = u * corner[0][c] + v * corner[1][c] + rest * corner[2][c];
        if (!to_da) continue;
        const float along_u = corner[0][c] - corner[2][c], along_v = corner[1][c] - corner[2][c];
        to_da[2 * c] = db[0] * along_u + db[2] * along_v;
        to_da[2 * c + 1] = db[1] * along_u + db[3] * along_v;
      }
    }
  });
}

void interpolate_backward_cpu(const Attributes& in, const AttributeGradients& v) {
  const int64_t channels = in.channels, picture_pixels = static_cast<int64_t>(in.height) * in.width;
  const auto add = [&](int64_t first, int64_t last, float* sum) {
    for (int64_t pixel = first; pixel < last; ++pixel) {
      const float* rast = in.rast + 4 * pixel;
      float* v_rast = v.v_rast + 4 * pixel;
      float* v_db = v.v_rast_db ? v.v_rast_db + 4 * pixel : nullptr;
      std::fill_n(v_rast, 4, 0.0f);
      if (v_db) std::fill_n(v_db, 4, 0.0f);
      const float* corner[3];
      const int64_t face = face_at(rast, in.faces), picture = pixel / picture_pixels;
      if (!corner_attributes(in, picture, face, corner)) continue;
      float* v_corner[3];
      for (int k = 0; k < 3; ++k) v_corner[k] = sum + channels * static_cast<int64_t>(in.tri[3 * face + k]);
      const float* db = v_db ? in.rast_db + 4 * pixel : nullptr;
      for (int64_t c = 0; c < channels; ++c) {
        const float along_u = corner[0][c] - corner[2][c], along_v = corner[1][c] - corner[2][c];
        const float g = v.v_out ? v.v_out[channels * pixel + c] : 0.0f;
        float v0 = g * rast[0], v1 = g * rast[1], v2 = g * (1.0f - rast[0] - rast[1]);
        v_rast[0] += g * along_u;
        v_rast[1] += g * along_v;
        if (v_db && v.v_out_da) {
          const float gx = v.v_out_da[2 * (channels * pixel + c)], gy = v.v_out_da[2 * (channels * pixel + c) + 1];
          v_db[0] += gx * along_u;
          v_db[1] += gy * along_u;
          v_db[2] += gx * along_v;
          v_db[3] += gy * along_v;
          const float du = gx * db[0] + gy * db[1], dv = gx * db[2] + gy * db[3];
          v0 += du;
          v1 += dv;
          v2 -= du + dv;
        }
        v_corner[0][c] += v0;
        v_corner[1][c] += v1;
        v_corner[2][c] += v2;
      }
    }
  };
  sum_over_rows(in.sets, in.pictures * picture_pixels, in.vertices * channels, v.v_attr, add);
}

void antialias_cpu(const Picture& in, const Blending& blending, float* out, uint8_t* edges) {
  mark_silhouettes(in, blending.opposite, edges);
  const int64_t channels = blending.channels;
  at::parallel_for(0, in.pictures * in.height, 16, [&](int64_t first_row, int64_t last_row) {
    std::copy(blending.color + first_row * in.width * channels, blending.color + last_row * in.width * channels,
              out + first_row * in.width * channels);
    Pair pair;
    for (int64_t row = first_row; row < last_row; ++row) {
      for (int x = 0; x < in.width; ++x) {
        const int64_t pixel = row * in.width + x;
        for (int number = 0; number < 4; ++number) {
          if (!find_pair(in, blending, row / in.height, x, static_cast<int>(row % in.height), number, pair)) continue;
          const float share = share_in(pair);
          const float* own = blending.color + channels * pixel;
          const float* other = blending.color + channels * pair.other;
          for (int64_t c = 0; c < channels; ++c) out[channels * pixel + c] += share * (other[c] - own[c]);
        }
      }
    }
  });
}

void antialias_backward_cpu(const Picture& in, const Blending& blending, const BlendingGradients& v, uint8_t* edges) {
  mark_silhouettes(in, blending.opposite, edges);
  const int64_t channels = blending.channels;
  const auto add = [&](int64_t first_row, int64_t last_row, float* sum) {
    std::copy(v.v_out + first_row * in.width * channels, v.v_out + last_row * in.width * channels,
              v.v_color + first_row * in.width * channels);
    Pair pair;
    float v_ends[2][3];
    for (int64_t row = first_row; row < last_row; ++row) {
      for (int x = 0; x < in.width; ++x) {
        const int64_t pixel = row * in.width + x;
        for (int number = 0; number < 4; ++number) {
          if (!find_pair(in, blending, row / in.height, x, static_cast<int>(row % in.height), number, pair)) continue;
          const float in_share = share_in(pair), out_share = share_out(pair);
          const float* v_own = v.v_out + channels * pixel;
          const float* v_other = v.v_out + channels * pair.other;
          for (int64_t c = 0; c < channels; ++c) v.v_color[channels * pixel + c] += out_share * v_other[c] - in_share * v_own[c];
          if (!pair.other_is_far || !pair.crossing.moves) continue;  // each pair once, with its nearer pixel
          const float* v_blended = pair.crossing.weight > 0.0f ? v_other : v_own;
          float v_weight = 0.0f;
          for (int64_t c = 0; c < channels; ++c)
            v_weight += v_blended[c] * (blending.color[channels * pixel + c] - blending.color[channels * pair.other + c]);
          crossing_backward(pair.crossing, v_weight, v_ends);
          const bool column = number >= 2;
          for (int end = 0; end < 2; ++end) {
            float* v_corner = sum + 4 * static_cast<int64_t>(pair.crossing.ends[end]);
            v_corner[column ? 1 : 0] += v_ends[end][0];
            v_corner[column ? 0 : 1] += v_ends[end][1];
            v_corner[3] += v_ends[end][2];
          }
        }
      }
    }
  };
  sum_over_rows(position_sets(in), in.pictures * in.height, 4 * in.vertices, v.v_pos, add);
}

}  // namespace md::mesh_raster
