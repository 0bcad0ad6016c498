// Vectors of the processor at hand, AVX-512 or AVX2: W floats each, or W 32-bit integers, or 4W bytes.
//
// The kernels are written once, with the names below. `F` and `I` are the widest vectors of floats and of integers.
// `F8` is 8 floats on every processor: functions whose order of additions must not depend on the vector width use it.
#pragma once
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <immintrin.h>

#include <cstring>

namespace falcon {

// Tiny numbers count as zero as long as this lives, as they do in products of bf16 numbers by the processor's own
// instructions.
class FlushTinyNumbers {
  const unsigned before = _mm_getcsr();

 public:
  FlushTinyNumbers() { _mm_setcsr(before | _MM_FLUSH_ZERO_ON | _MM_DENORMALS_ZERO_ON); }
  ~FlushTinyNumbers() { _mm_setcsr(before); }
  FlushTinyNumbers(const FlushTinyNumbers&) = delete;
};

using F8 = __m256;

// Keep a value in a register, and compute it after whatever was pinned before. The assembly is empty: it only tells GCC
// that the register may have changed here. Without it, GCC loads a vector again for each use of it, or multiplies for
// all sums before it adds to one, and then has too few registers for the sums.
template <typename V>
inline V pin_to_register(V v) {
  asm volatile("" : "+v"(v));
  return v;
}

inline __m128i load_128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline __m256i load_256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

// A tile is a few rows. Its sums, two vectors a row, must all stay in registers (32 with AVX-512, 16 with AVX2), beside
// two vectors of weights and one of an input. A quantised tile is smaller because its products need registers as well.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
constexpr int W = 16;
constexpr int FLOAT_TILE_ROWS = 12;
constexpr int QUANTISED_TILE_ROWS = 8;
using F = __m512;
using I = __m512i;
inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, F v) { _mm512_storeu_ps(p, v); }
inline F broadcast(float v) { return _mm512_set1_ps(v); }
inline I broadcast(int v) { return _mm512_set1_epi32(v); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline bool any_above(F v, float least) { return _mm512_cmp_ps_mask(v, broadcast(least), _CMP_GT_OQ); }
inline F load_as_float(const at::BFloat16* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_256(p)), 16));
}
inline F load_as_float(const at::Half* p) { return _mm512_cvtph_ps(load_256(p)); }
inline F to_float(I v) { return _mm512_cvtepi32_ps(v); }
inline F as_float(I bits) { return _mm512_castsi512_ps(bits); }
inline I load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline void store_bytes(uint8_t* p, I v) { _mm512_storeu_si512(p, v); }
inline I add_int16(I a, I b) { return _mm512_add_epi16(a, b); }
inline I add_int32(I a, I b) { return _mm512_add_epi32(a, b); }
inline I subtract_int32(I a, I b) { return _mm512_sub_epi32(a, b); }
inline I multiply_add_pairs(I w, I x) { return _mm512_maddubs_epi16(w, x); }
inline I multiply_add_int16(I a, I b) { return _mm512_madd_epi16(a, b); }
inline I multiply_int32(I a, I b) { return _mm512_mullo_epi32(a, b); }
inline I load_int8_as_int16(const int8_t* p) { return _mm512_cvtepi8_epi16(load_256(p)); }
inline I shift_left_int16(I v, int bits) { return _mm512_slli_epi16(v, bits); }
inline I shift_right_int16(I v, int bits) { return _mm512_srli_epi16(v, bits); }
inline I shift_left_int32(I v, int bits) { return _mm512_slli_epi32(v, bits); }
inline I shift_right_int32(I v, int bits) { return _mm512_srai_epi32(v, bits); }
inline I bits_of(I v, int mask) { return _mm512_and_si512(v, _mm512_set1_epi8(static_cast<char>(mask))); }
inline I keep_high_int16(I v) { return _mm512_and_si512(v, _mm512_set1_epi32(-65536)); }
inline I any_of(I a, I b) { return _mm512_or_si512(a, b); }
inline I flip_bits(I v, int mask) { return _mm512_xor_si512(v, _mm512_set1_epi8(static_cast<char>(mask))); }
inline I magnitude(I v) { return _mm512_abs_epi8(v); }
inline I signed_like(I x, I w) { return _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x); }
inline I shuffle_bytes(I v, __m128i places) { return _mm512_shuffle_epi8(v, _mm512_broadcast_i32x4(places)); }
#if defined(__AVX512VNNI__)
#define FALCON_VNNI "vpdpbusd"
#endif
#else
constexpr int W = 8;
constexpr int FLOAT_TILE_ROWS = 6;
constexpr int QUANTISED_TILE_ROWS = 5;
using F = __m256;
using I = __m256i;
inline F load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, F v) { _mm256_storeu_ps(p, v); }
inline F broadcast(float v) { return _mm256_set1_ps(v); }
inline I broadcast(int v) { return _mm256_set1_epi32(v); }
inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline bool any_above(F v, float least) { return _mm256_movemask_ps(_mm256_cmp_ps(v, broadcast(least), _CMP_GT_OQ)); }
inline F load_as_float(const at::BFloat16* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_128(p)), 16));
}
inline F load_as_float(const at::Half* p) { return _mm256_cvtph_ps(load_128(p)); }
inline F to_float(I v) { return _mm256_cvtepi32_ps(v); }
inline F as_float(I bits) { return _mm256_castsi256_ps(bits); }
inline I load_bytes(const uint8_t* p) { return load_256(p); }
inline void store_bytes(uint8_t* p, I v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
inline I add_int16(I a, I b) { return _mm256_add_epi16(a, b); }
inline I add_int32(I a, I b) { return _mm256_add_epi32(a, b); }
inline I subtract_int32(I a, I b) { return _mm256_sub_epi32(a, b); }
inline I multiply_add_pairs(I w, I x) { return _mm256_maddubs_epi16(w, x); }
inline I multiply_add_int16(I a, I b) { return _mm256_madd_epi16(a, b); }
inline I multiply_int32(I a, I b) { return _mm256_mullo_epi32(a, b); }
inline I load_int8_as_int16(const int8_t* p) { return _mm256_cvtepi8_epi16(load_128(p)); }
inline I shift_left_int16(I v, int bits) { return _mm256_slli_epi16(v, bits); }
inline I shift_right_int16(I v, int bits) { return _mm256_srli_epi16(v, bits); }
inline I shift_left_int32(I v, int bits) { return _mm256_slli_epi32(v, bits); }
inline I shift_right_int32(I v, int bits) { return _mm256_srai_epi32(v, bits); }
inline I bits_of(I v, int mask) { return _mm256_and_si256(v, _mm256_set1_epi8(static_cast<char>(mask))); }
inline I keep_high_int16(I v) { return _mm256_and_si256(v, _mm256_set1_epi32(-65536)); }
inline I any_of(I a, I b) { return _mm256_or_si256(a, b); }
inline I flip_bits(I v, int mask) { return _mm256_xor_si256(v, _mm256_set1_epi8(static_cast<char>(mask))); }
inline I magnitude(I v) { return _mm256_abs_epi8(v); }
inline I signed_like(I x, I w) { return _mm256_sign_epi8(x, w); }
inline I shuffle_bytes(I v, __m128i places) { return _mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(places)); }
#if defined(__AVXVNNI__)
#define FALCON_VNNI "%{vex%} vpdpbusd"
#endif
#endif
inline F load_as_float(const float* p) { return load(p); }

// Products of neighbouring bf16 numbers, two to each float. Without an instruction for it, kernels make them of floats.
#if defined(__AVX512BF16__)
constexpr bool HAS_BF16 = true;
constexpr int BF16X2_TILE_ROWS = FLOAT_TILE_ROWS;
inline F dot_bf16(F sum, I w, I x) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
  return sum;
}
#else
constexpr bool HAS_BF16 = false;
constexpr int BF16X2_TILE_ROWS = FLOAT_TILE_ROWS / 2 - 1 + (W == 16);  // four sums a row
inline F dot_bf16(F sum, I, I) { return sum; }
#endif
inline F first_bf16(I pairs) { return as_float(shift_left_int32(pairs, 16)); }
inline F second_bf16(I pairs) { return as_float(keep_high_int16(pairs)); }
inline void store_rounded(float* p, F8 v) { _mm256_storeu_ps(p, v); }
inline void store_rounded(at::Half* p, F8 v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

inline I low_nibbles(I v) { return bits_of(v, 15); }
inline I high_nibbles(I v) { return low_nibbles(shift_right_int16(v, 4)); }

// Products of unsigned bytes w and signed bytes x, added to sums:
//   dot4     four neighbouring products to each 32-bit sum
//   dot2     two neighbouring products to each 16-bit sum, which saves an instruction; the caller knows that the sums
//            fit. `widen_dot2` makes 32-bit sums of them, and `scaled_dot2` multiplies each by a whole number as well.
//            With VNNI dot2 is dot4, and sums are 32 bits wide.
//
// The whole numbers are 16 bits wide and come in pairs, two for each output; `even_of` and `odd_of` make of a vector of
// pairs what `scaled_dot2` takes.
#if defined(FALCON_VNNI)
constexpr bool HAS_VNNI = true;
inline I dot4(I sum, I w, I x) {
  asm(FALCON_VNNI " %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));  // GCC's intrinsic copies each sum before and after
  return sum;
}
inline I dot2(I sum, I w, I x) { return dot4(sum, w, x); }
inline I widen_dot2(I sum) { return sum; }
inline I scaled_dot2(I sum, I factor) { return multiply_int32(sum, factor); }
inline I even_of(I pairs) { return shift_right_int32(shift_left_int32(pairs, 16), 16); }
inline I odd_of(I pairs) { return shift_right_int32(pairs, 16); }
#else
constexpr bool HAS_VNNI = false;
inline I widen_dot2(I sum) { return multiply_add_int16(sum, broadcast(0x00010001)); }
inline I dot4(I sum, I w, I x) {
  asm volatile("vpaddd %1, %0, %0" : "+v"(sum) : "v"(widen_dot2(multiply_add_pairs(w, x))));  // in place: no copies
  return sum;
}
inline I dot2(I sum, I w, I x) { return pin_to_register(add_int16(sum, multiply_add_pairs(w, x))); }
inline I scaled_dot2(I sum, I factor) { return multiply_add_int16(sum, factor); }
inline I even_of(I pairs) {
  return shuffle_bytes(pairs, _mm_setr_epi32(0x01000100, 0x05040504, 0x09080908, 0x0d0c0d0c));
}
inline I odd_of(I pairs) {
  return shuffle_bytes(pairs, _mm_setr_epi32(0x03020302, 0x07060706, 0x0b0a0b0a, 0x0f0e0f0e));
}
#endif

}  // namespace falcon
