// Products of few rows with large matrices, and what lies between them in a decoder layer, for x86 CPUs.
//
// Every row is computed in the same order of operations whatever its neighbours are: a tree of tokens scores bit for bit
// like its tokens one by one. So additions are written out, and the compiler may contract none (-ffp-contract=off).
//
// A matrix [N, K] is packed into panels of P outputs, which stand side by side for each input:
//
//     panel 0    w[0..P-1, 0] w[0..P-1, 1] ... w[0..P-1, K-1]        one stream of memory, read once
//     panel 1    w[P..2P-1, 0] ...
//
// and a tile of up to TILE rows (int8: SMALL_TILE) meets a panel with all its sums in registers: 2 vectors a row.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/record_function.h>
#include <immintrin.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace {

using at::Tensor;
using F8 = __m256;

#if defined(__AVX512F__)
constexpr int W = 16, TILE = 12, SMALL_TILE = 12;
using F = __m512;
using I = __m512i;
inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, F v) { _mm512_storeu_ps(p, v); }
inline F all(float v) { return _mm512_set1_ps(v); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F widen(const at::BFloat16* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
inline I zero() { return _mm512_setzero_si512(); }
inline I add(I a, I b) { return _mm512_add_epi32(a, b); }
inline F floats(I v) { return _mm512_cvtepi32_ps(v); }
inline I bytes(const int8_t* p) { return _mm512_loadu_si512(p); }
inline I all(int v) { return _mm512_set1_epi32(v); }
inline I dot(I sum, I size, I x, I w) {  // sum += x * w in fours, where size = |x|
  w = _mm512_mask_sub_epi8(w, _mm512_movepi8_mask(x), zero(), w);
#if defined(__AVX512VNNI__)
  return _mm512_dpbusd_epi32(sum, size, w);
#else
  return add(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(size, w), _mm512_set1_epi16(1)));
#endif
}
#else
constexpr int W = 8, TILE = 6, SMALL_TILE = 4;
using F = __m256;
using I = __m256i;
inline F load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, F v) { _mm256_storeu_ps(p, v); }
inline F all(float v) { return _mm256_set1_ps(v); }
inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline F widen(const at::BFloat16* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
inline I zero() { return _mm256_setzero_si256(); }
inline F floats(I v) { return _mm256_cvtepi32_ps(v); }
inline I bytes(const int8_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
inline I all(int v) { return _mm256_set1_epi32(v); }
inline I dot(I sum, I size, I x, I w) {  // sum += x * w in fours, where size = |x|
  I pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(w, x));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#endif
inline F widen(const float* p) { return load(p); }

constexpr int P = 2 * W;
enum class End { store, add, silu };  // y = s, y += s, or y = silu(first half of the panel) * second half

struct Matrix {
  Tensor data, scale, bias;
  int64_t outputs;
  int64_t inputs() const { return data.size(1) * (data.scalar_type() == at::kChar ? 4 : 1); }
};

// e^x within 2 units in the last place, for x <= 88: 2^n times a polynomial in what is left
inline F8 exponential(F8 x) {
  x = _mm256_max_ps(_mm256_min_ps(x, _mm256_set1_ps(88.f)), _mm256_set1_ps(-87.f));
  F8 n = _mm256_round_ps(x * 1.44269504f, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  F8 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
  F8 y = _mm256_set1_ps(1.9875691500e-4f);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(c));
  __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return (_mm256_fmadd_ps(y, r * r, r) + 1.f) * _mm256_castsi256_ps(power);
}

inline float largest(F8 v) {
  float most = v[0];
  for (int i = 1; i < 8; i++) most = std::max(most, v[i]);
  return most;
}

inline float sum(F8 v) {
  float total = 0.f;
  for (int i = 0; i < 8; i++) total += v[i];
  return total;
}

// What becomes of a row's 2W finished sums; the last panel may stand out over the matrix.
inline void finish(F low, F high, const float* bias, float* y, int64_t begin, int64_t outputs, End end) {
  alignas(64) float s[P];
  store(s, bias ? low + load(bias) : low), store(s + W, bias ? high + load(bias + W) : high);
  if (end == End::silu) {
    for (int i = 0; i < W; i += 8) {
      F8 gate = _mm256_load_ps(s + i);
      _mm256_store_ps(s + i, gate / (exponential(-gate) + 1.f) * _mm256_load_ps(s + W + i));
    }
    begin /= 2, outputs /= 2;
  }
  int64_t width = std::min<int64_t>(end == End::silu ? W : P, outputs - begin);
  for (int64_t i = 0; i < width; i++) y[begin + i] = end == End::add ? y[begin + i] + s[i] : s[i];
}

// The lines of the next panel, fetched while this one is at work: each tile over a panel fetches its share.
struct Ahead {
  const char* line;
  int64_t step;  // bytes for each turn of the loop
};

// Sums live in a local array, and the loop in a function of its own: GCC then keeps all of them in registers.
template <int M, typename T>
__attribute__((noinline)) void tile(const T* w, const float* x, int64_t K, F* sums, Ahead next) {
  F s[2 * M];
  for (F& one : s) one = all(0.f);
  for (int64_t k = 0; k < K; k++, w += P, next.line += next.step) {
    _mm_prefetch(next.line, _MM_HINT_T1);
    F low = widen(w), high = widen(w + W);
#pragma GCC unroll 12
    for (int m = 0; m < M; m++) {
      F b = all(x[m * K + k]);
      s[2 * m] = fma(low, b, s[2 * m]);
      s[2 * m + 1] = fma(high, b, s[2 * m + 1]);
    }
  }
  std::copy(s, s + 2 * M, sums);
}

inline int four(const int8_t* p) {
  int bits;
  std::memcpy(&bits, p, 4);
  return bits;
}

// int8 weights times int8 inputs, four neighbours at a time, in exact int32 sums
template <int M>
__attribute__((noinline)) void tile(const int8_t* w, const int8_t* x, const int8_t* size, int64_t K, I* sums, Ahead next) {
  I s[2 * M];
  for (I& one : s) one = zero();
  for (int64_t k = 0; k < K; k += 4, w += 4 * P, next.line += next.step) {
    _mm_prefetch(next.line, _MM_HINT_T1);
    I low = bytes(w), high = bytes(w + 2 * P);
#pragma GCC unroll 12
    for (int m = 0; m < M; m++) {
      I b = all(four(x + m * K + k)), a = all(four(size + m * K + k));
      s[2 * m] = dot(s[2 * m], a, b, low);
      s[2 * m + 1] = dot(s[2 * m + 1], a, b, high);
    }
  }
  std::copy(s, s + 2 * M, sums);
}

struct Rows {  // inputs of a product; with int8 weights also as int8 numbers, their sizes, and a scale a row
  const float* x;
  int64_t count, width;
  std::vector<int8_t> small, size;
  std::vector<float> scale;

  Rows(const float* x, int64_t count, int64_t width) : x(x), count(count), width(width) {}

  void quantise() {  // to the nearest of -127 .. 127 times the scale; width is a multiple of 8
    const F8 sign = _mm256_set1_ps(-0.f);
    small.resize(count * width), size.resize(count * width), scale.resize(count);
    for (int64_t m = 0; m < count; m++) {
      F8 most = _mm256_setzero_ps();
      for (int64_t k = m * width; k < (m + 1) * width; k += 8)
        most = _mm256_max_ps(most, _mm256_andnot_ps(sign, _mm256_loadu_ps(x + k)));
      float top = largest(most);
      scale[m] = top / 127.f;
      float inverse = top > 0.f ? 127.f / top : 0.f;
      for (int64_t k = m * width; k < (m + 1) * width; k += 8) {
        __m256i near = _mm256_cvtps_epi32(_mm256_loadu_ps(x + k) * inverse);
        __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(near), _mm256_extracti128_si256(near, 1));
        __m128i octet = _mm_packs_epi16(words, words);
        _mm_storel_epi64((__m128i*)(small.data() + k), octet);
        _mm_storel_epi64((__m128i*)(size.data() + k), _mm_abs_epi8(octet));
      }
    }
  }
};

template <int M>
void panel(const Rows& rows, int64_t m0, const Matrix& w, int64_t number, float* y, int64_t stride, End end, Ahead next) {
  int64_t K = rows.width, begin = number * P;
  const float* bias = w.bias.numel() ? w.bias.const_data_ptr<float>() + begin : nullptr;
  F s[2 * M];
  if (w.data.scalar_type() == at::kChar) {
    I exact[2 * M];
    tile<M>(w.data.const_data_ptr<int8_t>() + begin * K, rows.small.data() + m0 * K, rows.size.data() + m0 * K, K, exact,
            next);
    const float* scale = w.scale.const_data_ptr<float>() + begin;
    for (int n = 0; n < 2 * M; n++) s[n] = floats(exact[n]) * load(scale + n % 2 * W) * rows.scale[m0 + n / 2];
  } else if (w.data.scalar_type() == at::kBFloat16) {
    tile<M>(w.data.const_data_ptr<at::BFloat16>() + begin * K, rows.x + m0 * K, K, s, next);
  } else {
    tile<M>(w.data.const_data_ptr<float>() + begin * K, rows.x + m0 * K, K, s, next);
  }
  for (int m = 0; m < M; m++) finish(s[2 * m], s[2 * m + 1], bias, y + (m0 + m) * stride, begin, w.outputs, end);
}

template <int M, typename... A>
void panel_of(int64_t rows, const A&... rest) {
  if (rows == M) return panel<M>(rest...);
  if constexpr (M > 1) panel_of<M - 1>(rows, rest...);
}

// y [rows, outputs] of x [rows, inputs] and a packed matrix; panels are shared out over the threads
void product(Rows rows, const Matrix& w, float* y, int64_t stride, End end) {
  RECORD_FUNCTION("falcon::product", {});
  if (w.data.scalar_type() == at::kChar) rows.quantise();
  int64_t most = w.data.scalar_type() == at::kChar ? SMALL_TILE : TILE;
  int64_t tiles = (rows.count + most - 1) / most, bytes = w.data[0].nbytes();
  int64_t turns = w.data.size(1), step = (bytes / tiles / turns + 1);
  at::parallel_for(0, w.data.size(0), 1, [&](int64_t first, int64_t last) {
    for (int64_t number = first; number < last; number++) {
      const char* next = (const char*)w.data.const_data_ptr() + (number + 1) * bytes;
      for (int64_t t = 0; t < tiles; t++) {
        int64_t m0 = rows.count * t / tiles, m1 = rows.count * (t + 1) / tiles;
        panel_of<TILE>(m1 - m0, rows, m0, w, number, y, stride, end, Ahead{next + t * bytes / tiles, step});
      }
    }
  });
}

void normalise(const float* x, const float* weight, float* y, int64_t width, double epsilon) {
  F8 squares = _mm256_setzero_ps();
  int64_t k = 0;
  for (; k + 8 <= width; k += 8) squares = _mm256_fmadd_ps(_mm256_loadu_ps(x + k), _mm256_loadu_ps(x + k), squares);
  float total = sum(squares);
  for (; k < width; k++) total += x[k] * x[k];
  float factor = 1.f / std::sqrt(total / width + (float)epsilon);
  for (k = 0; k < width; k++) y[k] = weight[k] * (x[k] * factor);
}

// The 8 sums of 8 vectors
inline F8 sums(const F8* v) {
  F8 a = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
  F8 b = _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));
  return _mm256_permute2f128_ps(a, b, 0x20) + _mm256_permute2f128_ps(a, b, 0x31);
}

struct Cache {
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
std::vector<Seen> visible(int64_t rows, int64_t committed, const Tensor& seen) {
  std::vector<Seen> all(rows);
  int64_t columns = seen.numel() ? seen.size(1) : 0;
  for (int64_t t = 0; t < rows; t++) {
    all[t].first = committed + (columns ? 0 : t + 1);
    for (int64_t c = 0; c < columns; c++)
      if (seen.const_data_ptr<bool>()[t * columns + c]) all[t].own.push_back(committed + c);
  }
  return all;
}

// Scores of one query over the slots it sees: the share of N vectors of the head, from h on
template <int N>
void dot_keys(const float* q, const Cache& cache, int64_t g, const Seen& seen, int64_t h, float* p) {
  int64_t count = seen.count();
  F8 query[N];
  for (int n = 0; n < N; n++) query[n] = _mm256_loadu_ps(q + h + 8 * n);
  for (int64_t s = 0; s < count; s += 8) {
    F8 v[8];
    for (int64_t i = 0; i < 8; i++) {  // behind the last slot, the last again
      const float* key = cache.key(g, seen.slot(std::min(s + i, count - 1))) + h;
      v[i] = query[0] * _mm256_loadu_ps(key);
      for (int n = 1; n < N; n++) v[i] = _mm256_fmadd_ps(query[n], _mm256_loadu_ps(key + 8 * n), v[i]);
    }
    _mm256_storeu_ps(p + s, h ? _mm256_loadu_ps(p + s) + sums(v) : sums(v));
  }
}

template <int N>
void weigh_values(const float* p, float total, const Cache& cache, int64_t g, const Seen& seen, int64_t h, float* out) {
  F8 v[N];
  for (F8& one : v) one = _mm256_setzero_ps();
  for (int64_t s = 0; s < seen.count(); s++) {
    const float* value = cache.value(g, seen.slot(s)) + h;
    for (int n = 0; n < N; n++) v[n] = _mm256_fmadd_ps(_mm256_set1_ps(p[s]), _mm256_loadu_ps(value + 8 * n), v[n]);
  }
  for (int n = 0; n < N; n++) _mm256_storeu_ps(out + h + 8 * n, v[n] / total);
}

// One query over the slots it sees, in their order: what is seen decides the sums, not where it lies
void attend_one(const float* q, const Cache& cache, int64_t g, const Seen& seen, float scale, float* out,
                std::vector<float>& p) {
  int64_t H = cache.head, count = seen.count(), wide = H / 64 * 64;
  p.resize(count + 8);
  for (int64_t h = 0; h < wide; h += 64) dot_keys<8>(q, cache, g, seen, h, p.data());
  for (int64_t h = wide; h < H; h += 8) dot_keys<1>(q, cache, g, seen, h, p.data());
  float top = *std::max_element(p.data(), p.data() + count) * scale, total = 0.f;
  for (int64_t s = 0; s < count; s += 8)
    _mm256_storeu_ps(p.data() + s, exponential(_mm256_loadu_ps(p.data() + s) * scale - top));
  for (int64_t s = 0; s < count; s++) total += p[s];
  for (int64_t h = 0; h < wide; h += 64) weigh_values<8>(p.data(), total, cache, g, seen, h, out);
  for (int64_t h = wide; h < H; h += 8) weigh_values<1>(p.data(), total, cache, g, seen, h, out);
}

void attend_all(const float* q, int64_t q_stride, int64_t rows, int64_t heads, const Cache& cache, int64_t committed,
                const Tensor& seen, float scale, float* out) {
  RECORD_FUNCTION("falcon::attention", {});
  auto slots = visible(rows, committed, seen);
  int64_t shared = heads / cache.groups, H = cache.head;
  at::parallel_for(0, rows * heads, 1, [&](int64_t first, int64_t last) {
    std::vector<float> p;
    for (int64_t n = first; n < last; n++) {
      int64_t head = n / rows, t = n % rows;
      attend_one(q + t * q_stride + head * H, cache, head / shared, slots[t], scale, out + (t * heads + head) * H, p);
    }
  });
}

// Rotate one head in place (rotary embedding, halves as transformers has them)
inline void rotate(float* x, const float* cosine, const float* sine, int64_t H) {
  for (int64_t i = 0; i < H / 2; i++) {
    float a = x[i], b = x[i + H / 2];
    x[i] = a * cosine[i] - b * sine[i];
    x[i + H / 2] = b * cosine[i + H / 2] + a * sine[i + H / 2];
  }
}

Cache cache_of(Tensor& keys, Tensor& values) {  // [1, G, S, H]
  return {keys.data_ptr<float>(), values.data_ptr<float>(), keys.size(1), keys.stride(1), keys.size(3)};
}

Tensor linear(const Tensor& x, const Tensor& data, const Tensor& scale, const Tensor& bias, int64_t outputs) {
  Tensor rows = x.contiguous().view({-1, x.size(-1)}), y = at::empty({rows.size(0), outputs}, rows.options());
  Matrix w{data, scale, bias, outputs};
  product(Rows(rows.const_data_ptr<float>(), rows.size(0), rows.size(1)), w, y.data_ptr<float>(), outputs, End::store);
  auto shape = x.sizes().vec();
  shape.back() = outputs;
  return y.view(shape);
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double epsilon) {
  Tensor rows = x.contiguous(), y = at::empty_like(rows);
  int64_t width = x.size(-1);
  for (int64_t t = 0; t < rows.numel() / width; t++)
    normalise(rows.const_data_ptr<float>() + t * width, weight.const_data_ptr<float>(), y.data_ptr<float>() + t * width,
              width, epsilon);
  return y;
}

Tensor attend(const Tensor& query, Tensor keys, Tensor values, int64_t committed, const Tensor& seen, double scale) {
  Tensor q = query.contiguous(), out = at::empty_like(q);  // [T, N, H]
  attend_all(q.const_data_ptr<float>(), q.size(1) * q.size(2), q.size(0), q.size(1), cache_of(keys, values), committed,
             seen, scale, out.data_ptr<float>());
  return out;
}

// A whole decoder layer on T rows, which become rows of the cache behind what it holds. `data`, `scale` and `bias` are
// those of q|k|v, of o, of gate|up and of down; `norms` the two norms' weights and, where the family has them, those of
// query and key heads. Given a `context` of as many rows, keys and values are made of that, as a drafter's are.
Tensor decoder_layer(const Tensor& hidden, const Tensor& context, std::vector<Tensor> data, std::vector<Tensor> scale, std::vector<Tensor> bias,
                     std::vector<int64_t> outputs, std::vector<Tensor> norms, const Tensor& cosine, const Tensor& sine,
                     Tensor keys, Tensor values, int64_t committed, const Tensor& seen, double epsilon, double factor) {
  auto matrix = [&](int64_t n) { return Matrix{data[n], scale[n], bias[n], outputs[n]}; };
  Matrix qkv = matrix(0), o = matrix(1), gate_up = matrix(2), down = matrix(3);
  TORCH_CHECK(cosine.size(-1) == keys.size(3), "rotary embedding of a part of the head");
  Tensor x = hidden.to(at::kFloat).clone(at::MemoryFormat::Contiguous);
  Cache cache = cache_of(keys, values);
  int64_t T = x.size(-2), D = x.size(-1), H = cache.head, G = cache.groups, width = qkv.outputs, N = width / H - 2 * G;
  int64_t begin = committed + (seen.numel() ? seen.size(1) : T) - T, inner = gate_up.outputs / 2;
  std::vector<float> normed(T * D), projected(T * width), attended(T * N * H), between(T * inner);
  float* rows = x.data_ptr<float>();
  auto weight = [&](int64_t which) { return norms[which].const_data_ptr<float>(); };
  auto norm_rows = [&](const float* from, int64_t which) {
    for (int64_t t = 0; t < T; t++) normalise(from + t * D, weight(which), normed.data() + t * D, D, epsilon);
    return Rows(normed.data(), T, D);
  };
  product(norm_rows(rows, 0), qkv, projected.data(), width, End::store);
  if (context.numel()) {
    std::vector<float> asking = projected;
    product(norm_rows(context.const_data_ptr<float>(), 0), qkv, projected.data(), width, End::store);
    for (int64_t t = 0; t < T; t++) std::copy_n(&asking[t * width], N * H, &projected[t * width]);
  }
  for (int64_t t = 0; t < T; t++) {
    float* row = projected.data() + t * width;
    for (int64_t n = 0; n < N + G; n++) {
      if (norms.size() > 2) normalise(row + n * H, weight(n < N ? 2 : 3), row + n * H, H, epsilon);
      rotate(row + n * H, cosine.const_data_ptr<float>() + t * H, sine.const_data_ptr<float>() + t * H, H);
    }
    for (int64_t g = 0; g < G; g++) {
      std::memcpy(cache.key(g, begin + t), row + (N + g) * H, H * sizeof(float));
      std::memcpy(cache.value(g, begin + t), row + (N + G + g) * H, H * sizeof(float));
    }
  }
  attend_all(projected.data(), width, T, N, cache, committed, seen, factor, attended.data());
  product(Rows(attended.data(), T, N * H), o, rows, D, End::add);
  product(norm_rows(rows, 1), gate_up, between.data(), inner, End::silu);
  product(Rows(between.data(), T, inner), down, rows, D, End::add);
  return x;
}

}  // namespace

TORCH_LIBRARY(falcon, library) {
  library.def("panel() -> int", [] { return (int64_t)P; });
  library.def("linear(Tensor x, Tensor data, Tensor scale, Tensor bias, int outputs) -> Tensor", &linear);
  library.def("rms_norm(Tensor x, Tensor weight, float epsilon) -> Tensor", &rms_norm);
  library.def(
      "attend(Tensor query, Tensor keys, Tensor values, int committed, Tensor seen, float scale) -> Tensor", &attend);
  library.def(
      "decoder_layer(Tensor hidden, Tensor context, Tensor[] data, Tensor[] scale, Tensor[] bias, int[] outputs, Tensor[] norms, "
      "Tensor cosine, Tensor sine, Tensor(a!) keys, Tensor(b!) values, int committed, Tensor seen, float epsilon, "
      "float factor) -> Tensor",
      &decoder_layer);
}
