// Which operations are ordered, by streams, events and the host's waits: never by the order in which they happen to be
// executed here. Two that touch the same bytes, one of them writing, must be.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace driver {

struct Allocation;
struct Operation;
struct Stream;

// For each stream, the last of its operations that comes before.
using Clock = std::map<const Stream*, uint64_t>;
using SharedClock = std::shared_ptr<const Clock>;

void join(Clock& into, const Clock& from);

// Bytes of an allocation that an operation reads or writes.
struct Access {
  Allocation* allocation;
  uint64_t begin, end;  // addresses
  bool writes;
};

// The access of an operation that was executed.
struct Record {
  uint64_t begin, end;
  bool writes;
  const Stream* stream;
  uint64_t sequence;
  SharedClock clock;
  std::string what;
};

// Compares with the accesses of the operations executed before, notes those that are not ordered, and remembers it.
void check_order(const Operation& operation, const Stream& stream, uint64_t sequence, const Access& access);

}  // namespace driver
