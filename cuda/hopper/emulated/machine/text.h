// A report in the making. A fixed buffer, because a fault abandons the fiber it happens in: nothing on its stack may
// own memory.
#pragma once
#include <cstdarg>
#include <cstddef>
#include <cstdio>

namespace emu {

class Text {
 public:
  const char* c_str() const { return text_; }

  [[gnu::format(printf, 2, 3)]] Text& add(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    add_list(format, arguments);
    va_end(arguments);
    return *this;
  }

  Text& add_list(const char* format, va_list arguments) {
    const int written = std::vsnprintf(text_ + length_, sizeof text_ - length_, format, arguments);
    if (written > 0) length_ = length_ + written < sizeof text_ ? length_ + written : sizeof text_ - 1;
    return *this;
  }

 private:
  char text_[2048] = {};
  size_t length_ = 0;
};

}  // namespace emu
