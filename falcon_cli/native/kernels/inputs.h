// The input rows of a product, and the same rows quantised for int8 and int4 weights.
#pragma once
#include <cmath>
#include <vector>

#include "packed_matrix.h"
#include "vector_math.h"

namespace falcon {

// Weights and levels of the inputs are chosen so that no integer sum overflows:
//
//   int8   Weights -127 .. 127 are stored as w + 128, because `multiply_add_pairs` wants one unsigned factor. It adds
//          two products in 16 bits: 2 * 255 * 63 = 32,130 fits, with 127 levels it would not. The sum of (w + 128) q
//          is 128 times the sum of q too large, so a block's sum begins at -128 times the sum of its q.
//   int4   Weights are step * w + least, with w in 0 .. 15. A 16-bit sum takes 16 products of a block: 16 * 15 * 127 =
//          30,480 fits. `least` is multiplied with the sum of the block's q.
constexpr int INT8_LEVELS = 63;
constexpr int INT4_LEVELS = 127;

// Workspace of one operator call: the inputs of any of its products, quantised. It is reused from product to product.
// Rows stay one behind the other, not interleaved: threads that quantise neighbouring rows share no cache line then.
struct QuantisedInputs {
  std::vector<int8_t> values;
  std::vector<float> scale;  // of each block
  std::vector<int> sum;      // of each block's values, times -128 for int8

  QuantisedInputs(const PackedMatrix& w, int64_t rows, int64_t widest) {
    const int64_t blocks = w.is_quantised() ? rows * blocks_of(widest) : 0;
    values.resize(blocks * BLOCK);
    scale.resize(blocks);
    sum.resize(blocks);
  }
};

struct TileInputs {  // of a tile's rows; a kernel reads the floats or the quantised values
  const float* floats;
  const int8_t* quantised;
  const float* scale;
  const int* sum;
  int64_t width;
  int64_t blocks;
};

struct InputRows {  // [count, width]
  const float* x;
  int64_t count;
  int64_t width;
  QuantisedInputs& quantised;

  int64_t blocks() const { return blocks_of(width); }

  TileInputs tile(int64_t first_row) const {
    const int64_t first_block = first_row * blocks();
    return {.floats = x + first_row * width,
            .quantised = quantised.values.data() + first_block * BLOCK,
            .scale = quantised.scale.data() + first_block,
            .sum = quantised.sum.data() + first_block,
            .width = width,
            .blocks = blocks()};
  }

  // Quantise one row to -levels .. levels. Each block has its own scale, and each row is quantised by itself: an
  // outlier in one row leaves its neighbours' bits as they are. The scale of a block with a NaN or an infinity is none
  // either, so what is multiplied with it is no number.
  void quantise(int64_t m, int levels, int sum_factor) const {
    const F8 sign = _mm256_set1_ps(-0.f);
    for (int64_t b = 0; b < blocks(); b++) {
      const float* from = x + m * width + b * BLOCK;
      const int64_t place = m * blocks() + b;
      const int64_t count = std::min(BLOCK, width - b * BLOCK);
      F8 largest = _mm256_setzero_ps();
      F8 nan = _mm256_setzero_ps();  // max would lose it, and the integers would be numbers again
      for (int64_t k = 0; k < count; k += 8) {
        const F8 value = _mm256_loadu_ps(from + k);
        largest = _mm256_max_ps(largest, _mm256_andnot_ps(sign, value));
        nan = _mm256_or_ps(nan, _mm256_cmp_ps(value, value, _CMP_UNORD_Q));
      }
      const float top = _mm256_movemask_ps(nan) ? NAN : max_lane(largest);
      const float inverse = top > 1e-35f ? levels / top : 0.f;
      int8_t* to = quantised.values.data() + place * BLOCK;
      __m256i total = _mm256_setzero_si256();
      for (int64_t k = 0; k < BLOCK; k += 8) {
        __m256i near = k < count ? _mm256_cvtps_epi32(_mm256_loadu_ps(from + k) * inverse) : _mm256_setzero_si256();
        __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(near), _mm256_extracti128_si256(near, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(to + k), _mm_packs_epi16(words, words));
        total = _mm256_add_epi32(total, near);
      }
      alignas(32) int lanes[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), total);
      int sum = 0;
      for (int lane : lanes) sum += lane;
      quantised.scale[place] = top / levels;
      quantised.sum[place] = sum_factor * sum;
    }
  }
};

}  // namespace falcon
