//! What ptxas may not do to a kernel without a word: rules about instructions and the order they ended up in.

use std::fmt;

use anyhow::Result;

use super::multiply::is_wgmma;
use super::{Instruction, Kernel, softmax};

/// What the rules look at, for the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// Instructions that fence the whole GPU or drop all of L1.
    pub fences: usize,
    /// Those of them in a loop.
    pub looped_fences: usize,
    /// Instructions that wait between the wgmmas of a group of every block.
    pub waits: usize,
    /// Of attention: exponentials between the wait for the scores and the next products, while which the other warpgroup's
    /// run.
    pub overlapped: Option<usize>,
    pub violations: Vec<Violation>,
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The instruction with its address; none where one is missing.
    pub(super) instruction: Option<Instruction>,
    pub(super) rule: String,
}

impl Violation {
    pub(super) fn by(instruction: &Instruction, rule: impl Into<String>) -> Self {
        Self { instruction: Some(instruction.clone()), rule: rule.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.instruction {
            Some(instruction) => write!(f, "{instruction}: {}", self.rule),
            None => write!(f, "{}", self.rule),
        }
    }
}

/// What `griddepcontrol.wait` and `griddepcontrol.launch_dependents` become.
const WAIT: &str = "ACQBULK";
const TRIGGER: &str = "PREEXIT";

/// How the names of the kernels begin that activate what they have multiplied.
const GATE_UP: &str = "gate_up_swiglu_";
/// And those of MLA prefill.
const PREFILL: &str = "mla_prefill_";

/// What reads or writes global memory, or may: generic addresses, bulk copies.
const GLOBAL: [&str; 16] = [
    "LD", "LDG", "LDGSTS", "ST", "STG", "RED", "REDG", "ATOM", "ATOMG", "UTMALDG", "UTMASTG", "UTMAREDG",
    "UTMAPF", "UBLKCP", "UBLKRED", "UBLKPF",
];

/// Looks at a kernel; `name` says which rules it must meet.
pub fn examine(name: &str, kernel: &Kernel) -> Result<Findings> {
    let fences: Vec<usize> =
        (0..kernel.instructions.len()).filter(|&i| is_fence(&kernel.instructions[i])).collect();
    let mut violations = wrong_contents(name, kernel);
    let mut looped_fences = 0;
    for &index in &fences {
        if kernel.is_in_loop(index)? {
            let rule = "in a loop: every round waits for the whole GPU, or loses all of L1";
            violations.push(Violation::by(&kernel.instructions[index], rule));
            looped_fences += 1;
        }
    }
    violations.extend(too_early(kernel)?);
    let waits = waits_in_groups(name, kernel)?;
    let rule = "waits between two wgmmas of a group: the later ones wait with it";
    violations.extend(waits.iter().map(|waiting| Violation::by(waiting, rule)));
    let mut overlapped = None;
    if name.starts_with("mla_decode_") {
        let softmax = softmax::of_a_block(&kernel.instructions);
        violations.extend(softmax::wrong_order(softmax.as_ref()));
        overlapped = softmax.map(|softmax| softmax.exponentials);
    }
    if name.starts_with(PREFILL) {
        let (exponentials, late) = softmax::beside_products(&kernel.instructions);
        violations.extend(late);
        overlapped = exponentials;
    }
    Ok(Findings { fences: fences.len(), looped_fences, waits: waits.len(), overlapped, violations })
}

/// What no kernel may contain, and what every GEMM must.
fn wrong_contents(name: &str, kernel: &Kernel) -> Vec<Violation> {
    let mut violations = Vec::new();
    for instruction in &kernel.instructions {
        if matches!(instruction.base(), "LDL" | "STL") {
            violations.push(Violation::by(instruction, "local memory, where registers were meant"));
        }
        if is_float_atomic(instruction) {
            let rule = "the order of floating-point atomics is not fixed, nor are the bits of their sum";
            violations.push(Violation::by(instruction, rule));
        }
    }
    let is_missing = |required: &&str| !kernel.instructions.iter().any(|i| i.base() == *required);
    let multiplies = name.contains("fp8_gemm_") || name.starts_with(GATE_UP);
    let required: &[&str] = match name {
        _ if multiplies => &["QGMMA", "UTMALDG", "UTMACCTL"],
        _ if name.starts_with("mla_decode_") || name.starts_with(PREFILL) => {
            &["HGMMA", "UTMALDG", "UTMACCTL"]
        }
        _ => &[],
    };
    for missing in required.iter().filter(|required| is_missing(required)) {
        let rule = format!("no {missing}: the tensor core, TMA or the early fetch of its maps is not in use");
        violations.push(Violation { instruction: None, rule });
    }
    violations
}

/// What is missing for launches that overlap, and what does not wait for the grids ahead of this one.
fn too_early(kernel: &Kernel) -> Result<Vec<Violation>> {
    let missing = |opcode: &str, what: &str| {
        let there = kernel.instructions.iter().any(|i| i.base() == opcode);
        let rule = format!("no {opcode}: {what}");
        (!there).then_some(Violation { instruction: None, rule })
    };
    let mut violations = Vec::from_iter(missing(TRIGGER, "the next grid starts when this one has ended"));
    if let Some(missing) = missing(WAIT, "it does not wait for the grids ahead of it") {
        violations.push(missing);
        return Ok(violations);
    }
    let reached = kernel.reached_without(|instruction| instruction.base() == WAIT && !instruction.guarded)?;
    for (instruction, _) in kernel.instructions.iter().zip(reached).filter(|(_, reached)| *reached) {
        let rule = match instruction.base() {
            "EXIT" => "on a way past no wait for the grids ahead: this one may end before them",
            base if GLOBAL.contains(&base) => "before the wait for the grids ahead: one may still run",
            _ => continue,
        };
        violations.push(Violation::by(instruction, rule));
    }
    Ok(violations)
}

fn is_float_atomic(instruction: &Instruction) -> bool {
    let atomic = ["RED", "REDG", "REDS", "ATOM", "ATOMG", "ATOMS"].contains(&instruction.base());
    let floats = ["F16", "F32", "F64", "BF16"];
    atomic && instruction.opcode.split('.').any(|part| floats.iter().any(|float| part.starts_with(float)))
}

/// What a release or an acquire beyond the CTA becomes.
fn is_fence(instruction: &Instruction) -> bool {
    let has = |part: &str| instruction.opcode.split('.').any(|p| p == part);
    match instruction.base() {
        "MEMBAR" => has("GPU") || has("SYS"),
        "CCTL" => has("IVALL"),
        "ERRBAR" | "CGAERRBAR" => true,
        _ => false,
    }
}

/// The instructions behind the first wgmma of a group, up to the last one, that wait. The last one names `gsb0`, which
/// counts finished groups.
fn waits_in_groups<'k>(name: &str, kernel: &'k Kernel) -> Result<Vec<&'k Instruction>> {
    let mut in_group = false;
    let mut waiting = Vec::new();
    for (index, instruction) in kernel.instructions.iter().enumerate() {
        if in_group && waits(instruction) && is_in_block_loop(name, kernel, index)? {
            waiting.push(instruction);
        }
        if is_wgmma(instruction) {
            in_group = !instruction.operands.contains("gsb0");
        }
    }
    Ok(waiting)
}

/// Whether it runs for every block of K or of keys, and not just once for a tile: between tiles the warpgroup meets. That of
/// gate and up does not, and writes to shared memory between tiles only.
fn is_in_block_loop(name: &str, kernel: &Kernel, index: usize) -> Result<bool> {
    let of_tile: &[&str] = if name.starts_with(GATE_UP) { &["BAR", "STS", "STSM"] } else { &["BAR"] };
    let itself = of_tile.contains(&kernel.instructions[index].base());
    kernel.is_in_loop_without(index, |instruction| of_tile.contains(&instruction.base()) && !itself)
}

fn waits(instruction: &Instruction) -> bool {
    let for_others = ["MEMBAR", "FENCE", "SYNCS", "BAR", "DEPBAR", "BSYNC", "WARPSYNC", "UCGABAR_WAIT"];
    let for_products = instruction.opcode == "WARPGROUP.DEPBAR.LE";
    instruction.scoreboards != 0 || for_products || for_others.contains(&instruction.base())
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{assembled, parse};
    use super::*;

    pub fn examined(name: &str, source: &str) -> Findings {
        examine(name, &parse(&assembled(&format!("{ENTERED}{source}"))).unwrap()).unwrap()
    }

    /// How every kernel begins, as far as the rules want it.
    const ENTERED: &str = "PREEXIT\nACQBULK\n";

    pub fn texts(findings: &Findings) -> Vec<String> {
        findings.violations.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_fence_of_the_gpu_may_not_stand_in_a_loop() {
        // What `mbarrier.arrive.release.cluster` and `try_wait.acquire.cluster` become.
        for fence in ["MEMBAR.ALL.GPU", "MEMBAR.SC.SYS", "ERRBAR", "CGAERRBAR", "CCTL.IVALL"] {
            let looped = examined("k", &format!("NOP\nTOP:\n{fence}\n@P0 BRA `(TOP)\nEXIT"));
            assert_eq!((looped.fences, looped.looped_fences), (1, 1));
            let text = texts(&looped).concat();
            assert!(text.starts_with(&format!("/*0030*/ {fence}: in a loop")), "{text}");
            let once = examined("k", &format!("TOP:\nNOP\n@P0 BRA `(TOP)\n{fence}\nEXIT"));
            assert_eq!((once.fences, once.looped_fences, texts(&once)), (1, 0, vec![]));
        }
        for harmless in
            ["MEMBAR.ALL.CTA", "CCTL.U.PF1.5 [R1]", "FENCE.VIEW.ASYNC", "SYNCS.ARRIVE.TRANS64.RED.A1T0 RZ"]
        {
            let looped = examined("k", &format!("TOP:\n{harmless}\n@P0 BRA `(TOP)\nEXIT"));
            assert_eq!((looped.fences, texts(&looped)), (0, vec![]), "{harmless}");
        }
    }

    /// The fence of a wait that spins at the end of the kernel belongs to the loop that waits.
    #[test]
    fn the_fence_behind_a_wait_at_the_end_of_the_kernel_is_seen() {
        let source = "TOP:\n@!P0 BRA `(RETRY)\nBACK:\nNOP\n@P1 BRA `(TOP)\nEXIT\n\
                      RETRY:\nSYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R2\n@!P0 BRA `(RETRY)\nCCTL.IVALL\nBRA `(BACK)";
        assert_eq!(texts(&examined("k", source)).len(), 1);
    }

    #[test]
    fn forbidden_and_missing_instructions_are_found() {
        let gemm = "QGMMA.64x16x32.F32.E4M3.E4M3 R24, gdesc[UR4]\n@P0 UTMALDG.2D [UR8], [UR4]\n\
                    UTMACCTL.PF [UR4]\nEXIT";
        assert_eq!(texts(&examined("grouped_fp8_gemm_a", gemm)), [""; 0]);
        for missing in ["QGMMA", "UTMALDG", "UTMACCTL"] {
            let [text] = &texts(&examined("fp8_gemm_a", &gemm.replace(missing, "NOP")))[..] else {
                panic!("without {missing} there is not one violation")
            };
            assert!(text.starts_with(&format!("no {missing}: ")), "{text}");
        }
        for bad in [
            "LDL.64 R1, [R2]",
            "STL [R1], R2",
            "RED.E.ADD.F32.FTZ.RN.STRONG.GPU [R2], R1",
            "ATOMG.E.ADD.F16x2.RN R1",
        ] {
            let [text] = &texts(&examined("quantize", &format!("@!P1 {bad}\nEXIT")))[..] else {
                panic!("{bad} is not one violation")
            };
            assert!(text.starts_with(&format!("/*0020*/ {bad}: ")), "{text}");
        }
        for good in [
            "REDG.E.OR.STRONG.GPU desc[UR4][R2.64], R0",
            "SYNCS.ARRIVE.TRANS64.RED.A1T0 RZ",
            "REDUX.OR UR1, R0",
        ] {
            assert_eq!(texts(&examined("quantize", &format!("@!P1 {good}\nEXIT"))), [""; 0], "{good}");
        }
    }

    #[test]
    fn nothing_global_comes_before_the_wait_for_the_grids_ahead() {
        let of = |source: &str| texts(&examine("k", &parse(&assembled(source)).unwrap()).unwrap());
        let load = "LDG.E.CONSTANT R2, desc[UR4][R2.64]";
        assert_eq!(of(&format!("LDC R1, c[0x0][0x28]\nUTMACCTL.PF [UR4]\n{ENTERED}{load}\nEXIT")), [""; 0]);
        for early in [
            load,
            "@P0 LDG.E R2, desc[UR4][R2.64]",
            "STG.E desc[UR4][R2.64], R5",
            "ST.E.STRONG.SYS desc[UR4][R2.64], R5",
            "REDG.E.ADD.STRONG.GPU desc[UR4][R2.64], R0",
            "@P0 UTMALDG.2D [UR8], [UR4]",
            "UTMASTG.2D [UR8], [UR4]",
        ] {
            let [text] = &of(&format!("PREEXIT\n{early}\nACQBULK\nEXIT"))[..] else {
                panic!("{early} is not one violation")
            };
            assert!(text.contains(": before the wait for the grids ahead"), "{text}");
        }
        // Behind it in the text, and yet on a way around it; and a way to the end.
        let around = format!("@P0 BRA `(AROUND)\n{ENTERED}AROUND:\n{load}\nEXIT");
        let around = of(&around);
        assert!(around.len() == 2 && around[0].contains(": before the wait"), "{around:?}");
        assert!(around[1].contains("EXIT: on a way past no wait"), "{around:?}");
        assert_eq!(of(&format!("@P0 EXIT\n{ENTERED}EXIT")).len(), 1);
        assert_eq!(of("PREEXIT\n@P0 ACQBULK\nEXIT").len(), 1);
        assert!(of("PREEXIT\nEXIT")[0].starts_with("no ACQBULK: "));
        assert!(of("ACQBULK\nEXIT")[0].starts_with("no PREEXIT: "));
    }

    const GROUP: &str = "TOP:\nwait 2 QGMMA.64x16x32.F32.E4M3.E4M3 R24, gdesc[UR8], RZ, !UPT\n\
                         ULOP3.LUT UR8, UR21, 0x2, URZ, 0xfc, !UPT\n\
                         BETWEEN\n\
                         QGMMA.64x16x32.F32.E4M3.E4M3 R24, gdesc[UR8], R24, gsb0\n\
                         wait 4 FMUL R13, R13, R16\nWARPGROUP.DEPBAR.LE gsb0, 0x0\n@P0 BRA `(TOP)\nEXIT";

    #[test]
    fn nothing_may_wait_between_the_wgmmas_of_a_group() {
        let between = |text: &str| texts(&examined("k", &GROUP.replace("BETWEEN", text)));
        assert_eq!(between("FMUL R12, R13.reuse, R12\nLDS R17, [R15+0x1e800]"), [""; 0]);
        for waiting in [
            "wait 36 FMUL R12, R13.reuse, R12",
            "MEMBAR.ALL.CTA",
            "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR24], R15",
            "BAR.SYNC.DEFER_BLOCKING 0x1, 0x80",
            "WARPGROUP.DEPBAR.LE gsb0, 0x1",
        ] {
            let [text] = &between(waiting)[..] else { panic!("{waiting} is not one violation") };
            assert!(text.starts_with("/*0040*/ ") && text.contains("between two wgmmas"), "{text}");
        }
        // Once a tile it may.
        let once = GROUP
            .replace("BETWEEN", "wait 36 FMUL R12, R13, R12")
            .replace("@P0 BRA", "BAR.SYNC 0x1\n@P0 BRA");
        assert_eq!(texts(&examined("k", &once)), [""; 0]);
        let stored = once.replace("BAR.SYNC 0x1", "UTMALDG\nUTMACCTL.PF [UR4]\nSTS [R2], R3");
        assert_eq!(texts(&examined("gate_up_swiglu_m64", &stored)), [""; 0]);
        assert_eq!(texts(&examined("fp8_gemm_m64", &stored)).len(), 1);
        // The last of the group may not wait for anything but the tensor core either.
        let last = GROUP.replace("BETWEEN\n", "wait 1 ");
        assert_eq!(texts(&examined("k", &last)).len(), 1);
    }
}
