// Products of few rows with large matrices. What is here runs inside a parallel region, by all its threads together.
#pragma once
#include <ATen/record_function.h>
#include <omp.h>

#include "tiles.h"

namespace falcon {

using Tensors = std::vector<Tensor>;

constexpr int64_t SOON = 2048, PIECE = 8192;  // bytes
constexpr int64_t AT_ONCE = 8;                // tiles
enum class End { store, add, silu, glu };  // y = s, y += s, or of the panel's halves a, b: y = silu(a) b, y = sigmoid(a) b

// Events for torch's profiler, of one thread only
#define FALCON_TOLD(name)                                                                            \
  at::RecordFunction told(at::RecordScope::FUNCTION);                                                \
  if (omp_get_thread_num() == 0 && told.isActive()) told.before(name)

// What becomes of a row's 2W finished sums; the last panel may stand out over the matrix.
inline void finish(F low, F high, const float* bias, float* y, int64_t begin, int64_t outputs, End end) {
  alignas(64) float s[P];
  store(s, bias ? low + load(bias) : low), store(s + W, bias ? high + load(bias + W) : high);
  bool halved = end == End::silu || end == End::glu;
  if (halved) {
    for (int i = 0; i < W; i += 8) {
      F8 gate = _mm256_load_ps(s + i), other = _mm256_load_ps(s + W + i);
      _mm256_store_ps(s + i, (end == End::silu ? gate * other : other) / (exponential(-gate) + 1.f));
    }
    begin /= 2, outputs /= 2;
  }
  int64_t width = std::min<int64_t>(halved ? W : P, outputs - begin), i = 0;
  for (; i + 8 <= width; i += 8) {
    F8 v = _mm256_load_ps(s + i);
    _mm256_storeu_ps(y + begin + i, end == End::add ? _mm256_loadu_ps(y + begin + i) + v : v);
  }
  for (; i < width; i++) y[begin + i] = end == End::add ? y[begin + i] + s[i] : s[i];
}

// What the panels of a product have in common
struct Plan {
  const Rows& rows;
  Tiles tiles;
  int64_t bytes, fetched;  // of a block of inputs; and of those, what one turn's share is, if one tile fetches all
  Meet low, high;          // for tiles of the two heights

  Plan(const Rows& rows, const Matrix& w, int64_t most) : rows(rows), tiles{rows.count, (rows.count + most - 1) / most} {
    bytes = w.whole() ? w.data.stride(0) / rows.blocks() : BLOCK * P * w.data.element_size();
    fetched = w.whole() ? bytes : bytes / 4;
    low = meeting(least(), w), high = meeting(least() + 1, w);
  }
  int64_t least() const { return tiles.rows / tiles.count; }
};

// Sums [rows, 2] of some tiles with a panel: piece by piece, each met by all tiles before the next comes from far. One
// tile fetches what it soon meets, each of several its share of the next piece.
inline void add_up(const Plan& plan, const char* data, int64_t t0, int64_t t1, F* sums) {
  const Tiles& tiles = plan.tiles;
  const int64_t m0 = tiles.begin(t0), here = t1 - t0, blocks = plan.rows.blocks();
  const int64_t piece = here == 1 ? blocks : std::max<int64_t>(1, PIECE / plan.bytes), length = piece * plan.bytes;
  std::fill_n(sums, 2 * (tiles.begin(t1) - m0), all(0.f));
  for (int64_t b = 0; b < blocks; b += piece, data += length)
    for (int64_t t = t0; t < t1; t++) {
      const int64_t m = tiles.begin(t);
      const Meet meet = tiles.height(t) == plan.least() ? plan.low : plan.high;
      const char* soon = here == 1 ? data + SOON : data + length + (t - t0) * length / here;
      meet(data, plan.rows.tile(m), {b, std::min(b + piece, blocks)}, sums + 2 * (m - m0), {soon, plan.fetched / here});
    }
}

// y [rows, outputs] of x [rows, inputs] and a packed matrix; every thread of the team takes a stretch of panels as it
// gets free, a long one first, for memory is a stream. Rows may have been made by the threads that a static schedule
// gives them to.
inline void product(const Rows& rows, const Matrix& w, float* y, int64_t stride, End end) {
  FALCON_TOLD("falcon::product");
  if (!rows.count) return;
  const Plan plan(rows, w, w.whole() ? SMALL_TILE : TILE);
  const Tiles& tiles = plan.tiles;
  if (w.whole()) {
#pragma omp for schedule(static)
    for (int64_t m = 0; m < rows.count; m++)  // int8 in 63 levels, so that a pair of products fits 16 bits
      w.int8() ? rows.round(m, 63, -128) : rows.round(m, 127, 1);
  } else {
#pragma omp barrier
  }
  const char* data = (const char*)w.data.const_data_ptr();
  const float *bias = numbers(w.bias), *scale = w.int8() ? numbers(w.scale) : nullptr;
  const int64_t panels = w.data.size(0), bytes = w.data.stride(0) * w.data.element_size();
#pragma omp for schedule(guided)
  for (int64_t number = 0; number < panels; number++)
    for (int64_t t0 = 0; t0 < tiles.count; t0 += AT_ONCE) {
      const int64_t t1 = std::min(t0 + AT_ONCE, tiles.count), m0 = tiles.begin(t0), outputs = number * P;
      F sums[2 * AT_ONCE * std::max(TILE, SMALL_TILE)];
      add_up(plan, data + number * bytes, t0, t1, sums);
      for (int64_t m = m0; m < tiles.begin(t1); m++) {
        F &low = sums[2 * (m - m0)], &high = sums[2 * (m - m0) + 1];
        if (scale) low *= load(scale + outputs), high *= load(scale + outputs + W);
        finish(low, high, bias ? bias + outputs : nullptr, y + m * stride, outputs, w.outputs, end);
      }
    }
}

}  // namespace falcon
