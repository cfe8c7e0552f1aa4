//! Of the grouped one: D keeps its bytes.

use check::devices::emulated;
use deepseek_kernels::gemm::{
    GEMM_INSTANCES, GroupedFp8Gemm, GroupedFp8GemmArgs, GroupedFp8GemmSpec, Segments,
};
use deepseek_kernels::quant::{MMajor, Scales1x128};
use deepseek_kernels::{F8E4M3, Matrix, MatrixMut, Stream, bf16};

use crate::message;

const EXPERTS: usize = 3;
const ROWS: usize = 8;
const N: usize = 16;
const K: usize = 256;
const SPEC: GroupedFp8GemmSpec = GroupedFp8GemmSpec {
    experts: EXPERTS,
    n: N,
    k: K,
    expected_rows: 2,
    segments: Segments::Ragged { rows: ROWS },
};

#[test]
fn plans() {
    let plan = |spec| message(GroupedFp8Gemm::plan(&emulated(0), spec));
    assert_eq!(plan(GroupedFp8GemmSpec { experts: 513, ..SPEC }), "experts must be at most 512, got 513");
    assert_eq!(plan(GroupedFp8GemmSpec { n: 12, ..SPEC }), "n must be a multiple of 8, got 12");
    assert_eq!(plan(GroupedFp8GemmSpec { k: 130, ..SPEC }), "k must be a multiple of 128, got 130");
    let huge = GroupedFp8GemmSpec { segments: Segments::Masked { max_rows: 1 << 31 }, ..SPEC };
    assert_eq!(plan(huge), "max_rows must be at most 2147483647, got 2147483648");
    let many = GroupedFp8GemmSpec { segments: Segments::Masked { max_rows: 1 << 30 }, ..SPEC };
    assert_eq!(plan(many), "rows must be at most 2147483647, got 3221225472");
    let wide = GroupedFp8GemmSpec { n: 1 << 30, ..SPEC };
    assert_eq!(plan(wide), "experts * n must be at most 2147483647, got 3221225472");
    let dense = GroupedFp8Gemm::plan_instance(&emulated(0), SPEC, GEMM_INSTANCES[0]);
    assert_eq!(message(dense), "the GPU kernels were not built: the instance is not a grouped one");
}

/// Rows, columns and pitch of a, sfa, b, sfb, segments and d.
#[derive(Clone, Copy)]
struct Sizes {
    a: [usize; 3],
    sfa: [usize; 3],
    b: [usize; 3],
    sfb: [usize; 3],
    segments: [usize; 3],
    d: [usize; 3],
}

const GOOD: Sizes = Sizes {
    a: [ROWS, K, K],
    sfa: [ROWS, K, ROWS],
    b: [EXPERTS * N, K, K],
    sfb: [EXPERTS, K / 128, K / 128],
    segments: [1, EXPERTS + 1, EXPERTS + 1],
    d: [ROWS, N, N],
};

impl Sizes {
    /// The message, or nothing where the sizes are good; D is written only then.
    fn rejected(self, segments: Segments) -> Option<String> {
        let plan = GroupedFp8Gemm::plan(&emulated(0), GroupedFp8GemmSpec { segments, ..SPEC }).expect("plan");
        let codes = vec![F8E4M3::ONE; 64 * 2 * K];
        let scales = vec![1.0; 64];
        let offsets = [0, 2, 5, ROWS as i32, 0, 0];
        let mut d = vec![bf16::NEG_ONE; 2 * ROWS * 64];
        let codes = |[rows, columns, pitch]: [usize; 3]| {
            Matrix::with_pitch(&codes, rows, columns, pitch).expect("view")
        };
        let [rows, columns, pitch] = self.sfb;
        let sfb = Matrix::with_pitch(&scales, rows, columns, pitch).expect("view");
        let [m, k, pitch] = self.sfa;
        let sfa = Scales1x128::<MMajor>::with_pitch(&scales, m, k, pitch).expect("view");
        let [rows, columns, pitch] = self.segments;
        let segments = Matrix::with_pitch(&offsets[..], rows, columns, pitch).expect("view");
        let [rows, columns, pitch] = self.d;
        let result = plan.run(
            Stream::Emulated,
            GroupedFp8GemmArgs {
                a: codes(self.a),
                sfa,
                b: codes(self.b),
                sfb,
                segments,
                d: MatrixMut::with_pitch(&mut d, rows, columns, pitch).expect("view"),
            },
        );
        assert_eq!(result.is_err(), d.iter().all(|&x| x == bf16::NEG_ONE), "D is written when it may be");
        result.err().map(|error| error.to_string())
    }
}

#[test]
fn operands() {
    let ragged = Segments::Ragged { rows: ROWS };
    assert_eq!(GOOD.rejected(ragged), None);
    for (bad, expected) in [
        (Sizes { a: [ROWS + 1, K, K], ..GOOD }, "expected a [rows, k] [8, 256], got [9, 256]"),
        (Sizes { a: [ROWS, K, K + 8], ..GOOD }, "a: pitch must be a multiple of 16 bytes, got 264"),
        (Sizes { sfa: [ROWS, 128, ROWS], ..GOOD }, "expected sfa [k/128, m] [2, 8], got [1, 8]"),
        (Sizes { sfa: [ROWS, K, ROWS + 1], ..GOOD }, "sfa: pitch must be a multiple of 16 bytes, got 36"),
        (Sizes { b: [N, K, K], ..GOOD }, "expected b [experts * n, k] [48, 256], got [16, 256]"),
        (Sizes { b: [EXPERTS * N, K, K + 8], ..GOOD }, "b: pitch must be a multiple of 16 bytes, got 264"),
        (
            Sizes { sfb: [1, K / 128, K / 128], ..GOOD },
            "expected sfb [experts * ceil(n/128), k/128] [3, 2], got [1, 2]",
        ),
        (
            Sizes { segments: [1, EXPERTS, EXPERTS], ..GOOD },
            "expected segments [1, experts + 1] [1, 4], got [1, 3]",
        ),
        (Sizes { d: [ROWS, N + 8, N + 8], ..GOOD }, "expected d [rows, n] [8, 16], got [8, 24]"),
        (Sizes { d: [ROWS, N, N + 4], ..GOOD }, "d: pitch must be a multiple of 16 bytes, got 40"),
    ] {
        assert_eq!(bad.rejected(ragged).as_deref(), Some(expected));
    }
}

#[test]
fn segments_of_the_other_kind() {
    // Three experts of four rows.
    let rows = EXPERTS * 4;
    let sizes = Sizes { a: [rows, K, K], sfa: [rows, K, rows], d: [rows, N, N], ..GOOD };
    let error = sizes.rejected(Segments::Masked { max_rows: 4 });
    assert_eq!(error.as_deref(), Some("expected segments [1, experts] [1, 3], got [1, 4]"));
}
