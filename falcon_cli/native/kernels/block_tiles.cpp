// Tile kernels of GGUF's formats, on the very numbers of the file (block_formats.h).
#include "block_formats.h"
#include "tiles.h"

namespace falcon {

namespace {

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

// A group's integer sums [M, 2 vectors], times the group's whole scale if there is one, are added to `total`.
template <int M, typename Q>
inline void add_group(const uint8_t* group, const int8_t* x, int64_t row_bytes, I low_scale, I high_scale, I* total) {
  I t[2 * M];
#pragma GCC unroll 8
  for (int step = 0; step < Q::STEPS; step++) {
    if (step % Q::STEPS_A_SUM == 0)
      for (I& sum : t) sum = broadcast(0);
    I low, high;
    unpack<Q>(group, step, low, high);
    low = pin_to_register(low);
    high = pin_to_register(high);
    I w = low;
    I v = high;
    if constexpr (Q::BITS == 8 && !HAS_VNNI) {
      w = pin_to_register(magnitude(low));
      v = pin_to_register(magnitude(high));
    }
#pragma GCC unroll 12
    for (int m = 0; m < M; m++) {
      const I inputs = broadcast(load4(x + m * row_bytes + 4 * step));
      const bool is_signed = Q::BITS == 8 && !HAS_VNNI;
      t[2 * m] = dot2(t[2 * m], w, is_signed ? signed_like(inputs, low) : inputs);
      t[2 * m + 1] = dot2(t[2 * m + 1], v, is_signed ? signed_like(inputs, high) : inputs);
    }
    if ((step + 1) % Q::STEPS_A_SUM == 0)
      for (int m = 0; m < M; m++) {
        const I low_sum = Q::SUPER ? scaled_dot2(t[2 * m], low_scale) : widen_dot2(t[2 * m]);
        const I high_sum = Q::SUPER ? scaled_dot2(t[2 * m + 1], high_scale) : widen_dot2(t[2 * m + 1]);
        total[2 * m] = add_int32(total[2 * m], low_sum);
        total[2 * m + 1] = add_int32(total[2 * m + 1], high_sum);
      }
  }
}

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

template <int M, typename Q>
__attribute__((noinline)) void tile_blocks(const void* data, const TileInputs& rows, UnitRange range, F* sums,
                                           Prefetch prefetch) {
  const uint8_t* w = static_cast<const uint8_t*>(data);
  const int64_t row_bytes = rows.units * BLOCK;
  const int8_t* x = rows.quantised + range.begin * BLOCK;
  for (int64_t u = range.begin; u < range.end; u++, x += BLOCK) {
    I total[2 * M];
    for (int m = 0; m < M; m++) {
      const int start = Q::OFFSET ? rows.start[m * rows.units + u] : 0;
      total[2 * m] = total[2 * m + 1] = broadcast(start);
    }
    prefetch.step();
    add_group<M, Q>(w, x, row_bytes, I{}, I{}, total);
    w += Q::GROUP_BYTES;
    const at::Half* scales = reinterpret_cast<const at::Half*>(w);
    for (int n = 0; n < 2; n++) {
      const F scale = load_as_float(scales + n * W);
      const F least = Q::LEAST ? load_as_float(scales + P + n * W) : F{};
      for (int m = 0; m < M; m++) {
        F s = fma(to_float(total[2 * m + n]), scale * broadcast(rows.scale[m * rows.units + u]), sums[2 * m + n]);
        if constexpr (Q::LEAST) s = fma(least, broadcast(rows.sum[m * rows.units + u]), s);
        sums[2 * m + n] = s;
      }
    }
    w += (Q::LEAST ? 4 : 2) * P;
  }
}

template <int M, typename Q>
__attribute__((noinline)) void tile_superblocks(const void* data, const TileInputs& rows, UnitRange range, F* sums,
                                                Prefetch prefetch) {
  const uint8_t* w = static_cast<const uint8_t*>(data);
  const int64_t row_bytes = rows.units * SUPERBLOCK;
  const int8_t* x = rows.quantised + range.begin * SUPERBLOCK;
  constexpr int PAIR_BYTES = 4 * W;
  constexpr int LEASTS = Q::LEAST ? Q::PAIRS : 0;
  for (int64_t u = range.begin; u < range.end; u++) {
    const uint8_t* pairs = w + 2 * Q::PAIRS * Q::GROUP_BYTES;
    const uint8_t* leasts = pairs + Q::PAIRS * PAIR_BYTES;
    const at::Half* scales = reinterpret_cast<const at::Half*>(leasts + LEASTS * PAIR_BYTES);
    I total[2 * M];
    for (I& sum : total) sum = broadcast(0);
    for (int p = 0; p < Q::PAIRS; p++) {
      const int8_t* pair = reinterpret_cast<const int8_t*>(pairs + p * PAIR_BYTES);
      const I low = load_int8_as_int16(pair);
      const I high = load_int8_as_int16(pair + 2 * W);
      prefetch.step();
      add_group<M, Q>(w, x, row_bytes, even_of(low), even_of(high), total);
      if constexpr (Q::GROUP == BLOCK) prefetch.step();  // one for each block
      add_group<M, Q>(w + Q::GROUP_BYTES, x + Q::GROUP, row_bytes, odd_of(low), odd_of(high), total);
      w += 2 * Q::GROUP_BYTES;
      x += 2 * Q::GROUP;
    }
    for (int n = 0; n < 2; n++) {
      const F scale = load_as_float(scales + n * W);
      for (int m = 0; m < M; m++) {
        const int16_t* halves = rows.sums + (m * rows.units + u) * QuantisedInputs::SUMS;
        const F unit = broadcast(rows.scale[m * rows.units + u]);
        F& s = sums[2 * m + n];
        I sum = total[2 * m + n];
        if constexpr (Q::OFFSET > 0) {
          static_assert(Q::LEAST == false && Q::OFFSET == 32);
          sum = subtract_int32(sum, shift_left_int32(dot_pairs(pairs, Q::PAIRS, n, halves), 5));
        }
        s = fma(to_float(sum), scale * unit, s);
        if constexpr (Q::LEAST) {
          const I least = dot_pairs(leasts, Q::PAIRS, n, halves + QuantisedInputs::HALVES);
          s = fma(to_float(least), load_as_float(scales + P + n * W) * unit, s);
        }
      }
    }
    w = reinterpret_cast<const uint8_t*>(scales + (Q::LEAST ? 2 : 1) * P);
  }
}

template <int M = QUANTISED_TILE_ROWS>
TileKernel select(int64_t rows, WeightFormat format) {
  if constexpr (M > 1)
    if (rows < M) return select<M - 1>(rows, format);
  switch (format) {
    case WeightFormat::q4_1:
      return tile_blocks<M, Q4_1>;
    case WeightFormat::q5_0:
      return tile_blocks<M, Q5_0>;
    case WeightFormat::q5_1:
      return tile_blocks<M, Q5_1>;
    case WeightFormat::q8_0:
      return tile_blocks<M, Q8_0>;
    case WeightFormat::q4_k:
      return tile_superblocks<M, Q4_K>;
    case WeightFormat::q5_k:
      return tile_superblocks<M, Q5_K>;
    default:
      return tile_superblocks<M, Q6_K>;
  }
}

}  // namespace

TileKernel select_block_kernel(int64_t rows, WeightFormat format) { return select(rows, format); }

}  // namespace falcon
