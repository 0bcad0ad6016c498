// What library.cpp registers with torch, beside the classes of packed_matrix.h and decoder_layer.h.
//
// Functions whose first argument is a PackedMatrix become methods of that class. They are no operators
// (torch.ops), because torch takes 13 us more to call an operator with such an argument: it looks for fake objects.
#pragma once
#include <optional>
#include <tuple>

#include "decoder_layer.h"

namespace falcon {

using OptionalTensor = std::optional<Tensor>;

// decoder.cpp
Tensor huge(int64_t bytes);
Tensor linear(const PackedMatrixPtr& weight, const Tensor& x);
Tensor rms_norm(const Tensor& x, const Tensor& weight, double epsilon);
Tensor attention(const Tensor& query, Tensor keys, Tensor values, int64_t committed, const OptionalTensor& visible,
                 double scale);

// pack_blocks.cpp
void pack_blocks(const Tensor& rows, const std::string& kind, Tensor panels);

// peaks.cpp: multiply-adds a second that the threads can do at most by `fma`, `dot4`, `dot2` or `bf16` (vectors.h), by
// `amx` or `amx-bf16`
double peak(const std::string& arithmetic);

// amx_tiles.cpp: whether kernels use AMX, until now; from now on as said. Without AMX they do the same in plain C++.
bool use_amx(std::optional<bool> use);

// tiles.cpp: the instructions that products of that many rows are made of: one of those that `peak` knows
std::string arithmetic(const PackedMatrixPtr& weight, int64_t rows);

// drafter.cpp
std::tuple<Tensor, Tensor> best(const PackedMatrixPtr& head, const Tensor& features);
std::tuple<Tensor, Tensor> top_k(const PackedMatrixPtr& head, const Tensor& features, int64_t count);

// torch.classes.falcon.Drafter: the matrices around a drafter's decoder layer. A drafter may have no `own`, and no
// chain of `gate` and `change`.
struct Drafter : torch::CustomClassHolder {
  const PackedMatrixPtr mixer;
  const std::optional<PackedMatrixPtr> own;
  const std::optional<PackedMatrixPtr> gate;
  const std::optional<PackedMatrixPtr> change;

  Drafter(PackedMatrixPtr mixer_, std::optional<PackedMatrixPtr> own_, std::optional<PackedMatrixPtr> gate_,
          std::optional<PackedMatrixPtr> change_)
      : mixer(std::move(mixer_)), own(std::move(own_)), gate(std::move(gate_)), change(std::move(change_)) {
    const int64_t D = mixer->outputs;
    mixer->check_sizes(2 * D, D);
    if (own) (*own)->check_sizes(D, D);
    TORCH_CHECK(gate.has_value() == change.has_value(), "Drafter: a gate and a change, or none");
    if (!gate) return;
    (*gate)->check_sizes(2 * D, 2 * D);
    (*change)->check_sizes(D, D);
  }

  Tensor mix(const Tensor& embedded, const Tensor& features, const Tensor& scale) const;
  Tensor start(const Tensor& mixed, const Tensor& last, const Tensor& slot, const Tensor& slots) const;
  Tensor finish(const Tensor& hidden, const Tensor& before, const Tensor& norm, double epsilon) const;
};

}  // namespace falcon
