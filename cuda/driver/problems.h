// What went wrong: refused calls, kernels that failed, and notes of what a real driver lets pass but nobody means.
#pragma once
#include <cstdarg>
#include <cstdint>
#include <string>

#include "driver/api.h"

namespace driver {

// Null for a code that is not in the table.
const char* result_name(int code);

// A call was refused, or an operation of `thread` failed when it was executed.
[[gnu::format(printf, 4, 5)]] void error(uint64_t thread, const char* where, Result code, const char* format, ...);
void error_list(uint64_t thread, const char* where, Result code, const char* format, va_list arguments);

// `name` is what FAKE_CUDA_ALLOW takes.
[[gnu::format(printf, 3, 4)]] void note(uint64_t thread, const char* name, const char* format, ...);

// Problems of a thread that nobody has taken.
uint64_t count_problems(uint64_t thread);

// Takes the oldest; false when there is none.
bool take_problem(uint64_t thread, std::string& text);

}  // namespace driver
