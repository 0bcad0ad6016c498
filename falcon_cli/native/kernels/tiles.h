// Tiles: a few rows' sums with a panel of a packed matrix, all of them in registers.
//
// A matrix [N, K] is packed into panels of P outputs, which stand side by side for each input:
//
//     panel 0    w[0..P-1, 0] w[0..P-1, 1] ... w[0..P-1, K-1]        one stream of memory
//     panel 1    w[P..2P-1, 0] ...
//
// Whole numbers (int8, int4) stand four inputs at a time, and meet inputs that are whole numbers too, rounded with a
// scale for each BLOCK inputs.
#pragma once
#include <vector>

#include "vectors.h"

namespace falcon {

using at::Tensor;

constexpr int64_t BLOCK = 32;  // inputs that share a scale

inline const float* numbers(const Tensor& tensor) { return tensor.numel() ? tensor.const_data_ptr<float>() : nullptr; }

struct Matrix {
  Tensor data, scale, bias;
  int64_t outputs;
  bool whole() const { return data.scalar_type() == at::kByte; }
  bool int8() const { return whole() && data.size(2) == 4 * P; }
};

struct Tiles {  // of nearly one height
  int64_t rows, count;
  int64_t begin(int64_t t) const { return rows * t / count; }
  int64_t height(int64_t t) const { return begin(t + 1) - begin(t); }
};

struct Blocks {  // of inputs
  int64_t begin, end;
};

struct Tile {  // its rows' inputs, as its kind of weights wants them; where the sums of each block begin
  const float* floats;
  const int8_t* whole;
  const float* scale;
  const int* first;
  int64_t width, blocks;
};

// Room for the inputs of any product of a call as whole numbers
struct Scratch {
  std::vector<int8_t> whole;
  std::vector<float> scale;
  std::vector<int> first;

  Scratch(const Matrix& w, int64_t rows, int64_t width) {
    int64_t blocks = w.whole() ? rows * ((width + BLOCK - 1) / BLOCK) : 0;
    whole.resize(blocks * BLOCK), scale.resize(blocks), first.resize(blocks);
  }
};

struct Rows {  // inputs of a product [count, width]
  const float* x;
  int64_t count, width;
  Scratch& room;

  int64_t blocks() const { return (width + BLOCK - 1) / BLOCK; }

  Tile tile(int64_t m0) const {
    const int64_t b = m0 * blocks();
    return {x + m0 * width, room.whole.data() + b * BLOCK, room.scale.data() + b, room.first.data() + b, width, blocks()};
  }

  // Row m as whole numbers of that many levels; sums of a block begin at `offset` times its inputs' sum
  void round(int64_t m, int levels, int offset) const {
    const F8 sign = _mm256_set1_ps(-0.f);
    for (int64_t b = 0; b < blocks(); b++) {
      const float* from = x + m * width + b * BLOCK;
      const int64_t count = std::min(BLOCK, width - b * BLOCK), place = m * blocks() + b;
      F8 most = _mm256_setzero_ps();
      for (int64_t k = 0; k < count; k += 8) most = _mm256_max_ps(most, _mm256_andnot_ps(sign, _mm256_loadu_ps(from + k)));
      float top = largest(most), inverse = top > 1e-35f ? levels / top : 0.f;
      __m256i total = _mm256_setzero_si256();
      for (int64_t k = 0; k < BLOCK; k += 8) {
        __m256i near = k < count ? _mm256_cvtps_epi32(_mm256_loadu_ps(from + k) * inverse) : _mm256_setzero_si256();
        __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(near), _mm256_extracti128_si256(near, 1));
        _mm_storel_epi64((__m128i*)(room.whole.data() + place * BLOCK + k), _mm_packs_epi16(words, words));
        total = _mm256_add_epi32(total, near);
      }
      alignas(32) int parts[8];
      _mm256_store_si256((__m256i*)parts, total);
      int sum = 0;
      for (int part : parts) sum += part;
      room.scale[place] = top / levels, room.first[place] = offset * sum;
    }
  }
};

// Lines fetched while others are at work, in the same stream
struct Ahead {
  const char* line;
  int64_t step;  // bytes for each turn, of 8 inputs or fours of inputs
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

// Sums go on over some blocks of inputs, whose weights begin at `data`. Those of floats live in a local array, and the
// loop in a function of its own: GCC then keeps them in registers.
template <int M, typename T>
__attribute__((noinline)) void tile(const void* data, const Tile& rows, Blocks part, F* sums, Ahead next) {
  const T* w = (const T*)data;
  F s[2 * M];
#pragma GCC unroll 24
  for (int i = 0; i < 2 * M; i++) s[i] = held(sums[i]);
  const int64_t K = rows.width;
  const float *x = rows.floats + part.begin * BLOCK, *end = rows.floats + std::min(part.end * BLOCK, K);
  while (x < end) {
    next.turn();
#pragma GCC unroll 8
    for (int k = 0; k < 8; k++, x++, w += P) {
      F low = held(widen(w)), high = held(widen(w + W));
#pragma GCC unroll 12
      for (int m = 0; m < M; m++) {
        F b = all(x[m * K]);
        s[2 * m] = fma(low, b, s[2 * m]);
        s[2 * m + 1] = fma(high, b, s[2 * m + 1]);
      }
    }
  }
#pragma GCC unroll 24
  for (int i = 0; i < 2 * M; i++) sums[i] = held(s[i]);
}

// int8 weights, held as w + 128: sums of a block begin at -128 times its inputs' sum, and are exact
template <int M>
__attribute__((noinline)) void tile_int8(const void* data, const Tile& rows, Blocks part, F* sums, Ahead next) {
  const uint8_t* w = (const uint8_t*)data;
  const int8_t* x = rows.whole + part.begin * BLOCK;
  const int64_t B = rows.blocks, K = B * BLOCK;
  for (int64_t b = part.begin; b < part.end; b++) {
    I t[2 * M];
    for (int m = 0; m < M; m++) t[2 * m] = t[2 * m + 1] = all(rows.first[m * B + b]);
    next.turn();
#pragma GCC unroll 1
    for (int64_t k = 0; k < BLOCK; k += 4, w += 4 * P, x += 4) {
      I low = held(bytes(w)), high = held(bytes(w + 2 * P));
#pragma GCC unroll 12
      for (int m = 0; m < M; m++) {
        I v = all(four(x + m * K));
        t[2 * m] = dot(t[2 * m], low, v);
        t[2 * m + 1] = dot(t[2 * m + 1], high, v);
      }
    }
    for (int m = 0; m < M; m++) {
      F step = all(rows.scale[m * B + b]);
      sums[2 * m] = fma(floats(t[2 * m]), step, sums[2 * m]);
      sums[2 * m + 1] = fma(floats(t[2 * m + 1]), step, sums[2 * m + 1]);
    }
  }
}

// 4-bit weights 0 .. 15 in blocks, each followed by its P steps and its P least values in fp16: w = step q + least
template <int M>
__attribute__((noinline)) void tile_int4(const void* data, const Tile& rows, Blocks part, F* sums, Ahead next) {
  const uint8_t* w = (const uint8_t*)data;
  const int8_t* x = rows.whole + part.begin * BLOCK;
  const int64_t B = rows.blocks, K = B * BLOCK;
  for (int64_t b = part.begin; b < part.end; b++) {
    I t[2 * M];
    for (I& one : t) one = all(0);
    next.turn();
#pragma GCC unroll 1
    for (int64_t k = 0; k < BLOCK; k += 4, w += 2 * P, x += 4) {
      I both = bytes(w), low = low_bits(both), high = high_bits(both);
#pragma GCC unroll 12
      for (int m = 0; m < M; m++) {
        I v = all(four(x + m * K));
        t[2 * m] = dot_pairs(t[2 * m], low, v);
        t[2 * m + 1] = dot_pairs(t[2 * m + 1], high, v);
      }
    }
    const at::Half* ends = (const at::Half*)w;
    for (int n = 0; n < 2; n++) {
      F step = widen(ends + n * W), least = widen(ends + P + n * W);
      for (int m = 0; m < M; m++) {
        F &s = sums[2 * m + n], unit = all(rows.scale[m * B + b]);
        s = fma(floats(join_pairs(t[2 * m + n])), step * unit, s);
        s = fma(least, all(rows.scale[m * B + b] * rows.first[m * B + b]), s);
      }
    }
    w += 4 * P;
  }
}

// How weights meet a tile of that many rows
using Meet = void (*)(const void*, const Tile&, Blocks, F*, Ahead);

template <int M = std::max(TILE, SMALL_TILE)>
Meet meeting(int64_t rows, const Matrix& w) {
  if constexpr (M > 1)
    if (rows < M) return meeting<M - 1>(rows, w);
  if (w.int8()) return tile_int8<M>;
  if (w.whole()) return tile_int4<M>;
  return w.data.scalar_type() == at::kBFloat16 ? tile<M, at::BFloat16> : tile<M, float>;
}

}  // namespace falcon
