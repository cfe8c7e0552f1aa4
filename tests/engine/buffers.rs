//! The crate's own buffers: never stale.

use deepseek_kernels::gemm::{Fp8Gemm, Fp8GemmArgs};
use deepseek_kernels::quant::{MMajor, Scales1x128, Scales128x128};
use deepseek_kernels::{Matrix, MatrixMut, Stream, bf16};

use crate::engine::{Engine, Tracking};
use crate::streams::{SHAPE, check, inputs, spec};
use check::memory::Scalar;

/// `to_vec` follows a run on any stream, tracked or not, of this context object or of another.
#[test]
fn a_buffer_is_read_after_what_was_enqueued_before() {
    for (tracking, own_object) in [(Tracking::On, true), (Tracking::Off, true), (Tracking::On, false)] {
        let Some(engine) = Engine::open(tracking) else { return };
        let other = Engine::open(Tracking::On).expect("it was there");
        let default = other.context.default_stream();
        let stream = if own_object { &engine.stream } else { &default };
        let (m, n, k) = SHAPE;
        let gemm = Fp8Gemm::<bf16>::plan(&engine.device, spec()).expect("plan");
        for seed in 0..3 {
            let data = inputs(seed);
            let [a, b] = [&data.a, &data.b].map(|x| engine.device.upload(x).expect("upload"));
            let [sfa, sfb] = [&data.sfa, &data.sfb].map(|x| engine.device.upload(x).expect("upload"));
            let mut d = engine.device.upload(&vec![bf16::SENTINEL; m * n]).expect("upload");
            let args = Fp8GemmArgs {
                a: Matrix::new(&a, m, k).expect("a"),
                sfa: Scales1x128::<MMajor>::new(&sfa, m, k).expect("sfa"),
                b: Matrix::new(&b, n, k).expect("b"),
                sfb: Scales128x128::new(&sfb, n, k).expect("sfb"),
                d: MatrixMut::new(&mut d, m, n).expect("d"),
            };
            gemm.run(Stream::Cuda(stream), args).expect("run");
            check("buffer", &data, &d.to_vec().expect("to_vec"));
        }
        drop((gemm, default));
        other.close();
        engine.close();
    }
}

/// Nothing is a size: it is allocated, sliced, and read back as nothing.
#[test]
fn nothing_is_a_size() {
    let Some(engine) = Engine::open(Tracking::On) else { return };
    let empty = engine.device.upload::<u32>(&[]).expect("upload");
    assert_eq!(empty.to_vec().expect("to_vec"), [0_u32; 0]);
    assert!(Matrix::new(&empty, 1, 1).is_err(), "a buffer of nothing holds no element");
    drop(empty);
    engine.close();
}
