// Work on a modulated transformer's tokens on the CPU, row after row in vectors of eight.
#include "modulation.h"

#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "lanes.h"

namespace md::modulation {
namespace {

constexpr int64_t kGrain = 32768;  // values that one thread takes at least
using BFloat16 = c10::BFloat16;

template <class Row>
void for_rows(int64_t rows, int64_t channels, Row row) {
  at::parallel_for(0, rows, std::max<int64_t>(1, kGrain / channels), [&](int64_t begin, int64_t end) {
    std::vector<float> buffer(channels + kLanes);  // whole vectors, and zeros behind the row's end
    for (int64_t r = begin; r < end; ++r) row(r, buffer.data());
  });
}

inline float widened(float x) { return x; }
inline float widened(BFloat16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.x) << 16); }

// To the nearest, half to even, without branches, so that loops of it are vectorised.
inline void narrow(float x, float& out) { out = x; }
inline void narrow(float x, BFloat16& out) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  out.x = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);  // a NaN stays one
}

template <typename T>
void widen_row(const T* __restrict from, float* __restrict to, int count) {
  for (int c = 0; c < count; ++c) to[c] = widened(from[c]);
}

template <typename T>
void narrow_row(const float* __restrict from, T* __restrict to, int count) {
  for (int c = 0; c < count; ++c) narrow(from[c], to[c]);
}

// Sum of f(i) over whole vectors of a row that zeros follow, in two chains of additions.
template <class F>
inline float sum_of_vectors(int count, F f) {
  Lanes even = lanes(0.f), odd = lanes(0.f);
  for (int c = 0; c < count; c += 2 * kLanes) {
    even += f(c);
    if (c + kLanes < count) odd += f(c + kLanes);
  }
  return sum_lanes(even + odd);
}

inline Lanes sigmoid(Lanes x) {
  const Lanes e = exp_lanes(larger_lanes(smaller_lanes(x, -x), lanes(-80.f)));  // of -|x|, which cannot overflow
  return select(x > 0.f, lanes(1.f), e) / (e + 1.f);
}

}  // namespace

template <typename X, typename Out>
void modulated_norm_cpu(const X* x, const float* scale, const float* shift, bool silu, Out* out, const Rows& rows) {
  const int channels = rows.channels;
  for_rows(rows.count, channels, [&](int64_t r, float* row) {
    widen_row(x + r * channels, row, channels);
    const float mean = sum_of_vectors(channels, [&](int c) { return load_lanes(row + c); }) / static_cast<float>(channels);
    for (int c = 0; c < channels; c += kLanes) store_lanes(row + c, load_lanes(row + c) - mean);
    std::fill(row + channels, row + (channels + kLanes - 1) / kLanes * kLanes, 0.f);
    const float squares = sum_of_vectors(channels, [&](int c) { return load_lanes(row + c) * load_lanes(row + c); });
    const float inverse = 1.f / std::sqrt(squares / static_cast<float>(channels) + kEpsilon);
    if (scale) {
      const float* own_scale = scale + r / rows.per_sample * rows.stride;
      const float* own_shift = shift + r / rows.per_sample * rows.stride;
      for (int c = 0; c < channels; ++c) row[c] = row[c] * inverse * (1.f + own_scale[c]) + own_shift[c];
    } else {
      for (int c = 0; c < channels; c += kLanes) store_lanes(row + c, load_lanes(row + c) * inverse);
    }
    if (silu) {
      for (int c = 0; c < channels; c += kLanes) store_lanes(row + c, load_lanes(row + c) * sigmoid(load_lanes(row + c)));
      std::fill_n(row + channels, kLanes, 0.f);
    }
    narrow_row(row, out + r * channels, channels);
  });
}

template <typename X, typename H, typename Out>
void gated_add_cpu(const X* x, const H* h, const float* gate, Out* out, const Rows& rows) {
  const int channels = rows.channels;
  for_rows(rows.count, channels, [&](int64_t r, float*) {
    const X* __restrict from = x + r * channels;
    const H* __restrict added = h + r * channels;
    Out* __restrict to = out + r * channels;
    if (gate) {
      const float* __restrict own = gate + r / rows.per_sample * rows.stride;
      for (int c = 0; c < channels; ++c) narrow(widened(from[c]) + (1.f + own[c]) * widened(added[c]), to[c]);
    } else {
      for (int c = 0; c < channels; ++c) narrow(widened(from[c]) + widened(added[c]), to[c]);
    }
  });
}

template <typename T>
void squared_relu_cpu(const T* x, T* out, int64_t count) {
  at::parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
    constexpr int kPiece = 512;
    float piece[kPiece] = {};
    for (int64_t i = begin; i < end; i += kPiece) {
      const int count = static_cast<int>(std::min<int64_t>(kPiece, end - i));
      widen_row(x + i, piece, count);
      for (int c = 0; c < count; c += kLanes) {
        const Lanes positive = larger_lanes(lanes(0.f), load_lanes(piece + c));  // a NaN stays one
        store_lanes(piece + c, positive * positive);
      }
      narrow_row(piece, out + i, count);
    }
  });
}

template <typename T>
void normed_heads_cpu(const T* qkv, const float* query_scale, const float* key_scale, T* query, T* key, T* value, const Heads& shape) {
  const int width = shape.width;
  const int64_t whole = static_cast<int64_t>(shape.heads) * width;
  for_rows(shape.samples * shape.tokens, 3 * whole, [&](int64_t r, float* row) {
    const int64_t sample = r / shape.tokens, token = r % shape.tokens;
    for (int head = 0; head < shape.heads; ++head) {
      const T* from = qkv + 3 * r * whole + static_cast<int64_t>(head) * width;
      const int64_t to = ((sample * shape.heads + head) * shape.tokens + token) * width;
      for (int part = 0; part < 2; ++part) {
        const float* scale = part ? key_scale : query_scale;
        widen_row(from + part * whole, row, width);
        const float squares = sum_of_vectors(width, [&](int c) { return load_lanes(row + c) * load_lanes(row + c); });
        const float inverse = 1.f / std::sqrt(squares / static_cast<float>(width) + shape.epsilon);
        for (int c = 0; c < width; ++c) row[c] *= inverse * scale[c];
        narrow_row(row, (part ? key : query) + to, width);
      }
      std::memcpy(static_cast<void*>(value + to), from + 2 * whole, width * sizeof(T));
    }
  });
}

template void modulated_norm_cpu(const float*, const float*, const float*, bool, float*, const Rows&);
template void modulated_norm_cpu(const float*, const float*, const float*, bool, BFloat16*, const Rows&);
template void modulated_norm_cpu(const BFloat16*, const float*, const float*, bool, BFloat16*, const Rows&);
template void gated_add_cpu(const float*, const float*, const float*, float*, const Rows&);
template void gated_add_cpu(const float*, const BFloat16*, const float*, float*, const Rows&);
template void gated_add_cpu(const BFloat16*, const BFloat16*, const float*, BFloat16*, const Rows&);
template void squared_relu_cpu(const float*, float*, int64_t);
template void squared_relu_cpu(const BFloat16*, BFloat16*, int64_t);
template void normed_heads_cpu(const float*, const float*, const float*, float*, float*, float*, const Heads&);
template void normed_heads_cpu(const BFloat16*, const float*, const float*, BFloat16*, BFloat16*, BFloat16*, const Heads&);

}  // namespace md::modulation
