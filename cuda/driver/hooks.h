// What tests ask of this driver and cannot ask of a real one: the `fake_cuda_` functions.
#pragma once
#include <string>
#include <vector>

namespace driver {

// What the caller made and did not destroy, in words.
std::vector<std::string> live_objects();

}  // namespace driver
