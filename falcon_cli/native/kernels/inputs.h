// The input rows of a product, and the same rows rounded: quantised for quantised weights, or bf16.
#pragma once
#include <cmath>
#include <vector>

#include "packed_matrix.h"
#include "vector_math.h"

namespace falcon {

// Workspace of one operator call: the inputs of any of its products, rounded. It is reused from product to product.
// Rows stay one behind the other, not interleaved: threads that round neighbouring rows share no cache line then.
struct RoundedInputs {
  std::vector<int8_t> values;  // or bytes of bf16 numbers
  std::vector<float> scale;    // of each unit, a block or a superblock
  std::vector<int> start;      // of each block: where sums with weights begin that are stored too high
  std::vector<float> sum;      // of each block's values, times its scale
  std::vector<int16_t> sums;   // of each superblock: SUMS of them, its 16 halves of blocks, then its 8 blocks

  static constexpr int64_t HALVES = 16;
  static constexpr int64_t SUMS = 24;

  static constexpr int64_t MORE_ROWS = 15;  // that AMX reads behind the last one

  // For `rows` rows of `widest` inputs at most, of so many bytes each; without room where no product rounds them.
  RoundedInputs(int input_bytes, int64_t rows, int64_t widest) {
    const int64_t row = (widest + SUPERBLOCK - 1) / SUPERBLOCK;
    const int64_t superblocks = input_bytes ? rows * row : 0;
    values.resize(superblocks ? (rows + MORE_ROWS) * row * SUPERBLOCK * input_bytes : 0);
    scale.resize(superblocks * SUPERBLOCK / BLOCK);
    start.resize(superblocks * SUPERBLOCK / BLOCK);
    sum.resize(superblocks * SUPERBLOCK / BLOCK);
    sums.resize(superblocks * SUMS);
  }
};

struct TileInputs {  // of a tile's rows; a kernel reads the floats or the rounded values
  const float* floats;
  const int8_t* rounded;
  const float* scale;
  const int* start;
  const float* sum;
  const int16_t* sums;
  int64_t count;
  int64_t width;
  int64_t units;  // of a row
};

struct InputRows {  // [count, width]
  const float* x;
  int64_t count;
  int64_t width;
  RoundedInputs& rounded;

  int64_t units(const FormatShape& shape) const { return (width + shape.unit() - 1) / shape.unit(); }

  TileInputs tile(int64_t first_row, int64_t rows, const FormatShape& shape) const {
    const int64_t first_unit = first_row * units(shape);
    return {.floats = x + first_row * width,
            .rounded = rounded.values.data() + first_unit * shape.unit() * shape.input_bytes(),
            .scale = rounded.scale.data() + first_unit,
            .start = rounded.start.data() + first_unit,
            .sum = rounded.sum.data() + first_unit,
            .sums = rounded.sums.data() + first_unit * RoundedInputs::SUMS,
            .count = rows,
            .width = width,
            .units = units(shape)};
  }

  // Round one row as the weights' format wants it.
  void round(int64_t m, const FormatShape& shape) const {
    if (shape.is_quantised()) return quantise(m, shape);
    const int64_t padded = units(shape) * shape.unit();
    at::BFloat16* to = reinterpret_cast<at::BFloat16*>(rounded.values.data()) + m * padded;
    for (int64_t k = 0; k < padded; k++) to[k] = k < width ? x[m * width + k] : 0.f;
  }

 private:
  // Quantise one row. Each unit has its own scale, and each row is quantised by itself: an outlier in one row leaves
  // its neighbours' bits as they are. The scale of a unit with a NaN or an infinity is none either, so what is
  // multiplied with it is no number.
  void quantise(int64_t m, const FormatShape& shape) const {
    const int64_t unit = shape.unit();
    for (int64_t u = 0; u < units(shape); u++) {
      const float* from = x + m * width + u * unit;
      const int64_t place = m * units(shape) + u;
      const int64_t count = std::min(unit, width - u * unit);
      const float top = largest_of(from, count);
      const float inverse = top > 1e-35f ? shape.levels / top : 0.f;
      int8_t* to = rounded.values.data() + place * unit;
      int16_t halves[RoundedInputs::HALVES];
      for (int64_t half = 0; half < unit / 16; half++, from += 16, to += 16)
        halves[half] = round_half(from, count - half * 16, inverse, to);
      rounded.scale[place] = top / shape.levels;
      if (unit == BLOCK) {
        const int sum = halves[0] + halves[1];
        rounded.start[place] = -shape.offset * sum;
        rounded.sum[place] = rounded.scale[place] * sum;
        continue;
      }
      int16_t* sums = rounded.sums.data() + place * RoundedInputs::SUMS;
      std::copy_n(halves, RoundedInputs::HALVES, sums);
      for (int64_t block = 0; block < SUPERBLOCK / BLOCK; block++)
        sums[RoundedInputs::HALVES + block] = halves[2 * block] + halves[2 * block + 1];
    }
  }

  // The largest magnitude of some values, or NaN if one of them is
  static float largest_of(const float* from, int64_t count) {
    const F8 sign = _mm256_set1_ps(-0.f);
    F8 largest = _mm256_setzero_ps();
    F8 nan = _mm256_setzero_ps();  // max would lose it, and the integers would be numbers again
    for (int64_t k = 0; k < count; k += 8) {
      const F8 value = _mm256_loadu_ps(from + k);
      largest = _mm256_max_ps(largest, _mm256_andnot_ps(sign, value));
      nan = _mm256_or_ps(nan, _mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    }
    return _mm256_movemask_ps(nan) ? NAN : max_lane(largest);
  }

  // Round 16 values, or as many as there are, to whole numbers; returns their sum.
  static int16_t round_half(const float* from, int64_t count, float inverse, int8_t* to) {
    auto whole = [&](int64_t k) {
      return k < count ? _mm256_cvtps_epi32(_mm256_loadu_ps(from + k) * inverse) : _mm256_setzero_si256();
    };
    const __m256i low = whole(0);
    const __m256i high = whole(8);
    auto words = [](__m256i v) { return _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)); };
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_packs_epi16(words(low), words(high)));
    const __m256i total = _mm256_add_epi32(low, high);
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
    __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return static_cast<int16_t>(_mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1))));
  }
};

}  // namespace falcon
