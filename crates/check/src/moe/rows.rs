//! Gathered and activated rows: batches, guarded outputs, and the comparison with the references.

use std::num::NonZeroU32;

use deepseek_kernels::moe::{
    ExpertLayout, ExpertMapSpec, GatherQuantize, GatherQuantizeArgs, GatherQuantizeSpec, RoutingWeights,
    SwigluQuantize, SwigluQuantizeArgs, SwigluQuantizeSpec,
};
use deepseek_kernels::quant::{MMajor, ScaleFormat, Scales1x128Mut};
use deepseek_kernels::{Device, Error, F8E4M3, bf16};
use oracles::moe::{Mapped, swiglu_quantize};
use oracles::quant::quantizer_rows;
use oracles::quant::{Quantized, quantize_1x128};

use super::{Routing, expected};
use crate::guarded::{Guarded, Placement};
use crate::quant::model;

/// What next to no kernel writes.
pub const UNWRITTEN_CODE: F8E4M3 = F8E4M3::from_bits(0x01);
const UNWRITTEN_SCALE: f32 = f32::from_bits(0x7fc1_0001);

pub const FORMATS: [ScaleFormat; 2] = [ScaleFormat::Fp32, ScaleFormat::PowerOfTwo];
pub const LAYOUTS: [ExpertLayout; 3] = [
    ExpertLayout::Ragged,
    ExpertLayout::Aligned { alignment: NonZeroU32::new(16).expect("not 0") },
    ExpertLayout::Masked { max_rows: 9 },
];

/// A routed batch: the map as the reference gives it.
pub struct Batch {
    pub spec: ExpertMapSpec,
    pub map: Mapped,
}

impl Batch {
    pub fn new(
        (tokens, top_k, experts): (usize, usize, usize),
        layout: ExpertLayout,
        routing: Routing,
        seed: u64,
    ) -> Self {
        let spec = ExpertMapSpec { tokens, top_k, experts, layout };
        let map = expected(&spec, &routing.ids((tokens, top_k, experts), seed));
        Self { spec, map }
    }

    pub fn rows(&self) -> usize {
        self.spec.rows()
    }

    /// What the operations read: ends of segments or counts.
    pub fn segments(&self) -> &[i32] {
        match self.spec.layout {
            ExpertLayout::Masked { .. } => &self.map.counts,
            _ => &self.map.offsets,
        }
    }

    /// Whether an expert uses the row; padding of aligned segments counts.
    pub fn used(&self, row: usize) -> bool {
        match self.spec.layout {
            ExpertLayout::Masked { max_rows } => ((row % max_rows) as i32) < self.map.counts[row / max_rows],
            _ => (row as i32) < self.map.offsets[self.spec.experts],
        }
    }

    pub fn route(&self, row: usize) -> Option<usize> {
        usize::try_from(self.map.row_route[row]).ok()
    }
}

pub fn line(columns: usize) -> Placement {
    Placement { offset: 8, pitch: columns }
}

/// Codes `[rows, k]` and scales `[k/128, rows]` as a kernel leaves them, in guarded memory.
pub struct Output {
    pub q: Guarded<F8E4M3>,
    pub sf: Guarded<f32>,
}

impl Output {
    pub fn new(device: &Device, rows: usize, k: usize) -> Self {
        let q = Guarded::unwritten(device, rows, k, Placement { offset: 16, pitch: k + 24 }, UNWRITTEN_CODE);
        let sf = Guarded::unwritten(
            device,
            k / 128,
            rows,
            Placement { offset: 1, pitch: rows + 3 },
            UNWRITTEN_SCALE,
        );
        Self { q, sf }
    }

    /// Equal on used rows, untouched on all others. All NaN codes count as one: the PTX manual promises no sign.
    pub fn check(self, want: &Quantized, (rows, k): (usize, usize), used: impl Fn(usize) -> bool) {
        let bits = |c: F8E4M3| if c.is_nan() { 0x7f } else { c.to_bits() };
        let (q, sf) = (self.q.into_checked(|c| c.to_bits()), self.sf.into_checked(f32::to_bits));
        for row in 0..rows {
            for column in 0..k {
                let at = row * k + column;
                let (got, want) = (q[at], want.q[at]);
                if used(row) {
                    assert_eq!(bits(got), bits(want), "q[{row}, {column}]");
                } else {
                    assert_eq!(
                        got.to_bits(),
                        UNWRITTEN_CODE.to_bits(),
                        "q[{row}, {column}] of no expert was written"
                    );
                }
            }
            for g in 0..k / 128 {
                let at = g * rows + row;
                let want = if used(row) { want.sf[at] } else { UNWRITTEN_SCALE };
                assert_eq!(sf[at].to_bits(), want.to_bits(), "sf[{g}, {row}]");
            }
        }
    }
}

pub fn check_report(device: &Device, nonfinite: bool, segment: bool) {
    let reported = match device.poll_error() {
        Ok(()) => (false, false),
        Err(Error::Data(faults)) => (faults.nonfinite_input(), faults.segment()),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(reported, (nonfinite, segment), "Inf or NaN, bad segment");
}

pub fn run_gather(device: &Device, batch: &Batch, x: &[bf16], hidden: usize, format: ScaleFormat) -> Output {
    let (rows, ExpertMapSpec { tokens, top_k, experts, .. }) = (batch.rows(), batch.spec);
    let plan = GatherQuantize::plan(
        device,
        GatherQuantizeSpec { tokens, top_k, hidden, experts, segments: batch.spec.segments(), format },
    )
    .expect("plan");
    let gx = Guarded::new(device, x, tokens, hidden, Placement { offset: 8, pitch: hidden + 8 }, bf16::NAN);
    let row_route = Guarded::new(device, &batch.map.row_route, 1, rows, line(rows), i32::MAX);
    let len = batch.segments().len();
    let segments = Guarded::new(device, batch.segments(), 1, len, line(len), i32::MAX);
    let mut out = Output::new(device, rows, hidden);
    let sf_pitch = out.sf.pitch();
    plan.run(
        device.stream().expect("stream"),
        GatherQuantizeArgs {
            x: gx.matrix(),
            row_route: row_route.matrix(),
            segments: segments.matrix(),
            q: out.q.matrix_mut(),
            sf: Scales1x128Mut::<MMajor>::with_pitch(out.sf.slice_mut(), rows, hidden, sf_pitch)
                .expect("view"),
        },
    )
    .unwrap_or_else(|error| panic!("{error}"));
    out
}

/// Rows without a route are zero.
pub fn gathered(batch: &Batch, x: &[bf16], hidden: usize, format: ScaleFormat) -> Quantized {
    let (rows, top_k) = (batch.rows(), batch.spec.top_k);
    let token = |row: usize| batch.route(row).map(|route| &x[route / top_k * hidden..][..hidden]);
    let zeros = vec![bf16::ZERO; hidden];
    let gathered: Vec<bf16> = (0..rows).flat_map(|row| token(row).unwrap_or(&zeros)).copied().collect();
    quantize_1x128(&gathered, rows, hidden, hidden, model(format)).expect("reference")
}

pub fn check_gather(device: &Device, batch: &Batch, x: &[bf16], hidden: usize, format: ScaleFormat) {
    let want = gathered(batch, x, hidden, format);
    let out = run_gather(device, batch, x, hidden, format);
    out.check(&want, (batch.rows(), hidden), |row| batch.used(row));
    check_report(device, want.nonfinite, false);
}

/// `x` `[rows, 2 i]` in rows that experts use, NaN in all others.
pub fn activations(batch: &Batch, intermediate: usize, seed: u64) -> Vec<bf16> {
    let mut x = quantizer_rows(batch.rows(), 2 * intermediate, seed);
    for (row, values) in x.chunks_mut((2 * intermediate).max(1)).enumerate() {
        if row % 3 != 0 {
            // Gates on both sides of 0, where silu bends; the rest of the rows is special.
            values
                .iter_mut()
                .enumerate()
                .for_each(|(i, x)| *x = bf16::from_f32((i as f32 * 0.37 + row as f32).sin() * 9.0));
        }
        if batch.route(row).is_none() {
            values.fill(bf16::NAN);
        }
    }
    x
}

pub struct Swiglu<'a> {
    pub batch: &'a Batch,
    pub x: &'a [bf16],
    pub intermediate: usize,
    pub clamp: Option<f32>,
    pub weights: Option<&'a [f32]>,
    pub format: ScaleFormat,
}

impl Swiglu<'_> {
    pub fn run(&self, device: &Device) -> Output {
        let (rows, ExpertMapSpec { tokens, top_k, experts, .. }) = (self.batch.rows(), self.batch.spec);
        let Self { batch, x, intermediate, clamp, weights, format } = *self;
        let spec =
            SwigluQuantizeSpec { intermediate, experts, segments: batch.spec.segments(), clamp, format };
        let plan = SwigluQuantize::plan(device, spec).expect("plan");
        let place = Placement { offset: 16, pitch: 2 * intermediate + 8 };
        let gx = Guarded::new(device, x, rows, 2 * intermediate, place, bf16::NAN);
        let row_route = Guarded::new(device, &batch.map.row_route, 1, rows, line(rows), i32::MAX);
        let weights = weights.map(|w| Guarded::new(device, w, tokens, top_k, line(top_k), f32::NAN));
        let len = batch.segments().len();
        let segments = Guarded::new(device, batch.segments(), 1, len, line(len), i32::MAX);
        let mut out = Output::new(device, rows, intermediate);
        let sf_pitch = out.sf.pitch();
        plan.run(
            device.stream().expect("stream"),
            SwigluQuantizeArgs {
                x: gx.matrix(),
                segments: segments.matrix(),
                routing: weights
                    .as_ref()
                    .map(|w| RoutingWeights { weights: w.matrix(), row_route: row_route.matrix() }),
                q: out.q.matrix_mut(),
                sf: Scales1x128Mut::<MMajor>::with_pitch(out.sf.slice_mut(), rows, intermediate, sf_pitch)
                    .expect("view"),
            },
        )
        .unwrap_or_else(|error| panic!("{error}"));
        out
    }

    /// Rows of no expert count as zero.
    pub fn reference(&self) -> Quantized {
        let Self { batch, x, intermediate, clamp, weights, format } = *self;
        let weight = |row: usize| match weights {
            _ if !batch.used(row) => None,
            None => Some(1.0),
            Some(weights) => batch.route(row).map(|route| weights[route]),
        };
        swiglu_quantize(x, batch.rows(), intermediate, clamp, &weight, model(format)).expect("reference")
    }

    pub fn check(&self, device: &Device) {
        let want = self.reference();
        self.run(device).check(&want, (self.batch.rows(), self.intermediate), |row| self.batch.used(row));
        check_report(device, want.nonfinite, false);
    }
}

pub fn weights(routes: usize) -> Vec<f32> {
    (0..routes).map(|route| (route as f32 * 0.71).cos() + 0.1).collect()
}
