// What tests ask of this driver and cannot ask of a real one: the `fake_cuda_` functions.
#pragma once
#include <string>
#include <vector>

#include "driver/api.h"

namespace driver {

// What the caller made in the context (null: in all) and did not destroy, in words.
std::vector<std::string> live_objects(const Context* context = nullptr);

}  // namespace driver
