// Tile kernels of float and int8 weights.
#include "tiles.h"

#include "operators.h"

namespace falcon {

namespace {

// fp32, bf16 and fp16 weights. The sums are copied into a local array, and the kernel is a function of its own
// (noinline): only so does GCC keep all of them in registers.
template <int M, typename T>
__attribute__((noinline)) void multiply(const T* w, const float* x, int64_t stride, int64_t count, F* sums,
                                        Prefetch prefetch) {
  F s[2 * M];
#pragma GCC unroll 24
  for (int i = 0; i < 2 * M; i++) s[i] = pin_to_register(sums[i]);
  auto add_input = [&](const float* from, const T* weights) {
    F low = pin_to_register(load_as_float(weights));
    F high = pin_to_register(load_as_float(weights + W));
#pragma GCC unroll 12
    for (int m = 0; m < M; m++) {
      F b = broadcast(from[m * stride]);
      s[2 * m] = fma(low, b, s[2 * m]);
      s[2 * m + 1] = fma(high, b, s[2 * m + 1]);
    }
  };
  int64_t k = 0;
  for (; k + 8 <= count; k += 8) {
    prefetch.step();
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++, x++, w += P) add_input(x, w);
  }
  for (; k < count; k++, x++, w += P) add_input(x, w);
#pragma GCC unroll 24
  for (int i = 0; i < 2 * M; i++) sums[i] = pin_to_register(s[i]);
}

template <int M, typename T>
void tile_float(const void* data, const TileInputs& rows, UnitRange range, F* sums, Prefetch prefetch) {
  const int64_t begin = range.begin * BLOCK;
  const int64_t end = std::min(range.end * BLOCK, rows.width);
  multiply<M>(static_cast<const T*>(data), rows.floats + begin, rows.width, end - begin, sums, prefetch);
}

// Weights and inputs in bf16, in pairs. Without an instruction for such products, sums are made as AMX makes them: of
// 32 inputs, those at even and at odd places by themselves.
template <int M>
__attribute__((noinline)) void tile_bf16x2(const void* data, const TileInputs& rows, UnitRange range, F* sums,
                                           Prefetch prefetch) {
  const uint8_t* w = static_cast<const uint8_t*>(data);
  const int8_t* x = rows.rounded + range.begin * 2 * BLOCK;
  const int64_t row_bytes = rows.units * 2 * BLOCK;
  const FlushTinyNumbers flush;
  for (int64_t b = range.begin; b < range.end; b++) {
    F even[2 * M], odd[2 * M];
    for (int i = 0; i < 2 * M; i++) {
      even[i] = pin_to_register(HAS_BF16 ? sums[i] : broadcast(0.f));
      odd[i] = broadcast(0.f);
    }
    prefetch.step();
#pragma GCC unroll 1
    for (int64_t k = 0; k < BLOCK; k += 2, w += 4 * P, x += 4) {
      const I low = pin_to_register(load_bytes(w));
      const I high = pin_to_register(load_bytes(w + 2 * P));
#pragma GCC unroll 12
      for (int m = 0; m < M; m++) {
        const I v = broadcast(load4(x + m * row_bytes));
        if constexpr (HAS_BF16) {
          even[2 * m] = dot_bf16(even[2 * m], low, v);
          even[2 * m + 1] = dot_bf16(even[2 * m + 1], high, v);
          continue;
        }
        even[2 * m] = fma(first_bf16(low), first_bf16(v), even[2 * m]);
        even[2 * m + 1] = fma(first_bf16(high), first_bf16(v), even[2 * m + 1]);
        odd[2 * m] = fma(second_bf16(low), second_bf16(v), odd[2 * m]);
        odd[2 * m + 1] = fma(second_bf16(high), second_bf16(v), odd[2 * m + 1]);
      }
    }
    for (int i = 0; i < 2 * M; i++) sums[i] = HAS_BF16 ? even[i] : sums[i] + (even[i] + odd[i]);
  }
}

// int8 weights. A block's integer sums are exact; they begin at -128 times the sum of the block's inputs, because
// weights are stored as w + 128.
template <int M>
__attribute__((noinline)) void tile_int8(const void* data, const TileInputs& rows, UnitRange range, F* sums,
                                         Prefetch prefetch) {
  const uint8_t* w = static_cast<const uint8_t*>(data);
  const int8_t* x = rows.rounded + range.begin * BLOCK;
  const int64_t B = rows.units;
  const int64_t K = B * BLOCK;
  for (int64_t b = range.begin; b < range.end; b++) {
    I t[2 * M];
    for (int m = 0; m < M; m++) t[2 * m] = t[2 * m + 1] = broadcast(rows.start[m * B + b]);
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

template <int M = std::max({FLOAT_TILE_ROWS, QUANTISED_TILE_ROWS, BF16X2_TILE_ROWS})>
TileKernel select(int64_t rows, WeightFormat format) {
  if constexpr (M > 1)
    if (rows < M) return select<M - 1>(rows, format);
  switch (format) {
    case WeightFormat::fp32:
      return tile_float<M, float>;
    case WeightFormat::bf16:
      return tile_float<M, at::BFloat16>;
    case WeightFormat::fp16:
      return tile_float<M, at::Half>;
    case WeightFormat::bf16x2:
      return tile_bf16x2<std::min(M, BF16X2_TILE_ROWS)>;
    default:
      return tile_int8<M>;
  }
}

template <typename T, int M = FLOAT_TILE_ROWS>
Multiply<T> multiply_of(int64_t rows) {
  if constexpr (M > 1)
    if (rows < M) return multiply_of<T, M - 1>(rows);
  return multiply<M, T>;
}

}  // namespace

template <>
Multiply<float> select_multiply(int64_t rows) {
  return multiply_of<float>(rows);
}

template <>
Multiply<at::Half> select_multiply(int64_t rows) {
  return multiply_of<at::Half>(rows);
}

TileKernel select_kernel(int64_t rows, WeightFormat format) {
  return format <= WeightFormat::int8 ? select(rows, format) : select_block_kernel(rows, format);
}

std::string arithmetic(const PackedMatrixPtr& weight, int64_t rows) {
  const FormatShape& shape = weight->shape;
  const bool bf16 = shape.format == WeightFormat::bf16x2;
  if (amx_serves(shape, rows)) return bf16 ? "amx-bf16" : "amx";
  if (!shape.is_quantised()) return bf16 && HAS_BF16 ? "bf16" : "fma";
  return shape.format == WeightFormat::int8 || shape.format == WeightFormat::q8_0 ? "dot4" : "dot2";
}

}  // namespace falcon
