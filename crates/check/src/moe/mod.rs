//! Choices of experts, and the map from them to rows, as the tests of a mixture of experts use them.
pub mod rows;
pub mod tokens;

use deepseek_kernels::moe::{ExpertLayout, ExpertMap, ExpertMapArgs, ExpertMapSpec};
use deepseek_kernels::{Device, Error};
use oracles::moe::{MapLayout, Mapped, expert_map};
use rand::rngs::StdRng;
use rand::seq::index::sample;
use rand::{RngExt, SeedableRng};

use crate::guarded::{Guarded, Placement};

/// What no kernel writes: an element that still holds it was not written.
pub const UNWRITTEN: i32 = 0x5a5a_5a5a;

/// Ids that are no expert of `experts`, and not -1.
pub fn strangers(experts: usize) -> [i32; 5] {
    [i32::MIN, -2, experts as i32, experts as i32 + 1, i32::MAX]
}

/// A way in which tokens choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routing {
    /// Different experts per token, each as likely as the other.
    Uniform,
    /// The same, and one of seven tokens has one less.
    Gaps,
    AllToOne,
    /// Experts of odd index have nothing.
    AlternateEmpty,
    AllEmpty,
    FirstAndLast,
    /// Good ids, -1 and ids that are none.
    Strangers,
}

pub const ROUTINGS: [Routing; 6] = [
    Routing::Uniform,
    Routing::AllToOne,
    Routing::AlternateEmpty,
    Routing::AllEmpty,
    Routing::FirstAndLast,
    Routing::Strangers,
];

impl Routing {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Gaps => "routed",
            Self::AllToOne => "all to one",
            Self::AlternateEmpty => "every second",
            Self::AllEmpty => "none",
            Self::FirstAndLast => "first and last",
            Self::Strangers => "strangers",
        }
    }

    /// `[tokens, top_k]`.
    pub fn ids(self, (tokens, top_k, experts): (usize, usize, usize), seed: u64) -> Vec<i32> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut one = |token: usize, k: usize, distinct: &[usize]| match self {
            Self::Gaps if token % 7 == 6 && k == 3 => -1,
            Self::Uniform | Self::Gaps => distinct.get(k).map_or(-1, |&expert| expert as i32),
            Self::AllToOne => experts as i32 / 2,
            Self::AlternateEmpty => 2 * rng.random_range(0..experts.div_ceil(2)) as i32,
            Self::AllEmpty => -1,
            Self::FirstAndLast => [0, experts as i32 - 1][rng.random_range(0..2)],
            Self::Strangers => match rng.random_range(0..3) {
                0 => rng.random_range(0..experts) as i32,
                1 => -1,
                _ => strangers(experts)[rng.random_range(0..5)],
            },
        };
        let mut shuffle = StdRng::seed_from_u64(seed ^ 1);
        let token = |token: usize| {
            let distinct = sample(&mut shuffle, experts, top_k.min(experts)).into_vec();
            (0..top_k).map(|k| one(token, k, &distinct)).collect::<Vec<_>>()
        };
        (0..tokens).flat_map(token).collect()
    }
}

pub fn model(layout: ExpertLayout) -> MapLayout {
    match layout {
        ExpertLayout::Ragged => MapLayout::Contiguous(1),
        ExpertLayout::Aligned { alignment } => MapLayout::Contiguous(alignment.get() as usize),
        ExpertLayout::Masked { max_rows } => MapLayout::Masked(max_rows),
    }
}

/// What the device makes of `ids`, with memory around every output guarded. `row_route` covers all rows of the plan.
pub fn map(device: &Device, spec: ExpertMapSpec, ids: &[i32]) -> Result<Mapped, Error> {
    let ExpertMapSpec { tokens, top_k, experts, .. } = spec;
    let plan = ExpertMap::plan(device, spec)?;
    let rows = spec.rows();
    let line = |columns: usize| Placement { offset: 4, pitch: columns };
    let output =
        |rows: usize, columns: usize| Guarded::unwritten(device, rows, columns, line(columns), UNWRITTEN);
    let gids = Guarded::new(device, ids, tokens, top_k, line(top_k), 0);
    let (mut row_route, mut route_row) = (output(1, rows), output(tokens, top_k));
    let (mut offsets, mut counts, mut demand) =
        (output(1, experts + 1), output(1, experts), output(1, experts + 1));
    let len = plan.workspace();
    let mut workspace = Guarded::unwritten(device, 1, len, line(len), 0xdead_beef_u32);
    plan.run(
        device.stream()?,
        ExpertMapArgs {
            ids: gids.matrix(),
            row_route: row_route.matrix_mut(),
            route_row: route_row.matrix_mut(),
            offsets: offsets.matrix_mut(),
            counts: counts.matrix_mut(),
            demand: demand.matrix_mut(),
            workspace: workspace.matrix_mut(),
        },
    )?;
    workspace.into_checked(|x| x);
    let checked = |guarded: Guarded<i32>| guarded.into_checked(|x| x);
    Ok(Mapped {
        row_route: checked(row_route),
        route_row: checked(route_row),
        offsets: checked(offsets),
        counts: checked(counts),
        demand: checked(demand),
    })
}

/// What the device should make of `ids`: the reference, and -1 in the rows behind its last segment.
pub fn expected(spec: &ExpertMapSpec, ids: &[i32]) -> Mapped {
    let mut map = expert_map(ids, spec.experts, model(spec.layout));
    map.row_route.resize(spec.rows(), -1);
    map
}

/// [`map`], which is what the reference says.
pub fn check_map(device: &Device, spec: ExpertMapSpec, ids: &[i32]) -> Mapped {
    let got = map(device, spec, ids).unwrap_or_else(|error| panic!("{spec:?}: {error}"));
    let want = expected(&spec, ids);
    let parts = |m: &Mapped| {
        let Mapped { row_route, route_row, offsets, counts, demand } = m.clone();
        [
            ("row_route", row_route),
            ("route_row", route_row),
            ("offsets", offsets),
            ("counts", counts),
            ("demand", demand),
        ]
    };
    for ((name, want), (_, got)) in parts(&want).into_iter().zip(parts(&got)) {
        let wrong = want.iter().zip(&got).position(|(want, got)| want != got);
        if let Some(i) = wrong {
            panic!("{name}[{i}]: expected {}, got {} ({spec:?})", want[i], got[i]);
        }
        assert_eq!(want.len(), got.len(), "{name}");
    }
    got
}
