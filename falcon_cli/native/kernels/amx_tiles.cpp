// Tile kernels for Intel's AMX, of up to 32 rows.
//
// Those of quantised weights make the whole sums that the other kernels make (tiles.cpp, block_tiles.cpp), by other
// instructions. Whole sums are exact, and what follows is the others' code: so all bits are the same, and a row need
// not know by which kernel its neighbours were computed. Sums of bf16 products are not exact. So where AMX makes them,
// it makes them for any number of rows.
#include "amx.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>

#include "block_sums.h"
#include "operators.h"

namespace falcon {

namespace {

constexpr bool TWO_BLOCKS = P > amx::ROWS;  // of outputs, 16 each
constexpr int FOUR_BYTES = 4 * P;           // four inputs of a panel

// Whole sums of up to 32 rows and a panel
struct PanelSums {
  alignas(64) int at[AMX_TILE_ROWS][P];
  I half(int64_t m, int n) const { return load_bytes(reinterpret_cast<const uint8_t*>(at[m] + n * W)); }
};

template <amx::Tile LEFT, amx::Tile RIGHT, amx::Tile X, bool UNSIGNED>
inline void multiply_rows(const int8_t* x, int64_t stride, int (*sums)[P]) {
  amx::zero<LEFT>();
  amx::load<X>(x, stride);
  amx::dot_bytes<LEFT, X, amx::WEIGHTS, UNSIGNED>();
  amx::store<LEFT>(sums[0], FOUR_BYTES);
  if constexpr (TWO_BLOCKS) {
    amx::zero<RIGHT>();
    amx::dot_bytes<RIGHT, X, amx::WEIGHTS_RIGHT, UNSIGNED>();
    amx::store<RIGHT>(sums[0] + amx::ROWS, FOUR_BYTES);
  }
}

// Sums of rows of bytes, `stride` apart, with weights in fours of inputs, over as many inputs as AMX is configured for.
// Behind the rows lie 15 more that may be read.
template <bool UNSIGNED>
inline void multiply_bytes(const uint8_t* weights, const int8_t* x, int64_t stride, int64_t rows, PanelSums& sums) {
  amx::load<amx::WEIGHTS>(weights, FOUR_BYTES);
  if constexpr (TWO_BLOCKS) amx::load<amx::WEIGHTS_RIGHT>(weights + amx::ROW_BYTES, FOUR_BYTES);
  multiply_rows<amx::SUMS, amx::SUMS_RIGHT, amx::INPUTS, UNSIGNED>(x, stride, sums.at);
  if (rows > amx::ROWS)
    multiply_rows<amx::LOWER_SUMS, amx::LOWER_SUMS_RIGHT, amx::LOWER_INPUTS, UNSIGNED>(x + amx::ROWS * stride, stride,
                                                                                       sums.at + amx::ROWS);
}

void amx_int8(const void* data, const TileInputs& rows, UnitRange range, F* sums, Prefetch prefetch) {
  const uint8_t* w = static_cast<const uint8_t*>(data);
  const int8_t* x = rows.rounded + range.begin * BLOCK;
  PanelSums whole;
  for (int64_t b = range.begin; b < range.end; b++, w += BLOCK * P, x += BLOCK) {
    prefetch.step();
    multiply_bytes<true>(w, x, rows.units * BLOCK, rows.count, whole);
    for (int64_t m = 0; m < rows.count; m++) {
      const I start = broadcast(rows.start[m * rows.units + b]);
      const F unit = broadcast(rows.scale[m * rows.units + b]);
      for (int n = 0; n < 2; n++)
        sums[2 * m + n] = fma(to_float(add_int32(start, whole.half(m, n))), unit, sums[2 * m + n]);
    }
  }
}

// A group's weights as bytes, in fours of inputs: taken out once for all rows
template <typename Q>
inline void unpack_group(const uint8_t* group, uint8_t* weights) {
#pragma GCC unroll 8
  for (int step = 0; step < Q::STEPS; step++) {
    I low, high;
    unpack<Q>(group, step, low, high);
    store_bytes(weights + step * FOUR_BYTES, low);
    store_bytes(weights + step * FOUR_BYTES + FOUR_BYTES / 2, high);
  }
}

template <typename Q>
constexpr bool UNSIGNED = Q::BITS < 8 || HAS_VNNI;  // as `unpack` gives the weights

template <typename Q>
void amx_blocks(const void* data, const TileInputs& rows, UnitRange range, F* sums, Prefetch prefetch) {
  const uint8_t* w = static_cast<const uint8_t*>(data);
  const int8_t* x = rows.rounded + range.begin * BLOCK;
  alignas(64) uint8_t weights[Q::GROUP * P];
  PanelSums whole;
  for (int64_t u = range.begin; u < range.end; u++, w += Q::BYTES, x += BLOCK) {
    prefetch.step();
    unpack_group<Q>(w, weights);
    multiply_bytes<UNSIGNED<Q>>(weights, x, rows.units * BLOCK, rows.count, whole);
    const at::Half* scales = reinterpret_cast<const at::Half*>(w + Q::GROUP_BYTES);
    for (int64_t m = 0; m < rows.count; m++) {
      const I start = broadcast(start_of<Q>(rows, m, u));
      const I total[2] = {add_int32(start, whole.half(m, 0)), add_int32(start, whole.half(m, 1))};
      add_block<1, Q>(scales, rows, m, u, total, sums + 2 * m);
    }
  }
}

template <typename Q>
void amx_superblocks(const void* data, const TileInputs& rows, UnitRange range, F* sums, Prefetch prefetch) {
  const uint8_t* w = static_cast<const uint8_t*>(data);
  const int8_t* x = rows.rounded + range.begin * SUPERBLOCK;
  alignas(64) uint8_t weights[Q::GROUP * P];
  PanelSums whole;
  I total[2 * AMX_TILE_ROWS];
  for (int64_t u = range.begin; u < range.end; u++, w += Q::BYTES) {
    const SuperblockParts<Q> parts(w);
    std::fill_n(total, 2 * rows.count, broadcast(0));
    for (int group = 0; group < 2 * Q::PAIRS; group++, x += Q::GROUP) {
      if (group * Q::GROUP % BLOCK == 0) prefetch.step();
      unpack_group<Q>(w + group * Q::GROUP_BYTES, weights);
      multiply_bytes<UNSIGNED<Q>>(weights, x, rows.units * SUPERBLOCK, rows.count, whole);
      for (int n = 0; n < 2; n++) {
        const I pair = parts.pair(group / 2, n);
        const I scale = shift_right_int32(group % 2 ? pair : shift_left_int32(pair, 16), 16);
        for (int64_t m = 0; m < rows.count; m++)
          total[2 * m + n] = add_int32(total[2 * m + n], multiply_int32(whole.half(m, n), scale));
      }
    }
    for (int64_t m = 0; m < rows.count; m++) add_superblock<1, Q>(parts, rows, m, u, total + 2 * m, sums + 2 * m);
  }
}

// bf16 weights and inputs. The sums stay in the tile registers from unit to unit.
void amx_bf16x2(const void* data, const TileInputs& rows, UnitRange range, F* sums, Prefetch prefetch) {
  const char* w = static_cast<const char*>(data);
  const int64_t row_bytes = rows.units * 2 * BLOCK;
  const int8_t* x = rows.rounded + range.begin * 2 * BLOCK;
  const bool more = rows.count > amx::ROWS;
  alignas(64) float held[AMX_TILE_ROWS][P];
  std::memcpy(held, sums, rows.count * sizeof held[0]);
  amx::load<amx::SUMS>(held[0], FOUR_BYTES);
  if constexpr (TWO_BLOCKS) amx::load<amx::SUMS_RIGHT>(held[0] + amx::ROWS, FOUR_BYTES);
  if (more) amx::load<amx::LOWER_SUMS>(held[amx::ROWS], FOUR_BYTES);
  if (TWO_BLOCKS && more) amx::load<amx::LOWER_SUMS_RIGHT>(held[amx::ROWS] + amx::ROWS, FOUR_BYTES);
  for (int64_t u = range.begin; u < range.end; u++, w += BLOCK / 2 * FOUR_BYTES, x += 2 * BLOCK) {
    prefetch.step();
    amx::load<amx::WEIGHTS>(w, FOUR_BYTES);
    if constexpr (TWO_BLOCKS) amx::load<amx::WEIGHTS_RIGHT>(w + amx::ROW_BYTES, FOUR_BYTES);
    amx::load<amx::INPUTS>(x, row_bytes);
    amx::dot_bf16<amx::SUMS, amx::INPUTS, amx::WEIGHTS>();
    if constexpr (TWO_BLOCKS) amx::dot_bf16<amx::SUMS_RIGHT, amx::INPUTS, amx::WEIGHTS_RIGHT>();
    if (!more) continue;
    amx::load<amx::LOWER_INPUTS>(x + amx::ROWS * row_bytes, row_bytes);
    amx::dot_bf16<amx::LOWER_SUMS, amx::LOWER_INPUTS, amx::WEIGHTS>();
    if constexpr (TWO_BLOCKS) amx::dot_bf16<amx::LOWER_SUMS_RIGHT, amx::LOWER_INPUTS, amx::WEIGHTS_RIGHT>();
  }
  amx::store<amx::SUMS>(held[0], FOUR_BYTES);
  if constexpr (TWO_BLOCKS) amx::store<amx::SUMS_RIGHT>(held[0] + amx::ROWS, FOUR_BYTES);
  if (more) amx::store<amx::LOWER_SUMS>(held[amx::ROWS], FOUR_BYTES);
  if (TWO_BLOCKS && more) amx::store<amx::LOWER_SUMS_RIGHT>(held[amx::ROWS] + amx::ROWS, FOUR_BYTES);
  std::memcpy(sums, held, rows.count * sizeof held[0]);
}

// Linux lets a process use AMX's registers once it has asked for them (Documentation/arch/x86/xstate.rst).
bool is_permitted() {
  constexpr int ARCH_REQ_XCOMP_PERM = 0x1023;
  constexpr int TILE_DATA = 18;
  return amx::PRESENT && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
}

std::atomic<bool>& amx_switch() {
  static std::atomic<bool> on = is_permitted();
  return on;
}

}  // namespace

bool use_amx(std::optional<bool> use) {
  TORCH_CHECK(!use || !*use || !amx::PRESENT || is_permitted(), "Linux does not let this process use AMX");
  return use ? amx_switch().exchange(*use) : amx_switch().load();
}

bool amx_serves(const FormatShape& shape, int64_t rows) {
  if (!amx_switch()) return false;
  return shape.is_quantised() ? rows >= AMX_LEAST_ROWS : shape.format == WeightFormat::bf16x2;
}

AmxRegisters::AmxRegisters(const FormatShape& shape, bool used) : used(used) {
  const int inputs = shape.format == WeightFormat::q6_k ? Q6_K::GROUP : BLOCK;
  if (used) amx::configure(inputs * shape.input_bytes());
}

AmxRegisters::~AmxRegisters() {
  if (used) amx::release();
}

TileKernel select_amx_kernel(WeightFormat format) {
  if (format == WeightFormat::int8) return amx_int8;
  if (format == WeightFormat::bf16x2) return amx_bf16x2;
  return with_block_format(format, [](auto form) -> TileKernel {
    using Q = decltype(form);
    if constexpr (Q::SUPER)
      return amx_superblocks<Q>;
    else
      return amx_blocks<Q>;
  });
}

}  // namespace falcon
