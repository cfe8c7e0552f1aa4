//! Bad input gets an error that says what was expected and what came, before anything is launched.

/// Tests, one for each wrong operand: `name: |args, spare| change => "message";`, where `change` gets one of the operands of
/// a run wrong. The call is refused with the message, nothing is written, and the same plan and operands go on working.
/// A plan that is not given its operands as one is enqueued as `|plan, stream, args| ...` says.
macro_rules! rejects {
    ($prepare:expr; $($tests:tt)*) => {
        rejects! { $prepare, |plan, stream, args| plan.run(stream, args); $($tests)* }
    };
    (
        $prepare:expr, |$plan:ident, $stream:ident, $operands:ident| $run:expr;
        $($name:ident: |$args:ident, $spare:ident| $change:expr => $message:literal;)*
    ) => {$(
        #[test]
        fn $name() {
            use check::case::Prepared;
            let mut run = $prepare;
            let before = run.writable().expect("what a run writes");
            let mut spare = $crate::Spare::new();
            let refused = (|| {
                let $spare = &mut spare;
                let mut $args = run.operands.args()?;
                $change;
                let ($plan, $stream, $operands) = (&mut run.plan, deepseek_kernels::Stream::Emulated, $args);
                $run
            })();
            assert_eq!($crate::message(refused), $message);
            assert!(run.writable().expect("what a run writes") == before && spare == $crate::Spare::new(), "written");
            run.launch(deepseek_kernels::Stream::Emulated).expect("the plan still works");
            for check in run.judge(check::judge::Scrutiny::Thorough).expect("judgement") {
                assert_eq!(check.failure, None, "{}", check.oracle);
            }
        }
    )*};
}

mod device;
mod every;
mod gemm;
mod mla;
mod moe;
mod quant;
mod ranges;
mod router;

use deepseek_kernels::{Error, F8E4M3, bf16};

/// Memory from which a test takes an operand of another shape.
#[derive(PartialEq)]
struct Spare {
    bytes: Vec<u8>,
    codes: Vec<F8E4M3>,
    halves: Vec<bf16>,
    floats: Vec<f32>,
    integers: Vec<i32>,
    words: Vec<u32>,
    longs: Vec<i64>,
}

impl Spare {
    /// Enough for every operand of these tests.
    fn new() -> Self {
        const LEN: usize = 1 << 19;
        Self {
            bytes: vec![0; LEN],
            codes: vec![F8E4M3::ONE; LEN],
            halves: vec![bf16::ONE; LEN],
            floats: vec![1.0; LEN],
            integers: vec![0; LEN],
            words: vec![0; LEN],
            longs: vec![0; LEN],
        }
    }
}

/// What makes a spec a bad one.
type Change<S> = fn(&mut S);

/// A spec with something changed.
fn with<S>(mut spec: S, change: impl FnOnce(&mut S)) -> S {
    change(&mut spec);
    spec
}

/// What the error says.
fn message<T>(result: Result<T, Error>) -> String {
    result.err().expect("must be rejected").to_string()
}
