// Loads and stores of threads, to shared and to global memory, and the rules of reads by the async proxy.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "hopper/emulated/machine/model.h"

namespace emu {
namespace {

const char* state_of(ByteState state) {
  switch (state) {
    case ByteState::kUninitialised:
      return "nothing has written";
    case ByteState::kUnfenced:
      return "a thread wrote without a fence.proxy.async since";
    case ByteState::kInFlight:
      return "has a TMA load in flight";
    case ByteState::kMbarrier:
      return "is part of an mbarrier";
    case ByteState::kWritten:
      break;
  }
  return "is written";
}

void read_as_thread(const Thread& thread, const char* what, uint32_t addr, uint32_t bytes) {
  SharedMemory& smem = *thread.cta->smem;
  if (machine().check_state) {
    for (uint32_t at = addr; at < addr + bytes; ++at) {
      const ByteState state = smem.state(at);
      if (state == ByteState::kWritten || state == ByteState::kUnfenced) continue;
      fault(thread, "%s reads %s, which %s", what, object(thread, *thread.cta, at).c_str(), state_of(state));
    }
  }
  if (machine().check_races) {
    Past past(thread);
    if (const auto conflict = smem.shadow.read(addr, bytes, now(thread), past)) {
      report_race(thread, thread.where, what, *thread.cta, *conflict);
    }
  }
}

void write_as_thread(Thread& thread, const char* what, uint32_t addr, const void* value, uint32_t bytes) {
  SharedMemory& smem = *thread.cta->smem;
  if (machine().check_state) {
    for (uint32_t at = addr; at < addr + bytes; ++at) {
      const ByteState state = smem.state(at);
      if (state != ByteState::kInFlight && state != ByteState::kMbarrier) continue;
      fault(thread, "%s writes %s, which %s", what, object(thread, *thread.cta, at).c_str(), state_of(state));
    }
  }
  if (machine().check_races) {
    Past past(thread);
    if (const auto conflict = smem.shadow.write(addr, bytes, now(thread), past)) {
      report_race(thread, thread.where, what, *thread.cta, *conflict);
    }
  }
  std::memcpy(smem.generic(addr), value, bytes);
  smem.set_state(addr, bytes, ByteState::kUnfenced);
  if (!thread.unfenced.empty() && thread.unfenced.back().addr + thread.unfenced.back().bytes == addr) {
    thread.unfenced.back().bytes += bytes;
  } else {
    thread.unfenced.push_back({addr, bytes});
  }
}

void check_aligned(const Thread& thread, const void* p, uint32_t bytes, const char* what) {
  if (reinterpret_cast<uintptr_t>(p) % bytes != 0) fault(thread, "%s of %u bytes at %p is misaligned", what, bytes, p);
}

}  // namespace

void check_range(const Thread& thread, Where where, const Cta& cta, uint32_t addr, uint32_t bytes, uint32_t alignment,
                 const char* what) {
  if (!cta.smem->contains(addr, bytes)) {
    fault_at(thread, where, "%s of %u bytes at shared address 0x%x is outside the CTA's shared memory, 0x%x to 0x%x",
             what, bytes, addr, kSharedBase, kSharedBase + machine().launch.smem_bytes);
  }
  if (addr % alignment != 0) {
    fault_at(thread, where, "%s at %s, shared address 0x%x, is not %u-byte aligned", what,
             object(thread, cta, addr).c_str(), addr, alignment);
  }
}

void check_async_read(const Thread& thread, Where where, const Cta& cta, uint32_t addr, uint32_t bytes,
                      const char* what) {
  if (!machine().check_state) return;
  const uint32_t bad = cta.smem->first_not(ByteState::kWritten, addr, bytes);
  if (bad == addr + bytes) return;
  fault_at(thread, where, "%s reads %s, which %s", what, object(thread, cta, bad).c_str(),
           state_of(cta.smem->state(bad)));
}

void name_shared(uint32_t addr, const char* name, uint32_t index) {
  machine().running->cta->smem->name(addr, name, index);
}

namespace {

void count_wavefronts(const Thread& thread, uint32_t addr, uint32_t bytes) {
  Machine& m = machine();
  if (m.launch.count_wavefronts != 0) m.wavefronts.add(thread, m.sites.number(thread.where), addr, bytes);
}

}  // namespace

void load_shared(uint32_t addr, void* value, uint32_t bytes, Where where) {
  Thread& thread = enter(where);
  ++counts().shared_loads;
  count_wavefronts(thread, addr, bytes);
  check_range(thread, where, *thread.cta, addr, bytes, bytes, "shared load");
  read_as_thread(thread, "shared load", addr, bytes);
  std::memcpy(value, thread.cta->smem->generic(addr), bytes);
}

void store_shared(uint32_t addr, const void* value, uint32_t bytes, Where where) {
  Thread& thread = enter(where);
  ++counts().shared_stores;
  count_wavefronts(thread, addr, bytes);
  check_range(thread, where, *thread.cta, addr, bytes, bytes, "shared store");
  write_as_thread(thread, "shared store", addr, value, bytes);
}

void fence_proxy_async(Where where) {
  Thread& thread = enter(where);
  ++counts().proxy_fences;
  for (const Thread::Range& range : thread.unfenced) thread.cta->smem->publish(range.addr, range.bytes);
  thread.unfenced.clear();
  if (!machine().check_races) return;
  thread.fences.push_back(thread.known.of(thread.agent));
  thread.known.count_release();  // what it does from here on is not fenced
}

// --------------------------------------------------------------------------------------------- stmatrix, ldmatrix
// Lane 8 i + r names the address of row r of matrix i, and makes that access; lane 4 r + q holds word q of row r.

namespace {

constexpr uint32_t kRowBytes = 16, kMatrixRows = 8;

void count_wavefronts(const Warp& warp, uint32_t matrices) {
  Machine& m = machine();
  if (m.launch.count_wavefronts == 0) return;
  Lanes rows;
  rows.mask = matrices == 4 ? ~0u : (1u << matrices * kMatrixRows) - 1;
  std::copy_n(warp.addr, kWarp, rows.addr);
  m.wavefronts.add(rows, kRowBytes);
}

void store_rows(Warp& warp, uint32_t matrices) {
  counts().shared_stores += matrices * kMatrixRows;
  count_wavefronts(warp, matrices);
  for (uint32_t lane = 0; lane < matrices * kMatrixRows; ++lane) {
    Thread& thread = warp.threads[lane];
    check_range(thread, thread.where, *thread.cta, warp.addr[lane], kRowBytes, kRowBytes, "stmatrix");
    uint32_t row[4];
    for (uint32_t q = 0; q < 4; ++q) row[q] = warp.in[lane % kMatrixRows * 4 + q][lane / kMatrixRows];
    write_as_thread(thread, "stmatrix", warp.addr[lane], row, kRowBytes);
  }
}

void load_rows(Warp& warp, uint32_t matrices) {
  counts().shared_loads += matrices * kMatrixRows;
  count_wavefronts(warp, matrices);
  for (uint32_t lane = 0; lane < matrices * kMatrixRows; ++lane) {
    Thread& thread = warp.threads[lane];
    check_range(thread, thread.where, *thread.cta, warp.addr[lane], kRowBytes, kRowBytes, "ldmatrix");
    read_as_thread(thread, "ldmatrix", warp.addr[lane], kRowBytes);
    uint32_t row[4];
    std::memcpy(row, thread.cta->smem->generic(warp.addr[lane]), kRowBytes);
    for (uint32_t q = 0; q < 4; ++q) warp.out[lane % kMatrixRows * 4 + q][lane / kMatrixRows] = row[q];
  }
}

}  // namespace

void store_matrices(uint32_t addr, const uint32_t* registers, uint32_t matrices, Where where) {
  Thread& thread = enter(where);
  Warp& warp = *thread.warp;
  warp.addr[thread.lane()] = addr;
  std::memcpy(warp.in[thread.lane()], registers, matrices * sizeof(uint32_t));
  meet_warp(thread, "stmatrix", [&] { store_rows(warp, matrices); });
}

void load_matrices(uint32_t addr, uint32_t* registers, uint32_t matrices, Where where) {
  Thread& thread = enter(where);
  Warp& warp = *thread.warp;
  warp.addr[thread.lane()] = addr;
  meet_warp(thread, "ldmatrix", [&] { load_rows(warp, matrices); });
  std::memcpy(registers, warp.out[thread.lane()], matrices * sizeof(uint32_t));
}

// -------------------------------------------------------------------------------------------------- global memory

namespace {

GlobalMemory::Region& region_of(const Thread& thread, const void* p, uint64_t bytes, bool write, const char* what) {
  check_entered(thread, what);
  GlobalMemory::Region* region = machine().global.find(p, bytes);
  if (region == nullptr) {
    fault(thread, "%s of %llu bytes at %p touches global memory outside every region of the launch", what,
          static_cast<unsigned long long>(bytes), p);
  }
  if (write && !region->range->writable) {
    fault(thread, "%s writes %s, which the launch may only read", what, region->range->name);
  }
  return *region;
}

// Faults unless the access comes after the last write of the same four bytes.
void check_ordered(const Thread& thread, const GlobalMemory::Region& region, const GlobalMemory::Write& last,
                   unsigned long long offset, const char* what) {
  if (!machine().check_races || last.cluster == 0) return;
  if (last.cluster != machine().cluster + 1) {
    fault(thread, "race: %s of %s + %llu is not ordered after the write by CTA %u", what, region.range->name,
          offset, last.cta);
  }
  if (thread.known.has_global(last.epoch)) return;
  fault(thread, "race: %s of %s + %llu is not ordered after the write by %s%s", what, region.range->name, offset,
        describe(last.epoch).c_str(),
        thread.known.has(last.epoch) ? ": an arrival from another CTA orders shared memory only" : "");
}

}  // namespace

// Host memory is left to accesses of system scope: no other is whole to the host, which looks at it meanwhile.
GlobalMemory::Region& global_range(const Thread& thread, const void* p, uint64_t bytes, bool write, const char* what) {
  GlobalMemory::Region& region = region_of(thread, p, bytes, write, what);
  if (region.range->host != 0) {
    fault(thread, "%s touches %s, host memory that the host uses meanwhile: only st_relaxed_sys_u32 may", what,
          region.range->name);
  }
  return region;
}

void record_global_write(const Thread& thread, GlobalMemory::Region& region, const void* p, uint64_t bytes, Epoch mine,
                         const char* what) {
  GlobalMemory::Write* writes = GlobalMemory::writes(region, p);
  if (writes == nullptr) return;
  Machine& m = machine();
  const uint64_t count = GlobalMemory::granules(p, bytes);
  for (uint64_t i = 0; i < count; ++i) {
    GlobalMemory::Write& last = writes[i];
    const auto offset = static_cast<unsigned long long>(static_cast<const uint8_t*>(p) -
                                                        static_cast<const uint8_t*>(region.range->base) + 4 * i);
    check_ordered(thread, region, last, offset, what);
    last = {m.cluster + 1, thread.cta->index, mine};
  }
}

void load_global(const void* p, void* value, uint32_t bytes, bool read_only, Where where) {
  Thread& thread = enter(where);
  ++counts().global_loads;
  counts().global_load_bytes += bytes;
  check_aligned(thread, p, bytes, "global load");
  GlobalMemory::Region& region = global_range(thread, p, bytes, false, "global load");
  const GlobalMemory::Write* writes = GlobalMemory::writes(region, p);
  for (uint64_t i = 0; writes != nullptr && i < GlobalMemory::granules(p, bytes); ++i) {
    if (writes[i].cluster == 0) continue;
    const auto offset = static_cast<unsigned long long>(static_cast<const uint8_t*>(p) -
                                                        static_cast<const uint8_t*>(region.range->base) + 4 * i);
    if (!read_only) {
      check_ordered(thread, region, writes[i], offset, "global load");
      continue;
    }
    fault(thread, "read-only load of %s + %llu, which CTA %u of the same launch has written", region.range->name,
          offset, writes[i].cta);
  }
  std::memcpy(value, p, bytes);
}

namespace {

void count_global_store(uint32_t bytes) {
  ++counts().global_stores;
  counts().global_store_bytes += bytes;
}

}  // namespace

void store_global(void* p, const void* value, uint32_t bytes, Where where) {
  Thread& thread = enter(where);
  check_aligned(thread, p, bytes, "global store");
  GlobalMemory::Region& region = global_range(thread, p, bytes, true, "global store");
  record_global_write(thread, region, p, bytes, now(thread), "global store");
  count_global_store(bytes);
  std::memcpy(p, value, bytes);
}

// Relaxed, of system scope: many threads and the host may touch the word, and nothing is ordered by it.
void store_system(uint32_t* p, uint32_t value, Where where) {
  Thread& thread = enter(where);
  check_aligned(thread, p, sizeof value, "st.sys");
  region_of(thread, p, sizeof value, true, "st.sys");
  count_global_store(sizeof value);
  std::atomic_ref(*p).store(value, std::memory_order_relaxed);
}
// Relaxed and atomic among the threads of the GPU.
void add_global(uint32_t* p, uint32_t value, Where where) {
  Thread& thread = enter(where);
  check_aligned(thread, p, sizeof value, "red.add");
  global_range(thread, p, sizeof value, true, "red.add");
  count_global_store(sizeof value);
  *p += value;
}

}  // namespace emu
