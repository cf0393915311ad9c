// Eight floats at a time: the compiler's vector types where it has them (GCC, Clang), an array elsewhere.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__GNUC__) && defined(__AVX__)
#include <immintrin.h>
#endif

namespace md {

constexpr int kLanes = 8;

#if defined(__GNUC__) && !defined(MD_PLAIN_LANES)

typedef float Lanes __attribute__((vector_size(4 * kLanes)));
typedef int32_t LaneMask __attribute__((vector_size(4 * kLanes)));  // -1 or 0, as comparisons give

inline Lanes lanes(float value) { return Lanes{} + value; }
inline Lanes select(LaneMask mask, Lanes yes, Lanes no) {
  return reinterpret_cast<Lanes>((mask & reinterpret_cast<LaneMask>(yes)) | (~mask & reinterpret_cast<LaneMask>(no)));
}
// Bit i is set where lane i of the mask is.
inline uint32_t bits(LaneMask mask) {
#if defined(__AVX__)
  return static_cast<uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(mask)));
#else
  uint32_t r = 0;
  for (int i = 0; i < kLanes; ++i) r |= static_cast<uint32_t>(mask[i] & 1) << i;
  return r;
#endif
}
// The smaller and the larger of a and b, b where a is not a number.
#if defined(__AVX__)
inline Lanes smaller_lanes(Lanes a, Lanes b) {
  return reinterpret_cast<Lanes>(_mm256_min_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
}
inline Lanes larger_lanes(Lanes a, Lanes b) {
  return reinterpret_cast<Lanes>(_mm256_max_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
}
inline Lanes sqrt_lanes(Lanes a) { return reinterpret_cast<Lanes>(_mm256_sqrt_ps(reinterpret_cast<__m256>(a))); }
#else
inline Lanes smaller_lanes(Lanes a, Lanes b) { return select(a < b, a, b); }
inline Lanes larger_lanes(Lanes a, Lanes b) { return select(a > b, a, b); }
inline Lanes sqrt_lanes(Lanes a) {
  for (int i = 0; i < kLanes; ++i) a[i] = std::sqrt(a[i]);
  return a;
}
#endif
// 2^n for whole numbers n in [-126, 127], given n + 1.5 * 2^23.
inline Lanes power_of_two(Lanes shifted) { return reinterpret_cast<Lanes>((reinterpret_cast<LaneMask>(shifted) + 127) << 23); }

#else

struct Lanes {
  float v[kLanes];
  float operator[](int i) const { return v[i]; }
};
struct LaneMask {
  int32_t v[kLanes];
};
template <class F>
inline Lanes each(F f) {
  Lanes r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = f(i);
  return r;
}
template <class F>
inline LaneMask each_mask(F f) {
  LaneMask r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = f(i) ? -1 : 0;
  return r;
}
inline Lanes lanes(float value) {
  return each([&](int) { return value; });
}
#define MD_LANES_OP(op)                                   \
  inline Lanes operator op(Lanes a, Lanes b) {            \
    return each([&](int i) { return a.v[i] op b.v[i]; }); \
  }                                                       \
  inline Lanes operator op(Lanes a, float b) {            \
    return each([&](int i) { return a.v[i] op b; });      \
  }                                                       \
  inline Lanes operator op(float a, Lanes b) {            \
    return each([&](int i) { return a op b.v[i]; });      \
  }
MD_LANES_OP(+)
MD_LANES_OP(-)
MD_LANES_OP(*)
MD_LANES_OP(/)
#undef MD_LANES_OP
#define MD_LANES_COMPARE(op)                                   \
  inline LaneMask operator op(Lanes a, Lanes b) {              \
    return each_mask([&](int i) { return a.v[i] op b.v[i]; }); \
  }                                                            \
  inline LaneMask operator op(Lanes a, float b) {              \
    return each_mask([&](int i) { return a.v[i] op b; });      \
  }
MD_LANES_COMPARE(<)
MD_LANES_COMPARE(<=)
MD_LANES_COMPARE(>)
MD_LANES_COMPARE(>=)
#undef MD_LANES_COMPARE
inline Lanes operator-(Lanes a) {
  return each([&](int i) { return -a.v[i]; });
}
inline Lanes& operator+=(Lanes& a, Lanes b) { return a = a + b; }
inline Lanes& operator-=(Lanes& a, Lanes b) { return a = a - b; }
inline LaneMask operator&(LaneMask a, LaneMask b) {
  return each_mask([&](int i) { return a.v[i] & b.v[i]; });
}
inline LaneMask operator|(LaneMask a, LaneMask b) {
  return each_mask([&](int i) { return a.v[i] | b.v[i]; });
}
inline Lanes select(LaneMask mask, Lanes yes, Lanes no) {
  return each([&](int i) { return mask.v[i] ? yes.v[i] : no.v[i]; });
}
inline uint32_t bits(LaneMask mask) {
  uint32_t r = 0;
  for (int i = 0; i < kLanes; ++i) r |= static_cast<uint32_t>(mask.v[i] & 1) << i;
  return r;
}
inline Lanes smaller_lanes(Lanes a, Lanes b) { return select(a < b, a, b); }
inline Lanes larger_lanes(Lanes a, Lanes b) { return select(a > b, a, b); }
inline Lanes sqrt_lanes(Lanes a) {
  return each([&](int i) { return std::sqrt(a.v[i]); });
}
inline Lanes power_of_two(Lanes shifted) {
  return each([&](int i) { return std::bit_cast<float>((std::bit_cast<int32_t>(shifted.v[i]) + 127) << 23); });
}

#endif

inline Lanes load_lanes(const float* from) {
  Lanes r;
  std::memcpy(&r, from, sizeof r);
  return r;
}
inline bool any(LaneMask mask) { return bits(mask) != 0; }
inline void store_lanes(float* to, Lanes value) { std::memcpy(to, &value, sizeof value); }

// a * b + c, rounded once where the machine can.
inline Lanes fused(Lanes a, Lanes b, Lanes c) {
#if defined(__FMA__) && !defined(MD_PLAIN_LANES)
  return reinterpret_cast<Lanes>(_mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
#else
  return a * b + c;
#endif
}

inline float sum_lanes(Lanes v) {
#if defined(__AVX__) && !defined(MD_PLAIN_LANES)
  const __m256 all = reinterpret_cast<__m256>(v);
  const __m128 quarters = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
  const __m128 pairs = _mm_add_ps(quarters, _mm_movehdup_ps(quarters));
  return _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehl_ps(pairs, pairs)));
#else
  return ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7]));
#endif
}

// exp(x) for x in [-87, 0], to 2e-7 relative. Splits x into n log 2 + r with |r| <= log(2) / 2; Taylor to r^6 / 6!.
inline Lanes exp_lanes(Lanes x) {
  constexpr float kRound = 12582912.f;  // 1.5 * 2^23: adding it rounds to a whole number
  const Lanes shifted = x * 1.44269504f + kRound;
  const Lanes n = shifted - kRound;
  const Lanes r = (x - n * 0.693359375f) - n * -2.12194440e-4f;  // log 2 in two parts, the first one short
  Lanes p = r * (1.f / 720) + 1.f / 120;
  p = p * r + 1.f / 24;
  p = p * r + 1.f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.f;
  p = p * r + 1.f;
  return p * power_of_two(shifted);
}

}  // namespace md
