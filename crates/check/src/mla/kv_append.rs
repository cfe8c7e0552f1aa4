//! Tokens appended to a cache that already holds something, and the comparison with the reference.

use deepseek_kernels::mla::{KvAppend, KvAppendArgs, KvAppendSpec, KvCacheMut, KvFormat};
use deepseek_kernels::quant::ScaleFormat;
use deepseek_kernels::{Device, Error, Matrix, bf16};
use oracles::mla::{Appended, kv_append_bf16, kv_append_fp8};
use oracles::quant::quantizer_rows;

use crate::guarded::{Guarded, Placement};
use crate::quant::model;

pub const LATENT: usize = 512;
pub const ROPE: usize = 64;
pub const FORMATS: [(KvFormat, ScaleFormat); 3] = [
    (KvFormat::Bf16, ScaleFormat::PowerOfTwo),
    (KvFormat::Fp8, ScaleFormat::PowerOfTwo),
    (KvFormat::Fp8, ScaleFormat::Fp32),
];

/// New tokens and where they go.
#[derive(Clone)]
pub struct Tokens {
    /// `[tokens, 512]`.
    pub latent: Vec<bf16>,
    /// `[tokens, 64]`.
    pub k_pe: Vec<bf16>,
    pub slots: Vec<i32>,
}

impl Tokens {
    /// Values of every kind, Inf and NaN included.
    pub fn new(slots: Vec<i32>, seed: u64) -> Self {
        let latent = quantizer_rows(slots.len(), LATENT, seed);
        let wide = quantizer_rows(slots.len(), 2 * ROPE, seed + 1);
        let k_pe = wide.chunks(2 * ROPE).flat_map(|x| &x[..ROPE]).copied().collect();
        Self { latent, k_pe, slots }
    }

    /// Quotients halfway between two codes: with FP32 scales the last bit of a quotient decides the code.
    pub fn ties(tokens: usize) -> Self {
        let value = |i: usize| {
            let (block, i) = (i / 128, i % 128);
            let amax = (2 * block + 1) as f32;
            let sign = if i % 2 == 0 { 1.0 } else { -1.0 };
            if i == 0 { amax } else { sign * amax * 3.0 / 32.0 * (-((i / 2 % 8) as f32)).exp2() }
        };
        let latent = (0..tokens * LATENT).map(|i| bf16::from_f32(value(i))).collect();
        Self { latent, k_pe: vec![bf16::ONE; tokens * ROPE], slots: (0..tokens as i32).rev().collect() }
    }

    /// These tokens, in this order.
    pub fn pick(&self, order: &[usize]) -> Self {
        let rows = |data: &[bf16], columns: usize| {
            order.iter().flat_map(|t| &data[t * columns..][..columns]).copied().collect()
        };
        Self {
            latent: rows(&self.latent, LATENT),
            k_pe: rows(&self.k_pe, ROPE),
            slots: order.iter().map(|&t| self.slots[t]).collect(),
        }
    }
}

/// Different rows for `tokens` tokens; every fifth token has none.
pub fn slots(tokens: usize, rows: usize, seed: u64) -> Vec<i32> {
    let mut all: Vec<i32> = (0..rows as i32).collect();
    // Any order will do that jumps back and forth.
    all.sort_by_key(|&row| (row as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    (0..tokens).map(|t| if t % 5 == 3 { -1 } else { all[t] }).collect()
}

/// Slots that are no rows of a cache of `rows` rows.
pub fn strangers(rows: usize) -> [i32; 6] {
    [i32::MIN, -2, rows as i32, rows as i32 + 1, 0x4000_0000, i32::MAX]
}

pub struct Append<'a> {
    pub tokens: &'a Tokens,
    pub rows: usize,
    pub format: (KvFormat, ScaleFormat),
    /// Latent vector and key are columns of one matrix of 576.
    pub one_matrix: bool,
}

impl Append<'_> {
    /// Runs, and gives the bytes of the whole cache. Rows are 16 bytes and more apart.
    pub fn try_run(&self, device: &Device) -> Result<Vec<u8>, Error> {
        let rows = self.rows;
        let columns = self.format.0.columns();
        match self.format.0 {
            KvFormat::Bf16 => {
                let place = Placement { offset: 40, pitch: columns + 8 };
                let poison = bf16::from_bits(0xa5a5);
                let mut cache =
                    Guarded::new(device, &before_bf16(rows * columns), rows, columns, place, poison);
                self.launch(device, KvCacheMut::Bf16(cache.matrix_mut()))?;
                let rows = cache.into_checked(bf16::to_bits);
                Ok(rows.into_iter().flat_map(bf16::to_ne_bytes).collect())
            }
            KvFormat::Fp8 => {
                let place = Placement { offset: 48, pitch: columns + 32 };
                let mut cache = Guarded::new(device, &before(rows * columns), rows, columns, place, 0xa5);
                self.launch(device, KvCacheMut::Fp8(cache.matrix_mut()))?;
                Ok(cache.into_checked(|byte| byte))
            }
        }
    }

    pub fn run(&self, device: &Device) -> Vec<u8> {
        self.try_run(device).unwrap_or_else(|error| panic!("{error}"))
    }

    fn launch(&self, device: &Device, cache: KvCacheMut<'_>) -> Result<(), Error> {
        let Tokens { latent, k_pe, slots } = self.tokens;
        let tokens = slots.len();
        let (format, scale_format) = self.format;
        let plan = KvAppend::plan(device, KvAppendSpec { tokens, rows: self.rows, format, scale_format })?;
        let gslots = Guarded::new(device, slots, 1, tokens, Placement { offset: 3, pitch: tokens }, 0);
        let stream = device.stream()?;
        if self.one_matrix {
            let rows = latent.chunks(LATENT).zip(k_pe.chunks(ROPE));
            let rows: Vec<bf16> = rows.flat_map(|(latent, k_pe)| [latent, k_pe].concat()).collect();
            let place = Placement { offset: 24, pitch: 576 };
            let both = Guarded::new(device, &rows, tokens, 576, place, bf16::NAN);
            let latent = Matrix::with_pitch(both.slice(), tokens, LATENT, 576)?;
            let k_pe = Matrix::with_pitch(both.slice_from(LATENT), tokens, ROPE, 576)?;
            plan.run(stream, KvAppendArgs { latent, k_pe, slots: gslots.matrix(), cache })
        } else {
            let matrix = |data: &[bf16], columns: usize, gap: usize| {
                let place = Placement { offset: gap, pitch: columns + gap };
                Guarded::new(device, data, tokens, columns, place, bf16::NAN)
            };
            let (latent, k_pe) = (matrix(latent, LATENT, 8), matrix(k_pe, ROPE, 16));
            let args =
                KvAppendArgs { latent: latent.matrix(), k_pe: k_pe.matrix(), slots: gslots.matrix(), cache };
            plan.run(stream, args)
        }
    }

    /// What the reference makes of the cache.
    pub fn expected(&self) -> (Vec<u8>, Appended) {
        let Tokens { latent, k_pe, slots } = self.tokens;
        let elements = self.rows * self.format.0.columns();
        match self.format {
            (KvFormat::Bf16, _) => {
                let mut cache = before_bf16(elements);
                let appended = kv_append_bf16(latent, k_pe, slots, &mut cache).expect("reference");
                (cache.into_iter().flat_map(bf16::to_ne_bytes).collect(), appended)
            }
            (KvFormat::Fp8, scale) => {
                let mut cache = before(elements);
                let appended =
                    kv_append_fp8(latent, k_pe, slots, model(scale), &mut cache).expect("reference");
                (cache, appended)
            }
        }
    }

    pub fn check(&self, device: &Device) {
        let bytes = self.format.0.row_bytes();
        let got = self.run(device);
        let (want, appended) = self.expected();
        let wrong = want.iter().zip(&got).enumerate().position(|(i, (&want, &got))| {
            canonical(self.format.0, i % bytes, want) != canonical(self.format.0, i % bytes, got)
        });
        if let Some(i) = wrong {
            let (row, byte) = (i / bytes, i % bytes);
            panic!("row {row}, {}: expected {:#x}, got {:#x}", place(self.format.0, byte), want[i], got[i]);
        }
        match device.poll_error() {
            Ok(()) => assert_eq!(appended, Appended::default(), "went unreported"),
            Err(Error::Data(faults)) => {
                let got = Appended { strange_slot: faults.cache_slot(), nonfinite: faults.nonfinite_input() };
                assert_eq!(got, appended, "reported {faults}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// What the cache holds at first.
fn before(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i * 37 + i / 256 + 11) as u8).collect()
}

fn before_bf16(elements: usize) -> Vec<bf16> {
    before(elements).into_iter().map(|byte| bf16::from_bits(u16::from(byte) * 257)).collect()
}

/// The PTX manual promises a NaN for a NaN, not its sign: both codes count as one.
fn canonical(format: KvFormat, byte: usize, value: u8) -> u8 {
    if format == KvFormat::Fp8 && byte < LATENT && value & 0x7f == 0x7f { 0x7f } else { value }
}

fn place(format: KvFormat, byte: usize) -> String {
    match (format, byte) {
        (KvFormat::Bf16, _) => format!("value {}", byte / 2),
        (KvFormat::Fp8, 0..LATENT) => format!("code {byte}"),
        (KvFormat::Fp8, LATENT..528) => format!("scale {}", (byte - LATENT) / 4),
        (KvFormat::Fp8, _) => format!("key {}", (byte - 528) / 2),
    }
}
