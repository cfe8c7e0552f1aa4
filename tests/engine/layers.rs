//! Layers of experts: what two of them share is the scratch that they are given.

use check::case::{Case, Prepared};
use check::memory::{Arena, Memory};
use check::moe::moe_layer::{MoeLayerCase, MoeLayerRun};
use deepseek_kernels::moe::MoeLayerArgs;
use deepseek_kernels::router::GateSpec;
use deepseek_kernels::{MatrixMut, SCRATCH_ALIGN, bf16};

use crate::engine::{Engine, Tracking};
use crate::operation::accept;

const BOTH: [Tracking; 2] = [Tracking::On, Tracking::Off];
/// Of the experts of two layers, whose scratch has different pieces.
const WIDTHS: [usize; 2] = [128, 256];

const TOKENS: usize = 5;
const HIDDEN: usize = 128;

fn layer(engine: &Engine, width: usize, seed: u64) -> MoeLayerRun {
    let gate = GateSpec::new(TOKENS, HIDDEN, 8, 2).groups(4).kept_groups(2);
    let case = MoeLayerCase { seed, ..MoeLayerCase::new(gate, width) };
    let problem = case.problem().expect("inputs").into();
    let mut arena = Arena::new(&engine.device, Memory::Poisoned(seed));
    MoeLayerRun::new(problem, &mut arena).unwrap_or_else(|error| panic!("{}: {error:#}", case.name()))
}

/// One plan, queued on two streams again and again, each with operands and scratch of its own.
#[test]
fn one_layer_on_two_streams() {
    for tracking in BOTH {
        let Some(engine) = Engine::open(tracking) else { return };
        let streams = [engine.stream.clone(), engine.context.new_stream().expect("stream")];
        let mut layers = [1, 2].map(|seed| layer(&engine, WIDTHS[0], seed));
        for _ in 0..3 {
            let [one, two] = &mut layers;
            one.plan.run(&streams[0], one.operands.args().expect("args")).expect("run");
            one.plan.run(&streams[1], two.operands.args().expect("args")).expect("run");
        }
        layers.iter().for_each(|layer| accept(layer));
        drop((layers, streams));
        engine.close();
    }
}

/// A layer queued on a stream that is not the device's own, its operands and its plan dropped at once, and as much memory taken
/// again and filled with NaN: the result is what it would be.
#[test]
fn operands_dropped_while_a_layer_is_queued_elsewhere() {
    let Some(engine) = Engine::open(Tracking::On) else { return };
    let elsewhere = engine.context.new_stream().expect("stream");
    for seed in 0..3 {
        let (mut calm, mut hasty) = (layer(&engine, WIDTHS[0], seed), layer(&engine, WIDTHS[0], seed));
        calm.launch((&engine.stream).into()).expect("launch");
        accept(&calm);
        let expected: Vec<bf16> = calm.outputs().expect("outputs")[0].values();
        let mut out = engine.stream.clone_htod(&vec![bf16::NAN; expected.len()]).expect("out");
        let args = MoeLayerArgs {
            out: MatrixMut::new(&mut out, TOKENS, HIDDEN).expect("out"),
            ..hasty.operands.args().expect("args")
        };
        hasty.plan.run(&elsewhere, args).expect("run");
        let bytes = hasty.plan.scratch_bytes();
        drop(hasty);
        // One stream after the other: whoever has the memory now is not waited for by anybody.
        let again = [&engine.stream, &elsewhere].map(|stream| {
            stream.clone_htod(&vec![f32::NAN; bytes / size_of::<f32>()]).expect("as much memory")
        });
        assert!(engine.stream.clone_dtoh(&out).expect("out") == expected, "seed {seed}");
        drop((again, out, calm));
    }
    drop(elsewhere);
    engine.close();
}

/// Layers that follow each other in one stream, with one scratch.
#[test]
fn layers_share_a_scratch() {
    for tracking in BOTH {
        let Some(engine) = Engine::open(tracking) else { return };
        let mut layers = WIDTHS.map(|width| layer(&engine, width, 3));
        let bytes = layers.iter().map(|layer| layer.plan.scratch_bytes()).max().expect("two layers");
        let mut scratch = engine.stream.clone_htod(&vec![0xa5_u8; bytes]).expect("scratch");
        for _ in 0..2 {
            for MoeLayerRun { plan, operands, .. } in &mut layers {
                let args = operands.args().expect("args");
                plan.run(&engine.stream, MoeLayerArgs { scratch: (&mut scratch).into(), ..args })
                    .expect("run");
            }
        }
        layers.iter().for_each(|layer| accept(layer));
        drop((layers, scratch));
        engine.close();
    }
}

/// Scratch that is none is refused by name before the first step is enqueued.
#[test]
fn scratch_is_checked_first() {
    let Some(engine) = Engine::open(Tracking::On) else { return };
    let mut layer = layer(&engine, WIDTHS[0], 4);
    let before = layer.writable().expect("written");
    let bytes = layer.plan.scratch_bytes();
    let filled = vec![0xa5_u8; bytes + SCRATCH_ALIGN];
    let mut scratch = engine.stream.clone_htod(&filled).expect("scratch");
    for (range, expected) in [
        (0..bytes - 1, format!("scratch must have at least {bytes} bytes, got {}", bytes - 1)),
        (0..0, format!("scratch must have at least {bytes} bytes, got 0")),
        (8..8 + bytes, format!("scratch: address must be a multiple of {SCRATCH_ALIGN} bytes, got ")),
    ] {
        let args = layer.operands.args().expect("args");
        let args = MoeLayerArgs { scratch: scratch.slice_mut(range).into(), ..args };
        let error = layer.plan.run(&engine.stream, args).expect_err("no scratch").to_string();
        assert!(error.starts_with(&expected), "expected {expected}, got {error}");
    }
    engine.settle();
    assert!(engine.stream.clone_dtoh(&scratch).expect("scratch") == filled, "a step wrote to it");
    assert!(layer.writable().expect("written") == before, "a step wrote");
    layer.launch((&engine.stream).into()).expect("its own scratch");
    accept(&layer);
    drop((layer, scratch));
    engine.close();
}
