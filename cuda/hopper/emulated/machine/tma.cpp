// TMA: loads and copies land in pieces, stores read and later write; every moment is drawn from the seed.
#include "hopper/emulated/machine/tma.h"

#include <algorithm>
#include <cstring>

#include "hopper/emulated/machine/model.h"

namespace emu {
namespace {

constexpr uint32_t kMaxPieces = 4;
constexpr uint32_t kPieceRows = 8;  // a swizzle permutes within eight rows
constexpr uint32_t kCopyUnit = 16;  // bytes, of addresses and sizes of a copy

template <class T>
size_t choose(Machine& m, const std::vector<T>& pending) {
  if (m.scheduler.policy().newest_first) return pending.size() - 1;
  return m.random.below(static_cast<uint32_t>(pending.size()));
}

template <class T>
T take(std::vector<T>& pending, size_t index) {
  T taken = std::move(pending[index]);
  pending[index] = std::move(pending.back());
  pending.pop_back();
  return taken;
}

// The map and the box, checked: a kernel parameter that was encoded, for this rank.
Box make_box(const Thread& thread, const TensorMap& map, const int32_t* coordinates, uint32_t rank, const char* what) {
  const Machine& m = machine();
  const auto* at = reinterpret_cast<const uint8_t*>(&map);
  const auto* params = static_cast<const uint8_t*>(m.params);
  if (at < params || at + sizeof map > params + m.kernel.params_bytes) {
    fault(thread, "%s with a tensor map that is not part of the kernel's parameters", what);
  }
  Box box{decode(map), {}};
  if (box.map == nullptr) fault(thread, "%s with a tensor map that was never encoded", what);
  if (rank != 0 && rank != box.map->rank) {
    fault(thread, "%s in %u dimensions with a tensor map of rank %u", what, rank, box.map->rank);
  }
  std::copy_n(coordinates, rank, box.coordinates);
  // Not in the documents: an H100 answers such an instruction with "illegal instruction".
  if (rank != 0 && static_cast<int64_t>(coordinates[0]) * box.map->element_bytes % kTmaUnit != 0) {
    fault(thread, "%s from element %d of %u bytes, which is no multiple of %u bytes: an illegal instruction", what,
          coordinates[0], box.map->element_bytes, kTmaUnit);
  }
  return box;
}

// Of a load; how many bytes lie inside the tensor.
uint64_t check_rows(const Thread& thread, const Box& box) {
  uint64_t inside = 0;
  for (uint32_t row = 0; row < box.map->rows(); ++row) {
    const RowPart part = row_part(*box.map, box.coordinates, row, false);
    if (part.bytes != 0) global_range(thread, part.memory, part.bytes, false, "TMA load");
    inside += part.bytes;
  }
  return inside;
}

// ---------------------------------------------------------------------------------------------------------- loads

// What TMA does to shared memory for the barrier's present phase, as those learn who wait for it.
Epoch transfer(const Thread& thread, const Mbarrier& bar) {
  return {bar.loads, machine().sites.number(thread.where), bar.clock() + 1};
}

// From here to the landing the bytes belong to TMA; they are NaN in every format.
void claim_destination(Thread& thread, Cta& cta, uint32_t dst, uint32_t bytes, uint32_t alignment, const Mbarrier& bar,
                       const char* what) {
  check_range(thread, thread.where, cta, dst, bytes, alignment, what);
  Machine& m = machine();
  SharedMemory& smem = *cta.smem;
  if (m.check_state) {
    for (uint32_t at = dst; at < dst + bytes; ++at) {
      const ByteState state = smem.state(at);
      if (state == ByteState::kUninitialised || state == ByteState::kWritten) continue;
      fault(thread, "%s onto %s, %s", what, object(thread, cta, at).c_str(),
            state == ByteState::kInFlight   ? "where another one is in flight"
            : state == ByteState::kUnfenced ? "which a thread wrote without a fence.proxy.async since"
                                            : "which is part of an mbarrier");
    }
  }
  if (m.check_races) {
    Past past = Past::of_async_write(thread);
    if (const auto conflict = smem.shadow.write(dst, bytes, transfer(thread, bar), past)) {
      report_race(thread, thread.where, what, cta, *conflict);
    }
  }
  smem.set_state(dst, bytes, ByteState::kInFlight);
  std::memset(smem.generic(dst), 0xff, bytes);
  std::memset(smem.async(dst), 0xff, bytes);
}

void launch_pieces(const Thread& thread, Cta& cta, const Box& box, uint32_t dst, Mbarrier& bar) {
  Machine& m = machine();
  const uint32_t rows = box.map->rows();
  const uint32_t wanted = 1 + m.random.below(kMaxPieces);
  const uint32_t step = std::max(kPieceRows, (rows / wanted + kPieceRows - 1) / kPieceRows * kPieceRows);
  for (uint32_t row = 0; row < rows; row += step) {
    m.tma.loads.push_back({box, &cta, dst, &bar, bar.phase, row, std::min(rows, row + step), &thread, thread.where});
    ++bar.loads_in_flight;
  }
  counts().tma_landed_bytes += box.map->bytes();
}

void load_into(Thread& thread, Cta& cta, const Box& box, uint32_t dst, uint32_t bar) {
  if (cta.alive == 0) fault(thread, "TMA load into CTA %u, which has exited", cta.index);
  Mbarrier& state = find_mbarrier(thread, cta, bar, "TMA load");
  check_async_use(thread, state, "TMA");
  claim_destination(thread, cta, dst, box.map->bytes(), box.map->alignment(), state, "TMA load");
  launch_pieces(thread, cta, box, dst, state);
}

void copy_row(const LoadPiece& piece, uint32_t row) {
  const TensorMapCode& map = *piece.box.map;
  const uint32_t row_bytes = map.row_bytes();
  uint8_t bytes[256 * 4] = {};  // outside the tensor: zeros
  const RowPart part = row_part(map, piece.box.coordinates, row, false);
  if (part.bytes != 0) std::memcpy(bytes + part.skip, part.memory, part.bytes);
  SharedMemory& smem = *piece.cta->smem;
  for (uint32_t chunk = 0; chunk < row_bytes; chunk += 16) {
    const uint32_t addr = map.swizzled(piece.dst + row * row_bytes + chunk);
    std::memcpy(smem.generic(addr), bytes + chunk, 16);
    std::memcpy(smem.async(addr), bytes + chunk, 16);
  }
}

// A landing in another phase than the issue's: the barrier did not wait for these bytes.
void check_phase(const Thread& issuer, Where where, const Mbarrier& bar, uint32_t phase, const char* what) {
  if (bar.phase == phase) return;
  fault_at(issuer, where,
           "bytes of this %s land on %s in phase %u but were issued in phase %u: expect_tx asked for too few bytes",
           what, object(issuer, *bar.cta, bar.addr).c_str(), bar.phase, phase);
}

// --------------------------------------------------------------------------------------------------------- copies

void claim_copy_source(Thread& thread, uint32_t src, uint32_t bytes, const Mbarrier& bar) {
  Cta& cta = *thread.cta;
  check_range(thread, thread.where, cta, src, bytes, kCopyUnit, "bulk copy");
  check_async_read(thread, thread.where, cta, src, bytes, "bulk copy");
  if (!machine().check_races) return;
  Past past(thread);
  if (const auto conflict = cta.smem->shadow.read(src, bytes, transfer(thread, bar), past)) {
    report_race(thread, thread.where, "bulk copy", cta, *conflict);
  }
}

void launch_copy(const Thread& thread, Cta& cta, uint32_t dst, uint32_t src, uint32_t bytes, Mbarrier& bar) {
  Machine& m = machine();
  const uint32_t units = bytes / kCopyUnit;
  const uint32_t pieces = std::min(units, 1 + m.random.below(kMaxPieces));
  for (uint32_t i = 0; i < pieces; ++i) {
    const uint32_t at = i * units / pieces * kCopyUnit, end = (i + 1) * units / pieces * kCopyUnit;
    m.tma.copies.push_back({thread.cta, src + at, &cta, dst + at, &bar, bar.phase, end - at, &thread, thread.where});
    ++bar.loads_in_flight;
  }
  ++counts().cluster_copies;
  counts().cluster_copy_bytes += bytes;
}

// --------------------------------------------------------------------------------------------------------- stores

void check_source(Thread& thread, const Box& box, uint32_t src, uint32_t group) {
  const char* what = "TMA store";
  const uint32_t bytes = box.map->bytes();
  Cta& cta = *thread.cta;
  check_range(thread, thread.where, cta, src, bytes, box.map->alignment(), what);
  check_async_read(thread, thread.where, cta, src, bytes, what);
  Machine& m = machine();
  if (!m.check_races) return;
  if (thread.bulk_reads == 0) {
    thread.bulk_reads = m.add_agent({AgentInfo::kBulkReads, &cta, thread.index});
    thread.bulk_writes = m.add_agent({AgentInfo::kBulkWrites, &cta, thread.index});
  }
  const Epoch reading{thread.bulk_reads, m.sites.number(thread.where), static_cast<int32_t>(group)};
  Past past(thread);
  if (const auto conflict = cta.smem->shadow.read(src, bytes, reading, past)) {
    report_race(thread, thread.where, what, cta, *conflict);
  }
}

void claim_target(const Thread& thread, const Box& box, uint32_t group) {
  const Epoch writing{thread.bulk_writes, machine().sites.number(thread.where), static_cast<int32_t>(group)};
  for (uint32_t row = 0; row < box.map->rows(); ++row) {
    const RowPart part = row_part(*box.map, box.coordinates, row, true);
    if (part.bytes == 0) continue;
    counts().tma_store_bytes += part.bytes;
    GlobalMemory::Region& region = global_range(thread, part.memory, part.bytes, true, "TMA store");
    record_global_write(thread, region, part.memory, part.bytes, writing, "TMA store");
  }
}

void read_source(Store& store) {
  const TensorMapCode& map = *store.box.map;
  const Cta& cta = *store.issuer->cta;
  check_async_read(*store.issuer, store.where, cta, store.src, map.bytes(), "TMA store");
  store.rows.resize(map.bytes());
  for (uint32_t at = 0; at < map.bytes(); at += 16) {
    std::memcpy(&store.rows[at], cta.smem->async(map.swizzled(store.src + at)), 16);
  }
}

void write_target(const Store& store) {
  const TensorMapCode& map = *store.box.map;
  for (uint32_t row = 0; row < map.rows(); ++row) {
    const RowPart part = row_part(map, store.box.coordinates, row, true);
    if (part.bytes != 0) std::memcpy(part.memory, &store.rows[row * map.row_bytes() + part.skip], part.bytes);
  }
}

// ---------------------------------------------------------------------------------------------------- bulk groups

// Groups 1 to `last` have read shared memory, or written global memory.
bool groups_done(Thread& thread, uint32_t last, bool read_only) {
  const auto& groups = thread.bulk_groups;
  while (thread.bulk_written < last && groups[thread.bulk_written].writing == 0) ++thread.bulk_written;
  if (!read_only) return thread.bulk_written >= last;
  for (uint32_t group = thread.bulk_written; group < last; ++group) {
    if (groups[group].reading != 0) return false;
  }
  return true;
}

void learn_groups(Thread& thread, uint32_t last, bool read_only) {
  thread.bulk_read_waited = std::max(thread.bulk_read_waited, last);
  if (thread.bulk_reads == 0) return;
  acquire(thread, thread.bulk_reads, last);
  if (!read_only) acquire(thread, thread.bulk_writes, last);
}

void wake_if_done(Thread& thread) {
  if (thread.wait.kind != Wait::kBulk || !groups_done(thread, thread.wait.a, thread.wait.b != 0)) return;
  learn_groups(thread, thread.wait.a, thread.wait.b != 0);
  machine().scheduler.wake(thread);
}

}  // namespace

void prefetch_tensormap(const TensorMap& map, Where where) {
  make_box(enter(where), map, nullptr, 0, "prefetch.tensormap");
}

void tma_load(const TensorMap& map, uint32_t dst, uint32_t bar, const int32_t* coordinates, uint32_t rank,
              uint32_t mask, Where where) {
  Thread& thread = enter(where);
  Machine& m = machine();
  check_entered(thread, "TMA load");
  const Box box = make_box(thread, map, coordinates, rank, "TMA load");
  ++counts().tma_loads;
  counts().tma_load_bytes += check_rows(thread, box);
  if (mask == kNoMulticast) return load_into(thread, *thread.cta, box, dst, bar);
  if (mask == 0 || mask >> m.ctas.size() != 0) {
    fault(thread, "multicast mask 0x%x in a cluster of %zu CTAs", mask, m.ctas.size());
  }
  ++counts().tma_multicasts;
  for (const auto& cta : m.ctas) {
    if ((mask >> cta->rank & 1) != 0) load_into(thread, *cta, box, dst, bar);
  }
}

void bulk_copy_to_cta(uint32_t dst, uint32_t bar, uint32_t src, uint32_t bytes, uint32_t rank, Where where) {
  Thread& thread = enter(where);
  Machine& m = machine();
  if (rank >= m.ctas.size()) fault(thread, "mapa of CTA %u in a cluster of %zu", rank, m.ctas.size());
  Cta& cta = *m.ctas[rank];
  if (cta.alive == 0) fault(thread, "bulk copy into CTA %u, which has exited", cta.index);
  if (bytes == 0 || bytes % kCopyUnit != 0) {
    fault(thread, "bulk copy of %u bytes, which is no positive multiple of %u", bytes, kCopyUnit);
  }
  Mbarrier& state = find_mbarrier(thread, cta, bar, "bulk copy");
  check_async_use(thread, state, "a bulk copy");
  claim_copy_source(thread, src, bytes, state);
  claim_destination(thread, cta, dst, bytes, kCopyUnit, state, "bulk copy");
  launch_copy(thread, cta, dst, src, bytes, state);
}

void tma_store(const TensorMap& map, uint32_t src, const int32_t* coordinates, uint32_t rank, Where where) {
  Thread& thread = enter(where);
  Machine& m = machine();
  check_entered(thread, "TMA store");
  const Box box = make_box(thread, map, coordinates, rank, "TMA store");
  // Not in the documents either; a load may start before the tensor.
  if (const int32_t* before = std::find_if(coordinates, coordinates + rank, [](int32_t x) { return x < 0; });
      before != coordinates + rank) {
    fault(thread, "TMA store from coordinate %d, which is negative: an illegal instruction", *before);
  }
  const uint32_t group = static_cast<uint32_t>(thread.bulk_groups.size());
  check_source(thread, box, src, group);
  claim_target(thread, box, group);
  BulkGroup& open = thread.bulk_groups.back();
  ++open.stores, ++open.reading, ++open.writing;
  m.tma.stores.push_back({box, src, &thread, group, where, false, {}});
  ++counts().tma_stores;
}

void bulk_commit_group(Where where) { enter(where).bulk_groups.emplace_back(); }

void bulk_wait_group(uint32_t pending, bool read_only, Where where) {
  Thread& thread = enter(where);
  const uint32_t committed = static_cast<uint32_t>(thread.bulk_groups.size()) - 1;
  const uint32_t last = committed > pending ? committed - pending : 0;
  if (groups_done(thread, last, read_only)) return learn_groups(thread, last, read_only);
  machine().scheduler.park(thread, {Wait::kBulk, last, read_only});
}

void TmaEngine::load_step(Machine& m) {
  if (loads.empty() || (!copies.empty() && m.random.one_in(2))) return copy_step(m);
  const LoadPiece piece = take(loads, choose(m, loads));
  const uint32_t row_bytes = piece.box.map->row_bytes();
  const uint32_t bytes = (piece.end_row - piece.first_row) * row_bytes;
  Mbarrier& bar = *piece.bar;
  check_phase(*piece.issuer, piece.where, bar, piece.phase, "TMA load");
  for (uint32_t row = piece.first_row; row < piece.end_row; ++row) copy_row(piece, row);
  piece.cta->smem->set_state(piece.dst + piece.first_row * row_bytes, bytes, ByteState::kWritten);
  --bar.loads_in_flight;
  complete_tx(*piece.issuer, piece.where, bar, bytes);
}

void TmaEngine::copy_step(Machine& m) {
  const CopyPiece piece = take(copies, choose(m, copies));
  Mbarrier& bar = *piece.bar;
  check_phase(*piece.issuer, piece.where, bar, piece.phase, "bulk copy");
  check_async_read(*piece.issuer, piece.where, *piece.from, piece.src, piece.bytes, "bulk copy");
  const uint8_t* bytes = piece.from->smem->async(piece.src);
  SharedMemory& smem = *piece.cta->smem;
  std::memcpy(smem.generic(piece.dst), bytes, piece.bytes);
  std::memcpy(smem.async(piece.dst), bytes, piece.bytes);
  smem.set_state(piece.dst, piece.bytes, ByteState::kWritten);
  --bar.loads_in_flight;
  complete_tx(*piece.issuer, piece.where, bar, piece.bytes);
}

void TmaEngine::store_step(Machine& m) {
  const size_t index = choose(m, stores);
  BulkGroup& group = stores[index].issuer->bulk_groups[stores[index].group - 1];
  if (!stores[index].has_read) {
    read_source(stores[index]);
    stores[index].has_read = true;
    --group.reading;
    return wake_if_done(*stores[index].issuer);
  }
  const Store store = take(stores, index);
  write_target(store);
  --group.writing;
  wake_if_done(*store.issuer);
}

}  // namespace emu
