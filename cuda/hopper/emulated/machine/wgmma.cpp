// wgmma: a warpgroup's pipe multiplies tiles of shared memory, in order, at moments drawn from the seed.
#include <algorithm>
#include <bit>
#include <cstring>

#include "hopper/emulated/machine/model.h"

namespace emu {
namespace {

// What registers of an accumulator in flight hold: a NaN whose payload survives arithmetic.
constexpr uint32_t kPoison = 0x7fed5eed;
constexpr uint32_t kOperandBytes = 32;  // of K per wgmma, in every format
constexpr uint32_t kChunk = 16;
constexpr uint32_t kModelledSpan = 128;  // the swizzle of an N-major operand; K-major ones may have any

// --------------------------------------------------------------------------------------------- operands in memory

// PTX ISA, "Matrix Descriptor Format".
struct Descriptor {
  uint32_t start, leading, stride;  // bytes
  uint32_t span;                    // of the swizzle, 0: none

  explicit Descriptor(uint64_t bits)
      : start((bits & 0x3fff) << 4), leading((bits >> 16 & 0x3fff) << 4), stride((bits >> 32 & 0x3fff) << 4) {
    constexpr uint32_t kSpan[] = {0, 128, 64, 32};
    span = kSpan[bits >> 62];
  }

  // K-major: chunk `c` of 16 bytes, along K, of row `row`.
  uint32_t k_major(uint32_t row, uint32_t c) const {
    const uint32_t group = start + row / 8 * stride;
    if (span == 0) return group + c * leading + row % 8 * kChunk;
    return swizzled(group + row % 8 * span + c * kChunk);
  }

  // N-major: chunk `c` of 16 bytes, along N, of row `k` of K. "Major-ness supported by Strides": the leading dimension
  // leads from one span of columns to the next, the stride from eight rows of K to the next eight.
  uint32_t n_major(uint32_t k, uint32_t c) const {
    const uint32_t in_span = span / kChunk;
    return swizzled(start + c / in_span * leading + k / 8 * stride + k % 8 * span + c % in_span * kChunk);
  }

  uint32_t swizzled(uint32_t addr) const { return addr ^ (addr >> 3 & (span - kChunk)); }
};

// All bits but the fields above must be zero, the base offset (49-51) included: tiles start at whole swizzle atoms.
bool is_well_formed(uint64_t bits) { return (bits & 0x3ffe'c000'c000'c000) == 0 && (bits >> 48 & 1) == 0; }

// A or B: `lines` of `chunks` of 16 bytes, lines of N along K, or, if N-major, lines of K along N.
struct Operand {
  Descriptor descriptor;
  bool n_major;
  uint32_t lines, chunks;
};

bool has_a_in_registers(const Wgmma& op) { return op.operands == Operands::kBf16RsMn; }

Operand operand_a(const Wgmma& op) { return {Descriptor(op.desc_a), false, kTileRows, kOperandBytes / kChunk}; }

Operand operand_b(const Wgmma& op) {
  const Descriptor descriptor(op.desc_b);
  const uint32_t columns = op.d->columns;
  if (op.operands == Operands::kE4m3 || op.operands == Operands::kBf16) return {descriptor, false, columns, kOperandBytes / kChunk};
  return {descriptor, true, kFusedBf16, columns * static_cast<uint32_t>(sizeof(uint16_t)) / kChunk};
}

template <class Visit>
void for_each_chunk(const Operand& operand, Visit visit) {
  const Descriptor& descriptor = operand.descriptor;
  for (uint32_t line = 0; line < operand.lines; ++line) {
    for (uint32_t c = 0; c < operand.chunks; ++c) {
      visit(line, c, operand.n_major ? descriptor.n_major(line, c) : descriptor.k_major(line, c));
    }
  }
}

// What the hardware would take but no tile is.
void check_n_major(const Thread& thread, Where where, const Operand& operand) {
  const Descriptor& descriptor = operand.descriptor;
  if (descriptor.span != kModelledSpan) {
    fault_at(thread, where, "wgmma of an N-major operand with a swizzle of %u bytes, not %u", descriptor.span,
             kModelledSpan);
  }
  if (operand.chunks * kChunk > kModelledSpan && descriptor.leading == 0) {
    fault_at(thread, where, "wgmma of an N-major operand with leading offset 0: its spans of columns coincide");
  }
}

void check_operand(const Thread& thread, Where where, const Cta& cta, const Operand& operand) {
  for_each_chunk(operand, [&](uint32_t, uint32_t, uint32_t addr) {
    check_range(thread, where, cta, addr, kChunk, kChunk, "wgmma");
    check_async_read(thread, where, cta, addr, kChunk, "wgmma");
  });
}

template <class Code, uint32_t L>
void fetch_operand(const Cta& cta, const Operand& operand, Code (*tile)[L]) {
  static_assert(L * sizeof(Code) == kOperandBytes);
  constexpr uint32_t kCodes = kChunk / sizeof(Code);
  for_each_chunk(operand, [&](uint32_t line, uint32_t c, uint32_t addr) {
    Code codes[kCodes];
    std::memcpy(codes, cta.smem->async(addr), kChunk);
    for (uint32_t i = 0; i < kCodes; ++i) {
      (operand.n_major ? tile[c * kCodes + i][line] : tile[line][c * kCodes + i]) = codes[i];
    }
  });
}

// ---------------------------------------------------------------------------------------------------- accumulators

// Element of the 64 x N tile in register `i` of a thread of the warpgroup.
uint32_t fragment_index(uint32_t thread, uint32_t i, uint32_t columns) {
  const uint32_t row = thread / 32 * 16 + thread % 32 / 4 + 8 * (i % 4 / 2);
  const uint32_t column = i / 4 * 8 + thread % 4 * 2 + i % 2;
  return row * columns + column;
}

Accumulator* new_accumulator(Warpgroup& warpgroup, uint32_t columns, uint32_t first) {
  auto& all = warpgroup.accumulators;
  auto free = std::find_if(all.begin(), all.end(), [](const auto& a) { return !a->in_use; });
  if (free == all.end()) free = all.insert(free, std::make_unique<Accumulator>());
  Accumulator& accumulator = **free;
  accumulator.columns = columns;
  accumulator.first = first;
  accumulator.collected = 0;
  accumulator.in_use = true;
  accumulator.values.resize(kTileRows * columns);
  return &accumulator;
}

Flight* find_flight(Thread& thread, const float* d) {
  const auto found = std::find_if(thread.flights.begin(), thread.flights.end(), [&](auto& f) { return f.d == d; });
  return found == thread.flights.end() ? nullptr : &*found;
}

// The thread's registers leave for the tensor core.
void hand_over(Thread& thread, float* d, uint32_t registers, const Wgmma& op, uint32_t number) {
  if (Flight* flight = find_flight(thread, d)) {
    if (flight->accumulator != op.d) fault(thread, "the threads of the warpgroup disagree on the accumulator");
    flight->last = number;
    return;
  }
  if (op.d->first != number) fault(thread, "the threads of the warpgroup disagree on the accumulator");
  const uint32_t lane = thread.index % kWarpgroup;
  for (uint32_t i = 0; i < registers; ++i) {
    if (op.accumulate) op.d->values[fragment_index(lane, i, op.d->columns)] = d[i];
    d[i] = std::bit_cast<float>(kPoison);
  }
  thread.flights.push_back({d, registers, number, op.d});
}

void check_owned(Thread& thread, const uint32_t (&a)[4]) {
  for (uint32_t i = 0; i < 4; ++i) {
    if (a[i] != kPoison) fault(thread, "register %u of A was written while the tensor core owned it", i);
  }
}

// A leaves with them: two columns in each register, in the order of an accumulator of 64 x 16.
void hand_over_a(Thread& thread, uint32_t (&a)[4], Wgmma& op, uint32_t number) {
  op.a.resize(kTileRows * kFusedBf16);
  auto& flights = thread.flights_of_a;
  auto flight = std::find_if(flights.begin(), flights.end(), [&](auto& f) { return f.a == a; });
  if (flight == flights.end()) {
    flight = flights.insert(flight, {a, {a[0], a[1], a[2], a[3]}, number});
    for (uint32_t& word : a) word = kPoison;
  }
  check_owned(thread, a);
  flight->last = number;
  const uint32_t lane = thread.index % kWarpgroup;
  for (uint32_t i = 0; i < 8; ++i) {
    op.a[fragment_index(lane, i, kFusedBf16)] = static_cast<uint16_t>(flight->values[i / 2] >> i % 2 * 16);
  }
}

// They come back, with the result.
void collect(Thread& thread, Flight& flight) {
  const uint32_t lane = thread.index % kWarpgroup;
  for (uint32_t i = 0; i < flight.registers; ++i) {
    if (std::bit_cast<uint32_t>(flight.d[i]) != kPoison) {
      fault(thread, "register %u of an accumulator was written while the tensor core owned it", i);
    }
    flight.d[i] = flight.accumulator->values[fragment_index(lane, i, flight.accumulator->columns)];
  }
  counts().accumulators_read += flight.registers;
  if (++flight.accumulator->collected == kWarpgroup) flight.accumulator->in_use = false;
  flight = thread.flights.back();
  thread.flights.pop_back();
}

// ------------------------------------------------------------------------------------------------------- the pipe

Wgmma& queue_entry(Thread& thread, const Wgmma& mine, float* d, uint32_t columns) {
  Warpgroup& warpgroup = *thread.warpgroup;
  const uint32_t index = thread.wgmmas - warpgroup.completed - 1;
  if (index == warpgroup.queue.size()) {
    warpgroup.queue.push_back(mine);
    const Flight* flight = find_flight(thread, d);
    warpgroup.queue.back().d =
        flight != nullptr ? flight->accumulator : new_accumulator(warpgroup, columns, thread.wgmmas);
  }
  Wgmma& op = warpgroup.queue[index];
  if (op.where.line != mine.where.line || op.operands != mine.operands || op.d->columns != columns) {
    fault(thread, "the warpgroup diverges: another thread issued a different wgmma at %s", place(op.where).c_str());
  }
  if (op.desc_a != mine.desc_a || op.desc_b != mine.desc_b || op.accumulate != mine.accumulate) {
    fault(thread,
          "the threads of the warpgroup disagree: descriptors %llx, %llx, accumulate %d here, %llx, %llx, %d in "
          "thread %u",
          static_cast<unsigned long long>(mine.desc_a), static_cast<unsigned long long>(mine.desc_b), mine.accumulate,
          static_cast<unsigned long long>(op.desc_a), static_cast<unsigned long long>(op.desc_b), op.accumulate,
          op.first->index);
  }
  return op;
}

void check_operands(const Thread& thread, const Wgmma& op) {
  if (!has_a_in_registers(op)) check_operand(thread, op.where, *thread.cta, operand_a(op));
  check_operand(thread, op.where, *thread.cta, operand_b(op));
}

// All 128 threads have issued it: every one of them must know the operands.
void check_issue(Thread& thread, const Wgmma& op) {
  Warpgroup& warpgroup = *thread.warpgroup;
  const Cta& cta = *thread.cta;
  const Operand b = operand_b(op);
  if (b.n_major) check_n_major(thread, op.where, b);
  check_operands(thread, op);
  if (!machine().check_races) return;
  const Epoch mine{warpgroup.pipe, machine().sites.number(op.where), static_cast<int32_t>(thread.wgmmas)};
  Past past(warpgroup);
  const auto read = [&](uint32_t, uint32_t, uint32_t addr) {
    if (const auto conflict = cta.smem->shadow.read(addr, kChunk, mine, past)) {
      report_race(thread, op.where, "wgmma", cta, *conflict);
    }
  };
  if (!has_a_in_registers(op)) for_each_chunk(operand_a(op), read);
  for_each_chunk(b, read);
}

void multiply(const Cta& cta, const Wgmma& op) {
  const uint32_t columns = op.d->columns;
  float* d = op.d->values.data();
  if (op.operands == Operands::kE4m3) {
    uint8_t a[kTileRows][kFusedE4m3], b[kMaxColumns][kFusedE4m3];
    fetch_operand(cta, operand_a(op), a);
    fetch_operand(cta, operand_b(op), b);
    multiply_e4m3(d, columns, a, b, op.accumulate);
  } else {
    uint16_t a[kTileRows][kFusedBf16], b[kMaxColumns][kFusedBf16];
    if (has_a_in_registers(op)) {
      std::memcpy(a, op.a.data(), sizeof a);
    } else {
      fetch_operand(cta, operand_a(op), a);
    }
    fetch_operand(cta, operand_b(op), b);
    multiply_bf16(d, columns, a, b, op.accumulate);
  }
}

void count(Cta& cta, const Wgmma& op) {
  const uint32_t columns = op.d->columns;
  EmuCounts& all = counts();
  ++all.wgmmas[static_cast<uint32_t>(op.operands)][columns / 8 - 1];
  all.operand_bytes += (has_a_in_registers(op) ? columns : kTileRows + columns) * kOperandBytes;
  cta.wgmma_columns += columns;
}

void note_ready(Warpgroup& warpgroup) {
  const bool ready = !warpgroup.queue.empty() && warpgroup.queue.front().arrived == kWarpgroup;
  auto& pipes = machine().ready_pipes;
  const auto listed = std::find(pipes.begin(), pipes.end(), &warpgroup);
  if (ready && listed == pipes.end()) pipes.push_back(&warpgroup);
  if (!ready && listed != pipes.end()) pipes.erase(listed);
}

// One snapshot for all threads of the warpgroup, which wait for the same.
void learn(Thread& thread, uint32_t last) {
  Warpgroup& warpgroup = *thread.warpgroup;
  if (!machine().check_races) return;
  if (warpgroup.completion == nullptr || warpgroup.completion_of != last) {
    VectorClock done;
    done.raise(warpgroup.pipe, static_cast<int32_t>(last));
    warpgroup.completion = std::make_shared<const VectorClock>(std::move(done));
    warpgroup.completion_of = last;
  }
  acquire(thread, {warpgroup.completion, warpgroup.completion});
}

}  // namespace

void tensor_step() {
  Machine& m = machine();
  Warpgroup& warpgroup = *m.ready_pipes[m.random.below(static_cast<uint32_t>(m.ready_pipes.size()))];
  const Wgmma& op = warpgroup.queue.front();
  check_operands(*op.first, op);
  if (m.launch.skip_products == 0) {
    multiply(*warpgroup.cta, op);
  } else if (!op.accumulate) {
    std::fill(op.d->values.begin(), op.d->values.end(), 0.0f);
  }
  count(*warpgroup.cta, op);
  warpgroup.queue.pop_front();
  ++warpgroup.completed;
  note_ready(warpgroup);
  std::erase_if(warpgroup.waiters, [&](Thread* waiter) {
    if (waiter->wait.a > warpgroup.completed) return false;
    m.scheduler.wake(*waiter);
    return true;
  });
}

namespace {

// One thread's issue. `a`: its registers of A, if A is in registers.
void issue(const Wgmma& mine, float* d, uint32_t registers, uint32_t (*a)[4]) {
  Thread& thread = enter(mine.where);
  Warpgroup& warpgroup = *thread.warpgroup;
  if (warpgroup.thread_count != kWarpgroup) fault(thread, "wgmma in an incomplete warpgroup");
  if (!is_well_formed(mine.desc_a) || !is_well_formed(mine.desc_b)) {
    fault(thread, "wgmma with reserved or base-offset bits set in a descriptor: a %llx, b %llx",
          static_cast<unsigned long long>(mine.desc_a), static_cast<unsigned long long>(mine.desc_b));
  }
  if (machine().check_state && !thread.wgmma_fenced) {
    fault(thread, "wgmma without a wgmma.fence since its registers were last touched");
  }
  ++thread.wgmmas;
  Wgmma& op = queue_entry(thread, mine, d, registers * 2);
  hand_over(thread, d, registers, op, thread.wgmmas);
  if (a != nullptr) hand_over_a(thread, *a, op, thread.wgmmas);
  if (++op.arrived < kWarpgroup) return;
  check_issue(thread, op);
  note_ready(warpgroup);
}

}  // namespace

void wgmma_fence(Where where) {
  enter(where).wgmma_fenced = true;
  ++counts().wgmma_fences;
}

void wgmma(Operands operands, float* d, uint32_t registers, uint64_t desc_a, uint64_t desc_b, bool accumulate,
           Where where) {
  issue({operands, desc_a, desc_b, accumulate, nullptr, machine().running, where}, d, registers, nullptr);
}

void wgmma_rs(float* d, uint32_t registers, uint32_t (&a)[4], uint64_t desc_b, bool accumulate, Where where) {
  issue({Operands::kBf16RsMn, 0, desc_b, accumulate, nullptr, machine().running, where}, d, registers, &a);
}

void wgmma_commit_group(Where where) {
  Thread& thread = enter(where);
  thread.wgmma_groups.push_back(thread.wgmmas);
  ++counts().wgmma_groups;
}

void wgmma_wait_group(uint32_t pending, float* d, uint32_t registers, Where where) {
  Thread& thread = enter(where);
  Warpgroup& warpgroup = *thread.warpgroup;
  const size_t groups = thread.wgmma_groups.size();
  const uint32_t last = groups > pending ? thread.wgmma_groups[groups - 1 - pending] : 0;
  if (warpgroup.completed < last) {
    warpgroup.waiters.push_back(&thread);
    machine().scheduler.park(thread, {Wait::kWgmma, last, 0});
  }
  learn(thread, last);
  thread.wgmma_fenced = false;
  thread.wgmmas_awaited = std::max(thread.wgmmas_awaited, last);
  Flight* flight = find_flight(thread, d);
  if (flight == nullptr) return;
  if (flight->last > last)
    fault(thread, "the accumulator it names is still used by a wgmma that this wait does not cover");
  if (flight->registers != registers)
    fault(thread, "wait for %u registers of an accumulator of %u", registers, flight->registers);
  collect(thread, *flight);
}

void wgmma_return_a(uint32_t (&a)[4]) {
  Thread& thread = *machine().running;
  auto& flights = thread.flights_of_a;
  const auto flight = std::find_if(flights.begin(), flights.end(), [&](auto& f) { return f.a == a; });
  if (flight == flights.end()) return;
  if (flight->last > thread.wgmmas_awaited) {
    fault(thread, "the registers of A are still read by a wgmma that this wait does not cover");
  }
  check_owned(thread, a);
  std::copy_n(flight->values, 4, a);
  flights.erase(flight);
}

void check_settled(float value, const char* what, Where where) {
  if ((std::bit_cast<uint32_t>(value) & 0x7fffffff) != kPoison) return;
  Thread& thread = *machine().running;
  thread.where = where;
  fault(thread, "%s of a value that derives from an accumulator still in flight", what);
}

}  // namespace emu
