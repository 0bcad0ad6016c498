// Tile kernels: sums of a few rows with one panel of a packed matrix, all of them in registers.
//
// Each sum runs over the inputs in ascending order, one fused multiply-add (or one block of integers) after the other.
// The order is the same for every height M, and when a sum goes on in a later call. So a row's outputs have the same
// bits whatever rows stand beside it: a tree of tokens scores exactly like its tokens one by one.
#pragma once
#include "inputs.h"

namespace falcon {

struct UnitRange {  // units of inputs: blocks, or superblocks where the format has them
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

// Sums [M, 2 vectors] go on over some units of inputs, whose weights begin at `data`.
using TileKernel = void (*)(const void* data, const TileInputs& rows, UnitRange range, F* sums, Prefetch prefetch);

// Sums [M, 2 vectors] go on over `count` inputs of rows that are `stride` floats apart. Behind `w` lie 2W weights of
// each input: a panel of floats.
template <typename T>
using Multiply = void (*)(const T* w, const float* x, int64_t stride, int64_t count, F* sums, Prefetch prefetch);

template <typename T>
Multiply<T> select_multiply(int64_t rows);  // for a tile of that many rows

// The kernel of a weight format for a tile of that many rows
TileKernel select_kernel(int64_t rows, WeightFormat format);
TileKernel select_block_kernel(int64_t rows, WeightFormat format);  // of GGUF's formats

// Kernels for AMX take any number of rows up to 32. Fewer quantised rows than the least number cost less without AMX.
constexpr int64_t AMX_TILE_ROWS = 32;
constexpr int64_t AMX_LEAST_ROWS = 5;
TileKernel select_amx_kernel(WeightFormat format);  // of weights whose inputs are rounded
bool amx_serves(const FormatShape& shape, int64_t rows);

// A thread's tile registers, set up for a format's kernel as long as this lives
struct AmxRegisters {
  const bool used;
  AmxRegisters(const FormatShape& shape, bool used);
  ~AmxRegisters();
  AmxRegisters(const AmxRegisters&) = delete;
};

}  // namespace falcon
