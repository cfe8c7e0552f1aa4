// How the keys of a sequence are cut for split-KV attention: from a length that the device finds in memory, made safe.
#pragma once
#include <cstdint>

namespace mla {

// What stands there as a length, within what the pages of a sequence hold.
constexpr uint32_t clamp_length(int32_t length, uint32_t capacity) {
  const uint32_t positive = length < 0 ? 0 : static_cast<uint32_t>(length);
  return positive < capacity ? positive : capacity;
}

struct SplitCount {
  uint32_t whole;  // splits of full size
  uint32_t rest;   // keys of the last split, if it is shorter
  bool has_rest;   // an empty sequence has one split too: somebody must write its output

  constexpr uint32_t total() const { return whole + has_rest; }
};

constexpr SplitCount split_count(uint32_t length, uint32_t split_keys) {
  const uint32_t whole = length / split_keys;
  const uint32_t rest = length - whole * split_keys;
  return {whole, rest, rest != 0 || length == 0};
}

// Keys that a query token sees, of `length` in the cache, which end with the query tokens themselves: aligned to the
// bottom right.
constexpr uint32_t visible_keys(uint32_t length, uint32_t token, uint32_t q_tokens, bool causal) {
  const uint32_t hidden = causal ? q_tokens - 1 - token : 0;
  return length > hidden ? length - hidden : 0;
}

}  // namespace mla
