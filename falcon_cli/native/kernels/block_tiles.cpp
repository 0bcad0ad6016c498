// Tile kernels of GGUF's formats, on the very numbers of the file (block_formats.h).
#include "block_sums.h"

namespace falcon {

namespace {

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

template <int M, typename Q>
__attribute__((noinline)) void tile_blocks(const void* data, const TileInputs& rows, UnitRange range, F* sums,
                                           Prefetch prefetch) {
  const uint8_t* w = static_cast<const uint8_t*>(data);
  const int64_t row_bytes = rows.units * BLOCK;
  const int8_t* x = rows.rounded + range.begin * BLOCK;
  for (int64_t u = range.begin; u < range.end; u++, x += BLOCK, w += Q::BYTES) {
    I total[2 * M];
    for (int m = 0; m < M; m++) total[2 * m] = total[2 * m + 1] = broadcast(start_of<Q>(rows, m, u));
    prefetch.step();
    add_group<M, Q>(w, x, row_bytes, I{}, I{}, total);
    add_block<M, Q>(reinterpret_cast<const at::Half*>(w + Q::GROUP_BYTES), rows, 0, u, total, sums);
  }
}

template <int M, typename Q>
__attribute__((noinline)) void tile_superblocks(const void* data, const TileInputs& rows, UnitRange range, F* sums,
                                                Prefetch prefetch) {
  const uint8_t* w = static_cast<const uint8_t*>(data);
  const int64_t row_bytes = rows.units * SUPERBLOCK;
  const int8_t* x = rows.rounded + range.begin * SUPERBLOCK;
  for (int64_t u = range.begin; u < range.end; u++, w += Q::BYTES) {
    const SuperblockParts<Q> parts(w);
    I total[2 * M];
    for (I& sum : total) sum = broadcast(0);
    const uint8_t* group = w;
    for (int p = 0; p < Q::PAIRS; p++) {
      const I low = parts.pair(p, 0);
      const I high = parts.pair(p, 1);
      prefetch.step();
      add_group<M, Q>(group, x, row_bytes, even_of(low), even_of(high), total);
      if constexpr (Q::GROUP == BLOCK) prefetch.step();  // one for each block
      add_group<M, Q>(group + Q::GROUP_BYTES, x + Q::GROUP, row_bytes, odd_of(low), odd_of(high), total);
      group += 2 * Q::GROUP_BYTES;
      x += 2 * Q::GROUP;
    }
    add_superblock<M, Q>(parts, rows, 0, u, total, sums);
  }
}

template <int M = QUANTISED_TILE_ROWS>
TileKernel select(int64_t rows, WeightFormat format) {
  if constexpr (M > 1)
    if (rows < M) return select<M - 1>(rows, format);
  return with_block_format(format, [](auto form) -> TileKernel {
    using Q = decltype(form);
    if constexpr (Q::SUPER)
      return tile_superblocks<M, Q>;
    else
      return tile_blocks<M, Q>;
  });
}

}  // namespace

TileKernel select_block_kernel(int64_t rows, WeightFormat format) { return select(rows, format); }

}  // namespace falcon
