// What all kernels of GGUF's formats share: taking weights out of their bytes, and scaling whole sums.
#pragma once
#include "block_formats.h"
#include "tiles.h"

namespace falcon {

// The weights of a group's inputs 4 * step .. 4 * step + 3: the panel's two halves
template <typename Q>
inline void unpack(const uint8_t* group, int step, I& low, I& high) {
  if constexpr (Q::BITS == 8) {
    low = load_bytes(group + 2 * step * Q::VECTOR);
    high = load_bytes(group + (2 * step + 1) * Q::VECTOR);
    if constexpr (HAS_VNNI) {  // its unsigned factor
      low = flip_bits(low, 128);
      high = flip_bits(high, 128);
    }
    return;
  }
  const I both = load_bytes(group + (Q::PLANES + step) * Q::VECTOR);
  low = low_nibbles(both);
  high = high_nibbles(both);
  if constexpr (Q::PLANES > 0) {
    constexpr int bits = Q::BITS - 4;
    const int left = 4 - bits * step;
    auto plane = [&](int half) {
      const I v = load_bytes(group + half * Q::VECTOR);
      return bits_of(left > 0 ? shift_left_int16(v, left) : shift_right_int16(v, -left), (16 << bits) - 16);
    };
    low = any_of(low, plane(0));
    high = any_of(high, plane(1));
  }
}

// Where the whole sums of a row's block begin
template <typename Q>
inline int start_of(const TileInputs& rows, int64_t row, int64_t u) {
  return Q::OFFSET ? rows.start[row * rows.units + u] : 0;
}

// Whole sums [M, 2 vectors] of a block, times its scales, are added to the sums of the rows from `first` on.
template <int M, typename Q>
inline void add_block(const at::Half* scales, const TileInputs& rows, int64_t first, int64_t u, const I* whole,
                      F* sums) {
  for (int n = 0; n < 2; n++) {
    const F scale = load_as_float(scales + n * W);
    const F least = Q::LEAST ? load_as_float(scales + P + n * W) : F{};
    for (int m = 0; m < M; m++) {
      const int64_t place = (first + m) * rows.units + u;
      F s = fma(to_float(whole[2 * m + n]), scale * broadcast(rows.scale[place]), sums[2 * m + n]);
      if constexpr (Q::LEAST) s = fma(least, broadcast(rows.sum[place]), s);
      sums[2 * m + n] = s;
    }
  }
}

// Where the parts of a superblock are
template <typename Q>
struct SuperblockParts {
  static constexpr int PAIR_BYTES = 4 * W;
  const uint8_t* pairs;   // of the groups' whole scales
  const uint8_t* leasts;  // and whole least values
  const at::Half* scales;

  explicit SuperblockParts(const uint8_t* unit)
      : pairs(unit + 2 * Q::PAIRS * Q::GROUP_BYTES),
        leasts(pairs + Q::PAIRS * PAIR_BYTES),
        scales(reinterpret_cast<const at::Half*>(leasts + (Q::LEAST ? Q::PAIRS : 0) * PAIR_BYTES)) {}

  // A pair's vector for half a panel: two whole scales of 16 bits for each output
  I pair(int p, int half) const {
    return load_int8_as_int16(reinterpret_cast<const int8_t*>(pairs + p * PAIR_BYTES + half * 2 * W));
  }
};

// Sums of two neighbouring groups' inputs, which the pairs of a superblock's whole numbers are multiplied with
inline I dot_pairs(const uint8_t* pairs, int count, int half, const int16_t* sums) {
  I total = broadcast(0);
  for (int p = 0; p < count; p++) {
    int both;
    std::memcpy(&both, sums + 2 * p, 4);
    const I numbers = load_int8_as_int16(reinterpret_cast<const int8_t*>(pairs + (2 * p + half) * 2 * W));
    total = add_int32(total, multiply_add_int16(numbers, broadcast(both)));
  }
  return total;
}

// Whole sums [M, 2 vectors] of a superblock, with its groups' scales, are added to the sums of rows from `first` on.
template <int M, typename Q>
inline void add_superblock(const SuperblockParts<Q>& parts, const TileInputs& rows, int64_t first, int64_t u,
                           const I* whole, F* sums) {
  for (int n = 0; n < 2; n++) {
    const F scale = load_as_float(parts.scales + n * W);
    for (int m = 0; m < M; m++) {
      const int64_t place = (first + m) * rows.units + u;
      const int16_t* halves = rows.sums + place * RoundedInputs::SUMS;
      const F unit = broadcast(rows.scale[place]);
      F& s = sums[2 * m + n];
      I sum = whole[2 * m + n];
      if constexpr (Q::OFFSET > 0) {
        static_assert(Q::LEAST == false && Q::OFFSET == 32);
        sum = subtract_int32(sum, shift_left_int32(dot_pairs(parts.pairs, Q::PAIRS, n, halves), 5));
      }
      s = fma(to_float(sum), scale * unit, s);
      if constexpr (Q::LEAST) {
        const I least = dot_pairs(parts.leasts, Q::PAIRS, n, halves + RoundedInputs::HALVES);
        s = fma(to_float(least), load_as_float(parts.scales + P + n * W) * unit, s);
      }
    }
  }
}

}  // namespace falcon
