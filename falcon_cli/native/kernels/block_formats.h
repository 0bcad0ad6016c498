// How GGUF's formats lie in a packed matrix.
//
// A weight is scale * q + least. q has 4, 5, 6 or 8 bits. A block of 32 inputs has an fp16 scale, and in some formats
// an fp16 least value (q5_0: -16 scales). A superblock of 256 inputs ("K-quants") has an fp16 scale for the whole
// scales of its groups of 32 or 16 inputs, and one for their whole least values (q6_k: -32 scales).
//
//     group       [planes: 2 vectors] [4 inputs: 1 vector, of 8 bits 2] ...
//     block       group [scale P] [least P]
//     superblock  group ... [scales: P pairs] ... [leasts: P pairs] ... [scale P] [scale of leasts P]
//
// A vector of 4-bit numbers holds the panel's first half in the lower bits of its bytes, the second half in the higher
// ones. A plane holds the higher bits of one half: those of the group's first four inputs are the lowest of its bytes.
// Whole scales come in pairs, those of two neighbouring groups for each output.
#pragma once
#include "packed_matrix.h"

namespace falcon {

template <int BITS_, int GROUP_, bool SUPER_, bool LEAST_, int OFFSET_>
struct BlockFormat {
  static constexpr int BITS = BITS_;     // of q
  static constexpr int GROUP = GROUP_;   // inputs that share a scale
  static constexpr bool SUPER = SUPER_;  // in superblocks
  static constexpr bool LEAST = LEAST_;
  static constexpr int OFFSET = OFFSET_;  // a weight is scale * (q - OFFSET)
  static constexpr int UNIT = SUPER ? SUPERBLOCK : BLOCK;
  static constexpr int STEPS = GROUP / 4;
  static constexpr int PLANES = BITS == 5 || BITS == 6 ? 2 : 0;
  static constexpr int VECTOR = 4 * W;  // bytes, as many as a pair of each output's
  static constexpr int GROUP_BYTES = (PLANES + STEPS * (BITS == 8 ? 2 : 1)) * VECTOR;
  static constexpr int PAIRS = SUPER ? UNIT / GROUP / 2 : 0;
  static constexpr int BYTES = UNIT / GROUP * GROUP_BYTES + (SUPER ? (LEAST ? 2 : 1) * PAIRS * VECTOR : 0) +
                               (LEAST ? 2 : 1) * 2 * P;  // of a unit
  // Steps whose products a 16-bit sum takes
  static constexpr int STEPS_A_SUM = HAS_VNNI ? STEPS : BITS == 4 ? 8 : BITS == 5 ? 4 : BITS == 6 ? 2 : 1;
};

using Q4_1 = BlockFormat<4, 32, false, true, 0>;
using Q5_0 = BlockFormat<5, 32, false, false, 16>;
using Q5_1 = BlockFormat<5, 32, false, true, 0>;
using Q8_0 = BlockFormat<8, 32, false, false, HAS_VNNI ? 128 : 0>;
using Q4_K = BlockFormat<4, 32, true, true, 0>;
using Q5_K = BlockFormat<5, 32, true, true, 0>;
using Q6_K = BlockFormat<6, 16, true, false, 32>;

// Call `choose` with a value of the format's type
template <typename Choose>
auto with_block_format(WeightFormat format, Choose choose) {
  switch (format) {
    case WeightFormat::q4_1:
      return choose(Q4_1());
    case WeightFormat::q5_0:
      return choose(Q5_0());
    case WeightFormat::q5_1:
      return choose(Q5_1());
    case WeightFormat::q8_0:
      return choose(Q8_0());
    case WeightFormat::q4_k:
      return choose(Q4_K());
    case WeightFormat::q5_k:
      return choose(Q5_K());
    default:
      return choose(Q6_K());
  }
}

// Inputs are quantised without knowing these types: `FormatShape` tells them where sums begin.
static_assert(FORMAT_SHAPES[static_cast<int>(WeightFormat::q5_0)].offset == Q5_0::OFFSET);
static_assert(FORMAT_SHAPES[static_cast<int>(WeightFormat::q8_0)].offset == Q8_0::OFFSET);

}  // namespace falcon
