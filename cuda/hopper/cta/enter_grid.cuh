// Where a kernel stops to be alone with itself: what a launch may do before the launches ahead of it have ended.
#pragma once
#include "ptx/sync.h"
#include "ptx/target.h"

// Every thread of every kernel comes here, before it touches global memory in any way: loads, read-only ones too, stores,
// TMA, sums, error words. Before it stands what only this CTA can see: barriers, shared memory; tensor maps, which lie in
// the parameters.
//
// The launch may begin while grids ahead of it in its stream still run. Reads are right because the wait returns when those
// have ended and all they wrote can be seen; writes, because nothing is written that they might still read. It reaches as
// far back as the stream does: a grid ends only after its own wait, so that the grid behind it, waiting for that end, has
// waited for all. Hence every thread: a grid of which none waited could end before the grid ahead of it.
//
// The grids behind may start as soon as all CTAs of this one are here: then none of them is left for whom the place that a
// waiting CTA takes would be missing. They wait for the end of this grid, so nothing has to be done before they are let in.
PTX_DEVICE void enter_grid() {
  ptx::grid_launch_dependents();
  ptx::grid_dependency_wait();
}
