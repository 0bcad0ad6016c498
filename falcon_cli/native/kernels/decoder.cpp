// Decoder layers, and what lies around them, on few rows: torch operators for x86 CPUs.
//
// Every row is computed in the same order of operations whatever its neighbours are: a tree of tokens scores bit for bit
// like its tokens one by one. So additions are written out, and the compiler may contract none (-ffp-contract=off).
#include <ATen/Parallel.h>
#include <sys/mman.h>
#include <torch/library.h>

#include "attention.h"

namespace falcon {
namespace {

// Rotate one head in place (rotary embedding, halves as transformers has them)
void rotate(float* x, const float* cosine, const float* sine, int64_t H) {
  for (int64_t i = 0; i < H / 2; i++) {
    float a = x[i], b = x[i + H / 2];
    x[i] = a * cosine[i] - b * sine[i];
    x[i + H / 2] = b * cosine[i + H / 2] + a * sine[i + H / 2];
  }
}

Tensor linear(const Tensor& x, const Tensor& data, const Tensor& scale, const Tensor& bias, int64_t outputs) {
  Tensor flat = x.contiguous().view({-1, x.size(-1)}), y = at::empty({flat.size(0), outputs}, flat.options());
  Matrix w{data, scale, bias, outputs};
  Scratch room(w, flat.size(0), flat.size(1));
  Rows rows{numbers(flat), flat.size(0), flat.size(1), room};
  float* to = y.data_ptr<float>();
#pragma omp parallel num_threads(at::get_num_threads())
  product(rows, w, to, outputs, End::store);
  auto shape = x.sizes().vec();
  shape.back() = outputs;
  return y.view(shape);
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double epsilon) {
  Tensor rows = x.contiguous(), y = at::empty_like(rows);
  int64_t width = x.size(-1);
  for (int64_t t = 0; t < rows.numel() / width; t++)
    normalise(numbers(rows) + t * width, numbers(weight), y.data_ptr<float>() + t * width, width, epsilon);
  return y;
}

Tensor attend_to(const Tensor& query, Tensor keys, Tensor values, int64_t committed, const Tensor& seen, double scale) {
  Tensor q = query.contiguous(), out = at::empty_like(q);  // [T, N, H]; keys and values [1, G, S, H]
  Cache cache{keys.data_ptr<float>(), values.data_ptr<float>(), keys.size(1), keys.stride(1), keys.size(3)};
  auto slots = visible(q.size(0), committed, seen);
#pragma omp parallel num_threads(at::get_num_threads())
  attend_all(numbers(q), q.size(1) * q.size(2), q.size(1), cache, slots, scale, out.data_ptr<float>());
  return out;
}

// Memory in huge pages, if the system has some to give: streams of weights then run a third faster
Tensor huge(int64_t bytes) {
  constexpr int64_t page = 1 << 21;
  const int64_t whole = (bytes + page - 1) / page * page;
  void* memory = std::aligned_alloc(page, whole);
  TORCH_CHECK(memory, "out of memory: ", whole, " bytes");
  madvise(memory, whole, MADV_HUGEPAGE);
  return at::from_blob(memory, {bytes}, [](void* block) { std::free(block); }, at::kByte);
}

struct Layer {  // norms: of the input, of the MLP's input, and where the family has them of query and key heads
  Matrix qkv, o, gate_up, down;
  std::vector<const float*> norms;
};

struct Forward {  // what all layers share, and room for what lies between their products
  int64_t T, D, H, G, N, begin;  // rows, hidden size, head size, kv heads, query heads, slot of the first row
  std::vector<const float*> cosine, sine;  // of each row
  std::vector<Seen> slots;
  float epsilon, factor;
  std::vector<float> normed, projected, asking, attended, between;
  Scratch room;
};

// Rows x become the layer's outputs; keys and values are made of `context` where there is one, as a drafter's are
void run(const Layer& layer, const Cache& cache, Forward& f, float* x, const float* context) {
  const int64_t T = f.T, D = f.D, H = f.H, N = f.N, G = f.G, width = layer.qkv.outputs, inner = layer.gate_up.outputs / 2;
  auto norm_rows = [&](const float* from, int64_t which) {
#pragma omp for schedule(static) nowait
    for (int64_t t = 0; t < T; t++) normalise(from + t * D, layer.norms[which], f.normed.data() + t * D, D, f.epsilon);
    return Rows{f.normed.data(), T, D, f.room};
  };
  if (context) {
    product(norm_rows(x, 0), layer.qkv, f.asking.data(), width, End::store);
    product(norm_rows(context, 0), layer.qkv, f.projected.data(), width, End::store);
#pragma omp for schedule(static) nowait
    for (int64_t t = 0; t < T; t++) std::copy_n(&f.asking[t * width], N * H, &f.projected[t * width]);
  } else {
    product(norm_rows(x, 0), layer.qkv, f.projected.data(), width, End::store);
  }
#pragma omp for schedule(static)
  for (int64_t t = 0; t < T; t++) {
    float* row = f.projected.data() + t * width;
    for (int64_t n = 0; n < N + G; n++) {
      if (layer.norms.size() > 2) normalise(row + n * H, layer.norms[n < N ? 2 : 3], row + n * H, H, f.epsilon);
      rotate(row + n * H, f.cosine[t], f.sine[t], H);
    }
    for (int64_t g = 0; g < G; g++) {
      std::copy_n(row + (N + g) * H, H, cache.key(g, f.begin + t));
      std::copy_n(row + (N + G + g) * H, H, cache.value(g, f.begin + t));
    }
  }
  attend_all(f.projected.data(), width, N, cache, f.slots, f.factor, f.attended.data());
  product(Rows{f.attended.data(), T, N * H, f.room}, layer.o, x, D, End::add);
  product(norm_rows(x, 1), layer.gate_up, f.between.data(), inner, End::silu);
  product(Rows{f.between.data(), T, inner, f.room}, layer.down, x, D, End::add);
}

std::vector<Layer> layers_of(const Tensors& data, const Tensors& scale, const Tensors& bias,
                             const std::vector<int64_t>& outputs, const Tensors& norms) {
  std::vector<Layer> layers;
  const size_t each = norms.size() / (data.size() / 4);
  for (size_t n = 0; 4 * n < data.size(); n++) {
    auto matrix = [&](size_t i) { return Matrix{data[4 * n + i], scale[4 * n + i], bias[4 * n + i], outputs[4 * n + i]}; };
    layers.push_back({matrix(0), matrix(1), matrix(2), matrix(3), {}});
    for (size_t i = 0; i < each; i++) layers[n].norms.push_back(numbers(norms[n * each + i]));
  }
  return layers;
}

// Layers, and behind them the final norm if there is one more norm: T rows become T rows of the cache [2, layers, 1, G,
// S, H] behind what it holds. Matrices come four a layer: q|k|v, o, gate|up (half and half in each panel), down.
// Rotary tables [positions, H]; a row's position is `committed` + its depth.
Tensor decoder(const Tensor& hidden, const Tensor& context, Tensors data, Tensors scale, Tensors bias,
               std::vector<int64_t> outputs, Tensors norms, const Tensor& cosine, const Tensor& sine, const Tensor& depth,
               Tensor cache, int64_t committed, const Tensor& seen, double epsilon, double factor) {
  const std::vector<Layer> layers = layers_of(data, scale, bias, outputs, norms);
  Tensor x = hidden.to(at::kFloat).clone(at::MemoryFormat::Contiguous);
  const int64_t count = layers.size(), H = cache.size(5), G = cache.size(3), T = x.size(-2), D = x.size(-1);
  const int64_t width = outputs[0], N = width / H - 2 * G, inner = outputs[2] / 2;
  const int64_t begin = committed + (seen.numel() ? seen.size(1) : T) - T, asking = context.numel() ? T * width : 0;
  TORCH_CHECK(cosine.size(1) == H, "rotary embedding of a part of the head");
  TORCH_CHECK(cache.scalar_type() == at::kFloat && cache.size(1) == count && begin + T <= cache.size(4), "another cache");
  auto room = [](int64_t floats) { return std::vector<float>(floats); };
  Forward f{T, D, H, G, N, begin, {}, {}, visible(T, committed, seen), (float)epsilon, (float)factor,
            room(T * D), room(T * width), room(asking), room(T * N * H), room(T * inner),
            Scratch(layers[0].qkv, T, std::max({D, N * H, inner}))};
  for (int64_t t = 0; t < T; t++) {
    int64_t position = committed + depth.const_data_ptr<int64_t>()[t];
    TORCH_CHECK(position < cosine.size(0), "a position outside the rotary tables");
    f.cosine.push_back(numbers(cosine) + position * H), f.sine.push_back(numbers(sine) + position * H);
  }
  float *rows = x.data_ptr<float>(), *keys = cache.data_ptr<float>(), *values = keys + cache.stride(0);
#pragma omp parallel num_threads(at::get_num_threads())
  {
    for (int64_t n = 0; n < count; n++) {
      int64_t offset = n * cache.stride(1);
      run(layers[n], {keys + offset, values + offset, G, cache.stride(3), H}, f, rows, numbers(context));
    }
    if (norms.size() % count) {
#pragma omp for schedule(static)
      for (int64_t t = 0; t < T; t++) normalise(rows + t * D, numbers(norms.back()), rows + t * D, D, f.epsilon);
    }
  }
  return x;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(falcon, library) {
  library.def("huge(int bytes) -> Tensor", &huge);
  library.def("panel() -> int", [] { return (int64_t)P; });
  library.def("linear(Tensor x, Tensor data, Tensor scale, Tensor bias, int outputs) -> Tensor", &linear);
  library.def("rms_norm(Tensor x, Tensor weight, float epsilon) -> Tensor", &rms_norm);
  library.def("attend(Tensor query, Tensor keys, Tensor values, int committed, Tensor seen, float scale) -> Tensor", &attend_to);
  library.def(
      "decoder(Tensor hidden, Tensor context, Tensor[] data, Tensor[] scale, Tensor[] bias, int[] outputs, Tensor[] norms, "
      "Tensor cosine, Tensor sine, Tensor depth, Tensor(a!) cache, int committed, Tensor seen, float epsilon, float factor) -> Tensor",
      &decoder);
}

}  // namespace falcon
