// Attention of few queries to the slots of a cache; runs inside a parallel region, by all its threads together.
#pragma once
#include "product.h"

namespace falcon {

struct Cache {  // of one layer
  float *keys, *values;
  int64_t groups, stride, head;  // floats from one group to the next; head size
  float* key(int64_t g, int64_t slot) const { return keys + g * stride + slot * head; }
  float* value(int64_t g, int64_t slot) const { return values + g * stride + slot * head; }
};

struct Seen {  // the slots that a row sees: the first ones, and some of its own forward
  int64_t first;
  std::vector<int64_t> own;
  int64_t count() const { return first + own.size(); }
  int64_t slot(int64_t n) const { return n < first ? n : own[n - first]; }
};

// Rows see all committed slots, and of the C slots behind them those that `seen` [T, C] marks (none given: those of the
// rows before them and their own)
inline std::vector<Seen> visible(int64_t rows, int64_t committed, const Tensor& seen) {
  std::vector<Seen> all(rows);
  int64_t columns = seen.numel() ? seen.size(1) : 0;
  for (int64_t t = 0; t < rows; t++) {
    all[t].first = committed + (columns ? 0 : t + 1);
    for (int64_t c = 0; c < columns; c++)
      if (seen.const_data_ptr<bool>()[t * columns + c]) all[t].own.push_back(committed + c);
  }
  return all;
}

// Scores of one query over the slots begin .. end - 1 of those it sees: the share of N vectors V of the head, from h on
template <typename V, int N>
void dot_keys(const float* q, const Cache& cache, int64_t g, const Seen& seen, int64_t begin, int64_t end, int64_t h, float* p) {
  constexpr int64_t lanes = sizeof(V) / 4;
  V query[N];
  for (int n = 0; n < N; n++) query[n] = get<V>(q + h + lanes * n);
  for (int64_t s = begin; s < end; s += 8) {
    F8 folded[8];
    for (int64_t i = 0; i < 8; i++) {  // behind the last slot, the last again
      const float* key = cache.key(g, seen.slot(std::min(s + i, end - 1))) + h;
      V v = query[0] * get<V>(key);
      for (int n = 1; n < N; n++) v = fma(query[n], get<V>(key + lanes * n), v);
      folded[i] = fold(v);
    }
    _mm256_storeu_ps(p + s, h ? _mm256_loadu_ps(p + s) + sums(folded) : sums(folded));
  }
}

// out += the values of the slots begin .. end - 1, weighed by p
template <typename V, int N>
void weigh_values(const float* p, const Cache& cache, int64_t g, const Seen& seen, int64_t begin, int64_t end, int64_t h, float* out) {
  constexpr int64_t lanes = sizeof(V) / 4;
  V v[N];
  for (int n = 0; n < N; n++) v[n] = get<V>(out + h + lanes * n);
  for (int64_t s = begin; s < end; s++) {
    const float* value = cache.value(g, seen.slot(s)) + h;
    const V weight = spread<V>(p[s]);
    for (int n = 0; n < N; n++) v[n] = fma(weight, get<V>(value + lanes * n), v[n]);
  }
  for (int n = 0; n < N; n++) put(out + h + lanes * n, v[n]);
}

// p = e^(scale p - most) of `count` scores, and behind them one over their sum; lane by lane, in their order
inline void soften(float* p, int64_t count, float scale) {
  const int64_t whole = (count + 7) / 8 * 8;
  std::fill(p + count, p + whole, p[0]);
  F8 most = _mm256_loadu_ps(p), total = _mm256_setzero_ps();
  for (int64_t s = 8; s < whole; s += 8) most = _mm256_max_ps(most, _mm256_loadu_ps(p + s));
  const float top = largest(most) * scale;
  for (int64_t s = 0; s < whole; s += 8) _mm256_storeu_ps(p + s, exponential(_mm256_loadu_ps(p + s) * scale - top));
  std::fill(p + count, p + whole, 0.f);
  for (int64_t s = 0; s < whole; s += 8) total += _mm256_loadu_ps(p + s);
  p[count] = 1.f / sum(total);
}

struct Query {
  const float* q;
  float* out;
  const Seen& seen;
  float* p;  // room for its scores, and 8 more
};

// Some queries of one group, block by block of slots, so that keys and values are fetched from far once for all of
// them. Each sums over its slots in their order, whatever the others do.
inline void attend(const std::vector<Query>& queries, const Cache& cache, int64_t g, float scale) {
  const int64_t H = cache.head, wide = H / 64 * 64, span = 64;
  int64_t most = 0;
  for (const Query& one : queries) most = std::max(most, one.seen.count());
  auto blocks = [&](auto&& work) {
    for (int64_t begin = 0; begin < most; begin += span)
      for (const Query& one : queries)
        if (begin < one.seen.count()) work(one, begin, std::min(begin + span, one.seen.count()));
  };
  blocks([&](const Query& one, int64_t begin, int64_t end) {
    for (int64_t h = 0; h < wide; h += 64) dot_keys<F, 64 / W>(one.q, cache, g, one.seen, begin, end, h, one.p);
    for (int64_t h = wide; h < H; h += 8) dot_keys<F8, 1>(one.q, cache, g, one.seen, begin, end, h, one.p);
  });
  for (const Query& one : queries) {
    soften(one.p, one.seen.count(), scale);
    std::fill_n(one.out, H, 0.f);
  }
  blocks([&](const Query& one, int64_t begin, int64_t end) {
    for (int64_t h = 0; h < wide; h += 64) weigh_values<F, 64 / W>(one.p, cache, g, one.seen, begin, end, h, one.out);
    for (int64_t h = wide; h < H; h += 8) weigh_values<F8, 1>(one.p, cache, g, one.seen, begin, end, h, one.out);
  });
  for (const Query& one : queries)
    for (int64_t h = 0; h < H; h++) one.out[h] *= one.p[one.seen.count()];
}

// All query heads of all rows: q [T, q_stride] of which the first `heads` heads are queries, out [T, heads, H]. A group's
// queries go in few parts, for each reads the group's keys and values; in more where their scores would leave the cache.
inline void attend_all(const float* q, int64_t q_stride, int64_t heads, const Cache& cache, const std::vector<Seen>& slots,
                       float scale, float* out) {
  FALCON_TOLD("falcon::attention");
  const int64_t rows = slots.size(), shared = heads / cache.groups, of_group = rows * shared;
  const int64_t busy = (2 * omp_get_num_threads() + cache.groups - 1) / cache.groups;
  const int64_t parts = std::min(of_group, std::max(busy, of_group / 64));
  std::vector<float> room;
  std::vector<Query> queries;
#pragma omp for schedule(dynamic, 1)
  for (int64_t n = 0; n < cache.groups * parts; n++) {
    int64_t g = n / parts, begin = n % parts * of_group / parts, end = (n % parts + 1) * of_group / parts, width = 0;
    for (const Seen& one : slots) width = std::max(width, one.count() + 9);
    room.resize((end - begin) * width), queries.clear();
    for (int64_t i = begin; i < end; i++) {
      int64_t t = i / shared, head = g * shared + i % shared;
      const float* query = q + t * q_stride + head * cache.head;
      queries.push_back({query, out + (t * heads + head) * cache.head, slots[t], room.data() + (i - begin) * width});
    }
    attend(queries, cache, g, scale);
  }
}

}  // namespace falcon
