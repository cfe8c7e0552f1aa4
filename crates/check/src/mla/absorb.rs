//! MLA's absorbed projections on operands in poisoned memory.
use deepseek_kernels::cudarc::driver::DeviceRepr;
use deepseek_kernels::mla::{AbsorbOutputArgs, AbsorbQueryArgs, MlaAbsorb, MlaAbsorbSpec};
use deepseek_kernels::{Device, bf16};
use oracles::mla::{HeadProduct, Side};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;

use crate::guarded::{Guarded, Placement, Sentinel};

/// Columns of a head's query, of which 128 count; of a latent; of a row of q_latent.
pub const QUERY: usize = 192;
pub const LATENT: usize = 512;
const ROW: usize = 576;
const HEAD_ROWS: usize = 256;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Oracle {
    /// Integers: a correct sum has no error at all.
    Exact,
    BitModel,
    Bound,
}

/// One projection: `a` and `w` as the reference takes them.
pub struct Absorption {
    pub side: Side,
    pub tokens: usize,
    pub heads: usize,
    pub a: Vec<bf16>,
    pub w: Vec<bf16>,
}

impl Absorption {
    pub fn a_columns(side: Side) -> usize {
        match side {
            Side::Query => QUERY,
            Side::Output => LATENT,
        }
    }

    fn with(side: Side, tokens: usize, heads: usize, mut value: impl FnMut() -> f32) -> Self {
        let mut values = |count: usize| (0..count).map(|_| bf16::from_f32(value())).collect::<Vec<_>>();
        let a = values(tokens * heads * Self::a_columns(side));
        let w = values(heads * HEAD_ROWS * LATENT);
        let mut case = Self { side, tokens, heads, a, w };
        case.poison();
        case
    }

    pub fn integers(side: Side, tokens: usize, heads: usize) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64((tokens * 1000 + heads) as u64);
        Self::with(side, tokens, heads, || rng.random_range(-8..=8) as f32)
    }

    /// Normal values of many magnitudes.
    pub fn random(side: Side, tokens: usize, heads: usize, seed: u64) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        Self::with(side, tokens, heads, || {
            rng.sample::<f32, _>(StandardNormal) * f32::from(rng.random_range(-6_i8..=6)).exp2()
        })
    }

    /// What the projection must not look at becomes NaN: rotated columns of queries, the other half of W.
    fn poison(&mut self) {
        let unused = match self.side {
            Side::Query => {
                self.a.chunks_mut(QUERY).for_each(|row| row[128..].fill(bf16::NAN));
                128 * LATENT..
            }
            Side::Output => 0..,
        };
        for head in self.w.chunks_mut(HEAD_ROWS * LATENT) {
            head[unused.clone()][..128 * LATENT].fill(bf16::NAN);
        }
    }

    pub fn product(&self) -> HeadProduct<'_> {
        HeadProduct::new(self.side, &self.a, &self.w, self.tokens, self.heads).expect("the shape")
    }

    /// Runs with gaps of `gap` elements between rows; `[tokens, heads, n]`.
    pub fn run_with(&self, device: &Device, gap: usize) -> Vec<bf16> {
        let Self { side, tokens, heads, .. } = *self;
        let place = |columns: usize| Placement { offset: gap, pitch: columns + gap };
        let matrix = |data: &[bf16], rows: usize, columns: usize| {
            Guarded::new(device, data, rows, columns, place(columns), bf16::NAN)
        };
        let w = matrix(&self.w, heads * HEAD_ROWS, LATENT);
        let plan = MlaAbsorb::plan(device, MlaAbsorbSpec { tokens, heads }).expect("plan");
        let stream = device.stream().expect("stream");
        let d = match side {
            Side::Query => {
                let q = matrix(&self.a, tokens, heads * QUERY);
                let mut q_latent = unwritten(device, tokens * heads, ROW, place(ROW));
                let args = AbsorbQueryArgs { q: q.matrix(), w: w.matrix(), q_latent: q_latent.matrix_mut() };
                plan.run_query(stream, args).unwrap_or_else(|error| panic!("{error}"));
                let rows = q_latent.into_checked(Sentinel::bits);
                let rotated = rows.chunks(ROW).flat_map(|row| &row[LATENT..]);
                assert_eq!(rotated.filter(|x| !is_sentinel(x)).count(), 0, "rotated columns were written");
                rows.chunks(ROW).flat_map(|row| &row[..LATENT]).copied().collect()
            }
            Side::Output => {
                let latent = matrix(&self.a, tokens * heads, LATENT);
                let mut out = unwritten(device, tokens, heads * 128, place(heads * 128));
                let args = AbsorbOutputArgs { latent: latent.matrix(), w: w.matrix(), out: out.matrix_mut() };
                plan.run_output(stream, args).unwrap_or_else(|error| panic!("{error}"));
                out.into_checked(Sentinel::bits)
            }
        };
        let unwritten = d.iter().position(is_sentinel);
        assert_eq!(unwritten, None, "{side:?} of {tokens} tokens, {heads} heads: element not written");
        d
    }

    pub fn run(&self, device: &Device) -> Vec<bf16> {
        self.run_with(device, 8)
    }

    pub fn check(&self, device: &Device, oracle: Oracle) {
        self.judge(oracle, &self.run(device));
    }

    pub fn judge(&self, oracle: Oracle, got: &[bf16]) {
        let (product, Self { side, tokens, heads, .. }) = (self.product(), self);
        let wrong: Vec<String> = match oracle {
            Oracle::BitModel => {
                let wrong = product.bit_model().into_iter().zip(got).enumerate();
                let wrong = wrong.filter(|(_, (want, got))| !same(*want, **got));
                wrong.map(|(i, (want, got))| format!("{i}: expected {want}, got {got}")).collect()
            }
            Oracle::Exact | Oracle::Bound => {
                let far = |&(_, ((want, bound), got)): &(usize, ((f64, f64), &bf16))| match oracle {
                    Oracle::Exact => bf16::from_f64(want) != *got,
                    _ => (got.to_f64() - want).abs() > bound || !got.is_finite(),
                };
                let wrong = product.bound().into_iter().zip(got).enumerate().filter(far);
                wrong
                    .map(|(i, ((want, bound), got))| format!("{i}: expected {want} +- {bound}, got {got}"))
                    .collect()
            }
        };
        assert_eq!(got.len(), tokens * heads * product.n());
        assert!(
            wrong.is_empty(),
            "{side:?} of {tokens} tokens, {heads} heads, {oracle:?}: {} of {} elements are wrong, first {}",
            wrong.len(),
            got.len(),
            wrong[0]
        );
    }
}

fn unwritten<T: Sentinel + DeviceRepr + Copy>(
    device: &Device,
    rows: usize,
    columns: usize,
    place: Placement,
) -> Guarded<T> {
    Guarded::unwritten(device, rows, columns, place, T::SENTINEL)
}

fn is_sentinel(x: &bf16) -> bool {
    x.to_bits() == bf16::SENTINEL.to_bits()
}

/// The same bits, or NaN both.
pub fn same(x: bf16, y: bf16) -> bool {
    x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan()
}
