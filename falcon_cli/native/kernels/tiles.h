// Tile kernels: sums of a few rows with one panel of a packed matrix, all of them in registers.
//
// Each sum runs over the inputs in ascending order, one fused multiply-add (or one block of integers) after the other.
// The order is the same for every height M, and when a sum goes on in a later call. So a row's outputs have the same
// bits whatever rows stand beside it: a tree of tokens scores exactly like its tokens one by one.
#pragma once
#include "inputs.h"

namespace falcon {

struct BlockRange {  // blocks of inputs
  int64_t begin;
  int64_t end;
};

// Cache lines that a kernel fetches while it computes, a share in each of its steps
struct Prefetch {
  const char* line;
  int64_t bytes_a_step;
  void step() {
    for (int64_t offset = 0; offset < bytes_a_step; offset += 64) _mm_prefetch(line + offset, _MM_HINT_T0);
    line += bytes_a_step;
  }
};

inline int load4(const int8_t* p) {
  int bits;
  std::memcpy(&bits, p, 4);
  return bits;
}

// Sums [M, 2 vectors] go on over some blocks of inputs, whose weights begin at `data`.
using TileKernel = void (*)(const void* data, const TileInputs& rows, BlockRange range, F* sums, Prefetch prefetch);

// fp32 and bf16 weights. The sums are copied into a local array, and the kernel is a function of its own (noinline):
// only so does GCC keep all of them in registers.
template <int M, typename T>
__attribute__((noinline)) void tile_float(const void* data, const TileInputs& rows, BlockRange range, F* sums,
                                          Prefetch prefetch) {
  const T* w = static_cast<const T*>(data);
  F s[2 * M];
#pragma GCC unroll 24
  for (int i = 0; i < 2 * M; i++) s[i] = pin_to_register(sums[i]);
  const int64_t K = rows.width;
  const float* x = rows.floats + range.begin * BLOCK;
  const float* end = rows.floats + std::min(range.end * BLOCK, K);
  while (x < end) {
    prefetch.step();
#pragma GCC unroll 8
    for (int k = 0; k < 8; k++, x++, w += P) {
      F low = pin_to_register(load_as_float(w));
      F high = pin_to_register(load_as_float(w + W));
#pragma GCC unroll 12
      for (int m = 0; m < M; m++) {
        F b = broadcast(x[m * K]);
        s[2 * m] = fma(low, b, s[2 * m]);
        s[2 * m + 1] = fma(high, b, s[2 * m + 1]);
      }
    }
  }
#pragma GCC unroll 24
  for (int i = 0; i < 2 * M; i++) sums[i] = pin_to_register(s[i]);
}

// int8 weights. A block's integer sums are exact; they begin at -128 times the sum of the block's inputs, because
// weights are stored as w + 128.
template <int M>
__attribute__((noinline)) void tile_int8(const void* data, const TileInputs& rows, BlockRange range, F* sums,
                                         Prefetch prefetch) {
  const uint8_t* w = static_cast<const uint8_t*>(data);
  const int8_t* x = rows.quantised + range.begin * BLOCK;
  const int64_t B = rows.blocks;
  const int64_t K = B * BLOCK;
  for (int64_t b = range.begin; b < range.end; b++) {
    I t[2 * M];
    for (int m = 0; m < M; m++) t[2 * m] = t[2 * m + 1] = broadcast(rows.sum[m * B + b]);
    prefetch.step();
#pragma GCC unroll 1
    for (int64_t k = 0; k < BLOCK; k += 4, w += 4 * P, x += 4) {
      I low = pin_to_register(load_bytes(w));
      I high = pin_to_register(load_bytes(w + 2 * P));
#pragma GCC unroll 12
      for (int m = 0; m < M; m++) {
        I v = broadcast(load4(x + m * K));
        t[2 * m] = dot4(t[2 * m], low, v);
        t[2 * m + 1] = dot4(t[2 * m + 1], high, v);
      }
    }
    for (int m = 0; m < M; m++) {
      F unit = broadcast(rows.scale[m * B + b]);
      sums[2 * m] = fma(to_float(t[2 * m]), unit, sums[2 * m]);
      sums[2 * m + 1] = fma(to_float(t[2 * m + 1]), unit, sums[2 * m + 1]);
    }
  }
}

// int4 weights 0 .. 15 in blocks. P steps and P least values in fp16 follow each block: weight = step * w + least.
template <int M>
__attribute__((noinline)) void tile_int4(const void* data, const TileInputs& rows, BlockRange range, F* sums,
                                         Prefetch prefetch) {
  const uint8_t* w = static_cast<const uint8_t*>(data);
  const int8_t* x = rows.quantised + range.begin * BLOCK;
  const int64_t B = rows.blocks;
  const int64_t K = B * BLOCK;
  for (int64_t b = range.begin; b < range.end; b++) {
    I t[2 * M];
    for (I& sum : t) sum = broadcast(0);
    prefetch.step();
#pragma GCC unroll 1
    for (int64_t k = 0; k < BLOCK; k += 4, w += 2 * P, x += 4) {
      I both = load_bytes(w);
      I low = low_nibbles(both);
      I high = high_nibbles(both);
#pragma GCC unroll 12
      for (int m = 0; m < M; m++) {
        I v = broadcast(load4(x + m * K));
        t[2 * m] = dot2(t[2 * m], low, v);
        t[2 * m + 1] = dot2(t[2 * m + 1], high, v);
      }
    }
    const at::Half* steps = reinterpret_cast<const at::Half*>(w);
    for (int n = 0; n < 2; n++) {
      F step = load_as_float(steps + n * W);
      F least = load_as_float(steps + P + n * W);
      for (int m = 0; m < M; m++) {
        F& s = sums[2 * m + n];
        F unit = broadcast(rows.scale[m * B + b]);
        s = fma(to_float(widen_dot2(t[2 * m + n])), step * unit, s);
        s = fma(least, broadcast(rows.scale[m * B + b] * rows.sum[m * B + b]), s);
      }
    }
    w += 4 * P;
  }
}

// The kernel of a weight format for a tile of that many rows
template <int M = std::max(FLOAT_TILE_ROWS, QUANTISED_TILE_ROWS)>
TileKernel select_kernel(int64_t rows, WeightFormat format) {
  if constexpr (M > 1)
    if (rows < M) return select_kernel<M - 1>(rows, format);
  switch (format) {
    case WeightFormat::int8:
      return tile_int8<M>;
    case WeightFormat::int4:
      return tile_int4<M>;
    case WeightFormat::bf16:
      return tile_float<M, at::BFloat16>;
    default:
      return tile_float<M, float>;
  }
}

}  // namespace falcon
