//! Heads turned by the angles of their token's position, and the comparison with the reference.

use deepseek_kernels::mla::{Heads, HeadsMut, Rope, RopeArgs, RopeSpec};
use deepseek_kernels::{Device, Error, bf16};
use oracles::mla::rope;

use crate::guarded::{Guarded, Placement, Sentinel};

pub const ROPE: usize = 64;

/// How far apart heads and tokens are, and where the first one is.
#[derive(Debug, Clone, Copy)]
pub struct Strides {
    pub offset: usize,
    pub head: usize,
    /// Between the last head of a token and the first of the next, besides `head - 64`.
    pub token_gap: usize,
}

impl Strides {
    pub const DENSE: Self = Self { offset: 0, head: ROPE, token_gap: 0 };
    /// The last 64 of 192 columns of a query.
    pub const QUERY: Self = Self { offset: 128, head: 192, token_gap: 0 };
    /// The last 64 of 576 columns of an absorbed query.
    pub const ABSORBED: Self = Self { offset: 512, head: 576, token_gap: 0 };

    fn token(self, heads: usize) -> usize {
        heads * self.head + self.token_gap
    }
}

pub struct Rotation<'a> {
    pub heads: usize,
    /// `[tokens, heads, 64]`.
    pub x: &'a [bf16],
    pub positions: &'a [i32],
    /// `[_, 64]`.
    pub table: &'a [f32],
    pub from: Strides,
    pub to: Strides,
}

impl Rotation<'_> {
    pub fn run(&self, device: &Device) -> Vec<bf16> {
        let Self { heads, x, positions, table, from, to } = *self;
        let tokens = positions.len();
        let rows = table.len() / ROPE;
        let x = spread(x, tokens, heads, from, bf16::NAN);
        let x = device.upload(&x).expect("upload");
        let gpositions =
            Guarded::new(device, positions, 1, tokens, Placement { offset: 5, pitch: tokens }, -1);
        let place = Placement { offset: 12, pitch: ROPE + 4 };
        let table = Guarded::new(device, table, rows, ROPE, place, f32::NAN);
        let nothing = vec![bf16::SENTINEL; tokens * heads * ROPE];
        let mut out = device.upload(&spread(&nothing, tokens, heads, to, bf16::SENTINEL)).expect("upload");
        let plan = Rope::plan(device, RopeSpec { tokens, heads, positions: rows }).expect("plan");
        let args = RopeArgs {
            x: Heads::new(x.slice(from.offset), tokens, heads, from.token(heads), from.head).expect("view"),
            positions: gpositions.matrix(),
            table: table.matrix(),
            out: HeadsMut::new(out.slice_mut(to.offset), tokens, heads, to.token(heads), to.head)
                .expect("view"),
        };
        plan.run(device.stream().expect("stream"), args).unwrap_or_else(|error| panic!("{error}"));
        gather(&out.to_vec().expect("download"), tokens, heads, to)
    }

    pub fn check(&self, device: &Device) {
        let got = self.run(device);
        let want = rope(self.x, self.heads, self.positions, self.table).expect("reference");
        let canonical = |x: bf16| if x.is_nan() { 0x7fff } else { x.to_bits() };
        if let Some(i) = want.iter().zip(&got).position(|(&want, &got)| canonical(want) != canonical(got)) {
            let (token, head) = (i / ROPE / self.heads, i / ROPE % self.heads);
            panic!("out[{token}, {head}, {}]: expected {}, got {}", i % ROPE, want[i], got[i]);
        }
        let rows = (self.table.len() / ROPE) as i32;
        let strange = self.heads > 0 && self.positions.iter().any(|position| !(0..rows).contains(position));
        match device.poll_error() {
            Ok(()) => assert!(!strange, "a strange position went unreported"),
            Err(Error::Data(faults)) => assert!(strange && faults.position(), "{faults}"),
            Err(error) => panic!("{error}"),
        }
    }
}

/// The heads in a buffer of `filler`.
fn spread(x: &[bf16], tokens: usize, heads: usize, strides: Strides, filler: bf16) -> Vec<bf16> {
    const TAIL: usize = 40;
    let mut buffer = vec![filler; strides.offset + tokens * strides.token(heads) + TAIL];
    for (index, head) in x.chunks(ROPE).enumerate() {
        let at = strides.offset + index / heads * strides.token(heads) + index % heads * strides.head;
        buffer[at..][..ROPE].copy_from_slice(head);
    }
    buffer
}

/// The heads from a buffer, after checking that everything else in it still is the sentinel.
fn gather(buffer: &[bf16], tokens: usize, heads: usize, strides: Strides) -> Vec<bf16> {
    let mut out = Vec::new();
    let mut rest = buffer.to_vec();
    for index in 0..tokens * heads {
        let at = strides.offset + index / heads * strides.token(heads) + index % heads * strides.head;
        out.extend_from_slice(&buffer[at..][..ROPE]);
        rest[at..][..ROPE].fill(bf16::SENTINEL);
    }
    let written = rest.iter().position(|x| x.to_bits() != bf16::SENTINEL.to_bits());
    assert_eq!(written, None, "an element around the heads was written");
    out
}

/// Values of many magnitudes.
pub fn values(count: usize, seed: u64) -> Vec<bf16> {
    let value = |i: usize| {
        let angle = i as f32 * 1.37 + seed as f32 * 0.61;
        bf16::from_f32(angle.sin() * ((i as f32 * 0.77 + seed as f32).cos() * 6.0).exp2())
    };
    (0..count).map(value).collect()
}
