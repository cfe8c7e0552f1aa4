// First launch of MLA decode: which splits of which sequences there are, and in which order the CTAs take them.
//
//   lengths indices [batch]        ->  clamped lengths [batch] · split_offsets [batch + 1] · items [splits, 2]
//   q_offsets indices [batch + 1]  ->  queries [batch, 2]
//
// A split is `split_keys` long, whatever the batch and the GPU: a row's bits depend on its own sequence alone. Whole
// splits come first, then what is left of the sequences, longest first, so that no CTA starts a long one at the end.
//
// Where all sequences together have more keys than there is room for, the last ones count as empty: those that, with all
// before them, have more.
//
// The query tokens of a sequence begin where those of all before it have ended, whatever the offsets say.
//
// Schedule: a thread per sequence looks at all others; nothing is shared, nothing waits.
#pragma once
#include <cstdint>

#include "faults.h"
#include "hopper/cta/enter_grid.cuh"
#include "hopper/cta/report_fault.cuh"
#include "indices.cuh"
#include "mla/params.h"
#include "mla/splits.h"
#include "ptx/gmem.h"
#include "ptx/regs.h"
#include "ptx/target.h"

namespace mla {

// The lengths of the sequences, asked for in ascending order: within the pages of each and the keys of all.
struct MlaLengths {
  const MlaScheduleParams& params;
  uint64_t keys = 0;  // of the sequences so far

  PTX_DEVICE uint32_t next(uint32_t sequence) {
    const uint32_t length = clamp_length(load_index(params.lengths, 0, sequence), params.capacity);
    keys += length;
    return keys <= params.total_keys ? length : 0;
  }
};

PTX_DEVICE uint32_t length_of(const MlaScheduleParams& params, uint32_t mine) {
  MlaLengths lengths{params};
  uint32_t length = 0;
#pragma unroll 4
  for (uint32_t other = 0; other <= mine; ++other) length = lengths.next(other);
  return length;
}

// What is known about the sequences that a thread's own has to line up with.
struct MlaScheduleTotals {
  uint32_t splits_before = 0;  // of the sequences before
  uint32_t whole_before = 0;
  uint32_t whole = 0;          // whole splits of all sequences
  uint32_t rests_before = 0;   // rests that come before this sequence's
};

PTX_DEVICE MlaScheduleTotals schedule_totals(const MlaScheduleParams& params, uint32_t mine, SplitCount own) {
  MlaScheduleTotals totals;
  MlaLengths lengths{params};
#pragma unroll 4
  for (uint32_t other = 0; other < params.batch; ++other) {
    const SplitCount count = split_count(lengths.next(other), params.split_keys);
    totals.whole += count.whole;
    if (other < mine) {
      totals.splits_before += count.total();
      totals.whole_before += count.whole;
    }
    const bool earlier = count.rest > own.rest || (count.rest == own.rest && other < mine);
    totals.rests_before += count.has_rest && earlier;
  }
  return totals;
}

// The query tokens of a sequence, among those of all.
struct MlaQueries {
  uint32_t first, count;
  bool clamped;  // what stood there was no such range, in order, and of not too many: this is the nearest that is one
};

PTX_DEVICE MlaQueries queries_of(const MlaScheduleParams& params, uint32_t mine) {
  if (params.q_offsets.words == nullptr) return {mine * params.q_tokens, params.q_tokens, false};
  int32_t start = 0;
  uint32_t first = 0;
#pragma unroll 4
  for (uint32_t other = 0; other <= mine; ++other) {
    start = load_index(params.q_offsets, 0, other);
    const uint32_t offset = clamp_length(start, params.tokens);
    first = offset > first ? offset : first;
  }
  const int32_t end = load_index(params.q_offsets, 0, mine + 1);
  const uint32_t last = clamp_length(end, params.tokens);
  const uint32_t given = last > first ? last - first : 0;
  const uint32_t count = given < params.q_tokens ? given : params.q_tokens;
  const bool in_order = static_cast<int32_t>(first) == start && static_cast<int32_t>(first + count) == end;
  return {first, count, !in_order};
}

template <class Config>
PTX_DEVICE void mla_schedule_kernel(const MlaScheduleParams& params) {
  enter_grid();
  const uint32_t mine = ptx::cta_idx() * Config::kThreads + ptx::thread_idx();
  if (mine >= params.batch) return;
  const uint32_t length = length_of(params, mine);
  const uint32_t given = static_cast<uint32_t>(load_index(params.lengths, 0, mine));
  const MlaQueries queries = queries_of(params, mine);
  if (length != given || queries.clamped) report_fault(params.error_words, FAULT_SEQUENCE_LENGTH);
  const SplitCount own = split_count(length, params.split_keys);
  const MlaScheduleTotals totals = schedule_totals(params, mine, own);

  ptx::stg_v2_u32(params.tables.queries + 2 * static_cast<uint64_t>(mine), queries.first, queries.count);
  ptx::stg_u32(params.tables.lengths + mine, length);
  ptx::stg_u32(params.tables.split_offsets + mine, totals.splits_before);
  if (mine == params.batch - 1) {
    ptx::stg_u32(params.tables.split_offsets + params.batch, totals.splits_before + own.total());
  }
  for (uint32_t split = 0; split < own.whole; ++split) {
    ptx::stg_v2_u32(params.tables.items + 2 * static_cast<uint64_t>(totals.whole_before + split), mine, split);
  }
  if (own.has_rest) {
    ptx::stg_v2_u32(params.tables.items + 2 * static_cast<uint64_t>(totals.whole + totals.rests_before), mine, own.whole);
  }
}

}  // namespace mla
