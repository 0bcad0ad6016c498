// Decoder layers, and the operators around them, on few rows.
//
// Every row is computed in the same order of operations whatever its neighbours are: a tree of tokens scores bit for
// bit like its tokens one by one. So fused additions are written out, and the compiler may fuse none
// (-ffp-contract=off).
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <sys/mman.h>

#include "attention.h"
#include "operators.h"

namespace falcon {

// Memory in huge pages, if the system has some to give: weights are then read a third faster, with fewer TLB misses.
Tensor huge(int64_t bytes) {
  constexpr int64_t page = 1 << 21;
  const int64_t padded = (bytes + page - 1) / page * page;
  void* memory = std::aligned_alloc(page, padded);
  TORCH_CHECK(memory, "out of memory: ", padded, " bytes");
  madvise(memory, padded, MADV_HUGEPAGE);
  return at::from_blob(memory, {bytes}, [](void* block) { std::free(block); }, at::kByte);
}

Tensor linear(const PackedMatrixPtr& weight, const Tensor& x) {
  FALCON_PROFILE("falcon::linear");
  Tensor flat = x.contiguous().view({-1, x.size(-1)});
  Tensor y = at::empty({flat.size(0), weight->outputs}, flat.options());
  weight->check_inputs(flat.size(1));
  RoundedInputs workspace(weight->shape.input_bytes(), flat.size(0), flat.size(1));
  const InputRows rows{.x = data_or_null(flat), .count = flat.size(0), .width = flat.size(1), .rounded = workspace};
  float* to = y.data_ptr<float>();
#pragma omp parallel num_threads(at::get_num_threads())
  product(rows, *weight, to, weight->outputs, Epilogue::store);
  auto shape = x.sizes().vec();
  shape.back() = weight->outputs;
  return y.view(shape);
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double epsilon) {
  Tensor rows = x.contiguous();
  Tensor y = at::empty_like(rows);
  const int64_t width = x.size(-1);
  for (int64_t t = 0; t < rows.numel() / width; t++)
    normalise(data_or_null(rows) + t * width, data_or_null(weight), y.data_ptr<float>() + t * width, width, epsilon);
  return y;
}

namespace {

// The cache of some layers: keys [layers, G, S / P, H, P], values [layers, G, H / P, S, P], both of one type
CacheShape cache_shape(const Tensor& keys, const Tensor& values) {
  TORCH_CHECK(keys.dim() == 5 && values.dim() == 5 && keys.is_contiguous() && values.is_contiguous() &&
                  keys.scalar_type() == values.scalar_type(),
              "a cache of contiguous panels of one type, not ", keys.sizes(), " and ", values.sizes());
  TORCH_CHECK(keys.scalar_type() == at::kFloat || keys.scalar_type() == at::kHalf, "a cache of ", keys.scalar_type());
  const CacheShape shape{.groups = keys.size(1), .slots = keys.size(2) * P, .head_size = keys.size(3)};
  TORCH_CHECK(keys.size(4) == P && values.size(0) == keys.size(0) && values.size(1) == shape.groups &&
                  values.size(2) == shape.value_panels() && values.size(3) == shape.slots && values.size(4) == P,
              "keys ", keys.sizes(), " and values ", values.sizes(), " are of different caches");
  return shape;
}

template <typename T>
LayerCache<T> layer_cache(const CacheShape& shape, void* keys, void* values, int64_t layer) {
  return {shape, static_cast<T*>(keys) + layer * shape.key_numbers(),
          static_cast<T*>(values) + layer * shape.value_numbers()};
}

// Call `work` with a value of the cache's type
template <typename Work>
void with_type(const Tensor& keys, Work work) {
  if (keys.scalar_type() == at::kHalf)
    work(at::Half());
  else
    work(float());
}

}  // namespace

// query [T, N, H], and one layer's cache
Tensor attention(const Tensor& query, Tensor keys, Tensor values, int64_t committed, const OptionalTensor& visible,
                 double scale) {
  Tensor q = query.contiguous();
  Tensor out = at::empty_like(q);
  const CacheShape shape = cache_shape(keys, values);
  AttentionPlan plan(visible_slots(q.size(0), committed, visible), q.size(1), shape, scale, true);
  with_type(keys, [&](auto number) {
    const auto cache = layer_cache<decltype(number)>(shape, keys.data_ptr(), values.data_ptr(), 0);
#pragma omp parallel num_threads(at::get_num_threads())
    attend_all(plan, cache, data_or_null(q), q.size(1) * q.size(2), out.data_ptr<float>());
  });
  return out;
}

namespace {

// Some rows of a forward that are of one text, and the text's cache
struct Sequence {
  CacheShape shape;
  void* keys;
  void* values;
  int64_t first;  // of the rows
  int64_t slot;   // of the first row
  AttentionPlan attention;
};

// What all layers of a forward share, and buffers for what lies between their products
struct Forward {
  int64_t T;  // rows
  int64_t D;  // hidden size
  int64_t N;  // query heads
  std::vector<Sequence> sequences;
  std::vector<const Sequence*> sequence;  // of each row
  std::vector<const float*> cosine;
  std::vector<const float*> sine;
  float epsilon;
  std::vector<float> normed;
  std::vector<float> projected;          // queries, keys and values
  std::vector<float> projected_queries;  // only with a context: the rows' own queries
  std::vector<float> attended;
  std::vector<float> inner;  // of the MLP
  RoundedInputs rounded;

  InputRows rows_of(const std::vector<float>& x, int64_t width) {
    return {.x = x.data(), .count = T, .width = width, .rounded = rounded};
  }
};

// Rotate one head in place (rotary embedding, in halves as transformers has it)
void rotate(float* x, const float* cosine, const float* sine, int64_t H) {
  for (int64_t i = 0; i < H / 2; i++) {
    float a = x[i];
    float b = x[i + H / 2];
    x[i] = a * cosine[i] - b * sine[i];
    x[i + H / 2] = b * cosine[i + H / 2] + a * sine[i + H / 2];
  }
}

// Norm and rotate queries and keys, then write keys and values into the caches
template <typename T>
void fill_caches(const DecoderLayer& layer, int64_t number, Forward& f) {
  const int64_t H = f.sequences[0].shape.head_size;
  const int64_t groups = f.sequences[0].shape.groups;
  const int64_t width = layer.qkv_width();
  const float* query_norm = layer.query_norm ? data_or_null(*layer.query_norm) : nullptr;
  const float* key_norm = layer.key_norm ? data_or_null(*layer.key_norm) : nullptr;
#pragma omp for schedule(static)
  for (int64_t t = 0; t < f.T; t++) {
    float* queries = f.projected.data() + t * width;
    float* keys = queries + f.N * H;
    float* values = keys + groups * H;
    for (int64_t n = 0; n < f.N + groups; n++) {
      float* head = queries + n * H;
      if (query_norm) normalise(head, n < f.N ? query_norm : key_norm, head, H, f.epsilon);
      rotate(head, f.cosine[t], f.sine[t], H);
    }
    const Sequence& s = *f.sequence[t];
    const auto cache = layer_cache<T>(s.shape, s.keys, s.values, number);
    for (int64_t g = 0; g < groups; g++) cache.write(g, s.slot + t - s.first, keys + g * H, values + g * H);
  }
}

// The queries of each text to its own cache. Of many texts, threads take parts as they are free.
template <typename T>
void attend_sequences(int64_t number, int64_t width, Forward& f) {
  const int64_t outputs = f.N * f.sequences[0].shape.head_size;
  for (Sequence& s : f.sequences) {
    const auto cache = layer_cache<T>(s.shape, s.keys, s.values, number);
    const float* queries = f.projected.data() + s.first * width;
    float* to = f.attended.data() + s.first * outputs;
    if (f.sequences.size() == 1) return attend_all(s.attention, cache, queries, width, to);
    attend_by_queries(s.attention, cache, queries, width, to);
  }
#pragma omp barrier
}

// Rows x become the layer's outputs. Keys and values are made of `context` where there is one, as a drafter's are. The
// loops without a barrier (nowait) are static: the next loop's thread reads only rows that it has made itself.
template <typename T>
void run_layer(const DecoderLayer& layer, int64_t number, Forward& f, float* x, const float* context) {
  const int64_t D = f.D;
  const int64_t query_width = f.N * f.sequences[0].shape.head_size;
  const int64_t width = layer.qkv_width();
  const int64_t inner = layer.inner_size();
  auto norm_rows = [&](const float* from, const Tensor& weight) {
    const float* factors = data_or_null(weight);
#pragma omp for schedule(static) nowait
    for (int64_t t = 0; t < f.T; t++) normalise(from + t * D, factors, f.normed.data() + t * D, D, f.epsilon);
    return f.rows_of(f.normed, D);
  };
  auto project = [&](const InputRows& rows, float* y) {
    for (const PackedMatrixPtr& matrix : layer.qkv) {
      product(rows, *matrix, y, width, Epilogue::store);
      y += matrix->outputs;
    }
  };
  if (context) {
    project(norm_rows(x, layer.input_norm), f.projected_queries.data());
    project(norm_rows(context, layer.input_norm), f.projected.data());
#pragma omp for schedule(static) nowait
    for (int64_t t = 0; t < f.T; t++)
      std::copy_n(&f.projected_queries[t * width], query_width, &f.projected[t * width]);
  } else {
    project(norm_rows(x, layer.input_norm), f.projected.data());
  }
  fill_caches<T>(layer, number, f);
  attend_sequences<T>(number, width, f);
  product(f.rows_of(f.attended, query_width), *layer.o, x, D, Epilogue::add);
  product(norm_rows(x, layer.mlp_norm), *layer.gate_up, f.inner.data(), inner, Epilogue::silu_gate);
  product(f.rows_of(f.inner, inner), *layer.down, x, D, Epilogue::add);
}

}  // namespace

// Layers, then the final norm if there is one. The T rows are those of one text or of several, one behind the other:
// `rows` of each. They become rows of the texts' caches, behind what those hold. Rotary tables are [positions, H]; a
// row's position is `committed` of its text + its depth. `visible` is a mask of each text, or empty where all rows are
// chains.
Tensor Decoder::forward(const Tensor& hidden, const OptionalTensor& context, const Tensor& cosine, const Tensor& sine,
                        const Tensor& depth, const std::vector<Tensor>& keys, const std::vector<Tensor>& values,
                        const std::vector<int64_t>& committed, const std::vector<int64_t>& rows,
                        const std::vector<Tensor>& visible) const {
  FALCON_PROFILE("falcon::decoder");
  const size_t texts = keys.size();
  TORCH_CHECK(texts && values.size() == texts && committed.size() == texts && rows.size() == texts &&
                  (visible.empty() || visible.size() == texts),
              "Decoder: keys, values, committed, rows and visible are those of other texts");
  Tensor x = hidden.to(at::kFloat).clone(at::MemoryFormat::Contiguous);
  const DecoderLayer& first = *layers[0];
  const CacheShape shape = cache_shape(keys[0], values[0]);
  const int64_t count = layers.size();
  const int64_t H = shape.head_size;
  const int64_t T = x.size(-2);
  const int64_t D = x.size(-1);
  const int64_t width = first.qkv_width();
  const int64_t N = width / H - 2 * shape.groups;
  const int64_t inner = first.inner_size();
  TORCH_CHECK(first.hidden_size() == D, "Decoder: rows of ", D, " for layers of ", first.hidden_size());
  for (const DecoderLayerPtr& layer : layers) layer->check_heads(N, shape.groups, H);
  TORCH_CHECK(!context || context->numel() == T * D, "a context of other rows");
  TORCH_CHECK(cosine.size(1) == H, "rotary embedding of a part of the head");
  auto floats = [](int64_t count) { return std::vector<float>(count); };
  Forward f{.T = T,
            .D = D,
            .N = N,
            .sequences = {},
            .sequence = {},
            .cosine = {},
            .sine = {},
            .epsilon = epsilon,
            .normed = floats(T * D),
            .projected = floats(T * width),
            .projected_queries = floats(context ? T * width : 0),
            .attended = floats(T * N * H),
            .inner = floats(T * inner),
            .rounded = RoundedInputs(input_bytes(), T, std::max({D, N * H, inner}))};
  f.sequences.reserve(texts);
  for (size_t n = 0; n < texts; n++) {
    const CacheShape own = cache_shape(keys[n], values[n]);
    const int64_t first_row = f.sequence.size();
    const OptionalTensor mask = visible.empty() ? OptionalTensor() : visible[n];
    const int64_t slot = committed[n] + (mask ? mask->size(1) : rows[n]) - rows[n];
    TORCH_CHECK(keys[n].size(0) == count && slot + rows[n] <= own.slots && own.groups == shape.groups &&
                    own.head_size == H && keys[n].scalar_type() == keys[0].scalar_type() && first_row + rows[n] <= T,
                "Decoder: another cache, or rows that are not there");
    f.sequences.push_back(
        {.shape = own,
         .keys = keys[n].data_ptr(),
         .values = values[n].data_ptr(),
         .first = first_row,
         .slot = slot,
         .attention = AttentionPlan(visible_slots(rows[n], committed[n], mask), N, own, scale, texts == 1)});
    for (int64_t t = first_row; t < first_row + rows[n]; t++) {
      const int64_t position = committed[n] + depth.const_data_ptr<int64_t>()[t];
      TORCH_CHECK(position < cosine.size(0), "a position outside the rotary tables");
      f.sequence.push_back(&f.sequences.back());
      f.cosine.push_back(data_or_null(cosine) + position * H);
      f.sine.push_back(data_or_null(sine) + position * H);
    }
  }
  TORCH_CHECK(static_cast<int64_t>(f.sequence.size()) == T, "Decoder: ", T, " rows for ", f.sequence.size());
  float* x_rows = x.data_ptr<float>();
  const float* context_rows = context ? data_or_null(*context) : nullptr;
  with_type(keys[0], [&](auto number) {
#pragma omp parallel num_threads(at::get_num_threads())
    {
      for (int64_t n = 0; n < count; n++) run_layer<decltype(number)>(*layers[n], n, f, x_rows, context_rows);
      if (final_norm) {
#pragma omp for schedule(static)
        for (int64_t t = 0; t < T; t++)
          normalise(x_rows + t * D, data_or_null(*final_norm), x_rows + t * D, D, f.epsilon);
      }
    }
  });
  return x;
}

}  // namespace falcon
