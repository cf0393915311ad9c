// Eight floats at a time: the compiler's vector types where it has them (GCC, Clang), an array elsewhere. Sixteen where the includer has
// told the compiler that there is AVX-512, and defines MD_SIXTEEN_LANES; the namespace keeps the two apart.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__GNUC__) && defined(__AVX__)
#include <immintrin.h>
#endif

#if defined(MD_SIXTEEN_LANES)
#define MD_LANES_NAMESPACE lanes16
#else
#define MD_LANES_NAMESPACE lanes8
#endif

namespace md {
inline namespace MD_LANES_NAMESPACE {

#if defined(MD_SIXTEEN_LANES)

constexpr int kLanes = 16;
struct Lanes {
  __m512 v;
};
struct LaneMask {
  __mmask16 v;
};
inline Lanes lanes(float value) { return {_mm512_set1_ps(value)}; }
inline Lanes operator+(Lanes a, Lanes b) { return {a.v + b.v}; }
inline Lanes operator-(Lanes a, Lanes b) { return {a.v - b.v}; }
inline Lanes operator*(Lanes a, Lanes b) { return {a.v * b.v}; }
inline Lanes operator/(Lanes a, Lanes b) { return {a.v / b.v}; }
inline Lanes operator+(Lanes a, float b) { return {a.v + b}; }
inline Lanes operator-(Lanes a, float b) { return {a.v - b}; }
inline Lanes operator*(Lanes a, float b) { return {a.v * b}; }
inline Lanes operator-(float a, Lanes b) { return {a - b.v}; }
inline Lanes operator*(float a, Lanes b) { return {a * b.v}; }
inline Lanes operator-(Lanes a) { return {-a.v}; }
inline Lanes& operator+=(Lanes& a, Lanes b) { return a = a + b; }
inline LaneMask operator<=(Lanes a, Lanes b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
inline LaneMask operator>=(Lanes a, Lanes b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
inline LaneMask operator>(Lanes a, Lanes b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
inline LaneMask operator<=(Lanes a, float b) { return a <= lanes(b); }
inline LaneMask operator>=(Lanes a, float b) { return a >= lanes(b); }
inline LaneMask operator>(Lanes a, float b) { return a > lanes(b); }
inline LaneMask operator&(LaneMask a, LaneMask b) { return {static_cast<__mmask16>(a.v & b.v)}; }
inline Lanes select(LaneMask mask, Lanes yes, Lanes no) { return {_mm512_mask_blend_ps(mask.v, no.v, yes.v)}; }
inline uint32_t bits(LaneMask mask) { return mask.v; }
inline Lanes smaller_lanes(Lanes a, Lanes b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Lanes larger_lanes(Lanes a, Lanes b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Lanes sqrt_lanes(Lanes a) { return {_mm512_sqrt_ps(a.v)}; }
inline Lanes power_of_two(Lanes shifted) {
  const __m512i biased = _mm512_add_epi32(_mm512_castps_si512(shifted.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(biased, 23))};
}

#elif defined(__GNUC__) && !defined(MD_PLAIN_LANES)

constexpr int kLanes = 8;

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

constexpr int kLanes = 8;
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
template <class F>
inline Lanes each_lane(F f) {
  alignas(4 * kLanes) float values[kLanes];
  for (int i = 0; i < kLanes; ++i) values[i] = static_cast<float>(f(i));
  return load_lanes(values);
}
inline bool any(LaneMask mask) { return bits(mask) != 0; }
inline void store_lanes(float* to, Lanes value) { std::memcpy(to, &value, sizeof value); }

// a * b + c, rounded once where the machine can.
inline Lanes fused(Lanes a, Lanes b, Lanes c) {
#if defined(MD_SIXTEEN_LANES)
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
#elif defined(__FMA__) && !defined(MD_PLAIN_LANES)
  return reinterpret_cast<Lanes>(_mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
#else
  return a * b + c;
#endif
}

inline float sum_lanes(Lanes v) {
#if defined(MD_SIXTEEN_LANES)
  return _mm512_reduce_add_ps(v.v);
#elif defined(__AVX__) && !defined(MD_PLAIN_LANES)
  const __m256 all = reinterpret_cast<__m256>(v);
  const __m128 quarters = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
  const __m128 pairs = _mm_add_ps(quarters, _mm_movehdup_ps(quarters));
  return _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehl_ps(pairs, pairs)));
#else
  return ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7]));
#endif
}

// The sums of the lanes of a, b, c and d: less work together than one after the other.
inline void sum_four(Lanes a, Lanes b, Lanes c, Lanes d, float* sums) {
#if defined(__AVX__) && !defined(MD_PLAIN_LANES)
  const auto eight = [](Lanes v) {
#if defined(MD_SIXTEEN_LANES)
    return _mm256_add_ps(_mm512_castps512_ps256(v.v), _mm512_extractf32x8_ps(v.v, 1));
#else
    return reinterpret_cast<__m256>(v);
#endif
  };
  const __m256 all = _mm256_hadd_ps(_mm256_hadd_ps(eight(a), eight(b)), _mm256_hadd_ps(eight(c), eight(d)));
  _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
#else
  sums[0] = sum_lanes(a);
  sums[1] = sum_lanes(b);
  sums[2] = sum_lanes(c);
  sums[3] = sum_lanes(d);
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

}  // namespace MD_LANES_NAMESPACE
}  // namespace md
