//! Arithmetic of one lane. Every form is listed in full with its operand count: a form that is not here is
//! refused, for a guess by base opcode (`mul` for `mul.hi`) is silently wrong. Forms that allow ptxas to
//! contract or flush (`mul.f32`, `add.ftz.f32`) are absent on purpose.

use std::collections::HashMap;
use std::sync::LazyLock;

use float8::F8E4M3;
use half::f16;

/// Registers are 64 bits wide here; values of narrower types are zero-extended.
pub type Evaluate = fn([u64; 4]) -> u64;

/// Number of source operands and the function.
pub fn scalar(form: &str) -> Option<(usize, Evaluate)> {
    FORMS.get(form).copied()
}

/// A value as the bits of a register.
trait Bits {
    fn bits(self) -> u64;
}

macro_rules! integer_bits {
    ($($type:ty as $unsigned:ty),*) => { $(
        impl Bits for $type {
            fn bits(self) -> u64 {
                u64::from(self as $unsigned)
            }
        }
    )* };
}
integer_bits!(u16 as u16, u32 as u32, u64 as u64, i16 as u16, i32 as u32, i64 as u64, bool as u8);

impl Bits for f32 {
    /// PTX arithmetic has one NaN.
    fn bits(self) -> u64 {
        u64::from(if self.is_nan() { 0x7fff_ffff } else { self.to_bits() })
    }
}

fn float(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn unordered(a: u64, b: u64) -> bool {
    float(a).is_nan() || float(b).is_nan()
}

/// An `Evaluate` that looks at as many operands as the closure names.
macro_rules! form {
    ($name:expr, |$($operand:ident),+| $value:expr) => {
        ($name, (<[&str]>::len(&[$(stringify!($operand)),+]), |[$($operand,)+ ..]| Bits::bits($value)))
    };
}

type Form = (&'static str, (usize, Evaluate));

/// Forms of the integer types, signed and unsigned.
macro_rules! integer_forms {
    ($($suffix:literal $type:ty),*) => { [ $(
        form!(concat!("add.", $suffix), |a, b| (a as $type).wrapping_add(b as $type)),
        form!(concat!("sub.", $suffix), |a, b| (a as $type).wrapping_sub(b as $type)),
        form!(concat!("mul.lo.", $suffix), |a, b| (a as $type).wrapping_mul(b as $type)),
        form!(concat!("mad.lo.", $suffix), |a, b, c| {
            (a as $type).wrapping_mul(b as $type).wrapping_add(c as $type)
        }),
        form!(concat!("div.", $suffix), |a, b| (a as $type).wrapping_div(b as $type)),
        form!(concat!("rem.", $suffix), |a, b| (a as $type).wrapping_rem(b as $type)),
        form!(concat!("min.", $suffix), |a, b| (a as $type).min(b as $type)),
        form!(concat!("max.", $suffix), |a, b| (a as $type).max(b as $type)),
        form!(concat!("mov.", $suffix), |a| a as $type),
        form!(concat!("selp.", $suffix), |a, b, p| if p != 0 { a as $type } else { b as $type }),
        form!(concat!("setp.eq.", $suffix), |a, b| a as $type == b as $type),
        form!(concat!("setp.ne.", $suffix), |a, b| a as $type != b as $type),
        form!(concat!("setp.lt.", $suffix), |a, b| (a as $type) < (b as $type)),
        form!(concat!("setp.le.", $suffix), |a, b| (a as $type) <= (b as $type)),
        form!(concat!("setp.gt.", $suffix), |a, b| a as $type > b as $type),
        form!(concat!("setp.ge.", $suffix), |a, b| a as $type >= b as $type),
        // A shift by the width or more leaves nothing, or the sign.
        form!(concat!("shr.", $suffix), |a, n| {
            let last = <$type>::BITS - 1;
            let shifted = (a as $type) >> (n as u32).min(last);
            if n as u32 > last && <$type>::MIN == 0 { 0 } else { shifted }
        }),
    )* ] };
}

const INTEGER: &[Form] = &integer_forms!("s32" i32, "u32" u32, "s64" i64, "u64" u64);

macro_rules! bit_forms {
    ($($suffix:literal $type:ty),*) => { [ $(
        form!(concat!("mov.", $suffix), |a| a as $type),
        form!(concat!("selp.", $suffix), |a, b, p| if p != 0 { a as $type } else { b as $type }),
        form!(concat!("setp.eq.", $suffix), |a, b| a as $type == b as $type),
        form!(concat!("setp.ne.", $suffix), |a, b| a as $type != b as $type),
        form!(concat!("and.", $suffix), |a, b| a as $type & b as $type),
        form!(concat!("or.", $suffix), |a, b| a as $type | b as $type),
        form!(concat!("xor.", $suffix), |a, b| a as $type ^ b as $type),
        form!(concat!("not.", $suffix), |a| !(a as $type)),
        form!(concat!("shl.", $suffix), |a, n| (a as $type).checked_shl(n as u32).unwrap_or(0)),
    )* ] };
}

const BITS: &[Form] = &bit_forms!("b16" u16, "b32" u32, "b64" u64);

/// How nvcc tests a flag that it keeps in a 16-bit register.
const FLAGS: &[Form] =
    &[form!("setp.eq.s16", |a, b| a as i16 == b as i16), form!("setp.ne.s16", |a, b| a as i16 != b as i16)];

/// Widening and narrowing. Signed destinations narrower than a register are absent: they depend on the
/// register.
macro_rules! conversions {
    ($from:literal $source:ty) => {
        [
            form!(concat!("cvt.u16.", $from), |a| a as $source as u16),
            form!(concat!("cvt.u32.", $from), |a| a as $source as u32),
            form!(concat!("cvt.s32.", $from), |a| a as $source as i32),
            form!(concat!("cvt.u64.", $from), |a| a as $source as u64),
            form!(concat!("cvt.s64.", $from), |a| a as $source as i64),
        ]
    };
}

const CONVERSIONS: [[Form; 5]; 8] = [
    conversions!("u8" u8),
    conversions!("s8" i8),
    conversions!("u16" u16),
    conversions!("s16" i16),
    conversions!("u32" u32),
    conversions!("s32" i32),
    conversions!("u64" u64),
    conversions!("s64" i64),
];

const WIDE: &[Form] = &[
    form!("mul.wide.u32", |a, b| u64::from(a as u32) * u64::from(b as u32)),
    form!("mul.wide.s32", |a, b| i64::from(a as i32) * i64::from(b as i32)),
    form!("mul.wide.u16", |a, b| u32::from(a as u16) * u32::from(b as u16)),
    form!("mul.lo.s16", |a, b| (a as i16).wrapping_mul(b as i16)),
    form!("sub.s16", |a, b| (a as i16).wrapping_sub(b as i16)),
    form!("mad.wide.u32", |a, b, c| (u64::from(a as u32) * u64::from(b as u32)).wrapping_add(c)),
    form!("mad.wide.s32", |a, b, c| (i64::from(a as i32) * i64::from(b as i32)).wrapping_add(c as i64)),
    form!("mul.hi.u32", |a, b| (u64::from(a as u32) * u64::from(b as u32)) >> 32),
    form!("mul.hi.s32", |a, b| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as i32),
    form!("mul.hi.u64", |a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64),
    form!("mul.hi.s64", |a, b| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as i64),
];

const MISCELLANEOUS: &[Form] = &[
    form!("mov.u16", |a| a as u16),
    form!("selp.u16", |a, b, p| if p != 0 { a as u16 } else { b as u16 }),
    form!("mov.pred", |a| a != 0),
    form!("not.pred", |a| a == 0),
    form!("and.pred", |a, b| a & b),
    form!("or.pred", |a, b| a | b),
    form!("xor.pred", |a, b| a ^ b),
    form!("neg.s32", |a| (a as i32).wrapping_neg()),
    form!("neg.s64", |a| (a as i64).wrapping_neg()),
    form!("abs.s32", |a| (a as i32).wrapping_abs()),
    form!("popc.b32", |a| (a as u32).count_ones()),
    form!("clz.b32", |a| (a as u32).leading_zeros()),
    form!("shf.l.wrap.b32", |low, high, n| ((((high << 32) | low) << (n & 31)) >> 32) as u32),
    form!("shf.r.wrap.b32", |low, high, n| (((high << 32) | low) >> (n & 31)) as u32),
    form!("bfe.u32", |a, start, length| bit_field(a, start, length)),
    form!("bfi.b32", |a, b, start, length| insert_bits(a, b & 0xffff_ffff, start, length, 32)),
    form!("bfi.b64", |a, b, start, length| insert_bits(a, b, start, length, 64)),
    form!("prmt.b32", |a, b, selector| permute_bytes(a, b, selector)),
    form!("lop3.b32", |a, b, c, table| lookup(a, b, c, table)),
    // Addresses of parameters are already generic.
    form!("cvta.param.u64", |a| a),
    form!("cvta.to.global.u64", |a| a),
];

const FLOAT: &[Form] = &[
    form!("mov.f32", |a| a as u32),
    form!("add.rn.f32", |a, b| float(a) + float(b)),
    form!("sub.rn.f32", |a, b| float(a) - float(b)),
    form!("mul.rn.f32", |a, b| float(a) * float(b)),
    form!("div.rn.f32", |a, b| float(a) / float(b)),
    form!("rcp.rn.f32", |a| 1.0 / float(a)),
    form!("sqrt.rn.f32", |a| float(a).sqrt()),
    form!("fma.rn.f32", |a, b, c| float(a).mul_add(float(b), float(c))),
    form!("neg.f32", |a| -float(a)),
    form!("abs.f32", |a| float(a).abs()),
    form!("min.f32", |a, b| minimum(float(a), float(b))),
    form!("max.f32", |a, b| -minimum(-float(a), -float(b))),
    form!("selp.f32", |a, b, p| if p != 0 { a as u32 } else { b as u32 }),
    form!("setp.eq.f32", |a, b| float(a) == float(b)),
    form!("setp.lt.f32", |a, b| float(a) < float(b)),
    form!("setp.le.f32", |a, b| float(a) <= float(b)),
    form!("setp.gt.f32", |a, b| float(a) > float(b)),
    form!("setp.ge.f32", |a, b| float(a) >= float(b)),
    // Ordered comparisons are false for NaN, `ne` too; those in `u` are true.
    form!("setp.ne.f32", |a, b| float(a) != float(b) && !unordered(a, b)),
    form!("setp.equ.f32", |a, b| float(a) == float(b) || unordered(a, b)),
    form!("setp.neu.f32", |a, b| float(a) != float(b)),
    form!("setp.ltu.f32", |a, b| float(a) < float(b) || unordered(a, b)),
    form!("setp.leu.f32", |a, b| float(a) <= float(b) || unordered(a, b)),
    form!("setp.gtu.f32", |a, b| float(a) > float(b) || unordered(a, b)),
    form!("setp.geu.f32", |a, b| float(a) >= float(b) || unordered(a, b)),
    form!("setp.num.f32", |a, b| !unordered(a, b)),
    form!("setp.nan.f32", |a, b| unordered(a, b)),
    form!("cvt.rn.f32.s32", |a| a as i32 as f32),
    form!("cvt.rn.f32.u32", |a| a as u32 as f32),
    form!("cvt.rn.f32.u64", |a| a as f32),
    form!("cvt.rzi.s32.f32", |a| float(a) as i32),
    form!("cvt.rzi.u32.f32", |a| float(a) as u32),
    // The emulator's model: the correctly rounded result.
    form!("ex2.approx.ftz.f32", |a| flush(f64::from(flush(float(a))).exp2() as f32)),
    form!("lg2.approx.ftz.f32", |a| flush(f64::from(flush(float(a))).log2() as f32)),
    form!("cvt.rn.f16x2.e4m3x2", |a| f16_of_e4m3(a as u8) | f16_of_e4m3((a >> 8) as u8) << 16),
    form!("cvt.f32.f16", |a| f16::from_bits(a as u16).to_f32()),
    form!("cvt.rn.bf16x2.f32", |high, low| bf16(float(high)) << 16 | bf16(float(low))),
    form!("cvt.rn.satfinite.e4m3x2.f32", |high, low| e4m3(float(high)) << 8 | e4m3(float(low))),
];

/// Subnormal numbers are zeros under `.ftz`.
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0.0_f32.copysign(x) } else { x }
}

/// Exact: E4M3 is within FP16.
fn f16_of_e4m3(code: u8) -> u32 {
    f16::from_f32(F8E4M3::from_bits(code).to_f32()).to_bits().into()
}

static FORMS: LazyLock<HashMap<&'static str, (usize, Evaluate)>> = LazyLock::new(|| {
    let groups = [INTEGER, BITS, FLAGS, CONVERSIONS.as_flattened(), WIDE, MISCELLANEOUS, FLOAT];
    groups.into_iter().flatten().copied().collect()
});

/// `length` ones from bit `start`, in a word of `width` bits.
fn ones(start: u64, length: u64, width: u64) -> u64 {
    let (start, length) = (start & 0xff, length & 0xff);
    (start..width.min(start + length)).fold(0, |mask, bit| mask | 1 << bit)
}

/// `length` bits of `a` from bit `start`.
fn bit_field(a: u64, start: u64, length: u64) -> u32 {
    (a & ones(start, length, 32)).checked_shr((start & 0xff) as u32).unwrap_or(0) as u32
}

/// `b` with `length` bits from bit `start` replaced by the low bits of `a`.
fn insert_bits(a: u64, b: u64, start: u64, length: u64, width: u64) -> u64 {
    let mask = ones(start, length, width);
    b & !mask | a.checked_shl((start & 0xff) as u32).unwrap_or(0) & mask
}

/// Each nibble of `selector` picks one of the eight bytes of `b:a`; its top bit spreads that byte's sign
/// instead.
fn permute_bytes(a: u64, b: u64, selector: u64) -> u32 {
    let bytes = (((b & 0xffff_ffff) << 32) | (a & 0xffff_ffff)).to_le_bytes();
    let nibble = |i: u32| selector >> (4 * i) & 0xf;
    let pick = |i: u32| {
        let byte = bytes[(nibble(i) & 7) as usize];
        if nibble(i) < 8 { byte } else { (byte.cast_signed() >> 7).cast_unsigned() }
    };
    u32::from_le_bytes([pick(0), pick(1), pick(2), pick(3)])
}

/// Bit by bit, `table` at index `a b c`.
fn lookup(a: u64, b: u64, c: u64, table: u64) -> u32 {
    let index = |bit: u32| (a >> bit & 1) << 2 | (b >> bit & 1) << 1 | c >> bit & 1;
    (0..32).fold(0, |result, bit| result | ((table >> index(bit) & 1) as u32) << bit)
}

/// The operand that is a number, if only one is; -0 is below +0.
fn minimum(a: f32, b: f32) -> f32 {
    match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ if a.total_cmp(&b).is_le() => a,
        _ => b,
    }
}

/// Nearest BF16, ties to even.
fn bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    if x.is_nan() { 0x7fff } else { (bits + 0x7fff + (bits >> 16 & 1)) >> 16 }
}

/// Nearest E4M3, ties to even, at most 448.
fn e4m3(x: f32) -> u32 {
    let sign = x.to_bits() >> 31 << 7;
    if x.is_nan() {
        return 0x7f;
    }
    // Codes count values of one magnitude grid: the exponent's eighths, of which the lowest is also the
    // subnormals'.
    let magnitude = x.abs().min(448.0);
    let exponent = ((magnitude.to_bits() >> 23).cast_signed() - 127).max(-6);
    let eighths = (magnitude * 2.0_f32.powi(3 - exponent)).round_ties_even() as u32;
    sign | ((exponent + 6).cast_unsigned() * 8 + eighths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluate(form: &str, operands: &[u64]) -> u64 {
        let (arity, function) = scalar(form).unwrap_or_else(|| panic!("{form} is not listed"));
        assert_eq!(arity, operands.len(), "{form}");
        let mut all = [0; 4];
        all[..arity].copy_from_slice(operands);
        function(all)
    }

    fn bits(x: f32) -> u64 {
        u64::from(x.to_bits())
    }

    #[test]
    fn the_full_form_counts_not_the_base_opcode() {
        assert_eq!(evaluate("mul.hi.u32", &[0x8000_0001, 6]), 3);
        assert_eq!(evaluate("mul.hi.s32", &[0x8000_0001, 6]), 0xffff_fffd);
        assert_eq!(evaluate("mul.lo.s32", &[0x8000_0001, 6]), 6);
        assert_eq!(evaluate("mul.lo.s16", &[0x8001, 6]), 6);
        assert_eq!(evaluate("sub.s16", &[0, 6]), 0xfffa);
        assert_eq!(evaluate("mul.wide.s32", &[0xffff_ffff, 6]), -6_i64 as u64);
        assert_eq!(evaluate("neg.f32", &[bits(2.0)]), bits(-2.0));
        assert_eq!(evaluate("neg.s32", &[2]), 0xffff_fffe);
        assert_eq!(evaluate("shr.s32", &[0x8000_0000, 40]), 0xffff_ffff);
        assert_eq!(evaluate("shr.u32", &[0x8000_0000, 40]), 0);
        assert_eq!(evaluate("setp.lt.s32", &[0xffff_ffff, 0]), 1);
        assert_eq!(evaluate("setp.lt.u32", &[0xffff_ffff, 0]), 0);
        assert_eq!(evaluate("setp.ne.f32", &[bits(f32::NAN), 0]), 0);
        assert_eq!(evaluate("setp.neu.f32", &[bits(f32::NAN), 0]), 1);
        for refused in ["mul", "mul.f32", "fma.rn.ftz.f32", "mul.hi", "cvt.rz.bf16x2.f32", "ex2.approx.f32"] {
            assert!(scalar(refused).is_none(), "{refused}");
        }
    }

    #[test]
    fn bytes_and_bits() {
        assert_eq!(evaluate("prmt.b32", &[0x8384_8586, 0x4748_494a, 0x7b54]), 0x47ff_494a);
        assert_eq!(evaluate("bfe.u32", &[0xabcd_1234, 8, 12]), 0xd12);
        assert_eq!(evaluate("shf.l.wrap.b32", &[0x8000_0000, 1, 1]), 3);
        assert_eq!(evaluate("shf.r.wrap.b32", &[2, 1, 1]), 0x8000_0001);
        assert_eq!(evaluate("lop3.b32", &[0b1100, 0b1010, 0b0110, 0xf0]), 0b1100);
        assert_eq!(evaluate("lop3.b32", &[0b1100, 0b1010, 0b0110, 0xca]), 0b1010); // a ? b : c
    }

    #[test]
    fn e4m3_is_the_nearest_code() {
        let value = |code: u32| {
            let (exponent, mantissa) = ((code >> 3).cast_signed(), (code & 7) as f32);
            if exponent == 0 { mantissa / 512.0 } else { (1.0 + mantissa / 8.0) * 2.0_f32.powi(exponent - 7) }
        };
        for code in 0..0x7e {
            let (low, high) = (value(code), value(code + 1));
            let middle = (low + high) / 2.0;
            assert_eq!(e4m3(low), code);
            assert_eq!(e4m3(middle.next_down()), code);
            assert_eq!(e4m3(middle), code + code % 2);
            assert_eq!(e4m3(-middle.next_up()), 0x80 | (code + 1));
        }
        assert_eq!(evaluate("cvt.rn.satfinite.e4m3x2.f32", &[bits(1e9), bits(-0.0)]), 0x7e80);
        assert_eq!(evaluate("cvt.rn.f16x2.e4m3x2", &[0xc038]), 0xc000_3c00); // -2 and 1
        assert_eq!(evaluate("cvt.f32.f16", &[0xc000]), bits(-2.0));
        assert_eq!(evaluate("ex2.approx.ftz.f32", &[bits(f32::NEG_INFINITY)]), 0);
        assert_eq!(evaluate("ex2.approx.ftz.f32", &[bits(-127.0)]), 0);
        assert_eq!(evaluate("lg2.approx.ftz.f32", &[bits(8.0)]), bits(3.0));
        assert_eq!(
            evaluate("cvt.rn.bf16x2.f32", &[bits(1.0), bits(f32::from_bits(0x4000_8000))]),
            0x3f80_4000
        );
        assert_eq!(
            evaluate("cvt.rn.bf16x2.f32", &[bits(f32::from_bits(0x4001_8000)), bits(f32::NAN)]),
            0x4002_7fff
        );
    }
}
