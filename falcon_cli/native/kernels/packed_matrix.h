// A packed matrix, as Python makes it (falcon_cli/native/weights.py) and all operators take it.
//
// A matrix [N, K] is packed into panels of P outputs. A panel's outputs stand side by side for each input:
//
//     panel 0    w[0..P-1, 0] w[0..P-1, 1] ... w[0..P-1, K-1]        one stream of memory
//     panel 1    w[P..2P-1, 0] ...
//
// Quantised weights stand four inputs at a time, because the processor multiplies bytes in fours. Their inputs are
// quantised too, with one scale for each BLOCK or SUPERBLOCK inputs. In the format bf16x2 weights stand two inputs at a
// time, and inputs are rounded to bf16 as well.
#pragma once
#include <ATen/core/ivalue.h>

#include <algorithm>

#include "vectors.h"

namespace falcon {

using at::Tensor;

constexpr int P = 2 * W;             // outputs of a panel: two vectors
constexpr int64_t BLOCK = 32;        // inputs that share a scale
constexpr int64_t SUPERBLOCK = 256;  // inputs whose blocks' scales share a scale

inline const float* data_or_null(const Tensor& tensor) {
  return tensor.numel() ? tensor.const_data_ptr<float>() : nullptr;
}

enum class WeightFormat { fp32, bf16, fp16, bf16x2, int8, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k };

// How a format lies in memory: each `inputs` inputs of a panel take `width` * P elements. No two formats of one type
// have the same width, so a matrix's data tell its format.
struct FormatShape {
  WeightFormat format;
  at::ScalarType type;
  int64_t inputs;
  int64_t width;
  int levels;  // inputs are rounded to -levels .. levels; 0: they stay floats
  int offset;  // what whole weights are stored too high by, in formats of blocks

  bool is_quantised() const { return levels > 0; }
  // Of an input, once it is rounded; 0: it stays a float
  int input_bytes() const { return is_quantised() ? 1 : format == WeightFormat::bf16x2 ? 2 : 0; }
  // Inputs of a step of the loop over inputs, which share a scale
  int64_t unit() const { return std::max(BLOCK, inputs); }
};

// Weights and levels of the inputs are chosen so that no integer sum overflows:
//
//   int8   Weights -127 .. 127 are stored as w + 128, because `multiply_add_pairs` wants one unsigned factor. It adds
//          two products in 16 bits: 2 * 255 * 63 = 32,130 fits, with 127 levels it would not.
//   q*     The formats of GGUF files. With 127 levels a 16-bit sum takes 16 products of weights up to 15, 8 of weights
//          up to 31, 4 of weights up to 63 and 2 of magnitudes up to 128.
constexpr FormatShape FORMAT_SHAPES[] = {
    {WeightFormat::fp32, at::kFloat, 1, 1, 0, 0},
    {WeightFormat::bf16, at::kBFloat16, 1, 1, 0, 0},
    {WeightFormat::fp16, at::kHalf, 1, 1, 0, 0},
    {WeightFormat::bf16x2, at::kBFloat16, 2, 2, 0, 0},
    {WeightFormat::int8, at::kByte, 4, 4, 63, 128},
    {WeightFormat::q4_1, at::kByte, BLOCK, 20, 127, 0},
    {WeightFormat::q5_0, at::kByte, BLOCK, 22, 127, 16},
    {WeightFormat::q5_1, at::kByte, BLOCK, 24, 127, 0},
    {WeightFormat::q8_0, at::kByte, BLOCK, 34, 127, HAS_VNNI ? 128 : 0},
    {WeightFormat::q4_k, at::kByte, SUPERBLOCK, 148, 127, 0},
    {WeightFormat::q5_k, at::kByte, SUPERBLOCK, 180, 127, 0},
    {WeightFormat::q6_k, at::kByte, SUPERBLOCK, 210, 127, 0},
};

// torch.classes.falcon.PackedMatrix. It shares the tensors' memory, so weights that are rewritten in place are seen.
struct PackedMatrix : torch::CustomClassHolder {
  const Tensor data;   // [panels, K / shape.inputs, shape.width * P]
  const Tensor scale;  // of each output, for int8; else empty
  const Tensor bias;   // of each output; may be empty
  const int64_t outputs;
  const FormatShape shape;

  PackedMatrix(Tensor data_, Tensor scale_, Tensor bias_, int64_t outputs_)
      : data(std::move(data_)),
        scale(std::move(scale_)),
        bias(std::move(bias_)),
        outputs(outputs_),
        shape(shape_of(data)) {
    const int64_t padded = panels() * P;
    TORCH_CHECK(outputs > padded - P && outputs <= padded, "PackedMatrix: ", outputs, " outputs do not fill ", panels(),
                " panels of ", P);
    check_per_output("scale", scale, shape.format == WeightFormat::int8 ? padded : 0);
    check_per_output("bias", bias, bias.numel() ? padded : 0);
  }

  int64_t panels() const { return data.size(0); }
  int64_t multiply_adds() const { return panels() * P * data.size(1) * shape.inputs; }  // of one row

  // Operators check sizes before their parallel region, because an exception must not leave one.
  void check_sizes(int64_t width, int64_t expected_outputs) const {
    check_inputs(width);
    TORCH_CHECK(outputs == expected_outputs, "PackedMatrix: ", outputs, " outputs where ", expected_outputs,
                " are needed");
  }

  void check_inputs(int64_t width) const {
    const int64_t unit = shape.input_bytes() ? shape.unit() : 1;
    const int64_t padded = (width + unit - 1) / unit * unit;
    TORCH_CHECK(width % 8 == 0, "PackedMatrix: inputs come in eights, not ", width);
    TORCH_CHECK(data.size(1) * shape.inputs == padded, "PackedMatrix: rows of ", width, " inputs for a matrix of ",
                data.size(1) * shape.inputs);
  }

 private:
  static FormatShape shape_of(const Tensor& data) {
    TORCH_CHECK(data.dim() == 3 && data.is_contiguous() && data.device().is_cpu(),
                "PackedMatrix: data must be contiguous panels on the CPU, not ", data.sizes(), " on ", data.device());
    for (const FormatShape& shape : FORMAT_SHAPES)
      if (data.scalar_type() == shape.type && data.size(2) == shape.width * P) return shape;
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
