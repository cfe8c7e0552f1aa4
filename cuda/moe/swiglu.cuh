// The activation between an expert's two GEMMs, of one element.
#pragma once
#include "hopper/cta/exp.cuh"
#include "ptx/target.h"

namespace moe {

// gate / (1 + exp(-gate)) * up, clamped before; NaN stays NaN under a clamp.
PTX_DEVICE float swiglu(float gate, float up, float clamp) {
  const float x = gate > clamp ? clamp : gate;
  const float y = up > clamp ? clamp : up < -clamp ? -clamp : up;
  return x / (1.0f + exp_f32(-x)) * y;
}

}  // namespace moe
