// Texture look-up on the CPU. Forward: parallel over pixels. Backward: gradients of uv in parallel over pixels; those of the texels in
// parallel over bands of the texture, each adding what falls into it in the order of the pixels, so that the result is the same bits
// for any number of threads.
#include "texture.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include <ATen/Parallel.h>

namespace md::texture {
namespace {

constexpr int64_t kPixelsPerTask = 4096;
constexpr int64_t kTexelsPerTask = 16384;

// ---- Pyramids ----

// Level `level` of one texture from the level before.
void build_level(float* texels, const Pyramid& p, int level) {
  const int width = level_side(p.width, level), height = level_side(p.height, level), floats = p.floats;
  const int finer_width = level_side(p.width, level - 1), finer_height = level_side(p.height, level - 1);
  const float* from = texels + int64_t{p.first[level - 1]} * floats;
  float* to = texels + int64_t{p.first[level]} * floats;
  const auto rows = [&](int64_t begin, int64_t end) {
    std::vector<float> sums(static_cast<size_t>(finer_width) * floats);
    for (int64_t y = begin; y < end; ++y) {
      const Box down = box_of(static_cast<int>(y), finer_height);
      const int64_t row = int64_t{finer_width} * floats;
      std::fill(sums.begin(), sums.end(), 0.f);
      for (int k = 0; k < down.count; ++k) {
        const float* line = from + (down.first + k) * row;
        for (int64_t i = 0; i < row; ++i) sums[i] += down.weight[k] * line[i];
      }
      float* out = to + y * width * floats;
      for (int x = 0; x < width; ++x) {
        const Box across = box_of(x, finer_width);
        const float* in = sums.data() + int64_t{across.first} * floats;
        for (int c = 0; c < floats; ++c) {
          float sum = 0.f;
          for (int k = 0; k < across.count; ++k) sum += across.weight[k] * in[k * floats + c];
          out[int64_t{x} * floats + c] = sum;
        }
      }
    }
  };
  at::parallel_for(0, height, std::max<int64_t>(1, kTexelsPerTask / width), rows);
}

// Adds the gradients of level `level` + 1 to those of `level`.
void add_coarser(float* v_texels, const Pyramid& p, int level) {
  const int width = level_side(p.width, level), height = level_side(p.height, level), floats = p.floats;
  const int coarser_width = level_side(p.width, level + 1);
  float* to = v_texels + int64_t{p.first[level]} * floats;
  const float* from = v_texels + int64_t{p.first[level + 1]} * floats;
  at::parallel_for(0, height, std::max<int64_t>(1, kTexelsPerTask / width), [&](int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) {
      const Shares down = shares_of(static_cast<int>(y), height);
      for (int x = 0; x < width; ++x) {
        const Shares across = shares_of(x, width);
        float* texel = to + (y * width + x) * floats;
        for (int j = 0; j < down.count; ++j) {
          for (int i = 0; i < across.count; ++i) {
            const float weight = down.weight[j] * across.weight[i];
            const float* coarser = from + (int64_t{down.first + j} * coarser_width + across.first + i) * floats;
            for (int c = 0; c < floats; ++c) texel[c] += weight * coarser[c];
          }
        }
      }
    }
  });
}

// ---- Pixels ----

template <int kVec>
struct Vec {
  float v[kVec];
};

template <int kVec>
inline Vec<kVec> load(const float* from) {
  Vec<kVec> r;
  std::memcpy(r.v, from, sizeof r.v);
  return r;
}

template <int kVec>
inline void add(Vec<kVec>& sum, float weight, const Vec<kVec>& value) {
  for (int c = 0; c < kVec; ++c) sum.v[c] += weight * value.v[c];
}

template <int kVec>
inline float dot(const Vec<kVec>& a, const Vec<kVec>& b) {
  float sum = 0.f;
  for (int c = 0; c < kVec; ++c) sum += a.v[c] * b.v[c];
  return sum;
}

// Up to kVec channels; the rest is 0.
template <int kVec>
inline Vec<kVec> load_some(const float* from, int channels) {
  Vec<kVec> r{};
  for (int c = 0; c < std::min(kVec, channels); ++c) r.v[c] = from[c];
  return r;
}

template <int kVec>
inline void store_some(float* to, const Vec<kVec>& value, int channels) {
  for (int c = 0; c < std::min(kVec, channels); ++c) to[c] = value.v[c];
}

int64_t pixels_of(const Inputs& in) { return int64_t{in.pictures} * in.height * in.width; }

// Where the texture of a pixel begins, in floats.
int64_t texture_of(const Inputs& in, int64_t pixel) { return in.textures == 1 ? 0 : pixel / (int64_t{in.height} * in.width) * in.stride; }

template <int kVec>
void sample_pixels(const Inputs& in, float* out, int64_t begin, int64_t end) {
  const int floats = in.pyramid.floats;
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    float* color = out + pixel * in.channels;
    const float* texels = in.texels + texture_of(in, pixel);
    if (in.filter == Filter::kNearest) {
      Coordinates at{};
      const bool shown = seen(in, pixel, at);
      const float* texel = texels + (shown ? int64_t{nearest_texel(in.pyramid, at, in.wrap)} * floats : 0);
      for (int c = 0; c < in.channels; ++c) color[c] = shown ? texel[c] : 0.f;
      continue;
    }
    Look look;
    look_at(in, pixel, look);
    float weights[2][4];
    for (int k = 0; k < look.quads; ++k) {
      quad_weights(look.quad[k], weights[k]);
      for (float& weight : weights[k]) weight *= look.share[k];
    }
    for (int c = 0; c < in.channels; c += kVec) {
      Vec<kVec> sum{};
      for (int k = 0; k < look.quads; ++k) {
        for (int i = 0; i < 4; ++i) add(sum, weights[k][i], load<kVec>(texels + int64_t{look.quad[k].texel[i]} * floats + c));
      }
      store_some(color + c, sum, in.channels - c);
    }
  }
}

// Bands of a texture: each owns its share of the texels of every level.
struct Bands {
  static constexpr int kMost = 64;  // so that a set of them is the bits of a word
  const Pyramid& p;
  int count;

  int begin(int band, int level) const {
    return p.first[level] + static_cast<int>(int64_t{p.first[level + 1] - p.first[level]} * band / count);
  }
  int of(int texel, int level) const {
    const int64_t size = p.first[level + 1] - p.first[level];
    return static_cast<int>(((int64_t{texel - p.first[level]} + 1) * count - 1) / size);
  }
};

// For each band, the pixels of one task that reach into it.
using Bins = std::vector<std::vector<int32_t>>;

template <int kVec>
inline void scatter(const Inputs& in, const Quad& q, float share, const float* v_color, float* v_texels, const int owned[2]) {
  float weights[4];
  quad_weights(q, weights);
  for (int c = 0; c < in.channels; c += kVec) {
    const Vec<kVec> v = load_some<kVec>(v_color + c, in.channels - c);
    for (int i = 0; i < 4; ++i) {
      if (q.texel[i] < owned[0] || q.texel[i] >= owned[1]) continue;
      float* texel = v_texels + int64_t{q.texel[i]} * in.pyramid.floats + c;
      Vec<kVec> sum = load<kVec>(texel);
      add(sum, share * weights[i], v);
      std::memcpy(texel, sum.v, sizeof sum.v);
    }
  }
}

void scatter_nearest(const Inputs& in, int64_t texel, const float* v_color, float* v_texels) {
  for (int c = 0; c < in.channels; ++c) v_texels[texel * in.pyramid.floats + c] += v_color[c];
}

// Texels that a look may add to when there are no bands: all.
constexpr int kAll[2] = {0, std::numeric_limits<int>::max()};

// Gradients of uv; and those of the texels at once, or with `bands` the pixels sorted into `bins` for later.
template <int kVec>
void pixel_gradients(const Inputs& in, const float* v_out, const Gradients& out, int64_t begin, int64_t end, const Bands* bands,
                     Bins* bins) {
  const int floats = in.pyramid.floats;
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    const float* v_color = v_out + pixel * in.channels;
    Coordinates v_uv{};
    Derivatives v_da{};
    // Empty pixels of a picture have a zero gradient: nothing more need be read.
    if (std::any_of(v_color, v_color + in.channels, [](float v) { return v != 0.f; })) {
      const int64_t base = texture_of(in, pixel);
      uint64_t touched = 0;
      if (in.filter == Filter::kNearest) {
        Coordinates at{};
        if (out.texels && seen(in, pixel, at)) {
          const int texel = nearest_texel(in.pyramid, at, in.wrap);
          if (bands) {
            touched = uint64_t{1} << bands->of(texel, 0);
          } else {
            scatter_nearest(in, texel, v_color, out.texels + base);
          }
        }
      } else {
        Look look;
        look_at(in, pixel, look);
        if (out.uv || out.uv_da) {
          float dots[2][4] = {};
          for (int c = 0; c < in.channels; c += kVec) {
            const Vec<kVec> v = load_some<kVec>(v_color + c, in.channels - c);
            for (int k = 0; k < look.quads; ++k) {
              for (int i = 0; i < 4; ++i) dots[k][i] += dot(v, load<kVec>(in.texels + base + int64_t{look.quad[k].texel[i]} * floats + c));
            }
          }
          look_backward(in, pixel, look, dots, v_uv, v_da);
        }
        for (int k = 0; out.texels && k < look.quads; ++k) {
          const Quad& q = look.quad[k];
          if (bands) {
            for (const int texel : q.texel) touched |= uint64_t{1} << bands->of(texel, q.level);
          } else {
            scatter<kVec>(in, q, look.share[k], v_color, out.texels + base, kAll);
          }
        }
      }
      for (; touched != 0; touched &= touched - 1) (*bins)[std::countr_zero(touched)].push_back(static_cast<int32_t>(pixel));
    }
    if (out.uv) out.uv[pixel] = v_uv;
    if (out.uv_da) out.uv_da[pixel] = v_da;
  }
}

// Adds to the texels of one band what the pixels of `bins` give them.
template <int kVec>
void band_gradients(const Inputs& in, const float* v_out, float* v_texels, const Bands& bands, int band,
                    const std::vector<int32_t>& pixels) {
  int owned[kMaxLevels][2];
  for (int level = 0; level < in.pyramid.levels; ++level) {
    owned[level][0] = bands.begin(band, level);
    owned[level][1] = bands.begin(band + 1, level);
  }
  for (const int64_t pixel : pixels) {
    const float* v_color = v_out + pixel * in.channels;
    float* base = v_texels + texture_of(in, pixel);
    if (in.filter == Filter::kNearest) {
      Coordinates at{};
      seen(in, pixel, at);
      scatter_nearest(in, nearest_texel(in.pyramid, at, in.wrap), v_color, base);
      continue;
    }
    Look look;
    look_at(in, pixel, look);
    for (int k = 0; k < look.quads; ++k) scatter<kVec>(in, look.quad[k], look.share[k], v_color, base, owned[look.quad[k].level]);
  }
}

template <int kVec>
void backward(const Inputs& in, const float* v_out, const Gradients& out) {
  const int64_t pixels = pixels_of(in);
  const int threads = at::in_parallel_region() ? 1 : at::get_num_threads();
  if (!out.texels) {
    at::parallel_for(0, pixels, kPixelsPerTask,
                     [&](int64_t begin, int64_t end) { pixel_gradients<kVec>(in, v_out, out, begin, end, nullptr, nullptr); });
    return;
  }
  std::fill_n(out.texels, in.textures * in.stride, 0.f);
  if (threads == 1 || pixels <= kPixelsPerTask) {
    pixel_gradients<kVec>(in, v_out, out, 0, pixels, nullptr, nullptr);
    return;
  }
  const Bands bands{in.pyramid, std::min(threads, Bands::kMost)};
  const int64_t tasks = (pixels + kPixelsPerTask - 1) / kPixelsPerTask;
  std::vector<Bins> bins(tasks, Bins(bands.count));
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task * kPixelsPerTask;
      pixel_gradients<kVec>(in, v_out, out, first, std::min(first + kPixelsPerTask, pixels), &bands, &bins[task]);
    }
  });
  at::parallel_for(0, bands.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t band = begin; band < end; ++band) {
      for (const Bins& task : bins) band_gradients<kVec>(in, v_out, out.texels, bands, static_cast<int>(band), task[band]);
    }
  });
}

// Calls `run` with the number of channels that are handled together, as a constant.
template <class Run>
void with_vector(int floats, Run run) {
  if (floats % 4 == 0) {
    run(std::integral_constant<int, 4>());
  } else if (floats % 3 == 0) {
    run(std::integral_constant<int, 3>());
  } else if (floats % 2 == 0) {
    run(std::integral_constant<int, 2>());
  } else {
    run(std::integral_constant<int, 1>());
  }
}

}  // namespace

void build_mips_cpu(const float* tex, int textures, int channels, const Pyramid& p, float* texels) {
  const int64_t stride = int64_t{p.first[p.levels]} * p.floats, size = int64_t{p.height} * p.width;
  for (int64_t t = 0; t < textures; ++t) {
    const float* from = tex + t * size * channels;
    float* to = texels + t * stride;
    at::parallel_for(0, size, kTexelsPerTask, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        for (int c = 0; c < p.floats; ++c) to[i * p.floats + c] = c < channels ? from[i * channels + c] : 0.f;
      }
    });
    for (int level = 1; level < p.levels; ++level) build_level(to, p, level);
  }
}

void build_mips_backward_cpu(const float* v_texels, int textures, int channels, const Pyramid& p, float* v_tex) {
  const int64_t stride = int64_t{p.first[p.levels]} * p.floats, size = int64_t{p.height} * p.width;
  std::vector<float> sums(stride);
  for (int64_t t = 0; t < textures; ++t) {
    std::copy_n(v_texels + t * stride, stride, sums.begin());
    for (int level = p.levels - 2; level >= 0; --level) add_coarser(sums.data(), p, level);
    float* to = v_tex + t * size * channels;
    at::parallel_for(0, size, kTexelsPerTask, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) std::copy_n(sums.data() + i * p.floats, channels, to + i * channels);
    });
  }
}

void sample_cpu(const Inputs& in, float* out) {
  with_vector(in.pyramid.floats, [&](auto vec) {
    at::parallel_for(0, pixels_of(in), kPixelsPerTask, [&](int64_t begin, int64_t end) { sample_pixels<vec()>(in, out, begin, end); });
  });
}

void sample_backward_cpu(const Inputs& in, const float* v_out, const Gradients& out) {
  with_vector(in.pyramid.floats, [&](auto vec) { backward<vec()>(in, v_out, out); });
}

}  // namespace md::texture
