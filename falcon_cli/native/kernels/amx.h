// Intel's AMX: eight tiles, each of 16 rows of up to 64 bytes, and products of two tiles that are added to a third.
//
// Where the processor has no AMX, the same operations are plain C++. They are slow. Tests run the kernels that are
// written for AMX on them, on any machine.
#pragma once
#include <cmath>

#include "vectors.h"

namespace falcon::amx {

constexpr int ROWS = 16;
constexpr int ROW_BYTES = 64;

// Which tiles hold what: sums of two blocks of rows with two blocks of outputs, and their factors
enum Tile { SUMS, SUMS_RIGHT, LOWER_SUMS, LOWER_SUMS_RIGHT, INPUTS, LOWER_INPUTS, WEIGHTS, WEIGHTS_RIGHT, COUNT };

#if defined(__AMX_TILE__) && defined(__AMX_INT8__) && defined(__AMX_BF16__)
constexpr bool PRESENT = true;

struct alignas(64) Configuration {
  uint8_t palette = 1;
  uint8_t reserved[15] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// For products over that many bytes of each row of inputs: 64 or fewer fours
inline void configure(int input_bytes) {
  Configuration wanted;
  for (int tile = 0; tile < COUNT; tile++) {
    const bool inputs = tile == INPUTS || tile == LOWER_INPUTS;
    wanted.row_bytes[tile] = inputs ? input_bytes : ROW_BYTES;
    wanted.rows[tile] = tile < WEIGHTS ? ROWS : input_bytes / 4;
  }
  asm volatile("ldtilecfg %0" ::"m"(wanted));
}

inline void release() { asm volatile("tilerelease"); }

template <Tile T>
inline void zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(T));
}

template <Tile T>
inline void load(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(T) : "memory");
}

template <Tile T>
inline void store(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(T) : "memory");
}

// Sums [rows, 16] += signed bytes [rows, 4 K] times bytes [K, 16, 4], which are unsigned if so said
template <Tile S, Tile X, Tile W, bool UNSIGNED>
inline void dot_bytes() {
  if constexpr (UNSIGNED)
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(S), "i"(X), "i"(W));
  else
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(S), "i"(X), "i"(W));
}

// Sums [rows, 16] of floats += bf16 numbers [rows, 2 K] times [K, 16, 2]
template <Tile S, Tile X, Tile W>
inline void dot_bf16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(S), "i"(X), "i"(W));
}
#else
constexpr bool PRESENT = false;

struct TileData {
  int rows;
  int bytes;
  uint8_t at[ROWS][ROW_BYTES];
};
inline thread_local TileData tiles[COUNT];

inline void configure(int input_bytes) {
  for (int tile = 0; tile < COUNT; tile++) {
    const bool inputs = tile == INPUTS || tile == LOWER_INPUTS;
    tiles[tile].bytes = inputs ? input_bytes : ROW_BYTES;
    tiles[tile].rows = tile < WEIGHTS ? ROWS : input_bytes / 4;
  }
}

inline void release() {
  for (TileData& tile : tiles) tile.rows = tile.bytes = 0;
}

template <Tile T>
inline void zero() {
  std::memset(tiles[T].at, 0, sizeof tiles[T].at);
}

template <Tile T>
inline void load(const void* from, int64_t stride) {
  for (int row = 0; row < tiles[T].rows; row++)
    std::memcpy(tiles[T].at[row], static_cast<const char*>(from) + row * stride, tiles[T].bytes);
}

template <Tile T>
inline void store(void* to, int64_t stride) {
  for (int row = 0; row < tiles[T].rows; row++)
    std::memcpy(static_cast<char*>(to) + row * stride, tiles[T].at[row], tiles[T].bytes);
}

template <Tile S, Tile X, Tile W, bool UNSIGNED>
inline void dot_bytes() {
  for (int row = 0; row < tiles[S].rows; row++)
    for (int output = 0; output < tiles[S].bytes / 4; output++) {
      int sum;
      std::memcpy(&sum, tiles[S].at[row] + 4 * output, 4);
      for (int k = 0; k < tiles[X].bytes; k++) {
        const uint8_t weight = tiles[W].at[k / 4][4 * output + k % 4];
        sum += static_cast<int8_t>(tiles[X].at[row][k]) * (UNSIGNED ? weight : static_cast<int8_t>(weight));
      }
      std::memcpy(tiles[S].at[row] + 4 * output, &sum, 4);
    }
}

// As Intel defines it: products at even and at odd places are added up by themselves, with fused rounding, and then
// both to the sum; tiny numbers count as zero.
template <Tile S, Tile X, Tile W>
inline void dot_bf16() {
  const FlushTinyNumbers flush;
  auto number = [](const uint8_t* place) {
    uint16_t half;
    std::memcpy(&half, place, 2);
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  };
  for (int row = 0; row < tiles[S].rows; row++)
    for (int output = 0; output < tiles[S].bytes / 4; output++) {
      float parts[2] = {0.f, 0.f};
      for (int k = 0; k < tiles[X].bytes / 2; k++)
        parts[k % 2] = std::fma(number(tiles[X].at[row] + 2 * k), number(tiles[W].at[k / 2] + 4 * output + 2 * (k % 2)),
                                parts[k % 2]);
      float sum;
      std::memcpy(&sum, tiles[S].at[row] + 4 * output, 4);
      sum += parts[0] + parts[1];
      std::memcpy(tiles[S].at[row] + 4 * output, &sum, 4);
    }
}
#endif

}  // namespace falcon::amx
