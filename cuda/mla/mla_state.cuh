// What an attention row remembers while its keys pass by: m, the greatest score in units of log2, and l, the sum of
// 2^(score - m). (docs/numerics.md, "MLA decode")
#pragma once
#include <bit>

#include "ptx/convert.h"
#include "ptx/target.h"

namespace mla {

// m of a row that has seen no key.
constexpr float kMlaNoKey = std::bit_cast<float>(0xff800000u);  // -Inf

// 1 / l, and 0 for a row without keys, whose output is 0.
PTX_DEVICE float inverse_sum(float l) { return l == 0.0f ? 0.0f : 1.0f / l; }

// ln of the sum of e^score.
PTX_DEVICE float log_sum_exp(float m, float l, float empty_lse) {
  constexpr float kLn2 = 0x1.62e43p-1f;
  return l == 0.0f ? empty_lse : (m + ptx::lg2_approx(l)) * kLn2;
}

}  // namespace mla
