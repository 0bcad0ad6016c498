// Vectors of the processor at hand, AVX2 or AVX-512: W floats each, and 4W small integers.
#pragma once
#include <ATen/ATen.h>
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace falcon {

using F8 = __m256;

// The same, in a register, and after whatever was held before: GCC else fetches a vector anew for each use of it, or
// multiplies for all sums before it adds to one, and has no register left for them
template <typename V>
inline V held(V v) {
  asm volatile("" : "+v"(v));
  return v;
}

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
constexpr int W = 16, TILE = 12, SMALL_TILE = 8;  // rows of a tile: as many as leave all sums in registers
using F = __m512;
using I = __m512i;
inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, F v) { _mm512_storeu_ps(p, v); }
inline F all(float v) { return _mm512_set1_ps(v); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F8 fma(F8 a, F8 b, F8 c) { return _mm256_fmadd_ps(a, b, c); }
inline bool any_above(F v, float least) { return _mm512_cmp_ps_mask(v, all(least), _CMP_GT_OQ); }
inline F8 fold(F v) { return _mm512_castps512_ps256(v) + _mm512_extractf32x8_ps(v, 1); }
inline F widen(const at::BFloat16* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
inline F widen(const at::Half* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
inline I all(int v) { return _mm512_set1_epi32(v); }
inline F floats(I v) { return _mm512_cvtepi32_ps(v); }
inline I bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline I low_bits(I v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
inline I high_bits(I v) { return low_bits(_mm512_srli_epi16(v, 4)); }
inline I add_pairs(I a, I b) { return _mm512_add_epi16(a, b); }
inline I add_fours(I a, I b) { return _mm512_add_epi32(a, b); }
inline I pairs(I w, I x) { return _mm512_maddubs_epi16(w, x); }
inline I fours(I v) { return _mm512_madd_epi16(v, _mm512_set1_epi16(1)); }
#if defined(__AVX512VNNI__)
#define FALCON_VNNI "vpdpbusd"
#endif
#else
constexpr int W = 8, TILE = 6, SMALL_TILE = 5;
using F = __m256;
using I = __m256i;
inline F load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, F v) { _mm256_storeu_ps(p, v); }
inline F all(float v) { return _mm256_set1_ps(v); }
inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline bool any_above(F v, float least) { return _mm256_movemask_ps(_mm256_cmp_ps(v, all(least), _CMP_GT_OQ)); }
inline F widen(const at::BFloat16* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
inline F widen(const at::Half* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
inline I all(int v) { return _mm256_set1_epi32(v); }
inline F floats(I v) { return _mm256_cvtepi32_ps(v); }
inline I bytes(const uint8_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
inline I low_bits(I v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
inline I high_bits(I v) { return low_bits(_mm256_srli_epi16(v, 4)); }
inline I add_pairs(I a, I b) { return _mm256_add_epi16(a, b); }
inline I add_fours(I a, I b) { return _mm256_add_epi32(a, b); }
inline I pairs(I w, I x) { return _mm256_maddubs_epi16(w, x); }
inline I fours(I v) { return _mm256_madd_epi16(v, _mm256_set1_epi16(1)); }
#if defined(__AVXVNNI__)
#define FALCON_VNNI "%{vex%} vpdpbusd"
#endif
#endif
inline F widen(const float* p) { return load(p); }

// sum + w * x, w unsigned and x signed: four products to a sum of 32 bits; two to one of 16, of which fours are made
#if defined(FALCON_VNNI)
inline I dot(I sum, I w, I x) {
  asm(FALCON_VNNI " %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));  // GCC's own copies each sum before and after
  return sum;
}
inline I dot_pairs(I sum, I w, I x) { return dot(sum, w, x); }
inline I join_pairs(I sum) { return sum; }
#else
inline I dot(I sum, I w, I x) { return held(add_fours(sum, fours(pairs(w, x)))); }
inline I dot_pairs(I sum, I w, I x) { return held(add_pairs(sum, pairs(w, x))); }
inline I join_pairs(I sum) { return fours(sum); }
#endif

constexpr int P = 2 * W;

// The same for F8 and F, by type
template <typename V>
V get(const float* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <typename V>
void put(float* p, V v) {
  std::memcpy(p, &v, sizeof v);
}
template <typename V>
V spread(float v) {
  return v - V{};
}
inline F8 fold(F8 v) { return v; }

// e^x within 2 units in the last place, for x <= 88: 2^n times a polynomial in what is left
inline F8 exponential(F8 x) {
  x = _mm256_max_ps(_mm256_min_ps(x, _mm256_set1_ps(88.f)), _mm256_set1_ps(-87.f));
  F8 n = _mm256_round_ps(x * 1.44269504f, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  F8 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
  F8 y = _mm256_set1_ps(1.9875691500e-4f);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(c));
  __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return (_mm256_fmadd_ps(y, r * r, r) + 1.f) * _mm256_castsi256_ps(power);
}

inline float largest(F8 v) {
  float most = v[0];
  for (int i = 1; i < 8; i++) most = std::max(most, v[i]);
  return most;
}

inline float sum(F8 v) {
  float total = 0.f;
  for (int i = 0; i < 8; i++) total += v[i];
  return total;
}

// The 8 sums of 8 vectors
inline F8 sums(const F8* v) {
  F8 a = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
  F8 b = _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));
  return _mm256_permute2f128_ps(a, b, 0x20) + _mm256_permute2f128_ps(a, b, 0x31);
}

// x over its root mean square, times a weight if there is one
inline void normalise(const float* x, const float* weight, float* y, int64_t width, float epsilon) {
  F8 squares = _mm256_setzero_ps();
  int64_t k = 0;
  for (; k + 8 <= width; k += 8) squares = _mm256_fmadd_ps(_mm256_loadu_ps(x + k), _mm256_loadu_ps(x + k), squares);
  float total = sum(squares);
  for (; k < width; k++) total += x[k] * x[k];
  float factor = 1.f / std::sqrt(total / width + epsilon);
  for (k = 0; k < width; k++) y[k] = weight ? weight[k] * (x[k] * factor) : x[k] * factor;
}

}  // namespace falcon
