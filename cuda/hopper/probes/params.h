// The parameter struct of every test kernel, in plain C.
#pragma once
#include <stdint.h>

#include "hopper/tensor_map.h"

// Each test kernel says what the fields mean to it.
typedef struct ProbeParams {
  TensorMap map_load[2];
  TensorMap map_store;
  const uint32_t* input;
  uint32_t* output;
  uint32_t arguments[8];
} ProbeParams;
