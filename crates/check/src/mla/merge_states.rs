//! States of attention over parts of the keys, in poisoned memory.
use deepseek_kernels::Device;
use deepseek_kernels::cudarc::driver::DeviceRepr;
use deepseek_kernels::mla::{AttentionState, AttentionStateMut, MergeStates, MergeStatesSpec};
use oracles::mla::{State, merge_states};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;

use crate::guarded::{Guarded, Placement, Sentinel};

pub const COLUMNS: usize = 512;

/// A part: o `[rows, 512]` of values that the element type holds, lse `[rows]`.
#[derive(Clone)]
pub struct Part {
    pub o: Vec<f32>,
    pub lse: Vec<f32>,
}

impl Part {
    /// Values of every size, logarithms within `spread` of 0.
    pub fn random<T: Sentinel>(rows: usize, spread: f32, seed: u64) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let value = |_| {
            let scale = f32::from(rng.random_range(-8_i8..=8)).exp2();
            T::narrow(rng.sample::<f32, _>(StandardNormal) * scale).widen()
        };
        let o = (0..rows * COLUMNS).map(value).collect();
        Self { o, lse: (0..rows).map(|_| rng.random_range(-spread..=spread)).collect() }
    }

    fn state(&self) -> State<'_> {
        State { o: &self.o, lse: &self.lse }
    }

    /// The row has no key, and its o holds NaN.
    pub fn empty_row(&mut self, row: usize, lse: f32) {
        self.lse[row] = lse;
        self.o[row * COLUMNS..][..COLUMNS].fill(f32::NAN);
    }
}

#[derive(Clone)]
pub struct Merge {
    pub parts: [Part; 2],
    pub heads: usize,
    pub infinity_is_empty: bool,
}

impl Merge {
    pub fn random<T: Sentinel>(tokens: usize, heads: usize, spread: f32, seed: u64) -> Self {
        let parts = [1, 2].map(|part| Part::random::<T>(tokens * heads, spread, 10 * seed + part));
        Self { parts, heads, infinity_is_empty: false }
    }

    pub fn rows(&self) -> usize {
        self.parts[0].lse.len()
    }

    pub fn swapped(&self) -> Self {
        let [a, b] = self.parts.clone();
        Self { parts: [b, a], ..*self }
    }

    /// o and lse of the device, nothing around them touched.
    pub fn run<T: Sentinel + DeviceRepr>(&self, device: &Device) -> (Vec<T>, Vec<f32>) {
        let (rows, heads) = (self.rows(), self.heads);
        let tokens = rows.checked_div(heads).unwrap_or(0);
        let wide = |gap: usize| Placement { offset: gap, pitch: COLUMNS + gap };
        let lse_place = |offset: usize| Placement { offset, pitch: heads };
        let upload = |part: &Part, gap: usize| {
            let o: Vec<T> = part.o.iter().map(|&x| T::narrow(x)).collect();
            (
                Guarded::new(device, &o, rows, COLUMNS, wide(gap), T::narrow(f32::NAN)),
                Guarded::new(device, &part.lse, tokens, heads, lse_place(gap + 1), f32::NAN),
            )
        };
        let (a, b) = (upload(&self.parts[0], 8), upload(&self.parts[1], 24));
        let mut o = Guarded::unwritten(device, rows, COLUMNS, wide(16), T::SENTINEL);
        let mut lse = Guarded::unwritten(device, tokens, heads, lse_place(3), f32::SENTINEL);
        let spec = MergeStatesSpec { tokens, heads, infinity_is_empty: self.infinity_is_empty };
        let parts = [&a, &b].map(|(o, lse)| AttentionState { o: o.matrix(), lse: lse.matrix() });
        let out = AttentionStateMut { o: o.matrix_mut(), lse: lse.matrix_mut() };
        let plan = MergeStates::<T>::plan(device, spec).expect("plan");
        plan.run(device.stream().expect("stream"), parts, out).unwrap_or_else(|error| panic!("{error}"));
        (o.into_checked(T::bits), lse.into_checked(f32::to_bits))
    }

    /// o and lse as the reference has them.
    pub fn reference<T: Sentinel>(&self) -> (Vec<f32>, Vec<f32>) {
        let parts = [self.parts[0].state(), self.parts[1].state()];
        merge_states(parts, COLUMNS, self.infinity_is_empty, T::OUTPUT_MODEL).expect("reference")
    }

    pub fn check<T: Sentinel + DeviceRepr>(&self, device: &Device) {
        let (o, lse) = self.run::<T>(device);
        let (want_o, want_lse) = self.reference::<T>();
        for (i, (got, want)) in lse.iter().zip(&want_lse).enumerate() {
            assert!(same(*got, *want), "lse[{i}]: expected {want:e}, got {got:e}");
        }
        for (i, (got, want)) in o.iter().map(|x| x.widen()).zip(want_o).enumerate() {
            let (row, column) = (i / COLUMNS, i % COLUMNS);
            assert!(same(got, want), "o[{row}, {column}]: expected {want:e}, got {got:e}");
        }
    }
}

/// The same bits, or NaN both.
pub fn same(x: f32, y: f32) -> bool {
    x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan()
}
