// The operators, which library.cpp registers with torch.
#pragma once
#include <optional>
#include <tuple>

#include "decoder_layer.h"

namespace falcon {

using OptionalTensor = std::optional<Tensor>;

// decoder.cpp
Tensor huge(int64_t bytes);
Tensor linear(const Tensor& x, const PackedMatrixPtr& weight);
Tensor rms_norm(const Tensor& x, const Tensor& weight, double epsilon);
Tensor attention(const Tensor& query, Tensor keys, Tensor values, int64_t committed, const OptionalTensor& visible,
                 double scale);
Tensor decoder(const Tensor& hidden, const OptionalTensor& context, const c10::List<DecoderLayerPtr>& layers,
               const OptionalTensor& final_norm, const Tensor& cosine, const Tensor& sine, const Tensor& depth,
               Tensor cache, int64_t committed, const OptionalTensor& visible, double epsilon, double scale);

// drafter.cpp
Tensor mix(const Tensor& embedded, const Tensor& features, const Tensor& scale, const PackedMatrixPtr& mixer);
Tensor start_rows(const Tensor& mixed, const Tensor& last, const Tensor& slot, const Tensor& slots,
                  const PackedMatrixPtr& own);
Tensor finish_rows(const Tensor& hidden, const Tensor& before, const std::optional<PackedMatrixPtr>& gate,
                   const std::optional<PackedMatrixPtr>& change, const Tensor& norm, double epsilon);
std::tuple<Tensor, Tensor> top_k(const Tensor& features, const PackedMatrixPtr& head, int64_t count);

}  // namespace falcon
