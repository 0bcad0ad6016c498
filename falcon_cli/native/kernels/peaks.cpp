// What the processor's arithmetic can do at most: the kernels' own instructions on numbers that stay in registers.
#include <ATen/Parallel.h>

#include <chrono>

#include "amx.h"
#include "operators.h"
#include "tiles.h"

namespace falcon {

namespace {

constexpr int CHAINS = W == 16 ? 16 : 10;  // sums that do not wait for each other
constexpr int64_t ROUNDS = 1 << 19;
constexpr int TIMES = 5;

// Multiply-adds a second of all threads, each of which does `multiply_adds` by `work`
template <typename Work>
double fastest(double multiply_adds, Work work) {
  double best = 0;
  const int64_t threads = at::get_num_threads();
  for (int time = 0; time < TIMES; time++) {
    const auto began = std::chrono::steady_clock::now();
#pragma omp parallel num_threads(threads)
    work();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - began;
    best = std::max(best, threads * multiply_adds / seconds.count());
  }
  return best;
}

// By vectors: `step` adds `width` multiply-adds to a sum.
template <typename V, typename X, typename Step>
double fastest_step(V zero, X x, int64_t width, Step step) {
  return fastest(static_cast<double>(ROUNDS * CHAINS * width), [=] {
    V sums[CHAINS];
    for (V& sum : sums) sum = zero;
    X factor = x;
    for (int64_t round = 0; round < ROUNDS; round++) {
#pragma GCC unroll 16
      for (int c = 0; c < CHAINS; c++) {
        factor = pin_to_register(factor);  // else the compiler would multiply once for all chains
        sums[c] = pin_to_register(step(sums[c], factor));
      }
    }
  });
}

// By AMX: `dots` are products of tiles for all four blocks of sums. In plain C++ the number means nothing.
template <typename Dots>
double fastest_dots(int64_t width, Dots dots) {
  constexpr int64_t rounds = amx::PRESENT ? 1 << 16 : 1 << 6;
  return fastest(static_cast<double>(rounds * 4 * amx::ROWS * amx::ROWS * width), [=] {
    amx::configure(amx::ROW_BYTES);
    for (int64_t round = 0; round < rounds; round++) dots();
    amx::release();
  });
}

void dot_bytes_of_all_tiles() {
  amx::dot_bytes<amx::SUMS, amx::INPUTS, amx::WEIGHTS, true>();
  amx::dot_bytes<amx::SUMS_RIGHT, amx::INPUTS, amx::WEIGHTS_RIGHT, true>();
  amx::dot_bytes<amx::LOWER_SUMS, amx::LOWER_INPUTS, amx::WEIGHTS, true>();
  amx::dot_bytes<amx::LOWER_SUMS_RIGHT, amx::LOWER_INPUTS, amx::WEIGHTS_RIGHT, true>();
}

void dot_bf16_of_all_tiles() {
  amx::dot_bf16<amx::SUMS, amx::INPUTS, amx::WEIGHTS>();
  amx::dot_bf16<amx::SUMS_RIGHT, amx::INPUTS, amx::WEIGHTS_RIGHT>();
  amx::dot_bf16<amx::LOWER_SUMS, amx::LOWER_INPUTS, amx::WEIGHTS>();
  amx::dot_bf16<amx::LOWER_SUMS_RIGHT, amx::LOWER_INPUTS, amx::WEIGHTS_RIGHT>();
}

}  // namespace

double peak(const std::string& arithmetic) {
  const I bytes = broadcast(0x01010101);
  if (arithmetic == "fma")
    return fastest_step(broadcast(0.f), broadcast(1.f), W, [](F sum, F x) { return fma(x, x, sum); });
  if (arithmetic == "dot4") return fastest_step(broadcast(0), bytes, 4 * W, [](I sum, I x) { return dot4(sum, x, x); });
  if (arithmetic == "bf16")
    return HAS_BF16 ? fastest_step(broadcast(0.f), bytes, 2 * W, [](F sum, I x) { return dot_bf16(sum, x, x); }) : 0;
  const bool has_amx = use_amx(std::nullopt);
  if (arithmetic == "amx") return has_amx ? fastest_dots(amx::ROW_BYTES, dot_bytes_of_all_tiles) : 0;
  if (arithmetic == "amx-bf16") return has_amx ? fastest_dots(amx::ROW_BYTES / 2, dot_bf16_of_all_tiles) : 0;
  TORCH_CHECK(arithmetic == "dot2", "peak: fma, dot4, dot2, bf16, amx or amx-bf16, not ", arithmetic);
  return fastest_step(broadcast(0), bytes, 4 * W, [](I sum, I x) { return dot2(sum, x, x); });
}

}  // namespace falcon
