// What surrounds the decoder layer in a Falcon drafter (falcon_cli/drafter/network.py), a call each.
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <optional>

#include "product.h"

namespace falcon {
namespace {

Matrix matrix_of(const Tensors& parts, int64_t outputs) { return {parts[0], parts[1], parts[2], outputs}; }

// [e / rms(e), f / scale] through the mixer, a change of f / scale; without a scale, [e, f] through the mixer
Tensor mix(const Tensor& embedded, const Tensor& features, const Tensor& scale, Tensors mixer, int64_t outputs) {
  const int64_t D = features.size(-1), rows = features.numel() / D;
  Tensor e = embedded.contiguous(), f = features.contiguous(), y = at::empty_like(f);
  const Matrix w = matrix_of(mixer, outputs);
  Scratch room(w, rows, 2 * D);
  std::vector<float> both(rows * 2 * D);
  const float *from_e = numbers(e), *from_f = numbers(f), *by = numbers(scale);
  float* to = y.data_ptr<float>();
#pragma omp parallel num_threads(at::get_num_threads())
  {
#pragma omp for schedule(static) nowait
    for (int64_t r = 0; r < rows; r++) {
      float* row = both.data() + r * 2 * D;
      if (by) normalise(from_e + r * D, nullptr, row, D, 1e-6f);
      else std::copy_n(from_e + r * D, D, row);
      for (int64_t k = 0; k < D; k++) row[D + k] = by ? from_f[r * D + k] / by[k] : from_f[r * D + k];
      for (int64_t k = 0; k < D; k++) to[r * D + k] = by ? row[D + k] : 0.f;
    }
    product(Rows{both.data(), rows, 2 * D, room}, w, to, D, End::add);
  }
  return y;
}

// What each row starts from: the mixed input of its block's last row, a change made of its own, and its slot
Tensor start(const Tensor& mixed, const Tensor& last, const Tensor& slot, const Tensor& slots, Tensors own, int64_t outputs) {
  const int64_t D = mixed.size(-1), rows = mixed.numel() / D;
  Tensor x = mixed.contiguous(), y = at::empty_like(x);
  const Matrix w = matrix_of(own, outputs);
  Scratch room(w, rows, D);
  const int64_t *last_of = last.const_data_ptr<int64_t>(), *slot_of = slot.const_data_ptr<int64_t>();
  const float *from = numbers(x), *of_slot = numbers(slots);
  float* to = y.data_ptr<float>();
#pragma omp parallel num_threads(at::get_num_threads())
  {
#pragma omp for schedule(static) nowait
    for (int64_t r = 0; r < rows; r++)
      for (int64_t k = 0; k < D; k++) to[r * D + k] = from[last_of[r] * D + k] + of_slot[slot_of[r] * D + k];
    product(Rows{from, rows, D, room}, w, to, D, End::add);
  }
  return y;
}

// Features of hidden states: a change gated by the tokens before, if they are given; then the norm, if there is one
Tensor finish_rows(const Tensor& hidden, const Tensor& before, Tensors gate, Tensors change, int64_t outputs, const Tensor& norm,
                   double epsilon) {
  const int64_t D = hidden.size(-1), rows = hidden.numel() / D;
  Tensor y = hidden.clone(at::MemoryFormat::Contiguous), b = before.contiguous();
  std::vector<float> both(b.numel() ? rows * 2 * D : 0), gated(b.numel() ? rows * D : 0);
  const float *from = numbers(b), *weight = numbers(norm);
  std::optional<Scratch> room;
  if (from) room.emplace(matrix_of(gate, 2 * outputs), rows, 2 * D);
  float* to = y.data_ptr<float>();
#pragma omp parallel num_threads(at::get_num_threads())
  {
    if (from) {
#pragma omp for schedule(static) nowait
      for (int64_t r = 0; r < rows; r++) {
        normalise(to + r * D, nullptr, both.data() + r * 2 * D, D, 1e-6f);
        normalise(from + r * D, nullptr, both.data() + r * 2 * D + D, D, 1e-6f);
      }
      product(Rows{both.data(), rows, 2 * D, *room}, matrix_of(gate, 2 * outputs), gated.data(), D, End::glu);
      product(Rows{gated.data(), rows, D, *room}, matrix_of(change, outputs), to, D, End::add);
    }
    if (weight) {
#pragma omp for schedule(static)
      for (int64_t r = 0; r < rows; r++) normalise(to + r * D, weight, to + r * D, D, epsilon);
    }
  }
  return y;
}

// The places of the `width` best outputs of each row, best first, of equals the first: [rows, width]; and all outputs
std::tuple<Tensor, Tensor> best(const Tensor& features, Tensors head, int64_t outputs, int64_t width) {
  const int64_t D = features.size(-1), rows = features.numel() / D;
  Tensor x = features.contiguous(), chosen = at::empty({rows, width}, at::kLong), y = at::empty({rows, outputs}, x.options());
  const Matrix w = matrix_of(head, outputs);
  Scratch room(w, rows, D);
  const float* from = numbers(x);
  float* logits = y.data_ptr<float>();
  int64_t* to = chosen.data_ptr<int64_t>();
#pragma omp parallel num_threads(at::get_num_threads())
  {
    product(Rows{from, rows, D, room}, w, logits, outputs, End::store);
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
      const float* row = logits + r * outputs;
      int64_t* top = to + r * width;
      for (int64_t v = 0, held = 0; v < outputs; v++) {
        while (held == width && v + W <= outputs && !any_above(load(row + v), row[top[held - 1]])) v += W;
        if (v == outputs || (held == width && !(row[v] > row[top[held - 1]]))) continue;
        int64_t place = held < width ? held++ : width - 1;
        for (; place > 0 && row[v] > row[top[place - 1]]; place--) top[place] = top[place - 1];
        top[place] = v;
      }
    }
  }
  return {chosen, y};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(falcon, library) {
  library.def("mix(Tensor embedded, Tensor features, Tensor scale, Tensor[] mixer, int outputs) -> Tensor", &mix);
  library.def("start(Tensor mixed, Tensor last, Tensor slot, Tensor slots, Tensor[] own, int outputs) -> Tensor", &start);
  library.def(
      "finish(Tensor hidden, Tensor before, Tensor[] gate, Tensor[] change, int outputs, Tensor norm, float epsilon) -> Tensor",
      &finish_rows);
  library.def("best(Tensor features, Tensor[] head, int outputs, int width) -> (Tensor, Tensor)", &best);
}

}  // namespace falcon
