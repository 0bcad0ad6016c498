// The library as torch knows it: torch.classes.falcon and torch.ops.falcon
#include <torch/library.h>

#include "operators.h"

namespace falcon {

using torch::arg;
using Matrix = PackedMatrixPtr;
using OptionalMatrix = std::optional<PackedMatrixPtr>;

TORCH_LIBRARY(falcon, library) {
  library.class_<PackedMatrix>("PackedMatrix")
      .def(torch::init<Tensor, Tensor, Tensor, int64_t>(), "", {arg("data"), arg("scale"), arg("bias"), arg("outputs")})
      .def("linear", &linear)
      .def("best", &best)
      .def("top_k", &top_k)
      .def("multiply_adds", &PackedMatrix::multiply_adds)
      .def("arithmetic", &arithmetic);
  library.class_<DecoderLayer>("DecoderLayer")
      .def(torch::init<std::vector<Matrix>, Matrix, Matrix, Matrix, Tensor, Tensor, OptionalTensor, OptionalTensor>(),
           "",
           {arg("qkv"), arg("o"), arg("gate_up"), arg("down"), arg("input_norm"), arg("mlp_norm"), arg("query_norm"),
            arg("key_norm")});
  library.class_<Decoder>("Decoder")
      .def(torch::init<std::vector<DecoderLayerPtr>, OptionalTensor, double, double>(), "",
           {arg("layers"), arg("final_norm"), arg("epsilon"), arg("scale")})
      .def("forward", &Decoder::forward);
  library.class_<Drafter>("Drafter")
      .def(torch::init<Matrix, OptionalMatrix, OptionalMatrix, OptionalMatrix>(), "",
           {arg("mixer"), arg("own"), arg("gate"), arg("change")})
      .def("mix", &Drafter::mix)
      .def("start", &Drafter::start)
      .def("finish", &Drafter::finish);

  library.def("huge(int bytes) -> Tensor", &huge);
  library.def("pack_blocks(Tensor rows, str kind, Tensor(a!) panels) -> ()", &pack_blocks);
  library.def("panel() -> int", [] { return static_cast<int64_t>(P); });
  library.def("peak(str arithmetic) -> float", &peak);
  library.def("use_amx(bool? use=None) -> bool", &use_amx);
  library.def("rms_norm(Tensor x, Tensor weight, float epsilon) -> Tensor", &rms_norm);
  library.def("attend(Tensor query, Tensor keys, Tensor values, int committed, Tensor? visible, float scale) -> Tensor",
              &attention);
}

}  // namespace falcon
