// A packed matrix, as Python makes it (falcon_cli/native/weights.py) and all operators take it.
//
// A matrix [N, K] is packed into panels of P outputs. A panel's outputs stand side by side for each input:
//
//     panel 0    w[0..P-1, 0] w[0..P-1, 1] ... w[0..P-1, K-1]        one stream of memory
//     panel 1    w[P..2P-1, 0] ...
//
// Quantised weights (int8, int4) stand four inputs at a time, because the processor multiplies bytes in fours. Their
// inputs are quantised too, with one scale for each BLOCK inputs.
#pragma once
#include <ATen/core/ivalue.h>

#include "vectors.h"

namespace falcon {

using at::Tensor;

constexpr int P = 2 * W;       // outputs of a panel: two vectors
constexpr int64_t BLOCK = 32;  // inputs that share a scale

inline int64_t blocks_of(int64_t inputs) { return (inputs + BLOCK - 1) / BLOCK; }

inline const float* data_or_null(const Tensor& tensor) {
  return tensor.numel() ? tensor.const_data_ptr<float>() : nullptr;
}

enum class WeightFormat { fp32, bf16, int8, int4 };

// torch.classes.falcon.PackedMatrix. It shares the tensors' memory, so weights that are rewritten in place are seen.
struct PackedMatrix : torch::CustomClassHolder {
  const Tensor data;   // fp32, bf16 [panels, K, P]; int8 [panels, K / 4, 4P]; int4 [panels, K / BLOCK, 20P]
  const Tensor scale;  // of each output, for int8; else empty
  const Tensor bias;   // of each output; may be empty
  const int64_t outputs;
  const WeightFormat format;

  PackedMatrix(Tensor data_, Tensor scale_, Tensor bias_, int64_t outputs_)
      : data(std::move(data_)),
        scale(std::move(scale_)),
        bias(std::move(bias_)),
        outputs(outputs_),
        format(format_of(data)) {
    const int64_t padded = panels() * P;
    TORCH_CHECK(outputs > padded - P && outputs <= padded, "PackedMatrix: ", outputs, " outputs do not fill ", panels(),
                " panels of ", P);
    check_per_output("scale", scale, format == WeightFormat::int8 ? padded : 0);
    check_per_output("bias", bias, bias.numel() ? padded : 0);
  }

  bool is_quantised() const { return format == WeightFormat::int8 || format == WeightFormat::int4; }
  int64_t panels() const { return data.size(0); }

  // Operators check sizes before their parallel region, because an exception must not leave one.
  void check_sizes(int64_t width, int64_t expected_outputs) const {
    check_inputs(width);
    TORCH_CHECK(outputs == expected_outputs, "PackedMatrix: ", outputs, " outputs where ", expected_outputs,
                " are needed");
  }

  void check_inputs(int64_t width) const {
    const int64_t at_a_time = format == WeightFormat::int8 ? 4 : format == WeightFormat::int4 ? BLOCK : 1;
    const int64_t padded = is_quantised() ? blocks_of(width) * BLOCK : width;
    TORCH_CHECK(width % 8 == 0, "PackedMatrix: inputs come in eights, not ", width);
    TORCH_CHECK(data.size(1) * at_a_time == padded, "PackedMatrix: rows of ", width, " inputs for a matrix of ",
                data.size(1) * at_a_time);
  }

 private:
  static WeightFormat format_of(const Tensor& data) {
    TORCH_CHECK(data.dim() == 3 && data.is_contiguous() && data.device().is_cpu(),
                "PackedMatrix: data must be contiguous panels on the CPU, not ", data.sizes(), " on ", data.device());
    const int64_t width = data.size(2);
    if (data.scalar_type() == at::kFloat && width == P) return WeightFormat::fp32;
    if (data.scalar_type() == at::kBFloat16 && width == P) return WeightFormat::bf16;
    if (data.scalar_type() == at::kByte && width == 4 * P) return WeightFormat::int8;
    if (data.scalar_type() == at::kByte && width == 20 * P) return WeightFormat::int4;
    TORCH_CHECK(false, "PackedMatrix: no format holds panels of ", P, " outputs as ", data.scalar_type(), " ",
                data.sizes());
  }

  static void check_per_output(const char* name, const Tensor& values, int64_t count) {
    TORCH_CHECK(values.scalar_type() == at::kFloat && values.is_contiguous() && values.numel() == count,
                "PackedMatrix: ", name, " must be ", count, " contiguous floats, not ", values.scalar_type(), " ",
                values.sizes());
  }
};

using PackedMatrixPtr = c10::intrusive_ptr<PackedMatrix>;

}  // namespace falcon
