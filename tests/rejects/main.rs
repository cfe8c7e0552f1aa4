//! Bad input gets an error that says what was expected and what came, before anything is launched.

mod device;
mod gemm;
mod mla;
mod moe;
mod quant;
mod router;

use deepseek_kernels::Error;

/// A matrix that a test may get wrong: rows, columns, pitch.
type Size = (usize, usize, usize);

/// What the error says.
fn message<T>(result: Result<T, Error>) -> String {
    result.err().expect("must be rejected").to_string()
}
