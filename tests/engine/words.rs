//! The error words: bad data is told once, by the device that met it.

use deepseek_kernels::cudarc::driver::CudaSlice;
use deepseek_kernels::quant::{MMajor, Quantize1x128, Quantize1x128Args, QuantizeSpec, Scales1x128Mut};
use deepseek_kernels::router::{ExpertLoad, ExpertLoadArgs, ExpertLoadSpec};
use deepseek_kernels::{Device, Error, F8E4M3, Matrix, MatrixMut, bf16};

use crate::engine::{Engine, THREAD_LOCAL, Tracking, capture};

/// One block with an infinity.
struct Overflow {
    plan: Quantize1x128,
    x: CudaSlice<bf16>,
    q: CudaSlice<F8E4M3>,
    sf: CudaSlice<f32>,
}

impl Overflow {
    fn new(engine: &Engine) -> Self {
        let mut x = vec![bf16::ONE; 128];
        x[5] = bf16::INFINITY;
        Self {
            plan: Quantize1x128::plan(&engine.device, QuantizeSpec::new(1, 128)).expect("plan"),
            x: engine.stream.clone_htod(&x).expect("x"),
            q: engine.stream.clone_htod(&vec![F8E4M3::ZERO; 128]).expect("q"),
            sf: engine.stream.clone_htod(&vec![0.0_f32; 4]).expect("sf"),
        }
    }

    fn run(&mut self, engine: &Engine) {
        let args = Quantize1x128Args {
            x: Matrix::new(&self.x, 1, 128).expect("x"),
            q: MatrixMut::new(&mut self.q, 1, 128).expect("q"),
            sf: Scales1x128Mut::<MMajor>::with_pitch(&mut self.sf, 1, 128, 4).expect("sf"),
        };
        self.plan.run(&engine.stream, args).expect("run");
    }
}

fn met(device: &Device) -> (bool, bool) {
    match device.poll_error() {
        Ok(()) => (false, false),
        Err(Error::Data(faults)) => (faults.nonfinite_input(), faults.expert_id()),
        Err(error) => panic!("{error}"),
    }
}

/// Each kind of fault is told when its kernel has finished, once, whatever other kinds there are.
#[test]
fn faults_are_told_once() {
    let Some(engine) = Engine::open(Tracking::On) else { return };
    let mut overflow = Overflow::new(&engine);
    let load = ExpertLoad::plan(&engine.device, ExpertLoadSpec::new(2, 1, 4)).expect("plan");
    let ids = engine.stream.clone_htod(&[3, 17]).expect("ids");
    let mut counts = engine.stream.clone_htod(&[0_u32; 4]).expect("counts");

    overflow.run(&engine);
    engine.settle();
    assert_eq!(met(&engine.device), (true, false));
    assert_eq!(met(&engine.device), (false, false), "told twice");

    let ids = Matrix::<i32>::new(&ids, 2, 1).expect("ids").into();
    load.run(&engine.stream, ExpertLoadArgs { ids, counts: (&mut counts).into() }).expect("run");
    overflow.run(&engine);
    engine.settle();
    assert_eq!(met(&engine.device), (true, true));
    assert_eq!(met(&engine.device), (false, false));
    assert_eq!(engine.stream.clone_dtoh(&counts).expect("counts"), [0, 0, 0, 1]);
    drop((overflow, load, counts));
    engine.close();
}

/// Two devices of one context do not hear of each other's data.
#[test]
fn a_device_hears_of_its_own_data_only() {
    let Some(engine) = Engine::open(Tracking::On) else { return };
    let other = Device::gpu(&engine.context).expect("device");
    let mut overflow = Overflow::new(&engine);
    overflow.run(&engine);
    engine.settle();
    assert_eq!(met(&other), (false, false));
    assert_eq!(met(&engine.device), (true, false));
    drop((overflow, other));
    engine.close();
}

/// Polled all the while: what is met is told at least once, and never after the last poll that follows it.
#[test]
fn polling_while_kernels_run_loses_nothing() {
    let Some(engine) = Engine::open(Tracking::Off) else { return };
    let mut overflow = Overflow::new(&engine);
    let mut told = 0;
    for _ in 0..50 {
        overflow.run(&engine);
        told += u32::from(met(&engine.device).0);
        engine.settle();
        told += u32::from(met(&engine.device).0);
        assert!(told > 0, "a report was lost");
        assert_eq!(met(&engine.device), (false, false), "a report came back");
        told = 0;
    }
    drop(overflow);
    engine.close();
}

/// A replayed graph reports as its kernels would.
#[test]
fn a_graph_reports() {
    let Some(engine) = Engine::open(Tracking::On) else { return };
    let mut overflow = Overflow::new(&engine);
    engine.settle();
    let graph = capture(&engine.stream, THREAD_LOCAL, || overflow.run(&engine));
    assert_eq!(met(&engine.device), (false, false), "captured, not run");
    for _ in 0..2 {
        graph.launch().expect("launch");
        engine.settle();
        assert_eq!(met(&engine.device), (true, false));
    }
    drop((graph, overflow));
    engine.close();
}
