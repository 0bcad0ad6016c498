// What surrounds the decoder layer in a Falcon drafter (falcon_cli/drafter/network.py), one call each.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include "operators.h"
#include "product.h"

namespace falcon {

// [e / rms(e), f / scale] through the mixer, added to f / scale; without a scale, [e, f] through the mixer
Tensor Drafter::mix(const Tensor& embedded, const Tensor& features, const Tensor& scale) const {
  FALCON_PROFILE("falcon::mix");
  const int64_t D = features.size(-1);
  const int64_t rows = features.numel() / D;
  Tensor e = embedded.contiguous();
  Tensor f = features.contiguous();
  Tensor y = at::empty_like(f);
  mixer->check_sizes(2 * D, D);
  RoundedInputs workspace(mixer->shape.input_bytes(), rows, 2 * D);
  std::vector<float> both(rows * 2 * D);
  const float* from_e = data_or_null(e);
  const float* from_f = data_or_null(f);
  const float* by = data_or_null(scale);
  float* to = y.data_ptr<float>();
#pragma omp parallel num_threads(at::get_num_threads())
  {
#pragma omp for schedule(static) nowait  // the product quantises its rows with the same schedule
    for (int64_t r = 0; r < rows; r++) {
      float* row = both.data() + r * 2 * D;
      if (by) {
        normalise(from_e + r * D, nullptr, row, D, 1e-6f);
      } else {
        std::copy_n(from_e + r * D, D, row);
      }
      for (int64_t k = 0; k < D; k++) row[D + k] = by ? from_f[r * D + k] / by[k] : from_f[r * D + k];
      for (int64_t k = 0; k < D; k++) to[r * D + k] = by ? row[D + k] : 0.f;
    }
    const InputRows inputs{.x = both.data(), .count = rows, .width = 2 * D, .rounded = workspace};
    product(inputs, *mixer, to, D, Epilogue::add);
  }
  return y;
}

// What each row starts from: the mixed input of its block's last row, a change made of its own, and its slot
Tensor Drafter::start(const Tensor& mixed, const Tensor& last, const Tensor& slot, const Tensor& slots) const {
  FALCON_PROFILE("falcon::start");
  TORCH_CHECK(own, "Drafter: rows start from their own matrix, but there is none");
  const int64_t D = mixed.size(-1);
  const int64_t rows = mixed.numel() / D;
  Tensor x = mixed.contiguous();
  Tensor y = at::empty_like(x);
  (*own)->check_sizes(D, D);
  RoundedInputs workspace((*own)->shape.input_bytes(), rows, D);
  const int64_t* last_of = last.const_data_ptr<int64_t>();
  const int64_t* slot_of = slot.const_data_ptr<int64_t>();
  const float* from = data_or_null(x);
  const float* of_slot = data_or_null(slots);
  float* to = y.data_ptr<float>();
#pragma omp parallel num_threads(at::get_num_threads())
  {
#pragma omp for schedule(static) nowait
    for (int64_t r = 0; r < rows; r++)
      for (int64_t k = 0; k < D; k++) to[r * D + k] = from[last_of[r] * D + k] + of_slot[slot_of[r] * D + k];
    const InputRows inputs{.x = from, .count = rows, .width = D, .rounded = workspace};
    product(inputs, **own, to, D, Epilogue::add);
  }
  return y;
}

// Features of hidden states: a change gated by the tokens before, if they are given; then the norm, if there is one
Tensor Drafter::finish(const Tensor& hidden, const Tensor& before, const Tensor& norm, double epsilon) const {
  FALCON_PROFILE("falcon::finish");
  const int64_t D = hidden.size(-1);
  const int64_t rows = hidden.numel() / D;
  Tensor y = hidden.clone(at::MemoryFormat::Contiguous);
  Tensor b = before.contiguous();
  const float* from = data_or_null(b);
  const float* weight = data_or_null(norm);
  std::vector<float> both(from ? rows * 2 * D : 0);
  std::vector<float> gated(from ? rows * D : 0);
  std::optional<RoundedInputs> workspace;
  if (from) {
    TORCH_CHECK(gate, "Drafter: tokens before, but no chain that reads them");
    (*gate)->check_sizes(2 * D, 2 * D);
    workspace.emplace(std::max((*gate)->shape.input_bytes(), (*change)->shape.input_bytes()), rows, 2 * D);
  }
  float* to = y.data_ptr<float>();
#pragma omp parallel num_threads(at::get_num_threads())
  {
    if (from) {
#pragma omp for schedule(static) nowait
      for (int64_t r = 0; r < rows; r++) {
        normalise(to + r * D, nullptr, both.data() + r * 2 * D, D, 1e-6f);
        normalise(from + r * D, nullptr, both.data() + r * 2 * D + D, D, 1e-6f);
      }
      const InputRows inputs{.x = both.data(), .count = rows, .width = 2 * D, .rounded = *workspace};
      product(inputs, **gate, gated.data(), D, Epilogue::sigmoid_gate);
      const InputRows changes{.x = gated.data(), .count = rows, .width = D, .rounded = *workspace};
      product(changes, **change, to, D, Epilogue::add);
    }
    if (weight) {
#pragma omp for schedule(static)
      for (int64_t r = 0; r < rows; r++) normalise(to + r * D, weight, to + r * D, D, epsilon);
    }
  }
  return y;
}

namespace {

// Indices of the `count` largest values, largest first, of equals the first. Once `count` are found, whole vectors of
// values that are not above the least of them are skipped.
void find_top_k(const float* values, int64_t size, int64_t count, int64_t* top) {
  int64_t found = 0;
  for (int64_t v = 0; v < size; v++) {
    while (found == count && v + W <= size && !any_above(load(values + v), values[top[found - 1]])) v += W;
    if (v == size || (found == count && !(values[v] > values[top[found - 1]]))) continue;
    int64_t place = found < count ? found++ : count - 1;
    for (; place > 0 && values[v] > values[top[place - 1]]; place--) top[place] = top[place - 1];
    top[place] = v;
  }
}

}  // namespace

// The best outputs' indices of each row [rows, count], best first, of equals the first; and all outputs
std::tuple<Tensor, Tensor> top_k(const PackedMatrixPtr& head, const Tensor& features, int64_t count) {
  FALCON_PROFILE("falcon::top_k");
  const int64_t D = features.size(-1);
  const int64_t rows = features.numel() / D;
  const int64_t outputs = head->outputs;
  TORCH_CHECK(count <= outputs, "the best ", count, " of ", outputs, " outputs");
  Tensor x = features.contiguous();
  Tensor chosen = at::empty({rows, count}, at::kLong);
  Tensor y = at::empty({rows, outputs}, x.options());
  head->check_inputs(D);
  RoundedInputs workspace(head->shape.input_bytes(), rows, D);
  const InputRows inputs{.x = data_or_null(x), .count = rows, .width = D, .rounded = workspace};
  float* logits = y.data_ptr<float>();
  int64_t* to = chosen.data_ptr<int64_t>();
#pragma omp parallel num_threads(at::get_num_threads())
  {
    product(inputs, *head, logits, outputs, Epilogue::store);
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) find_top_k(logits + r * outputs, outputs, count, to + r * count);
  }
  return {chosen, y};
}

// The best output's index and value of each row [rows], of equals the first. All outputs of many rows would take more
// memory than the cache has. Of a row without any number above -infinity the value is -infinity.
std::tuple<Tensor, Tensor> best(const PackedMatrixPtr& head, const Tensor& features) {
  FALCON_PROFILE("falcon::best");
  const int64_t D = features.size(-1);
  const int64_t rows = features.numel() / D;
  Tensor x = features.contiguous();
  Tensor places = at::zeros({rows}, at::kLong);
  Tensor values = at::full({rows}, -INFINITY, x.options());
  head->check_inputs(D);
  RoundedInputs workspace(head->shape.input_bytes(), rows, D);
  const InputRows inputs{.x = data_or_null(x), .count = rows, .width = D, .rounded = workspace};
  int64_t* place = places.data_ptr<int64_t>();
  float* value = values.data_ptr<float>();
  const float* bias = data_or_null(head->bias);
#pragma omp parallel num_threads(at::get_num_threads())
  {
    std::vector<float> own_value(rows, -INFINITY);
    std::vector<int64_t> own_place(rows, 0);
    for_each_panel(inputs, *head, [&](int64_t m, int64_t first_output, F low, F high) {
      if (bias) {
        low += load(bias + first_output);
        high += load(bias + first_output + W);
      }
      if (!any_above(low, own_value[m]) && !any_above(high, own_value[m])) return;
      alignas(64) float s[P];
      store(s, low);
      store(s + W, high);
      const int64_t count = std::min<int64_t>(P, head->outputs - first_output);
      for (int64_t i = 0; i < count; i++)
        if (s[i] > own_value[m]) {
          own_value[m] = s[i];
          own_place[m] = first_output + i;
        }
    });
#pragma omp critical
    for (int64_t m = 0; m < rows; m++)
      if (own_value[m] > value[m] || (own_value[m] == value[m] && own_place[m] < place[m])) {
        value[m] = own_value[m];
        place[m] = own_place[m];
      }
  }
  return {places, values};
}

}  // namespace falcon
