#include "driver/ordering.h"

#include <algorithm>

#include "driver/problems.h"
#include "driver/state.h"

namespace driver {
namespace {

// Per allocation: what is older is taken to be ordered.
constexpr size_t kRecords = 256;

bool after(const Clock& clock, const Stream* stream, uint64_t sequence) {
  const auto found = clock.find(stream);
  return found != clock.end() && found->second >= sequence;
}

}  // namespace

void join(Clock& into, const Clock& from) {
  for (const auto& [stream, sequence] : from) {
    uint64_t& own = into[stream];
    own = std::max(own, sequence);
  }
}

void check_order(const Operation& operation, const Stream& stream, uint64_t sequence, const Access& access) {
  Allocation& allocation = *access.allocation;
  auto& records = allocation.records;
  for (const Record& other : records) {
    if (other.begin >= access.end || access.begin >= other.end || !(other.writes || access.writes)) continue;
    if (after(*operation.clock, other.stream, other.sequence) || after(*other.clock, &stream, sequence)) continue;
    note(operation.thread, "unordered",
         "%s on stream %llu %s allocation %llu at byte %llu, and nothing orders it with %s on stream %llu, which %s it",
         operation.what.c_str(), printable(stream.id), access.writes ? "writes" : "reads", printable(allocation.id),
         printable(std::max(access.begin, other.begin) - allocation.base), other.what.c_str(),
         printable(other.stream->id), other.writes ? "writes" : "reads");
    break;  // one is enough to look into
  }
  // A later access of the same stream to the same bytes stands for the earlier one.
  std::erase_if(records, [&](const Record& other) {
    return other.stream == &stream && other.begin == access.begin && other.end == access.end &&
           other.writes == access.writes;
  });
  if (records.size() == kRecords) records.erase(records.begin());
  records.push_back({access.begin, access.end, access.writes, &stream, sequence, operation.clock, operation.what});
}

}  // namespace driver
