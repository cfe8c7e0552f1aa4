//! Indices of every type: the same ones give the same bits, and what 32 bits cannot hold is no index, whatever its low half
//! would be. Of each operation that takes indices, one is said in many ways.

use std::fmt::Debug;
use std::sync::Arc;

use check::case::{Prepared, memory_of, pass_in, reported};
use check::devices::devices;
use check::families;
use check::judge::Scrutiny;
use check::memory::{Align, Arena, IndexOperand, IndexType, Memory};
use check::mla::decode::{MlaDecodeProblem, MlaDecodeRun};
use check::mla::kv_append::{FORMATS, KvAppendCase, KvAppendProblem, KvAppendRun};
use check::mla::rope::{RopeCase, RopeProblem, RopeRun};
use check::moe::LAYOUTS;
use check::moe::expert_map::{ExpertMapCase, ExpertMapProblem, ExpertMapRun};
use check::router::expert_load::{ExpertLoadCase, ExpertLoadProblem, ExpertLoadRun};
use check::router::gate::{GateCase, GateProblem, GateRun};
use deepseek_kernels::mla::KvFormat;
use deepseek_kernels::router::GateSpec;
use deepseek_kernels::{DataFaults, Device, Error, Indices, Stream};

use crate::mla::{full, step};

/// Operations whose operands are indices, as cases call them; the step of a layer that has some makes them itself.
const INDEXED: [&str; 11] = [
    "kv_append_bf16",
    "kv_append_fp8",
    "kv_append_fp8_per_tensor",
    "rope",
    "mla_decode_bf16",
    "mla_decode_fp8",
    "mla_decode_fp8_per_tensor",
    "expert_map",
    "expert_load",
    "gate",
    "gate_map",
];

#[test]
fn index_types_change_no_bit() {
    let cases = families::all(|family| (family.smoke)());
    for operation in INDEXED {
        assert!(cases.iter().any(|case| case.operation() == operation), "{operation}");
    }
    for device in devices() {
        for case in cases.iter().filter(|case| INDEXED.contains(&case.operation())) {
            let memory = memory_of(&case.name());
            let [i32, u32, i64] =
                IndexType::ALL.map(|index| pass_in(&**case, &device, memory.with_index_type(index)));
            assert!(i32 == u32 && u32 == i64, "{} on {}", case.name(), device.name());
        }
    }
}

/// How an index is said.
#[derive(Debug, Clone, Copy)]
enum Said {
    I32(i32),
    U32(u32),
    I64(i64),
}

impl Said {
    /// As each type says it.
    fn by_all(index: i32) -> Vec<Self> {
        vec![Self::I32(index), Self::U32(index.cast_unsigned()), Self::I64(index.into())]
    }

    /// What 32 bits with a sign cannot hold, the smallest number that they can, and what only looks like `index` or -1.
    fn too_far(index: i32) -> Vec<Self> {
        const BEYOND: i64 = 1 << 32;
        let index = i64::from(index);
        let wide = [
            i64::MIN,
            i64::MAX,
            index + BEYOND,
            index - BEYOND,
            index + (BEYOND << 31),
            BEYOND - 1,
            -1 - BEYOND,
            i64::from(i32::MAX) + 1,
            i64::from(i32::MIN) - 1,
        ];
        let unsigned = [1 << 31, u32::MAX - 1].map(Self::U32);
        let wide = wide.into_iter().map(Self::I64);
        [Self::I32(i32::MIN), Self::I64(i32::MIN.into())].into_iter().chain(unsigned).chain(wide).collect()
    }
}

/// Indices in one row or in several.
#[derive(Clone, Copy)]
struct List<'i> {
    indices: &'i [i32],
    columns: usize,
    /// The one that is said in many ways.
    at: usize,
}

impl List<'_> {
    /// With another index.
    fn with(&self, index: i32) -> Vec<i32> {
        let mut indices = self.indices.to_vec();
        indices[self.at] = index;
        indices
    }

    /// On the device, all in the type of the one.
    fn put(&self, arena: &mut Arena<'_>, said: Said) -> IndexOperand {
        fn all<T: Copy>(list: &List<'_>, index: T, of: impl Fn(i32) -> T) -> Vec<T> {
            let mut indices: Vec<T> = list.indices.iter().map(|&other| of(other)).collect();
            indices[list.at] = index;
            indices
        }
        let (rows, any) = (self.indices.len() / self.columns, Align(4));
        let shape = (rows, self.columns);
        let operand = match said {
            Said::I32(index) => {
                arena.input(&all(self, index, |other| other), shape, any).map(IndexOperand::I32)
            }
            Said::U32(index) => {
                arena.input(&all(self, index, i32::cast_unsigned), shape, any).map(IndexOperand::U32)
            }
            Said::I64(index) => arena.input(&all(self, index, i64::from), shape, any).map(IndexOperand::I64),
        };
        operand.expect("memory")
    }
}

/// An operation that takes a list of indices: how it is prepared with one of its own, and how it runs with another.
struct Operation<P, R> {
    prepare: P,
    run: R,
    /// What an index that is none makes it report, and what -1 does.
    faults: [DataFaults; 2],
}

/// However an index is said, references judge what comes of it, and the bits and the report are the same. `strange` has 32
/// bits and is no index either.
fn every_way_to_say<T: Prepared, E: Debug>(
    list: List<'_>,
    strange: i32,
    operation: Operation<
        impl Fn(Vec<i32>, &mut Arena<'_>) -> Result<T, E>,
        impl Fn(&mut T, Stream<'_>, Indices<'_>) -> Result<(), Error>,
    >,
) {
    let Operation { prepare, run, faults: [bad, none] } = operation;
    let good = list.indices[list.at];
    let meanings = [
        (good, Said::by_all(good), DataFaults::NONE),
        (-1, Said::by_all(-1), none),
        (strange, Said::by_all(strange), bad),
        (i32::MIN, Said::too_far(good), bad),
    ];
    let once = |device: &Device, index: i32, said: Said, faults: DataFaults| {
        let at = format!("{said:?} for {index} on {}", device.name());
        let mut arena = Arena::new(device, Memory::Poisoned(7));
        let mut prepared = prepare(list.with(index), &mut arena).expect("operands");
        let given = list.put(&mut arena, said);
        assert_eq!(prepared.faults(), faults, "{at}: what the reference reports");
        run(&mut prepared, device.stream().expect("stream"), given.indices().expect("a view")).expect(&at);
        let mut checks = prepared.judge(Scrutiny::Thorough).expect("judgement");
        checks.push(reported(device, faults).expect("report"));
        for check in checks {
            assert_eq!(check.failure, None, "{at}, {}", check.oracle);
        }
        prepared.outputs().expect("outputs")
    };
    for device in devices() {
        for (index, ways, faults) in &meanings {
            let mut outputs = ways.iter().map(|&said| once(&device, *index, said, *faults));
            let first = outputs.next();
            assert!(outputs.all(|other| Some(other) == first), "{ways:?} on {}", device.name());
        }
    }
}

#[test]
fn slots_of_a_cache() {
    for format in FORMATS {
        let drawn = KvAppendCase { rows: 9, ..KvAppendCase::new(format, 5) }.problem().expect("inputs");
        let prepare = |slots, arena: &mut Arena<'_>| {
            KvAppendRun::new(Arc::new(KvAppendProblem { slots, ..drawn.clone() }), arena)
        };
        let run = |run: &mut KvAppendRun, stream: Stream<'_>, slots: Indices<'_>| {
            let mut args = run.operands.args()?;
            args.slots = slots;
            run.plan.run(stream, args)
        };
        let faults = [DataFaults::CACHE_SLOT, DataFaults::NONE];
        let list = List { indices: &[4, 7, 0, -1, 2], columns: 5, at: 1 };
        every_way_to_say(list, i32::MAX, Operation { prepare, run, faults });
    }
}

#[test]
fn positions_of_tokens() {
    let drawn = RopeCase::new(5, 3, 9).problem().expect("inputs");
    let prepare = |positions, arena: &mut Arena<'_>| {
        RopeRun::new(Arc::new(RopeProblem { positions, ..drawn.clone() }), arena)
    };
    let run = |run: &mut RopeRun, stream: Stream<'_>, positions: Indices<'_>| {
        let mut args = run.operands.args()?;
        args.positions = positions;
        run.plan.run(stream, args)
    };
    let faults = [DataFaults::POSITION; 2];
    let list = List { indices: &[8, 0, 3, 3, 5], columns: 5, at: 4 };
    every_way_to_say(list, i32::MAX, Operation { prepare, run, faults });
}

#[test]
fn experts_of_a_map() {
    for layout in LAYOUTS {
        let case = ExpertMapCase::new((3, 2, 4)).laid_out(layout);
        let prepare = |ids, arena: &mut Arena<'_>| {
            ExpertMapRun::new(Arc::new(ExpertMapProblem { case, ids, local_ids: None }), arena)
        };
        let run = |run: &mut ExpertMapRun, stream: Stream<'_>, ids: Indices<'_>| {
            let mut args = run.operands.args()?;
            args.ids = ids;
            run.plan.run(stream, args)
        };
        let faults = [DataFaults::EXPERT_ID, DataFaults::NONE];
        let list = List { indices: &[3, 0, -1, 2, 2, 1], columns: 2, at: 3 };
        every_way_to_say(list, 4, Operation { prepare, run, faults });
    }
}

#[test]
fn experts_that_are_here() {
    let case = ExpertMapCase::new((3, 2, 4)).with_local(3);
    let ids = vec![3, 0, -1, 2, 2, 1];
    let prepare = |local_ids, arena: &mut Arena<'_>| {
        let problem = ExpertMapProblem { case, ids: ids.clone(), local_ids: Some(local_ids) };
        ExpertMapRun::new(Arc::new(problem), arena)
    };
    let run = |run: &mut ExpertMapRun, stream: Stream<'_>, local_ids: Indices<'_>| {
        let mut args = run.operands.args()?;
        args.local_ids = Some(local_ids);
        run.plan.run(stream, args)
    };
    let faults = [DataFaults::EXPERT_ID, DataFaults::NONE];
    let list = List { indices: &[1, -1, 2, 0], columns: 4, at: 2 };
    every_way_to_say(list, 3, Operation { prepare, run, faults });
}

#[test]
fn experts_to_be_counted() {
    let drawn = ExpertLoadCase::new((3, 2), 4).problem();
    let prepare = |ids, arena: &mut Arena<'_>| {
        ExpertLoadRun::new(Arc::new(ExpertLoadProblem { ids, ..drawn.clone() }), arena)
    };
    let run = |run: &mut ExpertLoadRun, stream: Stream<'_>, ids: Indices<'_>| {
        let mut args = run.operands.args()?;
        args.ids = ids;
        run.plan.run(stream, args)
    };
    let faults = [DataFaults::EXPERT_ID, DataFaults::NONE];
    let list = List { indices: &[3, 0, -1, 2, 2, 1], columns: 2, at: 5 };
    every_way_to_say(list, 4, Operation { prepare, run, faults });
}

#[test]
fn experts_of_a_choice_that_is_kept() {
    let drawn = GateCase::select(GateSpec::new(3, 32, 8, 2).shared(1)).problem();
    let prepare = |ids, arena: &mut Arena<'_>| {
        GateRun::new(Arc::new(GateProblem { fixed_ids: Some(ids), ..drawn.clone() }), arena)
    };
    let run = |run: &mut GateRun, stream: Stream<'_>, ids: Indices<'_>| {
        let mut call = run.operands.args()?;
        call.routing.fixed_ids = Some(ids);
        call.run(&run.plan, stream)
    };
    let faults = [DataFaults::EXPERT_ID, DataFaults::NONE];
    let list = List { indices: &[7, 0, -1, 5, 2, 1], columns: 2, at: 3 };
    every_way_to_say(list, 8, Operation { prepare, run, faults });
}

/// Both kinds of a length that cannot be: what does not fit counts as negative, and leaves no key.
#[test]
fn lengths_of_sequences() {
    let drawn = full();
    let prepare = |lengths, arena: &mut Arena<'_>| {
        MlaDecodeRun::new(Arc::new(MlaDecodeProblem { lengths, ..drawn.clone() }), arena)
    };
    let run = |run: &mut MlaDecodeRun, stream: Stream<'_>, lengths: Indices<'_>| {
        let mut args = run.operands.args()?;
        args.schedule.lengths = lengths;
        run.plan.run(stream, args)
    };
    let faults = [DataFaults::SEQUENCE_LENGTH; 2];
    let list = List { indices: &drawn.lengths, columns: 3, at: 1 };
    every_way_to_say(list, i32::MAX, Operation { prepare, run, faults });
}

#[test]
fn query_tokens_of_sequences() {
    let case = step(KvFormat::Bf16, &[70, 130, 3]).packed(vec![2, 0, 1]);
    let drawn = case.problem().expect("inputs").with_spare_rows();
    let prepare = |offsets, arena: &mut Arena<'_>| {
        MlaDecodeRun::new(Arc::new(MlaDecodeProblem { q_offsets: Some(offsets), ..drawn.clone() }), arena)
    };
    let run = |run: &mut MlaDecodeRun, stream: Stream<'_>, offsets: Indices<'_>| {
        let mut args = run.operands.args()?;
        args.schedule.q_offsets = Some(offsets);
        run.plan.run(stream, args)
    };
    let faults = [DataFaults::SEQUENCE_LENGTH; 2];
    let offsets = drawn.q_offsets.clone().expect("packed");
    let list = List { indices: &offsets, columns: 4, at: 1 };
    every_way_to_say(list, i32::MAX, Operation { prepare, run, faults });
}

#[test]
fn pages_of_sequences() {
    for format in [KvFormat::Bf16, KvFormat::Fp8, KvFormat::Fp8PerTensor] {
        let drawn = step(format, &[100, 128, 100]).problem().expect("inputs");
        let prepare = |table, arena: &mut Arena<'_>| {
            MlaDecodeRun::new(Arc::new(MlaDecodeProblem { table, ..drawn.clone() }), arena)
        };
        let run = |run: &mut MlaDecodeRun, stream: Stream<'_>, table: Indices<'_>| {
            let mut args = run.operands.args()?;
            args.attend.page_table = Some(table);
            run.plan.run(stream, args)
        };
        let faults = [DataFaults::PAGE_ID; 2];
        let list = List { indices: &drawn.table, columns: drawn.table.len() / 3, at: 4 };
        every_way_to_say(list, i32::MAX, Operation { prepare, run, faults });
    }
}
