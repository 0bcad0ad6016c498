// The library as torch knows it: torch.classes.falcon and torch.ops.falcon. One file registers all of it, because
// schemas name the classes, which must be registered before them.
#include <torch/library.h>

#include "operators.h"

#define MATRIX "__torch__.torch.classes.falcon.PackedMatrix"
#define LAYER "__torch__.torch.classes.falcon.DecoderLayer"

namespace falcon {

TORCH_LIBRARY(falcon, library) {
  library.class_<PackedMatrix>("PackedMatrix")
      .def(torch::init<Tensor, Tensor, Tensor, int64_t>(), "",
           {torch::arg("data"), torch::arg("scale"), torch::arg("bias"), torch::arg("outputs")});
  library.class_<DecoderLayer>("DecoderLayer")
      .def(torch::init<PackedMatrixPtr, PackedMatrixPtr, PackedMatrixPtr, PackedMatrixPtr, Tensor, Tensor,
                       std::optional<Tensor>, std::optional<Tensor>>(),
           "",
           {torch::arg("qkv"), torch::arg("o"), torch::arg("gate_up"), torch::arg("down"), torch::arg("input_norm"),
            torch::arg("mlp_norm"), torch::arg("query_norm"), torch::arg("key_norm")});

  library.def("huge(int bytes) -> Tensor", &huge);
  library.def("panel() -> int", [] { return static_cast<int64_t>(P); });
  library.def("linear(Tensor x, " MATRIX " weight) -> Tensor", &linear);
  library.def("rms_norm(Tensor x, Tensor weight, float epsilon) -> Tensor", &rms_norm);
  library.def("attend(Tensor query, Tensor keys, Tensor values, int committed, Tensor? visible, float scale) -> Tensor",
              &attention);
  library.def(
      "decoder(Tensor hidden, Tensor? context, " LAYER
      "[] layers, Tensor? final_norm, Tensor cosine, Tensor sine, Tensor depth, Tensor(a!) cache, int committed, "
      "Tensor? visible, float epsilon, float scale) -> Tensor",
      &decoder);

  library.def("mix(Tensor embedded, Tensor features, Tensor scale, " MATRIX " mixer) -> Tensor", &mix);
  library.def("start(Tensor mixed, Tensor last, Tensor slot, Tensor slots, " MATRIX " own) -> Tensor", &start_rows);
  library.def("finish(Tensor hidden, Tensor before, " MATRIX "? gate, " MATRIX
              "? change, Tensor norm, float epsilon) -> Tensor",
              &finish_rows);
  library.def("top_k(Tensor features, " MATRIX " head, int count) -> (Tensor, Tensor)", &top_k);
}

}  // namespace falcon
