// Allocations: between guard pages, filled with NaN, at addresses that are aligned as little as the driver promises and
// that are never used again.
#pragma once
#include "driver/call.h"

namespace driver {

inline constexpr uint64_t kTotalMemory = uint64_t{80} << 30;

// Null when there is no memory.
Allocation* allocate(uint64_t bytes, Allocation::Origin origin, Context* context);

// The allocation with these bytes, freed ones too; null when there is none.
Allocation* find_allocation(uint64_t address, uint64_t bytes = 0);

// Whether memory may have been given out here: what points here and into no allocation points astray.
bool gives_out(uint64_t address);

// Takes the memory away: who touches it now touches nothing.
void release(Allocation& allocation);

// What a call names as device memory (or memory of cuMemHostAlloc), at the moment of the call. Null and a failed call
// when it is not within a live allocation.
Allocation* device_range(Call& call, uint64_t address, uint64_t bytes, const char* what);

// The allocation if these bytes are memory of cuMemHostAlloc.
Allocation* pinned_range(const void* host, uint64_t bytes);

// What an operation touches, at the moment of its execution.
Result check_live(const Operation& operation);

}  // namespace driver
