// Attention of few queries to the slots of a cache. All threads of a parallel region call `attend_all` together.
//
// Keys and values lie like packed matrices that grow by a slot with each token:
//
//     keys      [groups, slots / P, H, P]    a score is a query times a column of its panel
//     values    [groups, H / P, slots, P]    an output is the slots' weights times a column of its panel
//
// So the kernel of float matrices multiplies both: several queries share what it loads, and no score is a sum over
// lanes.
//
// A query's slots come in segments. Those of a segment are weighed by its own largest score, and what they add up to is
// scaled when the next segment is added (as in FlashAttention). Where a segment begins, and every order of additions,
// depend on the query's own slots alone: its bits are the same whatever queries stand beside it, and whichever threads
// took its segments.
#pragma once
#include <optional>

#include "product.h"

namespace falcon {

constexpr int64_t SEGMENT = 256;            // slots: keys and values of one stay in a second-level cache
constexpr int64_t SHARED_ROWS = 64;         // at most: threads share a query's segments
constexpr int64_t SHARED_FLOATS = 1 << 20;  // of such segments' sums, at most
constexpr int64_t TILES_A_PART = 8;         // queries that one thread takes through all their segments, at most
constexpr int64_t QUERY_ROWS = FLOAT_TILE_ROWS;

struct CacheShape {
  int64_t groups;  // kv heads
  int64_t slots;   // whole panels
  int64_t head_size;
  int64_t value_panels() const { return (head_size + P - 1) / P; }
  int64_t padded_head() const { return value_panels() * P; }
  int64_t key_numbers() const { return groups * slots * head_size; }
  int64_t value_numbers() const { return groups * slots * padded_head(); }
};

template <typename T>
struct LayerCache : CacheShape {
  T* keys;
  T* values;

  T* key_panel(int64_t g, int64_t slot) const { return keys + (g * slots + slot / P * P) * head_size; }
  T* value_row(int64_t g, int64_t panel, int64_t slot) const {
    return values + ((g * value_panels() + panel) * slots + slot) * P;
  }

  void write(int64_t g, int64_t slot, const float* key, const float* value) const {
    T* to = key_panel(g, slot) + slot % P;
    alignas(64) T rounded[8];
    for (int64_t h = 0; h < head_size; h += 8) {
      store_rounded(rounded, _mm256_loadu_ps(key + h));
      for (int64_t i = 0; i < 8; i++) to[(h + i) * P] = rounded[i];
      store_rounded(value_row(g, h / P, slot) + h % P, _mm256_loadu_ps(value + h));
    }
  }
};

struct VisibleSlots {           // of one row
  int64_t first;                // the row sees all of these, the first slots
  std::vector<int64_t> others;  // and some behind them, ascending
  int64_t count() const { return first + others.size(); }
  int64_t slot(int64_t n) const { return n < first ? n : others[n - first]; }
};

// A row sees all committed slots, and of the C slots behind them those that `mask` [T, C] marks. Without a mask, it
// sees those of the rows before it and its own.
inline std::vector<VisibleSlots> visible_slots(int64_t rows, int64_t committed, const std::optional<Tensor>& mask) {
  std::vector<VisibleSlots> slots(rows);
  const int64_t columns = mask ? mask->size(1) : 0;
  const bool* marks = mask ? mask->const_data_ptr<bool>() : nullptr;
  for (int64_t t = 0; t < rows; t++) {
    int64_t c = mask ? 0 : t + 1;
    while (c < columns && marks[t * columns + c]) c++;  // a chain sees all before it
    slots[t].first = committed + c;
    for (; c < columns; c++)
      if (marks[t * columns + c]) slots[t].others.push_back(committed + c);
  }
  return slots;
}

// The queries of a forward, and how its threads share them
struct AttentionPlan {
  std::vector<VisibleSlots> slots;  // of each row
  int64_t heads;                    // of queries
  CacheShape shape;
  float scale;
  int64_t segments = 0;
  std::vector<float> shared;  // sums of each query's segments, where several threads make them

  // Threads share the segments of few queries only where they have nothing else to share (`alone`).
  AttentionPlan(std::vector<VisibleSlots> slots_, int64_t heads, const CacheShape& shape, float scale, bool alone)
      : slots(std::move(slots_)), heads(heads), shape(shape), scale(scale) {
    for (const VisibleSlots& of_row : slots) segments = std::max(segments, segments_of(of_row));
    const int64_t floats = rows() * heads * segments * sums_size();
    if (alone && rows() <= SHARED_ROWS && floats <= SHARED_FLOATS) shared.resize(floats);
  }

  int64_t rows() const { return slots.size(); }
  int64_t queries_a_row() const { return heads / shape.groups; }  // of one group
  int64_t queries() const { return rows() * queries_a_row(); }    // of one group
  static int64_t segments_of(const VisibleSlots& slots) { return (slots.count() + SEGMENT - 1) / SEGMENT; }

  // Sums of a query over some slots: values weighed by e^(score - top) [padded head], `top`, and the sum of the weights
  int64_t sums_size() const { return shape.padded_head() + 2; }
  float* shared_sums(int64_t g, int64_t query, int64_t segment) {
    return shared.data() + ((g * queries() + query) * segments + segment) * sums_size();
  }
};

// Scores become e^(scale score - top); behind the sums go `top` and the sum of the weights. It runs in 8 lanes over the
// slots in their order; the padding of the last vector adds zeros.
inline void weigh(float* p, int64_t count, float scale, float* top_and_total) {
  const int64_t padded = (count + 7) / 8 * 8;
  std::fill(p + count, p + padded, p[0]);
  F8 largest = _mm256_loadu_ps(p);
  F8 total = _mm256_setzero_ps();
  for (int64_t s = 8; s < padded; s += 8) largest = _mm256_max_ps(largest, _mm256_loadu_ps(p + s));
  const float top = max_lane(largest) * scale;
  for (int64_t s = 0; s < padded; s += 8) _mm256_storeu_ps(p + s, exponential(_mm256_loadu_ps(p + s) * scale - top));
  std::fill(p + count, p + padded, 0.f);
  for (int64_t s = 0; s < padded; s += 8) total += _mm256_loadu_ps(p + s);
  top_and_total[0] = top;
  top_and_total[1] = sum_lanes(total);
}

// The sums of a segment are added to those of the segments before
inline void add_segment(float* sums, const float* segment, int64_t size) {
  float* top_and_total = sums + size;
  const float top = std::max(top_and_total[0], segment[size]);
  const F8 old_factor = exponential(_mm256_set1_ps(top_and_total[0] - top));
  const F8 new_factor = exponential(_mm256_set1_ps(segment[size] - top));
  for (int64_t h = 0; h < size; h += 8)
    _mm256_storeu_ps(sums + h,
                     _mm256_fmadd_ps(_mm256_loadu_ps(sums + h), old_factor, _mm256_loadu_ps(segment + h) * new_factor));
  top_and_total[1] = top_and_total[1] * old_factor[0] + segment[size + 1] * new_factor[0];
  top_and_total[0] = top;
}

// A few queries of one group, the rows of a tile, on one segment of their slots
template <typename T>
class QueryTile {
 public:
  QueryTile(const AttentionPlan& plan, const LayerCache<T>& cache, int64_t g)
      : plan(plan), cache(cache), g(g), queries(QUERY_ROWS * cache.head_size), scores(QUERY_ROWS * SEGMENT) {}

  // The queries from `first` on, in the order of rows and their heads; `q` [T, q_stride] begins with those heads.
  void take(int64_t first, int64_t count_, const float* q, int64_t q_stride) {
    count = count_;
    multiply = select_multiply<T>(count);
    const int64_t H = cache.head_size;
    const int64_t shared = plan.queries_a_row();
    for (int64_t m = 0; m < count; m++) {
      const int64_t t = (first + m) / shared;
      slots[m] = &plan.slots[t];
      std::copy_n(q + t * q_stride + (g * shared + (first + m) % shared) * H, H, queries.data() + m * H);
    }
  }

  int64_t segments(int64_t m) const { return AttentionPlan::segments_of(*slots[m]); }

  // Sums of each query over a segment: those of the m-th go to `sums(m)`, which is not called if it sees no slot of it
  template <typename Sums>
  void attend(int64_t segment, Sums sums) {
    begin = segment * SEGMENT;
    for (int64_t m = 0; m < count; m++) {
      dense[m] = std::clamp<int64_t>(slots[m]->first - begin, 0, SEGMENT);
      visible[m] = std::clamp<int64_t>(slots[m]->count() - begin, 0, SEGMENT);
    }
    score_dense();
    score_others();
    float* to[QUERY_ROWS];
    for (int64_t m = 0; m < count; m++) {
      to[m] = visible[m] ? sums(m) : nullptr;
      if (visible[m]) weigh(scores.data() + m * SEGMENT, visible[m], plan.scale, to[m] + cache.padded_head());
    }
    for (int64_t panel = 0; panel < cache.value_panels(); panel++) add_values(panel, to);
  }

 private:
  // Scores of P slots from `slot` on: `width` floats are from one query's to the next one's.
  void score_panel(int64_t slot, float* to, int64_t width) {
    F sums[2 * QUERY_ROWS];
    std::fill_n(sums, 2 * count, broadcast(0.f));
    multiply(cache.key_panel(g, slot), queries.data(), cache.head_size, cache.head_size, sums, {});
    for (int64_t m = 0; m < count; m++) {
      store(to + m * width, sums[2 * m]);
      store(to + m * width + W, sums[2 * m + 1]);
    }
  }

  void score_dense() {
    const int64_t most = *std::max_element(dense, dense + count);
    for (int64_t s = 0; s < most; s += P) score_panel(begin + s, scores.data() + s, SEGMENT);
  }

  // Slots here and there: whole panels are scored, and each query takes what it sees of them.
  void score_others() {
    int64_t first = cache.slots;
    int64_t end = 0;
    for (int64_t m = 0; m < count; m++)
      if (visible[m] > dense[m]) {
        first = std::min(first, slots[m]->others.front() / P * P);
        end = std::max(end, slots[m]->others.back() + 1);
      }
    if (!end) return;
    const int64_t width = (end - first + P - 1) / P * P;
    others.resize(QUERY_ROWS * width);
    for (int64_t s = 0; s < width; s += P) score_panel(first + s, others.data() + s, width);
    for (int64_t m = 0; m < count; m++)
      for (int64_t n = dense[m]; n < visible[m]; n++)
        scores[m * SEGMENT + n] = others[m * width + slots[m]->slot(begin + n) - first];
  }

  // P places of the head. What all queries see is multiplied for all of them; the rest slot by slot, for a query must
  // not meet the numbers of a slot that it does not see.
  void add_values(int64_t panel, float* const* to) {
    F sums[2 * QUERY_ROWS];
    std::fill_n(sums, 2 * count, broadcast(0.f));
    const int64_t common = *std::min_element(dense, dense + count);
    if (common) multiply(cache.value_row(g, panel, begin), scores.data(), SEGMENT, common, sums, {});
    for (int64_t m = 0; m < count; m++) {
      if (!visible[m]) continue;
      for (int64_t n = common; n < visible[m]; n++) {
        const T* value = cache.value_row(g, panel, slots[m]->slot(begin + n));
        const F weight = broadcast(scores[m * SEGMENT + n]);
        sums[2 * m] = fma(load_as_float(value), weight, sums[2 * m]);
        sums[2 * m + 1] = fma(load_as_float(value + W), weight, sums[2 * m + 1]);
      }
      store(to[m] + panel * P, sums[2 * m]);
      store(to[m] + panel * P + W, sums[2 * m + 1]);
    }
  }

  const AttentionPlan& plan;
  const LayerCache<T>& cache;
  const int64_t g;
  int64_t count = 0;
  int64_t begin = 0;  // first slot of the segment
  Multiply<T> multiply = nullptr;
  const VisibleSlots* slots[QUERY_ROWS];
  int64_t dense[QUERY_ROWS];    // slots of the segment that a query sees one after the other
  int64_t visible[QUERY_ROWS];  // and all that it sees
  std::vector<float> queries;   // [rows, H]
  std::vector<float> scores;    // [rows, SEGMENT]
  std::vector<float> others;    // scores of whole panels
};

// Outputs of a query: its sums, divided by the sum of the weights
inline void write_output(const float* sums, const CacheShape& shape, float* out) {
  const float factor = 1.f / sums[shape.padded_head() + 1];
  for (int64_t h = 0; h < shape.head_size; h++) out[h] = sums[h] * factor;
}

// Few queries: threads share their segments, so that keys and values are read once. The last loop has no barrier.
template <typename T>
void attend_by_segments(AttentionPlan& plan, const LayerCache<T>& cache, const float* q, int64_t q_stride, float* out) {
  const RowTiles rows(plan.queries(), QUERY_ROWS);
  const int64_t of_segment = plan.shape.groups * plan.segments;
  const int64_t parts = std::clamp<int64_t>(4 * omp_get_num_threads() / of_segment, 1, rows.count);
#pragma omp for schedule(dynamic, 1)
  for (int64_t n = 0; n < of_segment * parts; n++) {
    const int64_t g = n / parts % plan.shape.groups;
    const int64_t segment = n / parts / plan.shape.groups;
    const int64_t part = n % parts;
    QueryTile<T> tile(plan, cache, g);
    for (int64_t t = part * rows.count / parts; t < (part + 1) * rows.count / parts; t++) {
      tile.take(rows.begin(t), rows.height(t), q, q_stride);
      tile.attend(segment, [&](int64_t m) { return plan.shared_sums(g, rows.begin(t) + m, segment); });
    }
  }
  const int64_t shared = plan.queries_a_row();
#pragma omp for schedule(static) nowait
  for (int64_t t = 0; t < plan.rows(); t++)
    for (int64_t head = 0; head < plan.heads; head++) {
      const int64_t query = t * shared + head % shared;
      float* sums = plan.shared_sums(head / shared, query, 0);
      for (int64_t segment = 1; segment < AttentionPlan::segments_of(plan.slots[t]); segment++)
        add_segment(sums, plan.shared_sums(head / shared, query, segment), cache.padded_head());
      write_output(sums, cache, out + (t * plan.heads + head) * cache.head_size);
    }
}

// Many queries: each thread takes some of them through all their segments. There is no barrier behind the loop.
template <typename T>
void attend_by_queries(AttentionPlan& plan, const LayerCache<T>& cache, const float* q, int64_t q_stride, float* out) {
  const RowTiles rows(plan.queries(), QUERY_ROWS);
  const int64_t parts = (rows.count + TILES_A_PART - 1) / TILES_A_PART;
  const int64_t shared = plan.queries_a_row();
  const int64_t size = plan.sums_size();
  // Dynamic: parts take unequal time, because rows see unequal numbers of slots.
#pragma omp for schedule(dynamic, 1) nowait
  for (int64_t n = 0; n < plan.shape.groups * parts; n++) {
    const int64_t g = n / parts;
    const int64_t first_tile = n % parts * rows.count / parts;
    const int64_t end_tile = (n % parts + 1) * rows.count / parts;
    const int64_t first = rows.begin(first_tile);
    std::vector<float> sums((rows.begin(end_tile) - first) * size);
    std::vector<float> of_segment(QUERY_ROWS * size);
    QueryTile<T> tile(plan, cache, g);
    for (int64_t segment = 0; segment < plan.segments; segment++)
      for (int64_t t = first_tile; t < end_tile; t++) {
        float* of_tile = sums.data() + (rows.begin(t) - first) * size;
        tile.take(rows.begin(t), rows.height(t), q, q_stride);
        tile.attend(segment, [&](int64_t m) { return segment ? of_segment.data() + m * size : of_tile + m * size; });
        for (int64_t m = 0; segment && m < rows.height(t); m++)
          if (segment < tile.segments(m))
            add_segment(of_tile + m * size, of_segment.data() + m * size, cache.padded_head());
      }
    for (int64_t query = first; query < rows.begin(end_tile); query++) {
      const int64_t head = query / shared * plan.heads + g * shared + query % shared;
      write_output(sums.data() + (query - first) * size, cache, out + head * cache.head_size);
    }
  }
}

// All query heads of all rows: q [T, q_stride], of which the first `heads` heads are queries; out [T, heads, H]. Behind
// it, a thread may read only rows that a static loop over all rows gives it.
template <typename T>
void attend_all(AttentionPlan& plan, const LayerCache<T>& cache, const float* q, int64_t q_stride, float* out) {
  FALCON_PROFILE("falcon::attention");
  if (!plan.shared.empty()) return attend_by_segments(plan, cache, q, q_stride, out);
  attend_by_queries(plan, cache, q, q_stride, out);
#pragma omp barrier
}

}  // namespace falcon
