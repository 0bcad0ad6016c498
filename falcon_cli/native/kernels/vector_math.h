// Mathematics on vectors of 8 floats: e^x, sums, and the RMS norm.
//
// All of it is in 8 lanes on every processor. So the order of additions is the same with AVX2 and with AVX-512.
#pragma once
#include <algorithm>
#include <cmath>

#include "vectors.h"

namespace falcon {

// e^x within 2 units in the last place, for x <= 88: 2^n times a polynomial of the remainder r = x - n ln 2. ln 2 is
// subtracted in two parts, of which the first has few bits, so that n times it is exact.
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

inline float max_lane(F8 v) {
  float largest = v[0];
  for (int i = 1; i < 8; i++) largest = std::max(largest, v[i]);
  return largest;
}

inline float sum_lanes(F8 v) {
  float total = 0.f;
  for (int i = 0; i < 8; i++) total += v[i];
  return total;
}

// x divided by its root mean square, times a weight if there is one
inline void normalise(const float* x, const float* weight, float* y, int64_t width, float epsilon) {
  F8 squares = _mm256_setzero_ps();
  int64_t k = 0;
  for (; k + 8 <= width; k += 8) squares = _mm256_fmadd_ps(_mm256_loadu_ps(x + k), _mm256_loadu_ps(x + k), squares);
  float total = sum_lanes(squares);
  for (; k < width; k++) total += x[k] * x[k];
  float factor = 1.f / std::sqrt(total / width + epsilon);
  for (k = 0; k < width; k++) y[k] = weight ? weight[k] * (x[k] * factor) : x[k] * factor;
}

}  // namespace falcon
