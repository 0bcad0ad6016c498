// Products of few rows with a large packed matrix. All threads of a parallel region call them together.
#pragma once
#include <ATen/record_function.h>
#include <omp.h>

#include "tiles.h"

namespace falcon {

// A single tile (decoding one token) uses each weight once: memory is one stream, and 2 KB of it are on their way while
// a kernel computes. Several tiles use each chunk of weights one after the other: the chunk and the next one, which is
// being fetched, take half of a first-level cache of 32 KB.
constexpr int64_t PREFETCH_DISTANCE = 2048;  // bytes
constexpr int64_t CHUNK_BYTES = 8192;
constexpr int64_t ROWS_AT_ONCE = 96;  // their sums lie on the stack: 12 KB at most

// What becomes of the sums: y = sum, y += sum, or y = silu(gate) up and y = sigmoid(gate) up of a panel's two halves
enum class Epilogue { store, add, silu_gate, sigmoid_gate };

// An event for torch's profiler, of one thread only
#define FALCON_PROFILE(name)                              \
  at::RecordFunction profiled(at::RecordScope::FUNCTION); \
  if (omp_get_thread_num() == 0 && profiled.isActive()) profiled.before(name)

// Write a row's 2W finished sums, which are the outputs from `begin` on. The last panel may be wider than the matrix.
inline void apply_epilogue(F low, F high, const float* bias, float* y, int64_t begin, int64_t outputs,
                           Epilogue epilogue) {
  alignas(64) float s[P];
  store(s, bias ? low + load(bias) : low);
  store(s + W, bias ? high + load(bias + W) : high);
  const bool gated = epilogue == Epilogue::silu_gate || epilogue == Epilogue::sigmoid_gate;
  if (gated) {
    for (int i = 0; i < W; i += 8) {
      F8 gate = _mm256_load_ps(s + i);
      F8 up = _mm256_load_ps(s + W + i);
      _mm256_store_ps(s + i, (epilogue == Epilogue::silu_gate ? gate * up : up) / (exponential(-gate) + 1.f));
    }
    begin /= 2;
    outputs /= 2;
  }
  const int64_t width = std::min<int64_t>(gated ? W : P, outputs - begin);
  const bool add = epilogue == Epilogue::add;
  int64_t i = 0;
  for (; i + 8 <= width; i += 8) {
    F8 v = _mm256_load_ps(s + i);
    _mm256_storeu_ps(y + begin + i, add ? _mm256_loadu_ps(y + begin + i) + v : v);
  }
  for (; i < width; i++) y[begin + i] = add ? y[begin + i] + s[i] : s[i];
}

// Rows in as few tiles as `max_height` allows. Their heights differ by one at most.
struct RowTiles {
  int64_t rows;
  int64_t count;
  RowTiles(int64_t rows, int64_t max_height) : rows(rows), count((rows + max_height - 1) / max_height) {}
  int64_t begin(int64_t t) const { return rows * t / count; }
  int64_t height(int64_t t) const { return begin(t + 1) - begin(t); }
  int64_t least_height() const { return rows / count; }
};

inline int64_t most_tile_rows(const FormatShape& shape) {
  if (shape.is_quantised()) return QUANTISED_TILE_ROWS;
  return shape.input_bytes() ? BF16X2_TILE_ROWS : FLOAT_TILE_ROWS;
}

// What the panels of a product have in common
struct ProductPlan {
  const InputRows& rows;
  bool amx;
  int64_t tile_rows;  // at most
  RowTiles tiles;
  const FormatShape& shape;
  int64_t unit_bytes;      // of a unit of inputs in a panel
  int64_t bytes_a_step;    // of a kernel's step: a block, or 8 inputs of a matrix of floats
  TileKernel low_kernel;   // for tiles of the least height
  TileKernel high_kernel;  // for tiles of one row more

  ProductPlan(const InputRows& rows, const PackedMatrix& w)
      : rows(rows),
        amx(amx_serves(w.shape, rows.count)),
        tile_rows(amx ? AMX_TILE_ROWS : most_tile_rows(w.shape)),
        tiles(rows.count, tile_rows),
        shape(w.shape) {
    const int64_t unit = shape.unit();
    unit_bytes = unit / shape.inputs * shape.width * P * w.data.element_size();
    bytes_a_step = unit_bytes / (unit / (shape.input_bytes() ? BLOCK : 8));
    low_kernel = amx ? select_amx_kernel(shape.format) : select_kernel(tiles.least_height(), shape.format);
    high_kernel = amx ? low_kernel : select_kernel(tiles.least_height() + 1, shape.format);
  }
};

// Sums [rows, 2 vectors] of the tiles t0 .. t1 - 1 with a panel, chunk by chunk. All tiles use a chunk before the next
// one comes from memory. A single tile fetches what it needs soon; each of several fetches its share of the next chunk.
inline void accumulate_tiles(const ProductPlan& plan, const char* data, int64_t t0, int64_t t1, F* sums) {
  const RowTiles& tiles = plan.tiles;
  const int64_t first_row = tiles.begin(t0);
  const int64_t count = t1 - t0;
  const int64_t units = plan.rows.units(plan.shape);
  const int64_t most = count == 1 ? units : std::max<int64_t>(1, CHUNK_BYTES / plan.unit_bytes);
  const int64_t chunks = (units + most - 1) / most;
  const int64_t chunk = (units + chunks - 1) / chunks;  // of nearly the same size
  const int64_t chunk_bytes = chunk * plan.unit_bytes;
  std::fill_n(sums, 2 * (tiles.begin(t1) - first_row), broadcast(0.f));
  for (int64_t u = 0; u < units; u += chunk, data += chunk_bytes)
    for (int64_t t = t0; t < t1; t++) {
      const int64_t row = tiles.begin(t);
      const TileKernel kernel = tiles.height(t) == tiles.least_height() ? plan.low_kernel : plan.high_kernel;
      const char* ahead = count == 1 ? data + PREFETCH_DISTANCE : data + chunk_bytes + (t - t0) * chunk_bytes / count;
      kernel(data, plan.rows.tile(row, tiles.height(t), plan.shape), {u, std::min(u + chunk, units)},
             sums + 2 * (row - first_row), {ahead, plan.bytes_a_step / count});
    }
}

// Sums of x [rows, inputs] and a packed matrix, scaled, without the bias: `take(row, first_output, low, high)` is given
// those of each row and panel. A thread's panels ascend.
//
// Callers may leave out the barrier behind a loop that made the rows, if its schedule is static: rounding has the same
// schedule, so each thread rounds the rows that it made itself. Without rounding, the barrier is here.
template <typename Take>
void for_each_panel(const InputRows& rows, const PackedMatrix& w, Take take) {
  if (!rows.count) return;
  const ProductPlan plan(rows, w);
  const RowTiles& tiles = plan.tiles;
  if (w.shape.input_bytes()) {
#pragma omp for schedule(static)
    for (int64_t m = 0; m < rows.count; m++) rows.round(m, w.shape);
  } else {
#pragma omp barrier
  }
  const char* data = static_cast<const char*>(w.data.const_data_ptr());
  const float* scale = data_or_null(w.scale);
  const int64_t panel_bytes = w.data.stride(0) * w.data.element_size();
  const int64_t at_once = ROWS_AT_ONCE / plan.tile_rows;
  const AmxRegisters registers(plan.shape, plan.amx);
  // Guided: a thread takes a long stretch of panels first, because each new stretch breaks its stream of memory, and
  // shorter ones later, so that all threads end together even if the system delays one of them.
#pragma omp for schedule(guided)
  for (int64_t panel = 0; panel < w.panels(); panel++)
    for (int64_t t0 = 0; t0 < tiles.count; t0 += at_once) {
      const int64_t t1 = std::min(t0 + at_once, tiles.count);
      const int64_t first_row = tiles.begin(t0);
      const int64_t first_output = panel * P;
      F sums[2 * ROWS_AT_ONCE];
      accumulate_tiles(plan, data + panel * panel_bytes, t0, t1, sums);
      for (int64_t m = first_row; m < tiles.begin(t1); m++) {
        F& low = sums[2 * (m - first_row)];
        F& high = sums[2 * (m - first_row) + 1];
        if (scale) {
          low *= load(scale + first_output);
          high *= load(scale + first_output + W);
        }
        take(m, first_output, low, high);
      }
    }
}

// y [rows, outputs] of x [rows, inputs] and a packed matrix; y's rows are `stride` floats apart.
inline void product(const InputRows& rows, const PackedMatrix& w, float* y, int64_t stride, Epilogue epilogue) {
  FALCON_PROFILE("falcon::product");
  const float* bias = data_or_null(w.bias);
  for_each_panel(rows, w, [&](int64_t m, int64_t first_output, F low, F high) {
    apply_epilogue(low, high, bias ? bias + first_output : nullptr, y + m * stride, first_output, w.outputs, epilogue);
  });
}

}  // namespace falcon
