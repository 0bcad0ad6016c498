// GGUF's blocks become panels (block_formats.h): the same numbers in another order.
//
// How the blocks lie in a file is ggml's (ggml-common.h, ggml-quants.c). A block of one output is taken apart into its
// numbers and scales; the blocks of a panel's outputs then are put together.
#include <ATen/Parallel.h>

#include "block_formats.h"
#include "operators.h"

namespace falcon {

namespace {

struct BlockParts {
  uint8_t numbers[SUPERBLOCK];
  at::Half scale;
  at::Half least;
  uint8_t scales[16];  // whole, of the groups; two's complements
  uint8_t leasts[8];
};

at::Half half_at(const uint8_t* place) {
  at::Half half;
  std::memcpy(&half, place, 2);
  return half;
}

// The lower four bits of `count` bytes, then the higher ones
void read_nibbles(const uint8_t* from, int count, uint8_t* numbers) {
  for (int i = 0; i < count; i++) {
    numbers[i] = from[i] & 15;
    numbers[count + i] = from[i] >> 4;
  }
}

void add_fifth_bits(const uint8_t* from, uint8_t* numbers) {
  for (int i = 0; i < BLOCK; i++) numbers[i] |= (from[i / 8] >> i % 8 & 1) << 4;
}

// Eight whole scales and eight whole least values of 6 bits, in 12 bytes
void read_six_bits(const uint8_t* from, BlockParts& parts) {
  for (int i = 0; i < 4; i++) {
    parts.scales[i] = from[i] & 63;
    parts.leasts[i] = from[4 + i] & 63;
    parts.scales[4 + i] = (from[8 + i] & 15) | from[i] >> 6 << 4;
    parts.leasts[4 + i] = from[8 + i] >> 4 | from[4 + i] >> 6 << 4;
  }
}

struct FileQ4_0 {
  using Format = Q4_1;  // the least value is -8 scales
  static constexpr int BYTES = 18;
  static void read(const uint8_t* from, BlockParts& parts) {
    parts.scale = half_at(from);
    parts.least = static_cast<float>(parts.scale) * -8.f;
    read_nibbles(from + 2, 16, parts.numbers);
  }
};

struct FileQ4_1 {
  using Format = Q4_1;
  static constexpr int BYTES = 20;
  static void read(const uint8_t* from, BlockParts& parts) {
    parts.scale = half_at(from);
    parts.least = half_at(from + 2);
    read_nibbles(from + 4, 16, parts.numbers);
  }
};

struct FileQ5_0 {
  using Format = Q5_0;
  static constexpr int BYTES = 22;
  static void read(const uint8_t* from, BlockParts& parts) {
    parts.scale = half_at(from);
    read_nibbles(from + 6, 16, parts.numbers);
    add_fifth_bits(from + 2, parts.numbers);
  }
};

struct FileQ5_1 {
  using Format = Q5_1;
  static constexpr int BYTES = 24;
  static void read(const uint8_t* from, BlockParts& parts) {
    parts.scale = half_at(from);
    parts.least = half_at(from + 2);
    read_nibbles(from + 8, 16, parts.numbers);
    add_fifth_bits(from + 4, parts.numbers);
  }
};

struct FileQ8_0 {
  using Format = Q8_0;
  static constexpr int BYTES = 34;
  static void read(const uint8_t* from, BlockParts& parts) {
    parts.scale = half_at(from);
    std::memcpy(parts.numbers, from + 2, BLOCK);
  }
};

struct FileQ4_K {
  using Format = Q4_K;
  static constexpr int BYTES = 144;
  static void read(const uint8_t* from, BlockParts& parts) {
    parts.scale = half_at(from);
    parts.least = -static_cast<float>(half_at(from + 2));
    read_six_bits(from + 4, parts);
    for (int quarter = 0; quarter < 4; quarter++)
      read_nibbles(from + 16 + 32 * quarter, 32, parts.numbers + 64 * quarter);
  }
};

struct FileQ5_K {
  using Format = Q5_K;
  static constexpr int BYTES = 176;
  static void read(const uint8_t* from, BlockParts& parts) {
    FileQ4_K::read(from, parts);
    for (int quarter = 0; quarter < 4; quarter++)
      read_nibbles(from + 48 + 32 * quarter, 32, parts.numbers + 64 * quarter);
    for (int i = 0; i < SUPERBLOCK; i++) parts.numbers[i] |= (from[16 + i % 32] >> i / 32 & 1) << 4;
  }
};

struct FileQ6_K {
  using Format = Q6_K;
  static constexpr int BYTES = 210;
  static void read(const uint8_t* from, BlockParts& parts) {
    for (int half = 0; half < 2; half++) {
      uint8_t* numbers = parts.numbers + 128 * half;
      read_nibbles(from + 64 * half, 64, numbers);
      for (int i = 0; i < 128; i++) numbers[i] |= (from[128 + 32 * half + i % 32] >> 2 * (i / 32) & 3) << 4;
    }
    std::memcpy(parts.scales, from + 192, 16);
    parts.scale = half_at(from + 208);
  }
};

// Four inputs of a group's step, of all of a panel's outputs
template <typename Q>
void write_step(const BlockParts* parts, int first, uint8_t* group, int step) {
  constexpr int width = Q::VECTOR / 4;  // outputs of half a panel
  for (int output = 0; output < width; output++)
    for (int i = 0; i < 4; i++) {
      const uint8_t low = parts[output].numbers[first + i];
      const uint8_t high = parts[width + output].numbers[first + i];
      const int place = 4 * output + i;
      if constexpr (Q::BITS == 8) {
        group[2 * step * Q::VECTOR + place] = low;
        group[(2 * step + 1) * Q::VECTOR + place] = high;
        continue;
      }
      group[(Q::PLANES + step) * Q::VECTOR + place] = (low & 15) | high << 4;
      if constexpr (Q::PLANES > 0) {
        group[place] |= low >> 4 << (Q::BITS - 4) * step;
        group[Q::VECTOR + place] |= high >> 4 << (Q::BITS - 4) * step;
      }
    }
}

void write_halves(const BlockParts* parts, at::Half BlockParts::* half, uint8_t* to) {
  for (int output = 0; output < P; output++) std::memcpy(to + 2 * output, &(parts[output].*half), 2);
}

// The blocks of a panel's outputs as one unit of a packed matrix
template <typename Q>
void write_unit(const BlockParts* parts, uint8_t* to) {
  for (int group = 0; group < Q::UNIT / Q::GROUP; group++, to += Q::GROUP_BYTES) {
    std::fill_n(to, Q::PLANES * Q::VECTOR, 0);
    for (int step = 0; step < Q::STEPS; step++) write_step<Q>(parts, group * Q::GROUP + 4 * step, to, step);
  }
  if constexpr (Q::SUPER) {
    auto write_pairs = [&](auto whole) {
      for (int pair = 0; pair < Q::PAIRS; pair++, to += 2 * P)
        for (int output = 0; output < P; output++) std::memcpy(to + 2 * output, whole(parts[output]) + 2 * pair, 2);
    };
    write_pairs([](const BlockParts& block) { return block.scales; });
    if constexpr (Q::LEAST) write_pairs([](const BlockParts& block) { return block.leasts; });
  }
  write_halves(parts, &BlockParts::scale, to);
  if constexpr (Q::LEAST) write_halves(parts, &BlockParts::least, to + 2 * P);
}

template <typename File>
void pack_rows(const Tensor& rows, const Tensor& panels) {
  using Q = typename File::Format;
  const int64_t units = rows.size(1) / File::BYTES;
  TORCH_CHECK(rows.size(1) == units * File::BYTES && rows.size(0) == panels.size(0) * P && panels.size(1) == units &&
                  panels.size(2) == Q::BYTES,
              "pack_blocks: rows ", rows.sizes(), " for panels ", panels.sizes());
  const uint8_t* from = rows.const_data_ptr<uint8_t>();
  uint8_t* to = panels.data_ptr<uint8_t>();
  at::parallel_for(0, panels.size(0), 1, [&](int64_t begin, int64_t end) {
    std::vector<BlockParts> parts(P);
    for (int64_t panel = begin; panel < end; panel++)
      for (int64_t unit = 0; unit < units; unit++) {
        for (int64_t output = 0; output < P; output++)
          File::read(from + (panel * P + output) * rows.stride(0) + unit * File::BYTES, parts[output]);
        write_unit<Q>(parts.data(), to + (panel * units + unit) * Q::BYTES);
      }
  });
}

}  // namespace

// Rows of a file [outputs, bytes] in one of GGUF's formats, into panels [panels, units, bytes]
void pack_blocks(const Tensor& rows, const std::string& kind, Tensor panels) {
  TORCH_CHECK(rows.scalar_type() == at::kByte && panels.scalar_type() == at::kByte && rows.is_contiguous() &&
                  panels.is_contiguous(),
              "pack_blocks: contiguous bytes are needed");
  if (kind == "Q4_0") return pack_rows<FileQ4_0>(rows, panels);
  if (kind == "Q4_1") return pack_rows<FileQ4_1>(rows, panels);
  if (kind == "Q5_0") return pack_rows<FileQ5_0>(rows, panels);
  if (kind == "Q5_1") return pack_rows<FileQ5_1>(rows, panels);
  if (kind == "Q8_0") return pack_rows<FileQ8_0>(rows, panels);
  if (kind == "Q4_K") return pack_rows<FileQ4_K>(rows, panels);
  if (kind == "Q5_K") return pack_rows<FileQ5_K>(rows, panels);
  if (kind == "Q6_K") return pack_rows<FileQ6_K>(rows, panels);
  TORCH_CHECK(false, "pack_blocks: no format ", kind);
}

}  // namespace falcon
