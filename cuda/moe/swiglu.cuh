// The activation between an expert's two GEMMs, of one element.
#pragma once
#include <limits>

#include "hopper/cta/exp.cuh"
#include "ptx/target.h"

namespace moe {

// gate / (1 + exp(-gate)) * up, clamped before. Inf and NaN stay what they are under a clamp, for those who look at the result.
PTX_DEVICE float swiglu(float gate, float up, float clamp) {
  constexpr float kMax = std::numeric_limits<float>::max();
  const float x = gate > clamp && gate <= kMax ? clamp : gate;
  const float y = up > clamp && up <= kMax ? clamp : up < -clamp && up >= -kMax ? -clamp : up;
  return x / (1.0f + exp_f32(-x)) * y;
}

}  // namespace moe
