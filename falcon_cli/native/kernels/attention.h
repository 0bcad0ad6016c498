// Attention of few queries to the slots of a cache. All threads of a parallel region call `attend_all` together.
#pragma once
#include <optional>

#include "product.h"

namespace falcon {

struct LayerCache {
  float* keys;
  float* values;
  int64_t groups;     // kv heads
  int64_t stride;     // floats from one group to the next
  int64_t head_size;  // floats of a slot
  float* key(int64_t g, int64_t slot) const { return keys + g * stride + slot * head_size; }
  float* value(int64_t g, int64_t slot) const { return values + g * stride + slot * head_size; }
};

struct VisibleSlots {           // of one row
  int64_t committed;            // the row sees all of these, the first slots
  std::vector<int64_t> others;  // of its own forward
  int64_t count() const { return committed + others.size(); }
  int64_t slot(int64_t n) const { return n < committed ? n : others[n - committed]; }
};

// A row sees all committed slots, and of the C slots behind them those that `mask` [T, C] marks. Without a mask, it
// sees those of the rows before it and its own.
inline std::vector<VisibleSlots> visible_slots(int64_t rows, int64_t committed, const std::optional<Tensor>& mask) {
  std::vector<VisibleSlots> slots(rows);
  const int64_t columns = mask ? mask->size(1) : 0;
  const bool* marks = mask ? mask->const_data_ptr<bool>() : nullptr;
  for (int64_t t = 0; t < rows; t++) {
    slots[t].committed = committed + (mask ? 0 : t + 1);
    for (int64_t c = 0; c < columns; c++)
      if (marks[t * columns + c]) slots[t].others.push_back(committed + c);
  }
  return slots;
}

struct Query {  // of one row and one head
  const float* q;
  float* out;
  const VisibleSlots& slots;
  float* scores;  // with space for 8 more, which `softmax` uses
};

// Scores of one query over the slots begin .. end - 1 of those it sees: what N vectors V of the head, from h on, add
template <typename V, int N>
void dot_keys(const Query& query, const LayerCache& cache, int64_t g, int64_t begin, int64_t end, int64_t h) {
  constexpr int64_t lanes = sizeof(V) / sizeof(float);
  const VisibleSlots& slots = query.slots;
  float* scores = query.scores;
  V q[N];
  for (int n = 0; n < N; n++) q[n] = load<V>(query.q + h + lanes * n);
  for (int64_t s = begin; s < end; s += 8) {
    F8 products[8];
    for (int64_t i = 0; i < 8; i++) {  // behind the last slot, the last again
      const float* key = cache.key(g, slots.slot(std::min(s + i, end - 1))) + h;
      V v = q[0] * load<V>(key);
      for (int n = 1; n < N; n++) v = fma(q[n], load<V>(key + lanes * n), v);
      products[i] = add_halves(v);
    }
    const F8 sums = sum_lanes_of_8(products);
    _mm256_storeu_ps(scores + s, h ? _mm256_loadu_ps(scores + s) + sums : sums);
  }
}

// out += the values of the slots begin .. end - 1, weighed by the scores
template <typename V, int N>
void add_values(const Query& query, const LayerCache& cache, int64_t g, int64_t begin, int64_t end, int64_t h) {
  constexpr int64_t lanes = sizeof(V) / sizeof(float);
  const VisibleSlots& slots = query.slots;
  const float* weights = query.scores;
  V v[N];
  for (int n = 0; n < N; n++) v[n] = load<V>(query.out + h + lanes * n);
  for (int64_t s = begin; s < end; s++) {
    const float* value = cache.value(g, slots.slot(s)) + h;
    const V weight = broadcast<V>(weights[s]);
    for (int n = 0; n < N; n++) v[n] = fma(weight, load<V>(value + lanes * n), v[n]);
  }
  for (int n = 0; n < N; n++) store<V>(query.out + h + lanes * n, v[n]);
}

// Scores become e^(scale score - top), and p[count] becomes one over their sum: outputs are divided once, at the end.
// The sum runs in 8 lanes over the slots in their order; the padding of the last vector adds zeros.
inline void softmax(float* p, int64_t count, float scale) {
  const int64_t padded = (count + 7) / 8 * 8;
  std::fill(p + count, p + padded, p[0]);
  F8 largest = _mm256_loadu_ps(p);
  F8 total = _mm256_setzero_ps();
  for (int64_t s = 8; s < padded; s += 8) largest = _mm256_max_ps(largest, _mm256_loadu_ps(p + s));
  const float top = max_lane(largest) * scale;
  for (int64_t s = 0; s < padded; s += 8) _mm256_storeu_ps(p + s, exponential(_mm256_loadu_ps(p + s) * scale - top));
  std::fill(p + count, p + padded, 0.f);
  for (int64_t s = 0; s < padded; s += 8) total += _mm256_loadu_ps(p + s);
  p[count] = 1.f / sum_lanes(total);
}

// Some queries of one group, block by block of slots: keys and values come from memory once for all of them. Each query
// sums over its slots in their order, whatever the others do, so its bits do not depend on them.
inline void attend(const std::vector<Query>& queries, const LayerCache& cache, int64_t g, float scale) {
  constexpr int64_t slots_a_block = 64;
  const int64_t H = cache.head_size;
  const int64_t wide = H / 64 * 64;  // of the head in widest vectors, 64 floats at a time; the rest 8 at a time
  int64_t longest = 0;
  for (const Query& query : queries) longest = std::max(longest, query.slots.count());
  auto for_blocks = [&](auto&& work) {
    for (int64_t begin = 0; begin < longest; begin += slots_a_block)
      for (const Query& query : queries)
        if (begin < query.slots.count()) work(query, begin, std::min(begin + slots_a_block, query.slots.count()));
  };
  for_blocks([&](const Query& query, int64_t begin, int64_t end) {
    for (int64_t h = 0; h < wide; h += 64) dot_keys<F, 64 / W>(query, cache, g, begin, end, h);
    for (int64_t h = wide; h < H; h += 8) dot_keys<F8, 1>(query, cache, g, begin, end, h);
  });
  for (const Query& query : queries) {
    softmax(query.scores, query.slots.count(), scale);
    std::fill_n(query.out, H, 0.f);
  }
  for_blocks([&](const Query& query, int64_t begin, int64_t end) {
    for (int64_t h = 0; h < wide; h += 64) add_values<F, 64 / W>(query, cache, g, begin, end, h);
    for (int64_t h = wide; h < H; h += 8) add_values<F8, 1>(query, cache, g, begin, end, h);
  });
  for (const Query& query : queries)
    for (int64_t h = 0; h < H; h++) query.out[h] *= query.scores[query.slots.count()];
}

// All query heads of all rows: q [T, q_stride], of which the first `heads` heads are queries; out [T, heads, H].
//
// A group's queries are split into few parts, because each part reads all keys and values of the group: two parts a
// thread keep all threads busy. More than 64 queries a part would not leave their scores in the cache.
inline void attend_all(const float* q, int64_t q_stride, int64_t heads, const LayerCache& cache,
                       const std::vector<VisibleSlots>& slots, float scale, float* out) {
  FALCON_PROFILE("falcon::attention");
  const int64_t rows = slots.size();
  const int64_t shared = heads / cache.groups;  // query heads of a group
  const int64_t of_group = rows * shared;
  const int64_t busy = (2 * omp_get_num_threads() + cache.groups - 1) / cache.groups;
  const int64_t parts = std::min(of_group, std::max(busy, of_group / 64));
  std::vector<float> scores;
  std::vector<Query> queries;
  // Dynamic: parts take unequal time, because rows see unequal numbers of slots.
#pragma omp for schedule(dynamic, 1)
  for (int64_t n = 0; n < cache.groups * parts; n++) {
    const int64_t g = n / parts;
    const int64_t begin = n % parts * of_group / parts;
    const int64_t end = (n % parts + 1) * of_group / parts;
    int64_t width = 0;  // of a query's scores, with the space that `softmax` and whole vectors need
    for (const VisibleSlots& of_row : slots) width = std::max(width, of_row.count() + 9);
    scores.resize((end - begin) * width);
    queries.clear();
    for (int64_t i = begin; i < end; i++) {
      const int64_t t = i / shared;
      const int64_t head = g * shared + i % shared;
      queries.push_back({.q = q + t * q_stride + head * cache.head_size,
                         .out = out + (t * heads + head) * cache.head_size,
                         .slots = slots[t],
                         .scores = scores.data() + (i - begin) * width});
    }
    attend(queries, cache, g, scale);
  }
}

}  // namespace falcon
