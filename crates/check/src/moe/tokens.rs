//! Tokens put together from rows, and the comparison with the reference.

use deepseek_kernels::moe::{Combine, CombineArgs, CombineSpec, ExpertLayout, ExpertMapSpec};
use deepseek_kernels::{Device, Error, bf16};
use oracles::moe::{Combined, combine};

use super::{Routing, expected};
use crate::guarded::{Guarded, Placement, Sentinel};

pub struct Combination<'a> {
    pub tokens: usize,
    pub top_k: usize,
    pub hidden: usize,
    pub y: &'a [bf16],
    pub route_row: &'a [i32],
    pub addends: Combined<'a>,
}

impl Combination<'_> {
    pub fn rows(&self) -> usize {
        self.y.len().checked_div(self.hidden).unwrap_or(0)
    }

    pub fn run(&self, device: &Device) -> Vec<u16> {
        let Self { tokens, top_k, hidden, y, route_row, addends } = *self;
        let rows = self.rows();
        let matrix = |data: &[bf16], rows: usize, gap: usize| {
            Guarded::new(
                device,
                data,
                rows,
                hidden,
                Placement { offset: gap, pitch: hidden + gap },
                bf16::NAN,
            )
        };
        let routes = Placement { offset: 3, pitch: top_k };
        let gy = matrix(y, rows, 8);
        let groute_row = Guarded::new(device, route_row, tokens, top_k, routes, i32::MAX);
        let weights = addends.weights.map(|w| Guarded::new(device, w, tokens, top_k, routes, f32::NAN));
        let shared = addends.shared.map(|x| matrix(x, tokens, 16));
        let residual = addends.residual.map(|x| matrix(x, tokens, 24));
        let place = Placement { offset: 32, pitch: hidden + 40 };
        let mut out = Guarded::unwritten(device, tokens, hidden, place, bf16::SENTINEL);
        let plan = Combine::plan(device, CombineSpec { tokens, top_k, hidden, rows }).expect("plan");
        plan.run(
            device.stream().expect("stream"),
            CombineArgs {
                y: gy.matrix(),
                route_row: groute_row.matrix(),
                weights: weights.as_ref().map(Guarded::matrix),
                shared: shared.as_ref().map(Guarded::matrix),
                residual: residual.as_ref().map(Guarded::matrix),
                out: out.matrix_mut(),
            },
        )
        .unwrap_or_else(|error| panic!("{error}"));
        out.into_checked(Sentinel::bits).into_iter().map(bf16::to_bits).collect()
    }

    pub fn check(&self, device: &Device) {
        let Self { tokens, top_k, hidden, y, route_row, addends } = *self;
        let want = combine(y, (tokens, top_k, hidden), route_row, &addends).expect("reference");
        let canonical = |bits: u16| if bf16::from_bits(bits).is_nan() { 0x7fff } else { bits };
        let got = self.run(device);
        let wrong =
            want.iter().zip(&got).position(|(want, got)| canonical(want.to_bits()) != canonical(*got));
        if let Some(i) = wrong {
            let (want, got) = (want[i], bf16::from_bits(got[i]));
            panic!("out[{}, {}]: expected {want}, got {got}", i / hidden, i % hidden);
        }
        let bad = route_row.iter().any(|&row| row < -1 || row >= self.rows() as i32);
        match device.poll_error() {
            Ok(()) => assert!(!bad, "a bad row went unreported"),
            Err(Error::Data(faults)) => assert!(bad && faults.segment(), "{faults}"),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Values of many magnitudes, whose sum depends on its order.
pub fn values(count: usize, seed: u64) -> Vec<bf16> {
    let value = |i: usize| {
        let angle = i as f32 * 1.37 + seed as f32 * 0.61;
        bf16::from_f32(angle.sin() * (i as f32 * 0.77 + seed as f32).cos().mul_add(6.0, 0.0).exp2())
    };
    (0..count).map(value).collect()
}

pub fn combine_weights(count: usize) -> Vec<f32> {
    (0..count).map(|i| 0.01 + (i as f32 * 0.917).sin().abs() * 2.5).collect()
}

pub fn map_rows((tokens, top_k, experts): (usize, usize, usize), routing: Routing, seed: u64) -> Vec<i32> {
    let spec = ExpertMapSpec { tokens, top_k, experts, layout: ExpertLayout::Ragged };
    expected(&spec, &routing.ids((tokens, top_k, experts), seed)).route_row
}
