// Where the logarithms of sums of exponentials lie, one number a head of a token.
#pragma once
#include <cstdint>

#include "mla/params.h"

namespace mla {

constexpr uint64_t lse_element(const LseStrides& strides, uint32_t token, uint32_t head) {
  return token / strides.group_tokens * strides.group + token % strides.group_tokens * strides.token + head * strides.head;
}

}  // namespace mla
