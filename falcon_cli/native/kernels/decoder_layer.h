// Decoder layers, as Python makes them (falcon_cli/native/layer.py).
#pragma once
#include <optional>
#include <vector>

#include "packed_matrix.h"

namespace falcon {

// torch.classes.falcon.DecoderLayer: norm, attention, norm, gated MLP
struct DecoderLayer : torch::CustomClassHolder {
  const std::vector<PackedMatrixPtr> qkv;  // queries, keys and values one after the other; several if formats differ
  const PackedMatrixPtr o;
  const PackedMatrixPtr gate_up;  // half of each in every panel
  const PackedMatrixPtr down;
  const Tensor input_norm;
  const Tensor mlp_norm;
  const std::optional<Tensor> query_norm;  // of each head; some families have these two
  const std::optional<Tensor> key_norm;

  DecoderLayer(std::vector<PackedMatrixPtr> qkv_, PackedMatrixPtr o_, PackedMatrixPtr gate_up_, PackedMatrixPtr down_,
               Tensor input_norm_, Tensor mlp_norm_, std::optional<Tensor> query_norm_, std::optional<Tensor> key_norm_)
      : qkv(std::move(qkv_)),
        o(std::move(o_)),
        gate_up(std::move(gate_up_)),
        down(std::move(down_)),
        input_norm(std::move(input_norm_)),
        mlp_norm(std::move(mlp_norm_)),
        query_norm(std::move(query_norm_)),
        key_norm(std::move(key_norm_)) {
    check_norm(input_norm, hidden_size());
    check_norm(mlp_norm, hidden_size());
    for (const PackedMatrixPtr& matrix : qkv) matrix->check_inputs(hidden_size());
    gate_up->check_inputs(hidden_size());
    down->check_sizes(inner_size(), hidden_size());
    TORCH_CHECK(query_norm.has_value() == key_norm.has_value(), "DecoderLayer: a query norm and a key norm, or none");
  }

  int64_t hidden_size() const { return input_norm.numel(); }
  int64_t inner_size() const { return gate_up->outputs / 2; }
  int64_t qkv_width() const {
    int64_t width = 0;
    for (const PackedMatrixPtr& matrix : qkv) width += matrix->outputs;
    return width;
  }
  // Of the rounded inputs of any of its products (FormatShape)
  int input_bytes() const {
    int most = std::max({o->shape.input_bytes(), gate_up->shape.input_bytes(), down->shape.input_bytes()});
    for (const PackedMatrixPtr& matrix : qkv) most = std::max(most, matrix->shape.input_bytes());
    return most;
  }

  // What the constructor cannot know: the size of the heads, and how many there are
  void check_heads(int64_t queries, int64_t groups, int64_t head_size) const {
    TORCH_CHECK(queries > 0 && queries % groups == 0, "DecoderLayer: ", queries, " query heads for ", groups,
                " groups");
    const int64_t wanted = (queries + 2 * groups) * head_size;
    TORCH_CHECK(qkv_width() == wanted, "DecoderLayer: ", qkv_width(), " outputs where ", wanted, " are needed");
    o->check_sizes(queries * head_size, hidden_size());
    if (query_norm) {
      check_norm(*query_norm, head_size);
      check_norm(*key_norm, head_size);
    }
  }

  static void check_norm(const Tensor& weight, int64_t size) {
    TORCH_CHECK(weight.scalar_type() == at::kFloat && weight.is_contiguous() && weight.numel() == size,
                "a norm's weight must be ", size, " contiguous floats, not ", weight.scalar_type(), " ",
                weight.sizes());
  }
};

using DecoderLayerPtr = c10::intrusive_ptr<DecoderLayer>;

// torch.classes.falcon.Decoder: layers, and the norm behind them if there is one
struct Decoder : torch::CustomClassHolder {
  const std::vector<DecoderLayerPtr> layers;
  const std::optional<Tensor> final_norm;
  const float epsilon;
  const float scale;  // of attention scores

  Decoder(const std::vector<DecoderLayerPtr>& layers_, std::optional<Tensor> final_norm_, double epsilon_,
          double scale_)
      : layers(layers_),
        final_norm(std::move(final_norm_)),
        epsilon(static_cast<float>(epsilon_)),
        scale(static_cast<float>(scale_)) {
    TORCH_CHECK(!layers.empty(), "Decoder: no layers");
    const DecoderLayer& first = *layers[0];
    for (const DecoderLayerPtr& layer : layers)
      TORCH_CHECK(layer->hidden_size() == first.hidden_size() && layer->inner_size() == first.inner_size(),
                  "Decoder: layers of different sizes");
    if (final_norm) DecoderLayer::check_norm(*final_norm, first.hidden_size());
  }

  int input_bytes() const {
    int most = 0;
    for (const DecoderLayerPtr& layer : layers) most = std::max(most, layer->input_bytes());
    return most;
  }

  Tensor forward(const Tensor& hidden, const std::optional<Tensor>& context, const Tensor& cosine, const Tensor& sine,
                 const Tensor& depth, const std::vector<Tensor>& keys, const std::vector<Tensor>& values,
                 const std::vector<int64_t>& committed, const std::vector<int64_t>& rows,
                 const std::vector<Tensor>& visible) const;
};

}  // namespace falcon
