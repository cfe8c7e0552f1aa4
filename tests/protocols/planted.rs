//! Faults planted in the kernels' programs, as a slip in their sources would put them there: each is found, with a message
//! that names the barrier, the role and its step.

use check::families::FAMILIES;
use check::protocol::explore;
use check::protocol::step::{Program, Step, Touch};

use crate::programs::programs;

/// A wrong step of a kernel.
struct Planted {
    what: &'static str,
    kernel: &'static str,
    /// Of the roles whose names begin so, the steps whose descriptions contain the text.
    roles: &'static [&'static str],
    step: &'static str,
    which: Which,
    edit: Edit,
    /// What the message names.
    flagged: &'static [&'static str],
}

enum Which {
    First,
    Last,
    All,
}

#[derive(Clone, Copy)]
enum Edit {
    Drop,
    Double,
    /// Ahead of the step before it whose description contains the text.
    Ahead(&'static str),
    Change(fn(&mut Step)),
}

const GEMM: &str = "fp8_gemm_m128_n128_c2_bf16";
const PRODUCER: &[&str] = &["CTA 0 warp 8"];

const fn gemm(
    what: &'static str,
    (roles, step, which): (&'static [&'static str], &'static str, Which),
    edit: Edit,
    flagged: &'static [&'static str],
) -> Planted {
    Planted { what, kernel: GEMM, roles, step, which, edit, flagged }
}

const fn of(kernel: &'static str, planted: Planted) -> Planted {
    Planted { kernel, ..planted }
}

fn other_parity(step: &mut Step) {
    let Step::Await { parity, .. } = step else { panic!("no wait") };
    *parity ^= 1;
}

fn next_bar(step: &mut Step) {
    match step {
        Step::Await { bar, .. } | Step::Arrive { bar, .. } | Step::Load { bar, .. } => *bar += 1,
        _ => panic!("no barrier"),
    }
}

fn one_more(step: &mut Step) {
    let Step::Init { count, .. } = step else { panic!("no init") };
    *count += 1;
}

fn one_less(step: &mut Step) {
    let Step::Init { count, .. } = step else { panic!("no init") };
    *count -= 1;
}

fn fewer_bytes(step: &mut Step) {
    let Step::Arrive { bytes, .. } = step else { panic!("no bytes") };
    *bytes -= 512;
}

fn more_bytes(step: &mut Step) {
    let Step::Arrive { bytes, .. } = step else { panic!("no bytes") };
    *bytes += 512;
}

fn own_cta(step: &mut Step) {
    let Step::Load { ctas, .. } = step else { panic!("no load") };
    ctas.truncate(1);
}

fn relaxed(step: &mut Step) {
    *step = Step::ArriveAtCluster { relaxed: true };
}

fn one_pending(step: &mut Step) {
    let Step::AwaitProducts { pending } = step else { panic!("no products") };
    *pending += 1;
}

fn fewer_threads(step: &mut Step) {
    let Step::Sync { threads, .. } = step else { panic!("no barrier") };
    *threads = Some(96);
}

use Edit::{Ahead, Change, Double, Drop};
use Which::{All, First, Last};

const PLANTED: &[Planted] = &[
    gemm(
        "a warp does not give a stage back",
        (&["CTA 0 warp 0"], "arrival on empty[0] of CTA 0", First),
        Drop,
        &["nobody goes on", "CTA 0 warp 8 lane 0, step", "wait for empty[0]", "15 of 16 arrivals"],
    ),
    gemm(
        "a warp gives a stage back twice",
        (&["CTA 0 warp 0"], "arrival on empty[0] of CTA 0", First),
        Double,
        &["CTA 0 warp 0 lane 0, step", "arrival on empty[0]", "phase 0 of empty[0] of CTA 0"],
    ),
    gemm(
        "a stage is given back in the wrong CTA",
        (&["CTA 0 warp 0 lane 1"], "arrival on empty[0] of CTA 1", First),
        Change(|step| {
            let Step::Arrive { cta, .. } = step else { panic!("no arrival") };
            *cta = 0;
        }),
        &["arrival on empty[0] of CTA 0", "phase 0 of empty[0]", "CTA 0 warp 0 lane 1, step"],
    ),
    gemm(
        "a stage is given back before its products are done",
        (&["CTA 1 warp 2"], "arrival on empty[1]", First),
        Ahead("wait for all but"),
        &["load of", "full[1]", "may not have been read yet", "CTA 1 warp 2 lane", "products"],
    ),
    gemm(
        "a wait leaves one group of products more",
        (&["CTA 0 warp 3"], "wait for all but 1 groups", First),
        Change(one_pending),
        &["load of", "may not have been read yet", "CTA 0 warp 3", "products"],
    ),
    gemm(
        "lanes are not waited for before a stage is given back",
        (&["CTA 0 warp 1"], "barrier of the warp", All),
        Drop,
        &["load of", "may not have been read yet by CTA 0 warp 1 lane", "step"],
    ),
    gemm(
        "products without a wait for their stage",
        (&["CTA 0 warp 5"], "wait for full[2]", First),
        Drop,
        &["CTA 0 warp 5", "products", "who waits for full[2] of CTA 0"],
    ),
    gemm(
        "a wait for the wrong parity of a full stage",
        (&["CTA 0 warp 5"], "wait for full[2]", First),
        Change(other_parity),
        &["nobody goes on", "CTA 0 warp 5 lane 0, step", "wait for full[2], parity 1"],
    ),
    gemm(
        "a wait for the wrong stage",
        (&["CTA 0 warp 5"], "wait for full[1]", First),
        Change(next_bar),
        &["CTA 0 warp 5", "products", "who waits for full[1] of CTA 0"],
    ),
    gemm(
        "a stage is filled without a wait",
        (PRODUCER, "wait for empty[1]", Last),
        Drop,
        &["CTA 0 warp 8 lane 0, step", "full[1]", "phase"],
    ),
    gemm(
        "a stage is filled for the wrong parity",
        (PRODUCER, "wait for empty[1]", First),
        Change(other_parity),
        &["nobody goes on", "CTA 0 warp 8 lane 0, step", "wait for empty[1], parity 0"],
    ),
    gemm(
        "a later stage is waited for with the wrong parity",
        (PRODUCER, "wait for empty[1]", Last),
        Change(other_parity),
        &["CTA 0 warp 8 lane 0, step", "[1]"],
    ),
    gemm(
        "one arrival more is expected",
        (&["CTA 0 warp 0"], "init of empty[2]", First),
        Change(one_more),
        &["nobody goes on", "wait for empty[2]", "16 of 17 arrivals"],
    ),
    gemm(
        "one arrival less is expected",
        (&["CTA 1 warp 0"], "init of empty[2]", First),
        Change(one_less),
        &["arrival on empty[2] of CTA 1", "phase 0 of empty[2] of CTA 1"],
    ),
    gemm(
        "fewer bytes are expected than come",
        (PRODUCER, "arrival on full[0]", First),
        Change(fewer_bytes),
        &["nobody goes on", "wait for full[0]", "512 bytes more than were expected"],
    ),
    gemm(
        "more bytes are expected than come",
        (PRODUCER, "arrival on full[0]", First),
        Change(more_bytes),
        &["nobody goes on", "wait for full[0]", "512 bytes missing"],
    ),
    gemm(
        "a box goes to one CTA alone",
        (PRODUCER, "load of 8192 bytes for full[0]", First),
        Change(own_cta),
        &["nobody goes on", "CTA 1 warp 0", "wait for full[0]", "8192 bytes missing"],
    ),
    gemm(
        "a box counts on another stage",
        (PRODUCER, "load of 16384 bytes for full[0]", First),
        Change(next_bar),
        &["full[0]", "16384 bytes missing"],
    ),
    gemm(
        "inits without a fence",
        (&["CTA 0 warp 0"], "fence of the inits", First),
        Drop,
        &["CTA 0 warp 0 lane 1, step", "may come before the init of full[0]"],
    ),
    of(
        "fp8_gemm_m64_n64_c1_bf16",
        gemm(
            "inits without a fence, for TMA",
            (&["CTA 0 warp 0"], "fence of the inits", First),
            Drop,
            &["CTA 0 warp 4 lane 0, step", "nobody has fenced CTA 0 warp 0 lane 0, step", "init of full[0]"],
        ),
    ),
    gemm(
        "no barrier behind the inits",
        (&["CTA"], "wait for the cluster's barrier", First),
        Drop,
        &["may come before the init of full[0]"],
    ),
    gemm(
        "no cluster barrier at the exit",
        (&["CTA"], "cluster's barrier", Last),
        Drop,
        &["CTA 1 may be gone before this is done: CTA 0 warp", "step", "arrival on empty["],
    ),
    gemm(
        "the cluster barrier at the exit does not release",
        (&["CTA"], "arrival at the cluster's barrier", Last),
        Change(relaxed),
        &["may be gone before this is done", "arrival on empty["],
    ),
    gemm(
        "the output is stored by TMA without a fence",
        (&["CTA 0 warp 2"], "fence between the proxies", First),
        Drop,
        &["CTA 0 warp 0 lane 0, step", "store by TMA", "without a fence by CTA 0 warp 2"],
    ),
    gemm(
        "the output is stored by TMA before all have written it",
        (&["CTA 0 warp 0 lane 0"], "store by TMA", First),
        Ahead("barrier 1 of the CTA"),
        &["CTA 0 warp 0 lane 0, step", "store by TMA"],
    ),
    gemm(
        "the last output is still read at the exit",
        (&["CTA 0 warp 4 lane 0"], "wait for all but 0 groups of stores", Last),
        Drop,
        &["CTA 0 may be gone before this is done: CTA 0 warp 4 lane 0, step", "store by TMA"],
    ),
    gemm(
        "an output is written while the one before is stored",
        (&["CTA 0 warp 0 lane 0"], "wait for all but 0 groups of stores", All),
        Drop,
        &["writes bytes", "may not have been read yet by CTA 0 warp 0 lane 0, step", "store by TMA"],
    ),
    gemm(
        "a barrier of fewer threads than come",
        (&["CTA 0 warp 4"], "barrier 2 of the CTA", First),
        Change(fewer_threads),
        &["barrier 2 of the CTA"],
    ),
    of(
        "mla_decode_bf16_c1",
        gemm(
            "scores begin before their first tile is there",
            (&["CTA 0 warp 0"], "products", First),
            Ahead("wait for kv_full[8]"),
            &["CTA 0 warp 0", "products", "kv_full[8] of CTA 0"],
        ),
    ),
    of(
        "mla_decode_bf16_c1",
        gemm(
            "scores do not wait for a tile within their group",
            (&["CTA 0 warp 3"], "wait for kv_full[3]", First),
            Drop,
            &["CTA 0 warp 3", "products", "kv_full[3] of CTA 0"],
        ),
    ),
    of(
        "mla_decode_bf16_c1",
        gemm(
            "the right warpgroup's weights are overwritten",
            (&["CTA 0 warp 2"], "wait for p_empty[0]", Last),
            Drop,
            &["CTA 0 warp 2 lane", "arrival on p_full[0]"],
        ),
    ),
    of(
        "mla_decode_bf16_c1",
        gemm(
            "weights are read without a fence",
            (&["CTA 0 warp 1"], "fence between the proxies", First),
            Drop,
            &["products", "without a fence by CTA 0 warp 1"],
        ),
    ),
    of(
        "mla_decode_bf16_c1",
        gemm(
            "Q is given back before its last scores",
            (&["CTA 0 warp 3"], "arrival on q_empty[0]", First),
            Ahead("wait for all but"),
            &["load of 8192 bytes for q_full[0]", "may not have been read yet by CTA 0 warp 3", "products"],
        ),
    ),
    of(
        "mla_decode_bf16_c2",
        gemm(
            "the right values are not given back at the end of a split",
            (&["CTA 0 warp 6"], "arrival on kv_empty[1] of CTA 1", First),
            Drop,
            &["nobody goes on", "CTA 1 warp 8", "wait for kv_empty[1]", "7 of 8 arrivals"],
        ),
    ),
    of(
        "mla_decode_fp8_c2",
        gemm(
            "the output is written where the peer's copy is read from",
            (
                &["CTA 0 warp 0", "CTA 0 warp 1", "CTA 0 warp 2", "CTA 0 warp 3"],
                "wait for kv_empty[2]",
                First,
            ),
            Drop,
            &["CTA 0 warp 0", "writes bytes", "copy of 1024 bytes for kv_full[", "of CTA 1"],
        ),
    ),
    of(
        "mla_decode_fp8_c2",
        gemm(
            "a CTA leaves while its half is copied",
            (&["CTA"], "cluster's barrier", Last),
            Drop,
            &["may be gone before this is done"],
        ),
    ),
    of(
        "mla_decode_fp8_c2",
        gemm(
            "dequantised keys are handed over without a fence",
            (&["CTA 1 warp 9"], "fence between the proxies", First),
            Drop,
            &["copy of 1024 bytes", "without a fence by CTA 1 warp 9"],
        ),
    ),
    of(
        "mla_decode_fp8_c1",
        gemm(
            "dequantised keys are published before all lanes have stored them",
            (&["CTA 0 warp 10"], "barrier of the warp", All),
            Drop,
            &["products", "CTA 0 warp 10 lanes"],
        ),
    ),
    of(
        "mla_prefill_n128_v128",
        gemm(
            "values are given back beside their products",
            (&["CTA 0 warp 4"], "arrival on v_empty[0]", First),
            Ahead("wait for all but 0 groups of products"),
            &["v_full[0]", "may not have been read yet by CTA 0 warp 4", "products"],
        ),
    ),
    of(
        "mla_prefill_n128_v128",
        gemm(
            "the other warpgroup's zeros are not waited for",
            (&["CTA 0 warp"], "barrier 3 of the CTA", All),
            Drop,
            &["products", "written", "CTA 0 warp"],
        ),
    ),
    of(
        "mla_absorb_output",
        gemm(
            "the output is still read at the exit",
            (&["CTA 0 warp 0 lane 0"], "wait for all but 0 groups of stores", Last),
            Drop,
            &["CTA 0 may be gone before this is done: CTA 0 warp 0 lane 0, step", "store by TMA"],
        ),
    ),
];

impl Planted {
    /// How many steps it has changed.
    fn plant(&self, program: &mut Program) -> usize {
        let mut planted = 0;
        for role in 0..program.roles.len() {
            let name = program.roles[role].to_string();
            if !self.roles.iter().any(|&roles| name.starts_with(&format!("{roles} ")) || name == roles) {
                continue;
            }
            let text: Vec<String> =
                (0..program.roles[role].steps.len()).map(|step| program.describe(role, step)).collect();
            let found: Vec<usize> = (0..text.len()).filter(|&step| text[step].contains(self.step)).collect();
            let chosen = match self.which {
                First => &found[..found.len().min(1)],
                Last => &found[found.len().saturating_sub(1)..],
                All => &found[..],
            };
            planted += chosen.len();
            let role = &mut program.roles[role];
            for &step in chosen.iter().rev() {
                match self.edit {
                    Drop => {
                        role.steps.remove(step);
                        let touch = role.touches.remove(step);
                        let behind = &mut role.touches[step];
                        behind.reads.extend(touch.reads);
                        behind.writes.extend(touch.writes);
                    }
                    Double => {
                        let twice = role.steps[step].clone();
                        role.steps.insert(step, twice);
                        role.touches.insert(step + 1, Touch::default());
                    }
                    Ahead(of) => {
                        let to =
                            (0..step).rev().find(|&step| text[step].contains(of)).expect("a step before it");
                        role.steps[to..=step].rotate_right(1);
                        // What it touches it does where it did.
                    }
                    Change(change) => change(&mut role.steps[step]),
                }
            }
        }
        planted
    }
}

/// The launches of a kernel that are explored.
fn launches_of(kernel: &str) -> Vec<Program> {
    let launches = FAMILIES.iter().flat_map(|family| (family.explored)());
    launches.filter(|launch| launch.kernel == kernel).flat_map(|launch| programs(&launch).unwrap()).collect()
}

#[test]
fn planted_faults_are_found() {
    let mut wrong = Vec::new();
    let mut programs: Vec<(&str, Vec<Program>)> = Vec::new();
    for planted in PLANTED {
        if programs.last().is_none_or(|(kernel, _)| *kernel != planted.kernel) {
            programs.push((planted.kernel, launches_of(planted.kernel)));
        }
        let (_, all) = programs.last().expect("its programs");
        let messages = all.iter().filter_map(|program| {
            let mut program = program.clone();
            (planted.plant(&mut program) != 0).then(|| explore(&program).err())
        });
        let messages: Vec<String> = messages.flatten().collect();
        if !messages.iter().any(|message| planted.flagged.iter().all(|name| message.contains(name))) {
            wrong.push(format!("{}: {}: {messages:#?}", planted.kernel, planted.what));
        }
    }
    assert!(wrong.is_empty(), "not found, or not told:\n{}", wrong.join("\n"));
}
