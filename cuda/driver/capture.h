// Captures: streams whose work becomes the nodes of a graph (programming guide, "creating a graph using stream
// capture").
#pragma once
#include <string>

#include "driver/state.h"

namespace driver {

// The capture can only be ended any more; the first reason is kept.
void invalidate(Capture& capture, const std::string& why);

}  // namespace driver
