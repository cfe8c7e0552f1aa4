#include "driver/options.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

namespace driver {
namespace {

constexpr const char* kNames[] = {"MODE",           "SEED", "SMS",    "DEVICES", "COMPUTE_CAPABILITY",
                                  "DRIVER_VERSION", "EXEC", "CHECKS", "STRICT",  "FAULT",
                                  "ALLOW"};

bool number(const std::string& text, uint64_t least, uint64_t most, uint64_t& value) {
  const char* end = text.data() + text.size();
  const auto [last, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && last == end && value >= least && value <= most;
}

template <class T>
bool read(const std::string& text, uint64_t least, uint64_t most, T& target) {
  uint64_t value = 0;
  if (!number(text, least, most, value)) return false;
  target = static_cast<T>(value);
  return true;
}

bool read_mode(const std::string& text, Mode& mode) {
  if (text == "lazy")
    mode = Mode::kLazy;
  else if (text == "random")
    mode = Mode::kRandom;
  else if (text == "eager")
    mode = Mode::kEager;
  else
    return false;
  return true;
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts(1);
  for (char c : text) {
    if (c == ',')
      parts.emplace_back();
    else
      parts.back() += c;
  }
  return parts;
}

Options from_environment() {
  Options read;
  for (const char* name : kNames) {
    const std::string variable = std::string("FAKE_CUDA_") + name;
    const char* value = std::getenv(variable.c_str());
    if (value == nullptr || *value == '\0') continue;
    if (set_option(read, name, value)) continue;
    read.wrong += variable + "=";
    for (const char* c = value; *c != '\0'; ++c) read.wrong += *c == '\n' ? std::string("\\n") : std::string(1, *c);
    read.wrong += " is not understood; ";
  }
  return read;
}

}  // namespace

bool set_option(Options& o, const std::string& name, const std::string& value) {
  if (name == "MODE") return read_mode(value, o.mode);
  if (name == "SEED") return read(value, 0, UINT64_MAX, o.seed);
  if (name == "SMS") return read(value, 1, 132, o.multiprocessors);
  if (name == "DEVICES") return read(value, 0, 1, o.devices);
  if (name == "COMPUTE_CAPABILITY") return read(value, 10, 999, o.compute_capability);
  if (name == "DRIVER_VERSION") return read(value, 1000, 99999, o.version);
  if (name == "EXEC") return read(value, 0, 1, o.execute);
  if (name == "CHECKS") return read(value, 0, 1, o.checks);
  if (name == "STRICT") return read(value, 0, 1, o.strict);
  if (name == "FAULT") return find_fault(value.c_str(), o.fault);
  if (name == "ALLOW") {
    o.allowed = split(value);
    return true;
  }
  return false;
}

Options& options() {
  static Options* const all = new Options(from_environment());  // never destroyed: calls may come at exit
  return *all;
}

}  // namespace driver
