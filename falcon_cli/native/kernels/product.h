// Products of few rows with large matrices. What is here runs inside a parallel region, by all its threads together.
//
// A matrix [N, K] is packed into panels of P outputs, which stand side by side for each input:
//
//     panel 0    w[0..P-1, 0] w[0..P-1, 1] ... w[0..P-1, K-1]        one stream of memory, read once
//     panel 1    w[P..2P-1, 0] ...
//
// and a tile of a few rows meets a panel with all its sums in registers: 2 vectors a row. Whole numbers (int8, int4)
// stand four inputs at a time, and meet inputs that are whole numbers too, rounded with a scale for each BLOCK inputs.
#pragma once
#include <ATen/record_function.h>
#include <omp.h>

#include <vector>

#include "vectors.h"

namespace falcon {

using at::Tensor;
using Tensors = std::vector<Tensor>;

constexpr int64_t BLOCK = 32, SOON = 2048;  // inputs that share a scale; bytes
enum class End { store, add, silu, glu };  // y = s, y += s, or of the panel's halves a, b: y = silu(a) b, y = sigmoid(a) b

// Events for torch's profiler, of one thread only
#define FALCON_TOLD(name)                                                                            \
  at::RecordFunction told(at::RecordScope::FUNCTION);                                                \
  if (omp_get_thread_num() == 0 && told.isActive()) told.before(name)

inline const float* numbers(const Tensor& tensor) { return tensor.numel() ? tensor.const_data_ptr<float>() : nullptr; }

struct Matrix {
  Tensor data, scale, bias;
  int64_t outputs;
  bool whole() const { return data.scalar_type() == at::kByte; }
  bool int8() const { return whole() && data.size(2) == 4 * P; }
  int levels() const { return int8() ? 63 : 127; }  // of the inputs: so that a pair of products fits 16 bits
};

struct Rows {  // inputs of a product, and room for them as whole numbers, with a scale and a sum for each block
  const float* x;
  int64_t count, width;
  std::vector<int8_t>& small;
  std::vector<float>& scale;
  std::vector<int>& total;

  int64_t blocks() const { return (width + BLOCK - 1) / BLOCK; }

  void round(int64_t m, int levels) const {
    const F8 sign = _mm256_set1_ps(-0.f);
    for (int64_t b = 0; b < blocks(); b++) {
      const float* from = x + m * width + b * BLOCK;
      int8_t* to = small.data() + (m * blocks() + b) * BLOCK;
      int64_t count = std::min(BLOCK, width - b * BLOCK);
      F8 most = _mm256_setzero_ps();
      for (int64_t k = 0; k < count; k += 8) most = _mm256_max_ps(most, _mm256_andnot_ps(sign, _mm256_loadu_ps(from + k)));
      float top = largest(most), inverse = top > 1e-35f ? levels / top : 0.f;
      __m256i total_8 = _mm256_setzero_si256();
      for (int64_t k = 0; k < BLOCK; k += 8) {
        __m256i near = k < count ? _mm256_cvtps_epi32(_mm256_loadu_ps(from + k) * inverse) : _mm256_setzero_si256();
        __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(near), _mm256_extracti128_si256(near, 1));
        _mm_storel_epi64((__m128i*)(to + k), _mm_packs_epi16(words, words));
        total_8 = _mm256_add_epi32(total_8, near);
      }
      alignas(32) int parts[8];
      _mm256_store_si256((__m256i*)parts, total_8);
      int sum_8 = 0;
      for (int part : parts) sum_8 += part;
      scale[m * blocks() + b] = top / levels, total[m * blocks() + b] = sum_8;
    }
  }
};

struct Scratch {  // room for rows as whole numbers, for any product of a call
  std::vector<int8_t> small;
  std::vector<float> scale;
  std::vector<int> total;

  Scratch(int64_t count, int64_t width) {
    int64_t blocks = count * ((width + BLOCK - 1) / BLOCK);
    small.resize(blocks * BLOCK), scale.resize(blocks), total.resize(blocks);
  }
  Rows rows(const float* x, int64_t count, int64_t width) { return {x, count, width, small, scale, total}; }
};

// Lines fetched while others are at work: a single tile fetches what it soon meets, each of several its share of the
// next panel.
struct Ahead {
  const char* line;
  int64_t step;  // bytes for each turn of the loop
  void turn() {
    for (int64_t at = 0; at < step; at += 64) _mm_prefetch(line + at, _MM_HINT_T0);
    line += step;
  }
};

inline int four(const int8_t* p) {
  int bits;
  std::memcpy(&bits, p, 4);
  return bits;
}

// Sums live in a local array, and the loop in a function of its own: GCC then keeps them in registers.
template <int M, typename T>
__attribute__((noinline)) void tile(const T* w, const Rows& rows, int64_t m0, F* sums, Ahead next) {
  F s[2 * M];
  for (F& one : s) one = all(0.f);
  const int64_t K = rows.width;
  const float* x = rows.x + m0 * K;
  for (int64_t k = 0; k < K; k++, w += P) {
    next.turn();
    F low = widen(w), high = widen(w + W);
#pragma GCC unroll 12
    for (int m = 0; m < M; m++) {
      F b = all(x[m * K + k]);
      s[2 * m] = fma(low, b, s[2 * m]);
      s[2 * m + 1] = fma(high, b, s[2 * m + 1]);
    }
  }
  std::copy(s, s + 2 * M, sums);
}

// int8 weights, held as w + 128: sums of a block begin at -128 times its inputs' sum, and are exact
template <int M>
__attribute__((noinline)) void tile_int8(const uint8_t* w, const Rows& rows, int64_t m0, F* sums, Ahead next) {
  F s[2 * M];
  for (F& one : s) one = all(0.f);
  const int64_t blocks = rows.blocks(), K = blocks * BLOCK;
  const int8_t* x = rows.small.data() + m0 * K;
  const int* total = rows.total.data() + m0 * blocks;
  const float* scale = rows.scale.data() + m0 * blocks;
  for (int64_t b = 0; b < blocks; b++) {
    I t[2 * M];
    for (int m = 0; m < M; m++) t[2 * m] = t[2 * m + 1] = all(-128 * total[m * blocks + b]);
#pragma GCC unroll 1
    for (int64_t k = b * BLOCK; k < (b + 1) * BLOCK; k += 4, w += 4 * P) {
      next.turn();
      I low = bytes(w), high = bytes(w + 2 * P);
#pragma GCC unroll 12
      for (int m = 0; m < M; m++) {
        I v = all(four(x + m * K + k));
        t[2 * m] = dot(t[2 * m], low, v);
        t[2 * m + 1] = dot(t[2 * m + 1], high, v);
      }
    }
    for (int m = 0; m < M; m++) {
      F step = all(scale[m * blocks + b]);
      s[2 * m] = fma(floats(t[2 * m]), step, s[2 * m]);
      s[2 * m + 1] = fma(floats(t[2 * m + 1]), step, s[2 * m + 1]);
    }
  }
  std::copy(s, s + 2 * M, sums);
}

// 4-bit weights 0 .. 15 in blocks, each followed by its P steps and its P least values in fp16: w = step q + least
template <int M>
__attribute__((noinline)) void tile_int4(const uint8_t* w, const Rows& rows, int64_t m0, F* sums, Ahead next) {
  F s[2 * M];
  for (F& one : s) one = all(0.f);
  const int64_t blocks = rows.blocks(), K = blocks * BLOCK;
  const int8_t* x = rows.small.data() + m0 * K;
  const int* total = rows.total.data() + m0 * blocks;
  const float* scale = rows.scale.data() + m0 * blocks;
  for (int64_t b = 0; b < blocks; b++) {
    I t[2 * M];
    for (I& one : t) one = all(0);
#pragma GCC unroll 1
    for (int64_t k = b * BLOCK; k < (b + 1) * BLOCK; k += 4, w += 2 * P) {
      next.turn();
      I both = bytes(w), low = low_bits(both), high = high_bits(both);
#pragma GCC unroll 12
      for (int m = 0; m < M; m++) {
        I v = all(four(x + m * K + k));
        t[2 * m] = dot_pairs(t[2 * m], low, v);
        t[2 * m + 1] = dot_pairs(t[2 * m + 1], high, v);
      }
    }
    const at::Half* ends = (const at::Half*)w;
    for (int n = 0; n < 2; n++) {
      F step = widen(ends + n * W), least = widen(ends + P + n * W);
      for (int m = 0; m < M; m++) {
        F unit = all(scale[m * blocks + b]);
        s[2 * m + n] = fma(floats(join_pairs(t[2 * m + n])), step * unit, s[2 * m + n]);
        s[2 * m + n] = fma(least, all(scale[m * blocks + b] * total[m * blocks + b]), s[2 * m + n]);
      }
    }
    w += 4 * P;
  }
  std::copy(s, s + 2 * M, sums);
}

// What becomes of a row's 2W finished sums; the last panel may stand out over the matrix.
inline void finish(F low, F high, const float* bias, float* y, int64_t begin, int64_t outputs, End end) {
  alignas(64) float s[P];
  store(s, bias ? low + load(bias) : low), store(s + W, bias ? high + load(bias + W) : high);
  bool halved = end == End::silu || end == End::glu;
  if (halved) {
    for (int i = 0; i < W; i += 8) {
      F8 gate = _mm256_load_ps(s + i), other = _mm256_load_ps(s + W + i);
      _mm256_store_ps(s + i, (end == End::silu ? gate * other : other) / (exponential(-gate) + 1.f));
    }
    begin /= 2, outputs /= 2;
  }
  int64_t width = std::min<int64_t>(halved ? W : P, outputs - begin), i = 0;
  for (; i + 8 <= width; i += 8) {
    F8 v = _mm256_load_ps(s + i);
    _mm256_storeu_ps(y + begin + i, end == End::add ? _mm256_loadu_ps(y + begin + i) + v : v);
  }
  for (; i < width; i++) y[begin + i] = end == End::add ? y[begin + i] + s[i] : s[i];
}

template <int M>
void panel(const Rows& rows, int64_t m0, const Matrix& w, int64_t number, float* y, int64_t stride, End end, Ahead next) {
  const void* data = (const char*)w.data.const_data_ptr() + number * w.data.stride(0) * w.data.element_size();
  const float* bias = w.bias.numel() ? w.bias.const_data_ptr<float>() + number * P : nullptr;
  F s[2 * M];
  if (w.int8()) {
    tile_int8<M>((const uint8_t*)data, rows, m0, s, next);
    const float* scale = w.scale.const_data_ptr<float>() + number * P;
    for (int n = 0; n < 2 * M; n++) s[n] *= load(scale + n % 2 * W);
  } else if (w.whole()) {
    tile_int4<M>((const uint8_t*)data, rows, m0, s, next);
  } else if (w.data.scalar_type() == at::kBFloat16) {
    tile<M>((const at::BFloat16*)data, rows, m0, s, next);
  } else {
    tile<M>((const float*)data, rows, m0, s, next);
  }
  for (int m = 0; m < M; m++) finish(s[2 * m], s[2 * m + 1], bias, y + (m0 + m) * stride, number * P, w.outputs, end);
}

template <int M, typename... A>
void panel_of(int64_t rows, const A&... rest) {
  if (rows == M) return panel<M>(rest...);
  if constexpr (M > 1) panel_of<M - 1>(rows, rest...);
}

// y [rows, outputs] of x [rows, inputs] and a packed matrix; every thread of the team takes a stretch of panels as it
// gets free, a long one of floats. Rows may have been made by the threads that a static schedule gives them to.
inline void product(const Rows& rows, const Matrix& w, float* y, int64_t stride, End end) {
  FALCON_TOLD("falcon::product");
  if (w.whole()) {
#pragma omp for schedule(static)
    for (int64_t m = 0; m < rows.count; m++) rows.round(m, w.levels());
  } else {
#pragma omp barrier
  }
  const int64_t most = w.whole() ? SMALL_TILE : TILE, tiles = (rows.count + most - 1) / most, panels = w.data.size(0);
  const int64_t bytes = w.data.stride(0) * w.data.element_size(), turns = w.whole() ? rows.blocks() * BLOCK / 4 : rows.width;
  const int64_t step = (bytes + tiles * turns - 1) / (tiles * turns);
  const int64_t share = std::max<int64_t>(1, panels / ((w.whole() ? 16 : 2) * omp_get_num_threads()));
#pragma omp for schedule(dynamic, share)
  for (int64_t number = 0; number < panels; number++) {
    const char* data = (const char*)w.data.const_data_ptr() + number * bytes;
    for (int64_t t = 0; t < tiles; t++) {
      const int64_t m0 = rows.count * t / tiles, m1 = rows.count * (t + 1) / tiles;
      const char* soon = tiles == 1 ? data + SOON : data + bytes + t * bytes / tiles;
      panel_of<std::max(TILE, SMALL_TILE)>(m1 - m0, rows, m0, w, number, y, stride, end, Ahead{soon, step});
    }
  }
}

}  // namespace falcon
