// What the processor's arithmetic can do at most: the kernels' own instructions on numbers that stay in registers.
#include <ATen/Parallel.h>

#include <chrono>

#include "operators.h"
#include "tiles.h"

namespace falcon {

namespace {

constexpr int CHAINS = W == 16 ? 16 : 10;  // sums that do not wait for each other
constexpr int64_t ROUNDS = 1 << 19;
constexpr int TIMES = 5;

// Multiply-adds a second of all threads: `step` adds `width` of them to a sum.
template <typename V, typename X, typename Step>
double fastest(V zero, X x, int64_t width, Step step) {
  double best = 0;
  const int64_t threads = at::get_num_threads();
  for (int time = 0; time < TIMES; time++) {
    const auto began = std::chrono::steady_clock::now();
#pragma omp parallel num_threads(threads)
    {
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
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - began;
    best = std::max(best, threads * ROUNDS * CHAINS * width / seconds.count());
  }
  return best;
}

}  // namespace

double peak(const std::string& arithmetic) {
  const I bytes = broadcast(0x01010101);
  if (arithmetic == "fma") return fastest(broadcast(0.f), broadcast(1.f), W, [](F sum, F x) { return fma(x, x, sum); });
  if (arithmetic == "dot4") return fastest(broadcast(0), bytes, 4 * W, [](I sum, I x) { return dot4(sum, x, x); });
  if (arithmetic == "bf16")
    return HAS_BF16 ? fastest(broadcast(0.f), bytes, 2 * W, [](F sum, I x) { return dot_bf16(sum, x, x); }) : 0;
  if (arithmetic == "amx" || arithmetic == "amx-bf16") return amx_peak(arithmetic == "amx-bf16");
  TORCH_CHECK(arithmetic == "dot2", "peak: fma, dot4, dot2, bf16, amx or amx-bf16, not ", arithmetic);
  return fastest(broadcast(0), bytes, 4 * W, [](I sum, I x) { return dot2(sum, x, x); });
}

}  // namespace falcon
