//! From the experts that every token chose to rows sorted by expert, and back.
//!
//! A *route* is one choice of one token: route `token * top_k + k`. Rows are sorted by expert, then token, then k: the
//! order, and with it everything computed from it, depends on the ids alone.
//!
//! An id of -1 drops its route. So does any other id that is no expert, and a route for which a masked segment has no room
//! left; these two are counted in `demand`, and [`Device::poll_error`] tells of them.
//!
//! Under expert parallelism a rank has the weights of its *local* experts only. A list says which of them a *global* id means,
//! or -1 where it is another rank's: those routes are dropped, and nothing is told of them.

use std::num::NonZeroU32;

use super::used_rows::check_routes;
use crate::device::bindings::{self, ExpertMapParams};
use crate::device::{Device, Stream};
use crate::error::{Error, Result};
use crate::gemm::Segments;
use crate::launch::{Kernel, KernelParams, KernelRow, Launch, Layout, MAX_DIM, check_limit};
use crate::setters::setters;
use crate::table::MAX_EXPERTS;
use crate::table::moe::{self, EXPERT_MAP_BLOCK, EXPERT_MAP_SCAN_GROUPS};
use crate::tensor::{Indices, MatrixMut, SliceMut, VectorMut};

const COUNT: KernelRow<ExpertMapParams> = KernelRow::of(moe::EXPERT_MAP_COUNT);
const SCAN: KernelRow<ExpertMapParams> = KernelRow::of(moe::EXPERT_MAP_SCAN);
const SCATTER: KernelRow<ExpertMapParams> = KernelRow::of(moe::EXPERT_MAP_SCATTER);

/// Where the rows of an expert lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExpertLayout {
    /// One segment after another without a gap.
    Ragged,
    /// One segment after another, each filled up to a multiple of `alignment` rows with padding (route -1).
    Aligned {
        /// Rows.
        alignment: NonZeroU32,
    },
    /// Every expert has room for `max_rows` rows and uses the first of them.
    Masked {
        /// Rows per expert. Routes beyond them are dropped.
        max_rows: usize,
    },
}

/// Shape of an expert map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ExpertMapSpec {
    /// Any number, 0 included.
    pub tokens: usize,
    /// Experts that a token chooses: any number, 0 included.
    pub top_k: usize,
    /// Experts to choose from: at most [`MAX_EXPERTS`], 0 included.
    pub experts: usize,
    /// Experts that have rows, no more than there are, whose ids [`ExpertMapArgs::local_ids`] gives; None: all have.
    pub local_experts: Option<usize>,
    /// Where the rows of an expert lie.
    pub layout: ExpertLayout,
}

impl ExpertMapSpec {
    /// All experts, segments without gaps.
    pub const fn new(tokens: usize, top_k: usize, experts: usize) -> Self {
        Self { tokens, top_k, experts, local_experts: None, layout: ExpertLayout::Ragged }
    }

    /// Experts that have rows.
    pub fn local(&self) -> usize {
        self.local_experts.unwrap_or(self.experts)
    }

    /// Rows that any choice of the tokens fits in.
    pub fn rows(&self) -> usize {
        let routes = self.tokens.saturating_mul(self.top_k);
        match self.layout {
            ExpertLayout::Ragged => routes,
            ExpertLayout::Aligned { alignment } => {
                let alignment = alignment.get() as usize;
                let padding = self.local().min(routes).saturating_mul(alignment - 1);
                let rows = routes.saturating_add(padding);
                rows - rows % alignment
            }
            ExpertLayout::Masked { max_rows } => self.local().saturating_mul(max_rows),
        }
    }

    /// The same rows for the operations that follow. Ragged and aligned ones take `offsets`, masked ones `counts`.
    pub fn segments(&self) -> Segments {
        match self.layout {
            ExpertLayout::Ragged | ExpertLayout::Aligned { .. } => Segments::Ragged { rows: self.rows() },
            ExpertLayout::Masked { max_rows } => Segments::Masked { max_rows },
        }
    }
}

setters!(ExpertMapSpec { local_experts: Option<usize>, layout: ExpertLayout });

/// Operands of an expert map.
#[derive(Debug)]
pub struct ExpertMapArgs<'a> {
    /// `[tokens, top_k]`: what every token chose, or -1.
    pub ids: Indices<'a>,
    /// `[experts]`, if the spec has local experts: which of them an id means, or -1 where it is not here (vLLM's `expert_map`). An
    /// entry that is neither is treated as an id of no expert. Two ids may mean the same one.
    pub local_ids: Option<Indices<'a>>,
    /// The map.
    pub mapping: Mapping<'a>,
    /// See [`ExpertMap::scratch_bytes`].
    pub scratch: SliceMut<'a, u8>,
}

/// Where a map goes. All of it is written, every element. Where experts are local, `experts` are those.
#[derive(Debug)]
pub struct Mapping<'a> {
    /// `[rows]`: the route of every row, -1 where there is none. Its token is `route / top_k`.
    pub row_route: VectorMut<'a, i32>,
    /// `[tokens, top_k]`: the row of every route, -1 where it was dropped.
    pub route_row: MatrixMut<'a, i32>,
    /// `[experts + 1]`: where the segments of the experts start, and the last one ends.
    pub offsets: VectorMut<'a, i32>,
    /// `[experts]`: rows that hold a route, the first of their segment.
    pub counts: VectorMut<'a, i32>,
    /// `[experts + 1]`: routes to the expert, with a row or without; last, ids that are no expert and not -1. Routes to experts
    /// elsewhere are not counted.
    pub demand: VectorMut<'a, i32>,
}

/// A planned expert map: three small launches.
#[derive(Debug)]
pub struct ExpertMap {
    device: Device,
    spec: ExpertMapSpec,
    blocks: u32,
    /// With their grids.
    steps: [(Kernel<ExpertMapParams>, u32); 3],
}

/// Routes that a CTA sorts.
const BLOCK_ROUTES: usize = EXPERT_MAP_BLOCK as usize;

impl ExpertMap {
    /// Chooses the launches for a shape.
    ///
    /// # Errors
    /// [`Error::Spec`].
    pub fn plan(device: &Device, spec: ExpertMapSpec) -> Result<Self> {
        check_limit("experts", spec.experts as u64, MAX_EXPERTS.into())?;
        check_limit("local_experts, of the experts,", spec.local() as u64, spec.experts as u64)?;
        check_routes(spec.tokens, spec.top_k)?;
        if let ExpertLayout::Masked { max_rows } = spec.layout {
            check_limit("max_rows", max_rows as u64, MAX_DIM)?;
        }
        check_limit("rows", spec.rows() as u64, MAX_DIM)?;
        let blocks = (spec.tokens * spec.top_k).div_ceil(BLOCK_ROUTES).max(1) as u32;
        // The first launch clears the rows, of which a masked layout may have many more than routes.
        let clearing = spec.rows().div_ceil(8 * BLOCK_ROUTES).min(1024) as u32;
        let steps = [
            (COUNT.load(device)?, blocks.max(clearing)),
            (SCAN.load(device)?, (spec.local() as u32 + 1).div_ceil(EXPERT_MAP_SCAN_GROUPS)),
            (SCATTER.load(device)?, blocks),
        ];
        Ok(Self { device: device.clone(), spec, blocks, steps })
    }

    /// The shape it was planned for.
    pub fn spec(&self) -> &ExpertMapSpec {
        &self.spec
    }

    /// Bytes of scratch, from a multiple of [`SCRATCH_ALIGN`](crate::SCRATCH_ALIGN) on. What it holds does not matter, before
    /// or after.
    pub fn scratch_bytes(&self) -> usize {
        self.bytes_of_blocks(self.blocks)
    }

    /// A count per block and group: the experts, and all other ids.
    pub(super) fn bytes_of_blocks(&self, blocks: u32) -> usize {
        (self.spec.local() + 1) * blocks as usize * size_of::<u32>()
    }

    /// Enqueues the map on `stream` and returns. Allocates nothing and waits for nothing.
    ///
    /// Order and captures: [`Stream`].
    ///
    /// # Errors
    /// [`Error::Operand`], launch errors.
    pub fn run<'s>(&self, stream: impl Into<Stream<'s>>, mut args: ExpertMapArgs<'_>) -> Result<()> {
        let stream = stream.into();
        let ExpertMapArgs { ids, local_ids, mapping, scratch } = &mut args;
        for (kernel, grid) in &self.steps {
            // The first launch finds what is wrong with an operand, so that nothing is enqueued then.
            let mut launch = Launch::new(&self.device, kernel, stream)?;
            let ids = launch.indices(ids, self.ids())?;
            let params = self.params(&mut launch, local_ids.as_ref(), mapping, scratch, self.blocks)?;
            launch.run(*grid, &ExpertMapParams { ids, ..params })?;
        }
        Ok(())
    }

    /// Fails unless the operands are what a run asks of them.
    pub(super) fn check(
        &self,
        stream: Stream<'_>,
        ids: &Indices<'_>,
        local_ids: Option<&Indices<'_>>,
        mapping: &mut Mapping<'_>,
        scratch: &mut SliceMut<'_, u8>,
    ) -> Result<()> {
        let mut launch = Launch::new(&self.device, &self.steps[0].0, stream)?;
        launch.indices(ids, self.ids())?;
        self.params(&mut launch, local_ids, mapping, scratch, self.blocks).map(drop)
    }

    /// Which experts are here: given where the spec asks for it, and only there.
    pub(super) fn local_ids<'l, P: KernelParams>(
        &self,
        launch: &mut Launch<'l, P>,
        local_ids: Option<&'l Indices<'_>>,
    ) -> Result<bindings::Indices> {
        match (self.spec.local_experts, local_ids) {
            (None, None) => Ok(bindings::Indices::default()),
            (Some(_), Some(ids)) => {
                launch.indices(ids, Layout::vector("local_ids [experts]", self.spec.experts))
            }
            (None, Some(_)) => Err(Error::other_kind("local_ids", "none, all experts have rows", "some")),
            (Some(_), None) => Err(Error::other_kind("local_ids", "those of the local experts", "none")),
        }
    }

    fn ids(&self) -> Layout {
        Layout::matrix("ids [tokens, top_k]", [self.spec.tokens, self.spec.top_k])
    }

    /// The map of so many blocks of routes, which lacks nothing but the ids.
    pub(super) fn params<'l, P: KernelParams>(
        &self,
        launch: &mut Launch<'l, P>,
        local_ids: Option<&'l Indices<'_>>,
        mapping: &'l mut Mapping<'_>,
        scratch: &'l mut SliceMut<'_, u8>,
        blocks: u32,
    ) -> Result<ExpertMapParams> {
        let ExpertMapSpec { tokens, top_k, layout, .. } = self.spec;
        let experts = self.spec.local();
        let (alignment, max_rows) = match layout {
            ExpertLayout::Ragged => (1, u32::MAX),
            ExpertLayout::Aligned { alignment } => (alignment.get(), u32::MAX),
            ExpertLayout::Masked { max_rows } => (0, max_rows as u32),
        };
        let rows = self.spec.rows();
        let list = Layout::vector;
        let of_routes = Layout::matrix("route_row [tokens, top_k]", [tokens, top_k]);
        let route_row = launch.write(&mut mapping.route_row, of_routes)?;
        Ok(ExpertMapParams {
            local_ids: self.local_ids(launch, local_ids)?,
            row_route: launch.write(&mut mapping.row_route, list("row_route [rows]", rows))?.pointer,
            route_row: route_row.pointer,
            offsets: launch.write(&mut mapping.offsets, list("offsets [experts + 1]", experts + 1))?.pointer,
            counts: launch.write(&mut mapping.counts, list("counts [experts]", experts))?.pointer,
            demand: launch.write(&mut mapping.demand, list("demand [experts + 1]", experts + 1))?.pointer,
            block_counts: launch.scratch(scratch, self.bytes_of_blocks(blocks))?.cast(),
            route_row_pitch: route_row.pitch(),
            error_words: launch.error_words(),
            routes: (tokens * top_k) as u32,
            top_k: top_k as u32,
            rows: rows as u32,
            experts: experts as u32,
            blocks,
            alignment,
            max_rows,
            global_experts: self.spec.experts as u32,
            ..Default::default()
        })
    }
}
