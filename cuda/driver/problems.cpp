#include "driver/problems.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <vector>

#include "driver/hooks.h"
#include "driver/options.h"
#include "driver/state.h"

namespace driver {
namespace {

struct Problem {
  uint64_t thread;
  std::string text;
};

std::vector<Problem>& problems() {
  static auto* const all = new std::vector<Problem>();
  return *all;
}

constexpr int kStrictStatus = 86;

// Names and values of others are in it: a terminal obeys none of them. Lines are the emulator's own.
std::string text_of(const char* format, va_list arguments) {
  char text[4096];
  std::vsnprintf(text, sizeof text, format, arguments);
  std::string shown;
  for (const char* c = text; *c != '\0'; ++c) {
    if (*c == '\n' || (*c >= ' ' && *c <= '~')) {
      shown += *c;
      continue;
    }
    char escape[8];
    std::snprintf(escape, sizeof escape, "\\x%02x", static_cast<unsigned char>(*c));
    shown += escape;
  }
  return shown;
}

void add(uint64_t thread, std::string text) {
  std::fprintf(stderr, "[fake CUDA] %s\n", text.c_str());
  problems().push_back({thread, std::move(text)});
}

// At the end of the process. A problem that a test expected was taken by it.
struct Strict {
  ~Strict() {
    if (!options().strict) return;
    const std::lock_guard lock(state().mutex);
    std::vector<std::string> alive = live_objects();
    alive.insert(alive.end(), state().left_behind.begin(), state().left_behind.end());
    if (problems().empty() && alive.empty()) return;
    std::fprintf(stderr, "[fake CUDA] FAKE_CUDA_STRICT: %zu problems, %zu live objects at exit\n", problems().size(),
                 alive.size());
    for (const Problem& problem : problems()) std::fprintf(stderr, "[fake CUDA]   %s\n", problem.text.c_str());
    for (const std::string& object : alive) std::fprintf(stderr, "[fake CUDA]   alive: %s\n", object.c_str());
    std::fflush(nullptr);
    _exit(kStrictStatus);
  }
} strict;

}  // namespace

const char* result_name(int code) {
  switch (code) {
#define DRIVER_RESULT(name, value) \
  case name:                       \
    return #name;
    DRIVER_RESULTS(DRIVER_RESULT)
#undef DRIVER_RESULT
    default:
      return nullptr;
  }
}

void error(uint64_t thread, const char* where, Result code, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  error_list(thread, where, code, format, arguments);
  va_end(arguments);
}

void error_list(uint64_t thread, const char* where, Result code, const char* format, va_list arguments) {
  const char* name = result_name(code);
  add(thread, std::string(where) + ": " + (name != nullptr ? name : "?") + ": " + text_of(format, arguments));
}

void note(uint64_t thread, const char* name, const char* format, ...) {
  const auto& allowed = options().allowed;
  if (std::find(allowed.begin(), allowed.end(), name) != allowed.end()) return;
  va_list arguments;
  va_start(arguments, format);
  add(thread, std::string("note `") + name + "`: " + text_of(format, arguments));
  va_end(arguments);
}

uint64_t count_problems(uint64_t thread) {
  const auto& all = problems();
  return static_cast<uint64_t>(
      std::count_if(all.begin(), all.end(), [&](const Problem& problem) { return problem.thread == thread; }));
}

bool take_problem(uint64_t thread, std::string& text) {
  auto& all = problems();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const Problem& problem) { return problem.thread == thread; });
  if (found == all.end()) return false;
  text = std::move(found->text);
  all.erase(found);
  return true;
}

}  // namespace driver
